"""Open one libpq connection; where that fails, say why by codes and by how far it came.

psycopg gives a failed connection attempt no SQLSTATE, only libpq's text, and that may be in any
language. At libpq's verbose setting the server's error code stands in the text, and for what has
no code the state of the connection tells how far the attempt came.
https://www.postgresql.org/docs/18/libpq-control.html#LIBPQ-PQSETERRORVERBOSITY
"""

from __future__ import annotations

import ctypes
import errno
import re
import socket
import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
from psycopg import pq
from psycopg._conninfo_attempts import conninfo_attempts
from psycopg.conninfo import conninfo_to_dict, make_conninfo, timeout_from_conninfo
from psycopg.pq import ConnStatus, PollingStatus

from .._shared.secrecy import Masked
from .poller import READ, WRITE, new_poller

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from psycopg.pq.abc import PGconn

__all__ = ["StartupError", "describe_server", "open_libpq"]

_POLL_SECONDS = 0.1
_DEFAULT_VERBOSITY, _VERBOSE = 1, 2
# "FATAL:  28P01: ...", where the first word is in the server's language.
_CODE = re.compile(r":  ([0-9A-Z]{5}): ")
# "LOCATION:  auth_failed, auth.c:317", likewise.
_LOCATION = re.compile(r"\n[^\n]*:  (?:\w+, )?\S+:\d+(?=\n|$)")
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SECRET_OPTIONS = ("password", "sslpassword", "oauth_client_secret")
# The first part of an SQLSTATE, and what it means for whoever wants to connect; the first to
# match counts. https://www.postgresql.org/docs/18/errcodes-appendix.html
_REASONS = (
    ("28", "login"),  # user, password, or pg_hba.conf
    ("3D", "database"),  # there is none of that name
    ("42501", "database"),  # no right to connect to it
    ("55000", "database"),  # it takes no connections
    ("53", "exhausted"),  # too many connections
    ("57P", "starting"),  # it starts, ends, or recovers
    ("08", "lost"),
)
# Of several addresses, the failure that says most is told; what is not here says more than these.
_LEAST_TELLING = ("address", "refused", "timeout", "lost", "tls")


