"""Make one physical connection: ask for the URL, connect, try again where that can help."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from ..errors import PostgresConnectionError
from .errors import (
    connect_error,
    is_hung_up,
    is_login_refusal,
    is_refused,
    is_starting,
)
from .session import BatchError, Session
from .settings import Target, parse_url
from .watchdog import SilenceWatch, WatchedConnection, activity_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._shared.credentials import UrlSource
    from .settings import PostgresSettings

__all__ = ["Connector"]

# A server that restarts refuses for a moment. A call waits that long, and not longer.
_RESTART_PATIENCE = 1.0
_RETRY_PAUSE = 0.05

# A peer that vanished without a word is noticed within half a minute, also while we only wait.
# No `options`: PgBouncer refuses them. The URL's own values win.
_DEFAULTS: dict[str, Any] = {
    "fallback_application_name": "failfast-clients",
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    # Without one, OpenSSL would ask for a key's password at the terminal, and wait.
    "sslpassword": "none",
}


class Connector:
    """Makes connections for one pool.

    Args:
        source: Gives the URL.
        settings: The time-outs.
        check_role: Checks the first session of each server and user, and may refuse it: a callable
            may return another role's URL one day.
    """

    def __init__(
        self,
        source: UrlSource,
        settings: PostgresSettings,
        check_role: Callable[[Session, Target], None] | None = None,
    ) -> None:
        self.source = source
        self.target = Target("an unknown server", None)
        self._settings = settings
        self._last_url = ""
        self._check_role = check_role
        self._seen = ""

    def connect(self, *, patient: bool = True) -> Session:
        """Connect in the caller's thread.

        Args:
            patient: Whether a refusal may be a restart that is worth a second of tries. The
                constructor is not: there it is the real reason.

        Raises:
            PostgresConnectionError: It failed; with the server's own words.
            VaultError: There is no credential to try.
            PostgresConfigurationError: The URL cannot be used.
            RlsContextError: Row-level security does not bind its role.
        """
        started = time.monotonic()
        failure: PostgresConnectionError | None = None
        for candidate in self.source.candidates(patient=patient):
            self.target = parse_url(self.source.name, candidate.url)
            try:
                session = self._connect_patiently(candidate.url, started, patient=patient)
            except psycopg.Error as error:
                failure = self._failure(error, time.monotonic() - started)
                if not is_login_refusal(error):
                    self.source.unreachable()
                    raise failure from failure.__cause__
                candidate.refusal = str(failure)
                continue
            # A session whose URL was asked for before a drain must not outlive it.
            session.born = candidate.asked_at
            self._check(session, self.target)
            self._last_url = candidate.url
            self.source.accepted(candidate)
            return session
        if failure is None:
            # No value was worth another login: the last refusal still stands.
            raise PostgresConnectionError(self.source.refusal())
        if (trouble := self.source.trouble) is not None:
            failure.args = (f"{failure}; no other credential can be had: {trouble}",)
        raise failure

    def _connect_patiently(self, url: str, started: float, *, patient: bool) -> Session:
        certain = False
        while True:
            try:
                watch = SilenceWatch(
                    self._settings.silence_timeout, self._is_working, self.source.generation
                )
                return self._connect_once(url, watch)
            except psycopg.Error as error:
                waited = time.monotonic() - started
                if not self._worth_waiting(error, waited, patient=patient):
                    # A second try tells a server that hangs up from one that is not there.
                    if certain or not is_hung_up(error):
                        raise
                    certain = True
            time.sleep(_RETRY_PAUSE)

    def _failure(self, error: psycopg.Error, waited: float) -> PostgresConnectionError:
        failure = connect_error(error, self.target, waited)
        # psycopg's frames hold the socket of an attempt that timed out, and whoever keeps our
        # error would keep it open.
        error.__traceback__ = None
        # No cause where the driver's own text shows the password.
        password = self.target.password
        failure.__cause__ = None if password and password in str(error) else error
        return failure

    def _check(self, session: Session, target: Target) -> None:
        if self._check_role is None or target.description == self._seen:
            return
        try:
            self._check_role(session, target)
        except BaseException:
            session.close()
            raise
        self._seen = target.description

    def _is_working(self, backend_pid: int) -> bool:
        """Ask the server, over a connection of its own, whether that session is at work."""
        # Whoever cannot be asked within the time of one attempt is not waited for either.
        watch = SilenceWatch(self._settings.connect_timeout, lambda _: False)
        try:
            # Not from the callable: it may be slow, and a fresh credential has no news for us.
            session = self._connect_once(self._last_url, watch)
        except psycopg.Error:
            return False
        try:
            result = session.message(activity_query(backend_pid))[0]
            # Another process id than libpq's: a pooler stands between, and knows no such session.
            direct = result.get_value(0, 0) == b"%d" % session.pgconn.backend_pid
        except BatchError:
            return False
        finally:
            session.close()
        return direct and result.get_value(0, 1) == b"t"

    def _connect_once(self, url: str, watch: SilenceWatch) -> Session:
        given = conninfo_to_dict(url)
        options = {name: value for name, value in _DEFAULTS.items() if name not in given}
        if "service" in given:  # its file may have the password
            options.pop("sslpassword", None)
        options.setdefault("connect_timeout", max(1, round(self._settings.connect_timeout)))
        # Prepared statements have names, and a pooler gives the next statement another session.
        conn = WatchedConnection.connect(
            url, autocommit=True, prepare_threshold=None, row_factory=dict_row, **options
        )
        conn.watch = watch
        return Session(conn, watch)

    def _worth_waiting(self, error: psycopg.Error, waited: float, *, patient: bool) -> bool:
        if is_starting(error):
            return waited < self._settings.connect_timeout
        return patient and is_refused(error) and waited < _RESTART_PATIENCE
