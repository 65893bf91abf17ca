"""The settings of a PostgresClient, checked before anything is opened."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args
from urllib.parse import unquote

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from .._shared.authority import LAST_PORT, host_problem, port_of, servers_in, stray_character
from .._shared.rotating_url import UrlSource, hidden
from .._shared.secrecy import Masked, redact
from .._shared.validation import checked_choice, checked_count, checked_seconds
from ..errors import PostgresConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "LONGEST_STATEMENT",
    "OnRlsBypass",
    "PostgresSettings",
    "Target",
    "parse_url",
    "url_source",
]

OnRlsBypass: TypeAlias = Literal["error", "warn", "ignore"]

# How long a silence is taken for work before the server is queried, see watchdog.py.
_SILENCE_WITHOUT_LIMIT = 30.0
_SILENCE_GRACE = 0.5
# The server counts milliseconds in 31 bits, and so does poll(), which waits a moment longer.
LONGEST_STATEMENT = 2_000_000.0

_FIX = "percent-encode special characters in user and password (urllib.parse.quote(..., safe=''))"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """The numbers of one client; time-outs in seconds.

    Args:
        pool_size: The largest number of connections.
        min_size: How many are opened at construction, and kept when idle.
        connect_timeout: Limits one connection attempt to one address.
        pool_timeout: Limits the wait for a connection that others hold.
        statement_timeout: Limits each statement, on the server; 0 is no limit.
        on_rls_bypass: What to do about a role that row-level security does not bind.
    """

    pool_size: int
    min_size: int
    connect_timeout: float
    pool_timeout: float
    statement_timeout: float
    on_rls_bypass: OnRlsBypass

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name."""
        refusal = PostgresConfigurationError
        checked_count("pool_size", self.pool_size, refusal, minimum=1)
        checked_count("min_size", self.min_size, refusal, minimum=0)
        checked_seconds("connect_timeout", self.connect_timeout, refusal)
        checked_seconds("pool_timeout", self.pool_timeout, refusal, allow_zero=True)
        checked_seconds(
            "statement_timeout",
            self.statement_timeout,
            refusal,
            allow_zero=True,
            maximum=LONGEST_STATEMENT,
        )
        checked_choice("on_rls_bypass", self.on_rls_bypass, get_args(OnRlsBypass), refusal)

    @property
    def statement_timeout_ms(self) -> int:
        """``statement_timeout`` as PostgreSQL takes it."""
        return math.ceil(self.statement_timeout * 1000)

    @property
    def silence_timeout(self) -> float:
        """Seconds without a byte after which the client checks that the server is still at work.

        The server ends a statement after ``statement_timeout`` and says so a moment later.
        """
        return (self.statement_timeout or _SILENCE_WITHOUT_LIMIT) + _SILENCE_GRACE


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed connection URL: what to show, and what never to show.

    Args:
        description: Host, port, database and user, for messages.
        password: The password, None where the URL has none.
    """

    description: str
    password: Masked | None = None

    def redact(self, text: object) -> str:
        """Return *text* without the password."""
        return redact(text, None if self.password is None else self.password.reveal())


def url_source(name: str, url: object) -> UrlSource:
    """Return where the connection URLs come from.

    Args:
        name: The parameter's name, for messages.
        url: A URL, best masked, or a callable that returns one.

    Raises:
        PostgresConfigurationError: *url* is neither text nor a callable.
    """
    return UrlSource(
        name,
        url,
        describe=lambda one: parse_url(name, one).description,
        unusable=PostgresConfigurationError,
    )


def parse_url(name: str, url: object) -> Target:
    """Check a connection URL without showing any part of it that could be a password.

    Args:
        name: The parameter's name, for messages.
        url: The URL, or a libpq ``key=value`` string; best masked.

    Returns:
        What to show and what not.

    Raises:
        PostgresConfigurationError: It cannot be used. libpq's own words are left out: they quote
            the URL, and with it the password.
    """
    url = hidden(url)
    try:
        # It raises nothing itself: its frames have the URL in hand.
        target = _parsed(url)
    except BaseException as error:  # noqa: BLE001 - a signal's, raised again
        error.__context__ = None
        raise error.with_traceback(None)  # noqa: B904 - it has no cause
    if isinstance(target, Target):
        return target
    raise PostgresConfigurationError(f"{name} {target}")


def _parsed(url: object) -> Target | str:
    """Return the target; where there is none, what is wrong with the URL."""
    text = url.reveal() if isinstance(url, Masked) else url
    if not isinstance(text, str) or not text.strip():
        kind = "empty" if isinstance(text, str) else type(text).__name__
        return f"is {kind}: pass postgresql://user:password@host:5432/dbname"
    text = text.strip()
    if "://" in text and (problem := _problem_of_shape(text)):
        return problem
    if "\0" in text:
        # libpq would read up to there, and take a password for a port.
        return "holds a NUL character: copy it again"
    try:
        parts = conninfo_to_dict(text)
    except (psycopg.Error, UnicodeError):
        return f"cannot be parsed: {_FIX}, as UTF-8"
    return _problem_of_address(parts) or _target(parts)


def _problem_of_address(parts: Mapping[str, Any]) -> str | None:
    # Where several hosts are named, an empty port is the usual one.
    ports = str(parts.get("port") or "").split(",")
    if not all(port_of(port) or not port for port in ports):
        return f"has a port that is no number from 1 to {LAST_PORT}: {_FIX}"
    hosts = str(parts.get("host") or parts.get("hostaddr") or "").split(",")
    problems = (host_problem(host) for host in hosts if host and not _is_socket(host))
    return next(filter(None, problems), None)


def _is_socket(host: str) -> bool:
    # An @ begins the name of a socket in the abstract namespace.
    return host.startswith(("/", "@"))


def _target(parts: Mapping[str, Any]) -> Target:
    password = parts.get("password")
    masked = None if password is None else Masked(str(password))
    if "service" in parts and not parts.get("host"):
        return Target(f"the service {parts['service']}", masked)
    # What the environment says where the URL does not.
    defaults = {
        one.keyword.decode(): one.val.decode("utf-8", "replace")
        for one in pq.Conninfo.get_defaults()
        if one.val is not None
    }
    host, port, user = (
        str(parts.get(name) or defaults.get(name) or "") for name in ("host", "port", "user")
    )
    host = host or str(parts.get("hostaddr") or defaults.get("hostaddr") or "local socket")
    name = parts.get("dbname") or defaults.get("dbname") or user
    hosts, ports = host.split(","), (port or "5432").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    where = ",".join(
        one if "/" in one else f"{one}:{its_port or 5432}"
        for one, its_port in zip_longest(hosts, ports, fillvalue="")
    )
    return Target(f"{where}/{name} as {user or 'default user'}", masked)


def _problem_of_shape(url: str) -> str | None:
    scheme, _, rest = url.partition("://")
    if scheme not in {"postgresql", "postgres"}:
        shown = f", not with {scheme[:20]!r}" if re.fullmatch(r"[a-z+]{1,20}", scheme) else ""
        return f"must start with postgresql://{shown}"
    # What libpq would take for a host or a port may be the rest of an unescaped password.
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    misplaced = rest.count("@") > 1 or ("@" in rest and "@" not in authority)
    if misplaced or stray_character(url):
        return f"has a character that must be escaped: {_FIX}"
    hosts = authority.rpartition("@")[2]
    if not hosts or _is_socket(unquote(hosts)):
        return None
    found = servers_in(hosts)
    return f"{found}, and {_FIX}" if isinstance(found, str) else None