class StartupError(psycopg.OperationalError):
    """A connection attempt failed.

    It has no ``pgconn``, where psycopg keeps all that libpq was told, the password too.

    Args:
        message: libpq's words, or the server's.
        reason: A reason of ``PostgresConnectionError``.
        code: The SQLSTATE, where the server gave one.
        server: The server that was tried, as ``describe_server`` has it.
    """

    def __init__(
        self,
        message: str = "",
        reason: str = "refused",
        code: str | None = None,
        server: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.sqlstate = code
        self.server = server


def open_libpq(url: Masked, defaults: Mapping[str, Any], timeout: float) -> PGconn:
    """Connect to the first server of *url* that takes the connection.

    Args:
        url: The connection URL.
        defaults: libpq's options where the URL does not say otherwise.
        timeout: Seconds for each address, where the URL has no ``connect_timeout``.

    Raises:
        StartupError: None took it; with the words of all, and the reason that says most.
    """
    failures: list[StartupError] = []
    try:
        options = _Options(url, defaults, timeout)
        for attempt in options.attempts():
            try:
                return _open(attempt, options.timeout)
            except StartupError as error:
                failures.append(error.with_traceback(None))
    except psycopg.Error as error:
        # The name server knows no such host, or libpq no such option.
        address = isinstance(error, psycopg.OperationalError)
        failures.append(StartupError(str(error), "address" if address else "settings"))
    except OSError as error:
        failures.append(StartupError(f"{type(error).__name__}: {error}", "resources"))
    except BaseException as error:  # noqa: BLE001 - raised again
        # A signal's: the frames below it have the password in hand.
        error.__context__ = None
        raise error.with_traceback(None)  # noqa: B904 - it has no cause
    # Outside of the handlers: else psycopg's own errors and frames would be kept as its context.
    raise _joined(failures)


def describe_server(pgconn: PGconn) -> str | None:
    """Return host, port, database and user; None where libpq came to none.

    Unlike the URL, it knows what the environment and a service file say.
    """
    try:
        host, port, name, user = (
            part.decode("utf-8", "replace")
            for part in (pgconn.host, pgconn.port, pgconn.db, pgconn.user)
        )
    except psycopg.Error:
        return None
    if not host:
        return None
    where = host if host.startswith("/") else f"{host}:{port}"
    return f"{where}/{name} as {user or 'default user'}"


class _Options:
    """The options for libpq, with its secrets masked."""

    def __init__(self, url: Masked, defaults: Mapping[str, Any], timeout: float) -> None:
        options = conninfo_to_dict(url.reveal().strip())
        self._secrets = {
            name: Masked(str(options.pop(name))) for name in _SECRET_OPTIONS if name in options
        }
        for name, value in defaults.items():
            # A service's file may have the secret.
            secret = name in _SECRET_OPTIONS
            if not (secret and ("service" in options or name in self._secrets)):
                options.setdefault(name, value)
        self.timeout = timeout
        if "connect_timeout" in options:
            self.timeout = float(timeout_from_conninfo(options))
        self._options = options

    def attempts(self) -> Iterator[_Attempt]:
        """Yield what to tell libpq for each address."""
        for options in conninfo_attempts(self._options):
            yield _Attempt(options, self._secrets)


class _Attempt:
    def __init__(self, options: Mapping[str, Any], secrets: dict[str, Masked]) -> None:
        self.options = options
        self._secrets = secrets

    def start(self) -> PGconn:
        """Begin to connect."""
        return pq.PGconn.connect_start(
            make_conninfo(
                "", **self.options, **{name: one.reveal() for name, one in self._secrets.items()}
            ).encode()
        )


def _open(attempt: _Attempt, timeout: float) -> PGconn:
    pgconn = attempt.start()
    _set_verbosity(pgconn, _VERBOSE)
    last = int(pgconn.status)
    try:
        # Waits are counted as well as timed: a program's clock may stand still.
        deadline, waits = time.monotonic() + timeout, 0
        while pgconn.status != ConnStatus.BAD:
            last = int(pgconn.status)
            polled = pgconn.connect_poll()
            if polled == PollingStatus.OK:
                _set_verbosity(pgconn, _DEFAULT_VERBOSITY)
                pgconn.nonblocking = 1
                return pgconn
            if polled == PollingStatus.FAILED:
                break
            while not _is_ready(pgconn.socket, writing=polled == PollingStatus.WRITING):
                waits += 1
                if time.monotonic() > deadline or waits * _POLL_SECONDS > timeout:
                    _give_up(pgconn)
        failure = _failure(attempt, pgconn, last)
    except BaseException:
        pgconn.finish()
        raise
    pgconn.finish()
    raise failure


def _give_up(pgconn: PGconn) -> NoReturn:
    server = describe_server(pgconn)
    raise StartupError("connection timeout expired", "timeout", server=server)


def _is_ready(fileno: int, *, writing: bool) -> bool:
    poller = new_poller(fileno)
    poller.modify(fileno, WRITE if writing else READ)
    return bool(poller.poll(_POLL_SECONDS * 1000))


def _failure(attempt: _Attempt, pgconn: PGconn, last: int) -> StartupError:
    text = pgconn.error_message.decode("utf-8", "replace").strip()
    codes = _CODE.findall(text)
    # With sslmode=prefer there are two answers; that pg_hba.conf takes none of one kind says less.
    code = next((one for one in codes if one != "28000"), codes[0] if codes else None)
    words = _LOCATION.sub("", _CODE.sub(":  ", text))
    return StartupError(words, _reason(attempt, pgconn, last, code), code, describe_server(pgconn))


def _reason(attempt: _Attempt, pgconn: PGconn, last: int, code: str | None) -> str:
    if code is not None:
        return next((reason for start, reason in _REASONS if code.startswith(start)), "server")
    if pgconn.needs_password:
        return "login"
    if last in {ConnStatus.STARTED, ConnStatus.BAD}:
        # In the second, libpq gave up before it waited for anything.
        return "refused" if last == ConnStatus.STARTED else _why_not_started(attempt.options)
    return _reason_of_the_connected(pgconn, last)


def _reason_of_the_connected(pgconn: PGconn, last: int) -> str:
    try:
        pgconn.socket  # noqa: B018 - raises when libpq has dropped it
    except psycopg.Error:
        return "lost"
    if last in {ConnStatus.MADE, ConnStatus.SSL_STARTUP}:
        return "tls"
    # Without the codes, a password that was sent is the likeliest reason.
    return "login" if pgconn.used_password and _verbosity_setter() is None else "server"


def _why_not_started(options: Mapping[str, Any]) -> str:
    """Return why libpq gave up immediately: no server, no descriptor left, or unusable options."""
    address, port = options.get("hostaddr"), str(options.get("port") or 5432)
    try:
        if address:
            socket.create_connection((address, int(port)), 1).close()
        elif (folder := str(options.get("host") or "")).startswith("/"):
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(f"{folder}/.s.PGSQL.{port}")
    except ValueError:
        return "settings"
    except OSError as error:
        return "resources" if error.errno in _NO_DESCRIPTORS else "refused"
    return "settings"


def _joined(failures: list[StartupError]) -> StartupError:
    most = max(
        failures,
        key=lambda one: (
            _LEAST_TELLING.index(one.reason)
            if one.reason in _LEAST_TELLING
            else len(_LEAST_TELLING)
        ),
    )
    if len(failures) == 1:
        return most
    words = "; ".join(dict.fromkeys(str(one) for one in failures))
    return StartupError(words, most.reason, most.sqlstate, most.server)


def _set_verbosity(pgconn: Any, verbosity: int) -> None:
    setter = _verbosity_setter()
    if setter is not None:
        setter(pgconn.pgconn_ptr, verbosity)


@cache
def _verbosity_setter() -> Any:
    """Return libpq's own function, which psycopg does not wrap; None where it is not found.

    https://www.psycopg.org/psycopg3/docs/api/pq.html#psycopg.pq.PGconn.pgconn_ptr
    """
    try:
        if pq.__impl__ == "python":
            from psycopg.pq import _pq_ctypes  # noqa: PLC0415 - that implementation alone has it

            library = vars(_pq_ctypes)["pq"]
        else:
            # The extension is linked with libpq, and a look-up in it finds libpq's functions.
            library = ctypes.CDLL(str(sys.modules[pq.PGconn.__module__].__file__))
        setter = library.PQsetErrorVerbosity
    except (AttributeError, ImportError, OSError):
        return None
    setter.argtypes = [ctypes.c_void_p, ctypes.c_int]
    setter.restype = ctypes.c_int
    return setter
