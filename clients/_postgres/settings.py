"""What a PostgresClient is told, checked before anything is opened."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from .._shared.credentials import UrlSource
from .._shared.validation import can_be_looked_up, checked_count, checked_seconds
from ..errors import PostgresConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "LONGEST_STATEMENT",
    "OnRlsBypass",
    "PostgresSettings",
    "Target",
    "parse_url",
    "url_source",
]

OnRlsBypass: TypeAlias = Literal["error", "warn", "ignore"]

# How long a silence is taken for work before the server is asked, see _postgres_silence.
_SILENCE_WITHOUT_LIMIT = 30.0
_SILENCE_GRACE = 0.5
# The server counts milliseconds in 31 bits, and so does poll(), which waits a moment longer.
LONGEST_STATEMENT = 2_000_000.0

_MEND = "percent-encode special characters in user and password (urllib.parse.quote(..., safe=''))"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """The numbers of one client; time-outs in seconds.

    Args:
        pool_size: The largest number of connections.
        min_size: How many are opened at construction, and kept when idle.
        connect_timeout: Limits one connection attempt; rounded to whole seconds, two at least, as
            libpq has it.
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
        if self.on_rls_bypass not in get_args(OnRlsBypass):
            raise PostgresConfigurationError(
                f"on_rls_bypass is {self.on_rls_bypass!r}: it must be one of "
                f"{', '.join(map(repr, get_args(OnRlsBypass)))}"
            )

    @property
    def statement_timeout_ms(self) -> int:
        """``statement_timeout`` as PostgreSQL takes it."""
        return math.ceil(self.statement_timeout * 1000)

    @property
    def silence_timeout(self) -> float:
        """Seconds without a byte after which the server is asked whether it is still at work.

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
    password: str | None


def url_source(name: str, url: str | Callable[..., str | None]) -> UrlSource:
    """Return where the connection URLs come from.

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
        url: The URL, or a libpq ``key=value`` string.

    Returns:
        What to show and what not.

    Raises:
        PostgresConfigurationError: It cannot be used. libpq's own words are left out: they quote
            the URL, and with it the password.
    """
    if not isinstance(url, str) or not url.strip():
        raise PostgresConfigurationError(
            f"{name} is {'empty' if isinstance(url, str) else type(url).__name__}: "
            "pass postgresql://user:password@host:5432/dbname"
        )
    if "://" in url:
        _check_url_shape(name, url)
    if "\0" in url:
        # libpq would read up to there, and take a password for a port.
        raise PostgresConfigurationError(f"{name} holds a NUL character: copy it again")
    try:
        parts = conninfo_to_dict(url)
    except (psycopg.Error, UnicodeError):
        # `from None`: see above; a codec's error carries what it could not read.
        raise PostgresConfigurationError(f"{name} cannot be parsed: {_MEND}, as UTF-8") from None
    port = str(parts.get("port") or "5432")
    if not re.fullmatch(r"\d{0,5}(,\d{0,5})*", port):
        raise PostgresConfigurationError(f"{name} has a port that is no number: {_MEND}")
    hosts = str(parts.get("host") or parts.get("hostaddr") or "local socket")
    if not all("/" in host or can_be_looked_up(host) for host in hosts.split(",")):
        raise PostgresConfigurationError(
            f"{name} names a host with an empty part or one of more than 63 characters"
        )
    where = f"{hosts}:{port}" if "/" not in hosts else hosts
    password = parts.get("password")
    return Target(
        description=f"{where}/{parts.get('dbname') or ''} as {parts.get('user') or 'default user'}",
        password=None if password is None else str(password),
    )


def _check_url_shape(name: str, url: str) -> None:
    scheme, _, rest = url.partition("://")
    if scheme not in {"postgresql", "postgres"}:
        raise PostgresConfigurationError(
            f"{name} must start with postgresql://, not with {scheme[:20]!r}"
            if re.fullmatch(r"[a-z+]{1,20}", scheme)
            else f"{name} must start with postgresql://"
        )
    # What libpq would take for a host or a port may be the rest of an unescaped password.
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if rest.count("@") > 1 or ("@" in rest and "@" not in authority) or re.search(r"\s", url):
        raise PostgresConfigurationError(f"{name} has a character that must be escaped: {_MEND}")
    try:
        urlsplit(url)
    except ValueError:
        # `from None`: the text quotes the URL.
        raise PostgresConfigurationError(f"{name} cannot be parsed: {_MEND}") from None
