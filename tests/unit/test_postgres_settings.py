"""What a PostgreSQL URL may say, what is refused without echoing it, and the numbers."""

from __future__ import annotations

import getpass
import traceback
from typing import Any

import pytest

from clients._postgres.settings import PostgresSettings, parse_url, url_source
from clients.errors import ConfigurationError, PostgresConfigurationError, PostgresError

SECRET = "s3cr3t-pa55"

# Whom libpq logs in where nobody is named.
ME = getpass.getuser()

GOOD = {
    # Secrets come with a newline at their end, where a file or an editor has put it.
    "postgresql://u:p@h:5433/d\n": ("h:5433/d as u", "p"),
    "\t host=h dbname=d user=u password=p \r\n": ("h:5432/d as u", "p"),
    "postgresql://u:p@h:5433/d": ("h:5433/d as u", "p"),
    "postgres://u:p@h/d": ("h:5432/d as u", "p"),
    "postgresql://h": (f"h:5432/{ME} as {ME}", None),
    "postgresql://u@h/d": ("h:5432/d as u", None),
    "postgresql://u:p%2F%40%23%3F%20%25%3A@h/d": ("h:5432/d as u", "p/@#? %:"),
    "postgresql://u%40x:p@h/d": ("h:5432/d as u@x", "p"),
    "postgresql://u:a:b@h/d": ("h:5432/d as u", "a:b"),
    "postgresql://u:p@h1:5432,h2:5433/d?target_session_attrs=read-write": (
        "h1:5432,h2:5433/d as u",
        "p",
    ),
    "postgresql://u:p@[::1]:5432/d": ("::1:5432/d as u", "p"),
    "postgresql://h/d?user=u&password=p": ("h:5432/d as u", "p"),
    "postgresql:///d?host=/run/postgresql&user=u": ("/run/postgresql/d as u", None),
    "postgresql:///d": (f"local socket:5432/d as {ME}", None),
    "host=h dbname=d user=u password='p q'": ("h:5432/d as u", "p q"),
    "postgresql://u@m\u00fcnchen.example/d": ("m\u00fcnchen.example:5432/d as u", None),
    "postgresql:///d?host=/run/..": (f"/run/../d as {ME}", None),
    "hostaddr=127.0.0.1 dbname=d": (f"127.0.0.1:5432/d as {ME}", None),
}

BAD = [
    "",
    "   ",
    "\t\n",
    "{p}",
    "http://u:{p}@h/d",
    "postgresql+psycopg://u:{p}@h/d",
    "POSTGRESQL://u:{p}@h/d",
    "{p}://u@h/d",
    "postgresql://u:{p}@x@h/d",
    "postgresql://u:{p}/x@h/d",
    "postgresql://u:x/{p}@h/d",
    "postgresql://u:{p}?x@h/d",
    "postgresql://u:{p}#x@h/d",
    "postgresql://u:{p} x@h/d",
    "postgresql://u:x {p}@h/d",
    "postgresql://u:{p}\n@h/d",
    "postgresql://u:{p}%zz@h/d",
    "postgresql://u:{p}%00@h/d",
    "postgresql://u:{p}%E4@h/d",
    "postgresql://u:{p}@%FF/d",
    "postgresql://u:{p}@h..x/d",
    "postgresql://u:{p}@h,{long}/d",
    "postgresql://u:{p}\ud800@h/d",
    "host=h password={p}\ud800",
    "postgresql://u:1{p}\0@h/d",
    "postgresql://u:x@h/d\0{p}",
    "host=h password={p}\0",
    "postgresql://u:x@h:{p}/d",
    "postgresql://u:x@[h:{p}/d",
    "postgresql://u:x@h/d?{p}",
    "postgresql://u:x@h/d?nosuchoption={p}",
    "host=h password={p} x",
    "host=h password='{p}",
]


@pytest.mark.parametrize("url", GOOD)
def test_a_url_is_described_without_its_password(url: str) -> None:
    """Host, port, database and user, as libpq understands them."""
    target = parse_url("connection_url", url)

    password = None if target.password is None else target.password.reveal()
    assert (target.description, password) == GOOD[url]
    assert target.password is None or "password=***" in repr(target)


