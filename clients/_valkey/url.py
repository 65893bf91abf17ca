"""Read a Valkey URL strictly: whatever is unclear is refused, and nothing secret is echoed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from .._shared.authority import servers_in, stray_character
from .._shared.rotating_url import UrlSource
from .._shared.validation import checked_choice
from ..errors import ValkeyConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Address", "ValkeyTarget", "parse_valkey_url", "url_source"]

_TLS_BY_SCHEME = {"redis": False, "valkey": False, "rediss": True, "valkeys": True, "unix": False}
_PORT = 6379
_SENTINEL_PORT = 26379
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TLS_OPTIONS = frozenset(
    {
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_cert_reqs",
        "ssl_keyfile",
        "ssl_password",
    }
)
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
_CONSTRUCTOR_OPTIONS = {
    "socket_timeout": "socket_timeout",
    "socket_connect_timeout": "connect_timeout",
    "max_connections": "max_connections",
}


class Address(NamedTuple):
    """One server's host and port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValkeyTarget:
    """What a Valkey URL says; secrets stay out of the repr.

    Args:
        kind: ``"standalone"``, ``"sentinel"`` or ``"cluster"``.
        addresses: The servers; the sentinels or some cluster nodes where there are several.
        path: The Unix socket, instead of addresses.
        tls: Whether to speak TLS.
        username: The ACL user; None for the default user.
        password: Its password; None where the server needs none.
        db: The database's number.
        service: The name under which the sentinels watch the primary.
        tls_options: ``ssl_*`` settings under redis-py's names.
        sentinel_username: The ACL user for the sentinels themselves.
        sentinel_password: Its password.
    """

    kind: str = "standalone"
    addresses: tuple[Address, ...] = ()
    path: str | None = None
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    service: str = ""
    tls_options: tuple[tuple[str, str | bool], ...] = field(default=(), repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """Name the target for messages, without credentials."""
        if self.path is not None:
            return f"unix:{self.path} db {self.db}"
        hosts = ",".join(map(str, self.addresses))
        if self.kind == "sentinel":
            return f"primary {self.service!r} of sentinels {hosts} db {self.db}"
        if self.kind == "cluster":
            return f"cluster {hosts}"
        return f"{hosts} db {self.db}"

    @property
    def place(self) -> str:
        """Whom a connection leads to, whatever the database and the user."""
        return self.path or ",".join(map(str, self.addresses))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return every value that must not show in a message."""
        key_password = dict(self.tls_options).get("ssl_password")
        found = (self.password, self.sentinel_password, key_password)
        return tuple(secret for secret in found if isinstance(secret, str) and secret)


def url_source(url: str | Callable[..., str]) -> UrlSource:
    """Return where the connection URLs come from.

    Raises:
        ValkeyConfigurationError: *url* is neither text nor a callable.
    """
    return UrlSource("connection_url", url, describe=_describe, unusable=ValkeyConfigurationError)


def _describe(url: str) -> str:
    target = parse_valkey_url(url)
    return f"{target.where} as {target.username or 'the default user'}"


def parse_valkey_url(url: object) -> ValkeyTarget:
    """Read a Valkey URL.

    Args:
        url: ``redis://``, ``rediss://``, ``valkey://``, ``valkeys://`` (each also with
            ``+sentinel`` or ``+cluster``) or ``unix://``, in any case.

    Returns:
        The target.

    Raises:
        ValkeyConfigurationError: The URL is unusable; the message names the part and never
            shows the URL.
    """
    if not isinstance(url, str):
        raise ValkeyConfigurationError(f"the Valkey URL is {type(url).__name__}: it must be a str")
    # Secrets are often written with an editor, or by echo: a line end behind the URL is none of it.
    scheme, separator, rest = url.strip().partition("://")
    base, _, kind = scheme.lower().partition("+")
    if not separator or base not in _TLS_BY_SCHEME or kind not in {"", "sentinel", "cluster"}:
        raise ValkeyConfigurationError(
            "the Valkey URL has no known scheme: it must start with redis://, rediss://, "
            "valkey://, valkeys:// or unix://, for example redis://localhost:6379/0; "
            "+sentinel and +cluster follow the first four, as in redis+cluster://"
        )
    _refuse_unescaped(rest)
    addresses: tuple[Address, ...]
    main, _, query = rest.partition("?")
    options = _options(query)
    # The path starts at the first slash, so a raw slash in a password would end the host early.
    authority, slash, path = main.partition("/")
    if "@" in path:
        raise _unescaped("/", "%2F")
    login, _, hosts = authority.rpartition("@")
    username, password = _login(login)
    tls = _TLS_BY_SCHEME[base]
    if base == "unix":
        if kind or hosts or not path:
            raise ValkeyConfigurationError(
                "a unix:// URL names one absolute path, as in unix:///run/valkey/valkey.sock?db=0"
            )
        addresses, socket_path, service = (), unquote(slash + path), ""
        database = options.pop("db", "")
    else:
        addresses, socket_path = _addresses(hosts, kind), None
        service, database = _path(path, kind, options.pop("db", None))
    _check_options(options, tls=tls, kind=kind)
    return ValkeyTarget(
        kind=kind or "standalone",
        addresses=addresses,
        path=socket_path,
        tls=tls,
        username=username,
        password=password,
        db=_database(database),
        service=service,
        tls_options=_tls_options(options),
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
    )


def _refuse_unescaped(rest: str) -> None:
    for character, escape in ((" ", "%20"), ("#", "%23")):
        if character in rest:
            raise _unescaped(character, escape)
    login, at, _ = rest.rpartition("@")
    if at:
        for character, escape in (("[", "%5B"), ("]", "%5D"), ("/", "%2F"), ("?", "%3F")):
            if character in login:
                raise _unescaped(character, escape)
    if _BAD_ESCAPE.search(rest):
        raise _unescaped("%", "%25")
    if stray := stray_character(rest):
        raise ValkeyConfigurationError(
            f"the Valkey URL {stray}: is there a line end from a file in it?"
        )
    if not _is_utf8(rest):
        raise ValkeyConfigurationError(
            "the Valkey URL holds bytes that are not UTF-8: check its %-escapes"
        )


def _is_utf8(text: str) -> bool:
    # The error carries the whole URL: nothing may be raised while it is handled.
    try:
        unquote(text, errors="strict").encode()
    except UnicodeError:
        return False
    return True


def _unescaped(character: str, escape: str) -> ValkeyConfigurationError:
    return ValkeyConfigurationError(
        f"the Valkey URL holds an unescaped {character!r}: in a user name or password write it "
        f"as {escape} (urllib.parse.quote(password, safe='') does it)"
    )


def _login(login: str) -> tuple[str | None, str | None]:
    username, colon, password = login.partition(":")
    if colon and not password:
        raise ValkeyConfigurationError("the Valkey URL has an empty password: leave out the ':'")
    if username and not colon:
        raise ValkeyConfigurationError(
            "the Valkey URL has a user name and no password: write user:password@ or, for the "
            "default user, :password@"
        )
    return unquote(username) or None, unquote(password) or None


def _addresses(hosts: str, kind: str) -> tuple[Address, ...]:
    default_port = _SENTINEL_PORT if kind == "sentinel" else _PORT
    found = servers_in(hosts)
    if isinstance(found, str):
        raise ValkeyConfigurationError(f"the Valkey URL {found}")
    if len(found) > 1 and not kind:
        raise ValkeyConfigurationError(
            "the Valkey URL names several hosts: that needs +sentinel or +cluster in its scheme"
        )
    return tuple(Address(host, port or default_port) for host, port in found)


def _path(path: str, kind: str, db_option: str | None) -> tuple[str, str]:
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise ValkeyConfigurationError(
                "the Valkey URL names no service: write redis+sentinel://host1,host2/service/db"
            )
    if path and db_option is not None:
        raise ValkeyConfigurationError("the Valkey URL names its database twice: path and ?db=")
    database = path or db_option or ""
    if kind == "cluster" and database not in {"", "0"}:
        raise ValkeyConfigurationError("a cluster has database 0 only: leave it out of the URL")
    return unquote(service), database


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= len("2147483647")):
        raise ValkeyConfigurationError(
            "the Valkey URL's database is no whole number from 0 up, as in redis://host:6379/0"
        )
    return int(text)


def _options(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name in found or not value:
            raise ValkeyConfigurationError(
                f"the Valkey URL's option {_shown(name)} is given twice or has no value"
            )
        found[name] = unquote(value)
    return found


def _shown(name: str) -> str:
    # Something long or odd could be the tail of a password.
    return repr(name) if re.fullmatch(r"[a-z_]{1,30}", name) else "(not shown)"


def _check_options(options: dict[str, str], *, tls: bool, kind: str) -> None:
    for name in options:
        if name in _CONSTRUCTOR_OPTIONS:
            raise ValkeyConfigurationError(
                f"the Valkey URL's option {name!r} belongs to the constructor: "
                f"ValkeyClient(url, {_CONSTRUCTOR_OPTIONS[name]}=...)"
            )
        if name in _TLS_OPTIONS and not tls:
            raise ValkeyConfigurationError(
                f"the Valkey URL's option {name!r} needs TLS: write rediss:// or valkeys://"
            )
        if name in _SENTINEL_OPTIONS and kind != "sentinel":
            raise ValkeyConfigurationError(
                f"the Valkey URL's option {name!r} needs +sentinel in the scheme"
            )
        if name not in _TLS_OPTIONS | _SENTINEL_OPTIONS:
            known = ", ".join(sorted({"db"} | _TLS_OPTIONS | _SENTINEL_OPTIONS))
            raise ValkeyConfigurationError(
                f"the Valkey URL has an unknown option {_shown(name)}: known are {known}"
            )


def _tls_options(options: dict[str, str]) -> tuple[tuple[str, str | bool], ...]:
    found: dict[str, str | bool] = {n: v for n, v in options.items() if n in _TLS_OPTIONS}
    requirement = options.get("ssl_cert_reqs", "required")
    checked_choice(
        "ssl_cert_reqs", requirement, ("none", "optional", "required"), ValkeyConfigurationError
    )
    check = options.get("ssl_check_hostname", "true").lower()
    checked_choice("ssl_check_hostname", check, ("true", "false"), ValkeyConfigurationError)
    if "ssl_check_hostname" in found:
        found["ssl_check_hostname"] = check == "true"
    return tuple(sorted(found.items()))
