"""Connection URLs from secrets that hold one, or its parts.

Sources: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING for
PostgreSQL's URLs and parameters; those of Valkey's are in ``clients/_valkey/url.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from .._shared.authority import host_problem, port_of
from .._shared.secrecy import Masked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..errors import VaultError
    from .fields import SecretFields

__all__ = ["postgres_url", "valkey_url"]

#: What a part may be called; two that are there have to be equal.
_NAMES = {
    "host": ("host", "hostname"),
    "port": ("port",),
    "user": ("username", "user"),
    "password": ("password",),
    "database": ("database", "dbname", "db"),
}
_PARAMETERS = frozenset({
    *("application_name", "channel_binding", "client_encoding", "connect_timeout"),
    *("fallback_application_name", "gssdelegation", "gssencmode", "gsslib", "hostaddr"),
    *("keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname"),
    *("load_balance_hosts", "max_protocol_version", "min_protocol_version", "options", "passfile"),
    *("require_auth", "requirepeer", "ssl_max_protocol_version", "ssl_min_protocol_version"),
    *("sslcert", "sslcertmode", "sslcompression", "sslcrl", "sslcrldir", "sslkey", "sslmode"),
    *("sslnegotiation", "sslpassword", "sslrootcert", "sslsni", "target_session_attrs"),
    "tcp_user_timeout",
})  # fmt: skip
#: libpq's own names of the parts, which stand over the rest of a URL in its query.
_QUERY_NAMES = {
    "host": "host",
    "port": "port",
    "user": "user",
    "password": "password",
    "dbname": "database",
    "db": "database",
}
#: With one of these, libpq needs no password.
_OTHER_PROOFS = frozenset({"passfile", "sslcert", "requirepeer"})
_VALKEY_OPTIONS = frozenset({
    *("sentinel_password", "sentinel_username", "ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile"),
    *("ssl_check_hostname", "ssl_keyfile", "ssl_password"),
})  # fmt: skip
_TLS_NAMES = ("tls", "ssl")


def postgres_url(fields: SecretFields, *, login_required: bool = True) -> str:
    """Return PostgreSQL's URL.

    Args:
        fields: The secret.
        login_required: Whether user and password have to be there.

    Raises:
        VaultError: The secret has no URL and lacks a part, or two fields contradict each other.
    """
    parts = _parts(fields)
    if (url := fields.url("url")) is not None:
        _check_agreement(fields, url, parts, {"port": "5432"}, _PARAMETERS)
        return url.reveal()
    required = ["host", "database"]
    if login_required:
        required.append("user")
    socket = parts["host"] is not None and parts["host"].reveal().startswith("/")
    if login_required and not socket and not fields.names() & _OTHER_PROOFS:
        required.append("password")
    _check_complete(fields, parts, required)
    options = _options(fields, _PARAMETERS)
    if socket:
        options = {"host": parts["host"], "port": parts["port"]} | options
    place = "" if socket else _hosts(fields, parts["host"], parts["port"])
    return f"postgresql://{_login(parts)}{place}/{_quoted(parts['database'])}{_query(options)}"


def valkey_url(fields: SecretFields) -> str:
    """Return Valkey's URL.

    Raises:
        VaultError: The secret has no URL and lacks a part, or two fields contradict each other.
    """
    parts = _parts(fields)
    if (url := fields.url("url")) is not None:
        defaults = {"port": "6379", "user": "default", "database": "0"}
        _check_agreement(fields, url, parts, defaults, _VALKEY_OPTIONS)
        if (tls := fields.switch(_TLS_NAMES)) is not None and tls != _is_tls(url):
            raise _contradiction(fields, _TLS_NAMES)
        return url.reveal()
    _check_complete(fields, parts, ["host", *(["password"] if parts["user"] is not None else [])])
    options = _options(fields, _VALKEY_OPTIONS)
    host = parts["host"]
    if host is not None and host.reveal().startswith("/"):
        path = quote(host.reveal())
        return f"unix://{_login(parts)}{path}{_query(options | {'db': parts['database']})}"
    scheme = "rediss" if fields.switch(_TLS_NAMES) else "redis"
    place = _hosts(fields, host, parts["port"])
    return f"{scheme}://{_login(parts)}{place}/{_quoted(parts['database'])}{_query(options)}"


def _parts(fields: SecretFields) -> dict[str, Masked | None]:
    return {part: fields.part(names) for part, names in _NAMES.items()}


def _check_complete(
    fields: SecretFields, parts: Mapping[str, Masked | None], required: list[str]
) -> None:
    if all(part is None for part in parts.values()):
        raise fields.error("url", "is missing, and so are the parts of one, such as 'host'")
    for part in required:
        if parts[part] is None:
            others = " or ".join(map(repr, _NAMES[part][1:]))
            also = f"(or {others}) " if others else ""
            raise fields.error(_NAMES[part][0], f"{also}is missing, and there is no 'url' either")


def _login(parts: Mapping[str, Masked | None]) -> str:
    user, password = parts["user"], parts["password"]
    if user is None and password is None:
        return ""
    return f"{_quoted(user)}{'' if password is None else f':{_quoted(password)}'}@"


def _quoted(part: Masked | None) -> str:
    return "" if part is None else quote(part.reveal(), safe="")


def _hosts(fields: SecretFields, host: Masked | None, port: Masked | None) -> str:
    """Return the hosts with their ports; libpq takes several, with one port or one for each."""
    hosts = [_bare(one.strip()) for one in ("" if host is None else host.reveal()).split(",")]
    for one in hosts:
        if problem := host_problem(one):
            raise fields.error("host", problem)
    ports = [] if port is None else [Masked(one.strip()) for one in port.reveal().split(",")]
    if any(port_of(one.reveal()) is None for one in ports):
        raise fields.error("port", "is no port")
    if len(ports) == 1:
        ports *= len(hosts)
    if ports and len(ports) != len(hosts):
        raise fields.error("port", f"names {len(ports)} ports for {len(hosts)} hosts")
    ends = [f":{one.reveal()}" for one in ports] or [""] * len(hosts)
    return ",".join(f"{_bracketed(one)}{end}" for one, end in zip(hosts, ends, strict=True))


def _bare(host: str) -> str:
    # Only an IPv6 address may stand in brackets.
    in_brackets = host.startswith("[") and host.endswith("]") and ":" in host
    return host[1:-1] if in_brackets else host


def _bracketed(host: str) -> str:
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


def _options(fields: SecretFields, known: frozenset[str]) -> dict[str, Masked | None]:
    return {name: fields.option(name) for name in sorted(fields.names() & known)}


def _query(options: Mapping[str, Masked | None]) -> str:
    pairs = [f"{name}={_quoted(value)}" for name, value in options.items() if value is not None]
    return f"?{'&'.join(pairs)}" if pairs else ""


def _check_agreement(
    fields: SecretFields,
    url: Masked,
    parts: Mapping[str, Masked | None],
    defaults: Mapping[str, str],
    known: frozenset[str],
) -> None:
    told = _components(url)
    for name, part in {**parts, **_options(fields, known)}.items():
        if part is None:
            continue
        said = told.get(name) or Masked(defaults.get(name, ""))
        if _plain(name, said) != _plain(name, part):
            raise _contradiction(fields, _NAMES.get(name, (name,)))


def _contradiction(fields: SecretFields, names: tuple[str, ...]) -> VaultError:
    field = next(one for one in names if one in fields.names())
    return fields.error(
        field, "contradicts the field 'url', or that does not name it: keep one of the two"
    )


def _is_tls(url: Masked) -> bool:
    scheme = url.reveal().partition("://")[0].partition("+")[0]
    return scheme.lower() in {"rediss", "valkeys"}


def _plain(name: str, part: Masked) -> str:
    text = part.reveal()
    if name != "host":
        return text
    return ",".join(
        one.strip().removeprefix("[").removesuffix("]").lower() for one in text.split(",")
    )


def _components(url: Masked) -> dict[str, Masked]:
    """Return what a URL names, unescaped; the rules of the drivers check it later."""
    # Masked at each step: what stands in a local variable shows in error reports.
    rest = _split(url, "://")[1]
    main, query = _split(_split(rest, "#")[0], "?")
    authority, path = _split(main, "/")
    login, hosts = _split(authority, "@", last=True)
    user, password = _split(login, ":")
    if "+sentinel" in url.reveal().partition("://")[0].lower():
        path = _split(path, "/")[1]  # the service stands in front
    found = {"user": user, "password": password, "database": path}
    if url.reveal().startswith("unix:"):
        found |= {"host": Masked(f"/{path.reveal()}"), "database": Masked("")}
    else:
        pairs = [_host_and_port(one) for one in hosts.reveal().split(",")]
        ports = {port for _, port in pairs}
        found["host"] = Masked(",".join(host for host, _ in pairs))
        found["port"] = Masked(
            ports.pop() if len(ports) == 1 else ",".join(port for _, port in pairs)
        )
    told = {name: Masked(unquote(text.reveal())) for name, text in found.items() if text.reveal()}
    for pair in map(Masked, query.reveal().split("&")):
        name, value = _split(pair, "=")
        told[_QUERY_NAMES.get(name.reveal(), name.reveal())] = Masked(unquote(value.reveal()))
    return told


def _split(text: Masked, mark: str, *, last: bool = False) -> tuple[Masked, Masked]:
    """Return what stands before and behind the first mark, or behind the last one."""
    if last:
        return (
            Masked(text.reveal().rpartition(mark)[0]),
            Masked(text.reveal().rpartition(mark)[2]),
        )
    return Masked(text.reveal().partition(mark)[0]), Masked(text.reveal().partition(mark)[2])


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = text.partition(":")
    return host, port