@pytest.mark.parametrize("pattern", BAD)
def test_a_bad_url_is_refused_without_showing_it(pattern: str) -> None:
    """The parameter is named; no part of the URL that may be a password is."""
    with pytest.raises(PostgresConfigurationError) as caught:
        parse_url("admin_url", pattern.replace("{p}", SECRET).replace("{long}", 64 * "h"))

    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in shown
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert str(caught.value).startswith("admin_url ")
    assert isinstance(caught.value, ConfigurationError)
    assert isinstance(caught.value, PostgresError)


@pytest.mark.parametrize("value", [None, 7, b"postgresql://h", ["postgresql://h"], object()])
def test_what_is_no_text_is_refused(value: object) -> None:
    """The message names its type, and not its value."""
    with pytest.raises(PostgresConfigurationError, match=type(value).__name__):
        parse_url("connection_url", value)
    if not callable(value):
        with pytest.raises(PostgresConfigurationError, match="URL or a callable"):
            url_source("connection_url", value)


def settings(**changes: Any) -> PostgresSettings:
    given = {
        "pool_size": 10,
        "min_size": 2,
        "connect_timeout": 5.0,
        "pool_timeout": 5.0,
        "statement_timeout": 30.0,
        "on_rls_bypass": "error",
    }
    return PostgresSettings(**{**given, **changes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool_size", 0),
        ("pool_size", True),
        ("pool_size", 2.0),
        ("min_size", -1),
        ("connect_timeout", 0),
        ("connect_timeout", float("nan")),
        ("pool_timeout", -1),
        ("pool_timeout", "1"),
        ("statement_timeout", float("inf")),
        ("statement_timeout", False),
        ("on_rls_bypass", "warning"),
    ],
)
def test_unusable_numbers_are_refused_by_name(name: str, value: object) -> None:
    """The message has the name, the value, and what it must be."""
    with pytest.raises(PostgresConfigurationError, match="must be") as caught:
        settings(**{name: value})

    assert str(caught.value).startswith(f"{name} is {value!r}: ")


@pytest.mark.parametrize("value", [1e10, 2**53, 10**400, -(10**5000)], ids=range(4))
@pytest.mark.parametrize("name", ["connect_timeout", "pool_timeout", "statement_timeout"])
def test_what_no_lock_or_socket_could_wait_for_is_refused(name: str, value: float) -> None:
    """It would fail much later, when a call waits, and as an error that is not ours."""
    with pytest.raises(PostgresConfigurationError, match=f"^{name} is .*: it must be"):
        settings(**{name: value})


def test_the_longest_statement_can_be_waited_for() -> None:
    """PostgreSQL and poll() count its milliseconds in 31 bits, those of a moment more included."""
    longest = settings(statement_timeout=2_000_000.0)

    assert longest.statement_timeout_ms < longest.silence_timeout * 1000 < 2**31


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool_size", 1),
        ("min_size", 0),
        ("connect_timeout", 0.1),
        ("pool_timeout", 0),
        ("statement_timeout", 0),
        ("on_rls_bypass", "ignore"),
    ],
)
def test_the_least_values_are_taken(name: str, value: object) -> None:
    """Each limit's edge is inside."""
    assert getattr(settings(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("seconds", "milliseconds"), [(0, 0), (0.0001, 1), (1.5, 1500), (30, 30000)]
)
def test_a_small_statement_timeout_never_becomes_no_limit(
    seconds: float, milliseconds: int
) -> None:
    """PostgreSQL takes whole milliseconds, and 0 as for ever."""
    assert settings(statement_timeout=seconds).statement_timeout_ms == milliseconds


def test_a_description_names_the_server_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libpq goes where its variables say when the URL does not."""
    for name, value in {
        "PGHOST": "db.example",
        "PGPORT": "6543",
        "PGUSER": "somebody",
        "PGDATABASE": "data",
    }.items():
        monkeypatch.setenv(name, value)

    assert parse_url("x", "postgresql://").description == "db.example:6543/data as somebody"
    assert parse_url("x", "postgresql:///d").description == "db.example:6543/d as somebody"
    assert parse_url("x", "postgresql://u@h").description == "h:6543/data as u"
    assert parse_url("x", "service=crm").description == "the service crm"
