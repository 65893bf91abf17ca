"""Make one physical connection: get the URL, connect, try again where that can help."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.rows import dict_row

from .._shared.secrecy import Masked
from ..errors import PostgresConnectionError
from .configure import configure_session
from .errors import connect_error
from .identity_key import Signatures
from .session import BatchError, Session
from .settings import Target, parse_url
from .startup import StartupError, describe_server, open_libpq
from .watchdog import SilenceWatch, WatchedConnection, activity_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._shared.rotating_url import UrlSource
    from .configure import Configure
    from .identity_key import IdentityKey
    from .settings import PostgresSettings

__all__ = ["Connector"]

# A server that restarts refuses for a moment. A call waits that long, and not longer.
_RESTART_PATIENCE = 1.0
_RETRY_PAUSE = 0.05
# What it looks like, also over TLS: its end is noticed where the attempt has come to.
_RESTARTING = frozenset({"refused", "lost", "tls"})

# A peer that vanished without a word is noticed within half a minute, also while we only wait.
# No `options`: PgBouncer refuses them. The URL's own values win.
_DEFAULTS: dict[str, Any] = {
    "fallback_application_name": "failfast-clients",
    # Whatever the database's own is: all text that Python knows can be sent and read.
    "client_encoding": "utf8",
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    # Without one, OpenSSL would ask for a key's password at the terminal, and wait.
    "sslpassword": "none",
}

# What the role, the database or the URL have set, before a transaction sets its own.
_OWN_TIMEOUT = b"SELECT setting FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'"


class Connector:
    """Makes connections for one pool.

    Args:
        source: Gives the URL.
        settings: The time-outs.
        check_role: Checks the first session of each server and user, and may refuse it: a callable
            may return another role's URL one day. It returns whether a pooler stands between.
        configure: Prepares each new connection.
        identity_key: Signs the values of identities; None: nothing is signed.
    """

    def __init__(
        self,
        source: UrlSource,
        settings: PostgresSettings,
        check_role: Callable[[Session, Target], bool] | None = None,
        configure: Configure | None = None,
        identity_key: IdentityKey | None = None,
    ) -> None:
        self.configure = configure
        self.identity_key = identity_key
        self._is_configured = False
        # What is registered later would be known to some of the connections alone.
        self._adapters = AdaptersMap(psycopg.adapters)
        self.source = source
        self.target = Target("an unknown server", None)
        self._settings = settings
        self._last_url = Masked("")
        self._check_role = check_role
        self._seen = ""
        #: Whether a pooler stands between us and the server.
        self.behind_pooler = False

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
            self.target = parse_url(self.source.name, candidate.masked)
            try:
                session = self._connect_patiently(candidate.masked, patient=patient)
            except StartupError as error:
                if error.server is not None:
                    self.target = Target(error.server, self.target.password)
                failure = connect_error(error, self.target, time.monotonic() - started)
                if error.reason != "login":
                    self.source.unreachable()
                    raise failure from error
                failure.__cause__ = error
                candidate.refusal = str(failure)
                continue
            # A session whose URL was asked for before a drain must not outlive it.
            session.born = candidate.requested_at
            if (server := describe_server(session.pgconn)) is not None:
                self.target = Target(server, self.target.password)
            self._check(session, self.target)
            if self.identity_key is not None:
                pid = None if self.behind_pooler else session.pgconn.backend_pid
                session.signatures = Signatures(self.identity_key, pid)
            if self.configure is not None:
                configure_session(session, self.configure, compares=not self._is_configured)
                self._is_configured = True
            self._last_url = candidate.masked
            self.source.accepted(candidate)
            return session
        if failure is None:
            # No value was worth another login: the last refusal still stands.
            raise PostgresConnectionError(self.source.refusal(), reason="login")
        if (trouble := self.source.trouble) is not None:
            failure.args = (f"{failure}; no other credential can be had: {trouble}",)
        raise failure

    def _connect_patiently(self, url: Masked, *, patient: bool) -> Session:
        started, tries = time.monotonic(), 0
        while True:
            failure = None
            try:
                watch = SilenceWatch(
                    self._settings.silence_timeout, self._is_working, self.source.generation
                )
                return self._connect_once(url, watch)
            except StartupError as error:
                failure = error.with_traceback(None)
            tries += 1
            # Tries are counted as well as timed: a program's clock may stand still.
            waited = max(time.monotonic() - started, tries * _RETRY_PAUSE)
            if not self._worth_waiting(failure.reason, waited, tries, patient=patient):
                raise failure
            time.sleep(_RETRY_PAUSE)

    def _check(self, session: Session, target: Target) -> None:
        if self._check_role is None or target.description == self._seen:
            return
        try:
            self.behind_pooler = self._check_role(session, target)
        except BaseException:
            session.close()
            raise
        self._seen = target.description

    def _is_working(self, backend_pid: int) -> bool:
        """Return whether that session is at work, by a query over a connection of its own."""
        # A server that does not answer within the time of one attempt is not waited for either.
        watch = SilenceWatch(self._settings.connect_timeout, lambda _: False)
        try:
            # Not from the callable: it may be slow, and a fresh credential has no news for us.
            session = self._connect_once(self._last_url, watch)
        except StartupError as error:
            # A server that takes no more connections works, and the session may.
            return error.reason == "exhausted"
        try:
            result = session.message(activity_query(backend_pid))[0]
            # Another process id than libpq's: a pooler stands between, and knows no such session.
            direct = result.get_value(0, 0) == b"%d" % session.pgconn.backend_pid
        except BatchError:
            return False
        finally:
            session.close()
        return direct and result.get_value(0, 1) == b"t"

    def _connect_once(self, url: Masked, watch: SilenceWatch) -> Session:
        pgconn = open_libpq(url, _DEFAULTS, self._settings.connect_timeout)
        conn = WatchedConnection(pgconn, row_factory=dict_row)
        conn.autocommit = True
        # Prepared statements have names, and a pooler gives the next statement another session.
        conn.prepare_threshold = None
        conn.watch = watch
        conn.begin_with(self._adapters)
        session = Session(conn, watch)
        try:
            [result] = session.message(_OWN_TIMEOUT)
        except BatchError as failure:
            session.close()
            code = failure.error.sqlstate
            failed = StartupError(str(failure.error), "lost" if code is None else "session", code)
        else:
            session.own_timeout_ms = int(result.get_value(0, 0) or 0)
            return session
        raise failed

    def _worth_waiting(self, reason: str, waited: float, tries: int, *, patient: bool) -> bool:
        if reason == "starting":
            return waited < self._settings.connect_timeout
        if patient and reason in _RESTARTING:
            return waited < _RESTART_PATIENCE
        # A second try tells a server that hangs up from one that is not there: of one refused
        # connection in ten thousand, libpq says that the server hung up.
        return reason == "lost" and tries == 1
