"""Connection URLs that are put together from a secret's parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from clients._dagster.fake import FakeVaultClient
from clients._valkey.url import parse_valkey_url
from clients._vault.connection_urls import postgres_url, valkey_url
from clients._vault.fields import SecretFields
from clients.errors import VaultError
from tests.secret_walker import SENTINEL, leaks_of

if TYPE_CHECKING:
    from collections.abc import Callable

_WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
_LOGIN = {"username": "app", "password": "pw"}


def _postgres(**fields: Any) -> str:
    return postgres_url(SecretFields(fields, "shop/postgres"))


def _valkey(**fields: Any) -> str:
    return valkey_url(SecretFields(fields, "shop/valkey"))


@given(user=_WORDS, password=_WORDS, database=_WORDS, option=_WORDS)
def test_libpq_reads_back_what_the_parts_say(
    user: str, password: str, database: str, option: str
) -> None:
    """Whatever characters they have: libpq itself takes the URL apart."""
    url = _postgres(
        host="db.test",
        port=6543,
        username=user,
        password=password,
        dbname=database,
        application_name=option,
    )

    assert conninfo_to_dict(url) == {
        "host": "db.test",
        "port": "6543",
        "user": user,
        "password": password,
        "dbname": database,
        "application_name": option,
    }


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("::1", 5432, ("::1", "5432")),
        ("[fe80::1]", "5432", ("fe80::1", "5432")),
        ("/var/run/postgresql", 5433, ("/var/run/postgresql", "5433")),
        ("/var/run/postgresql", None, ("/var/run/postgresql", None)),
        ("one,two", 5432, ("one,two", "5432,5432")),
        ("one, ::1", "1,2", ("one,::1", "1,2")),
        ("db", None, ("db", None)),
    ],
)
def test_hosts_of_all_kinds_are_written_as_libpq_reads_them(
    host: str, port: Any, told: tuple[str, str | None]
) -> None:
    """IPv6 addresses, sockets, and several hosts."""
    found = conninfo_to_dict(_postgres(host=host, port=port, database="d", **_LOGIN))

    assert (found["host"], found.get("port")) == told


@given(user=_WORDS, password=_WORDS)
def test_valkeys_url_is_read_back_as_well(user: str, password: str) -> None:
    """By the client's own strict parser."""
    target = parse_valkey_url(
        _valkey(host="::1", port="6380", user=user, password=password, db=3, tls=True)
    )
    assert (target.username, target.password, target.db) == (user, password, 3)
    assert ([tuple(one) for one in target.addresses], target.tls) == ([("::1", 6380)], True)
    socket = parse_valkey_url(_valkey(host="/run/a b/valkey.sock", password=password, db=3))

    assert (socket.path, socket.password, socket.db) == ("/run/a b/valkey.sock", password, 3)


@pytest.mark.parametrize("tls", [False, "false", 0, "", None])
def test_a_plain_valkey_needs_a_host_alone(tls: Any) -> None:
    """No password, no port, no database, no TLS."""
    target = parse_valkey_url(_valkey(host="h", tls=tls))

    assert (target.where, target.tls, target.password) == ("h:6379 db 0", False, None)


def test_options_of_the_driver_go_along_and_other_fields_do_not() -> None:
    """People keep notes in secrets, and other programs' settings."""
    fields: dict[str, Any] = {
        "host": "db",
        "database": "d",
        "sslmode": "verify-full",
        "keepalives": True,
        "engine": "postgres",
        "note": "ask Ada",
        **_LOGIN,
    }

    assert conninfo_to_dict(_postgres(**fields)) == {
        "host": "db",
        "dbname": "d",
        "user": "app",
        "password": "pw",
        "sslmode": "verify-full",
        "keepalives": "1",
    }
    assert "ssl_ca_certs=%2Fca.pem" in _valkey(host="h", ssl="yes", ssl_ca_certs="/ca.pem")


@pytest.mark.parametrize("missing", ["host", "username", "password", "database"])
def test_a_missing_part_is_named_with_the_path(missing: str) -> None:
    """And so is the URL that could stand for all of them."""
    fields = {"host": "db", "database": "d", **_LOGIN}
    del fields[missing]
    with pytest.raises(VaultError, match=rf"'shop/postgres'.*field '{missing}'.*'url'") as caught:
        _postgres(**fields)

    assert caught.value.reason == "field"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"host": "db", "port": "x"}, "'port' is no port"),
        ({"host": "db", "port": 70000}, "'port' is no port"),
        ({"host": "a,b", "port": "1,2,3"}, "3 ports for 2 hosts"),
        ({"host": ["db"]}, "'host' is a list"),
        ({"host": True}, "'host' is a bool"),
        ({"host": " "}, "'host' is empty"),
        ({"host": "db", "user": "ada"}, "'user' contradicts the field 'username'"),
        ({"host": "db", "db": "x"}, "'db' contradicts the field 'database'"),
        ({"host": "db", "password": f"{SENTINEL}\n"}, "'password' ends in a line end"),
        ({"host": "db", "port": SENTINEL}, "'port' is no port"),
    ],
)
def test_an_unfit_part_is_named_and_nothing_secret_shows(fields: Any, told: str) -> None:
    """Neither in the message, nor in the frames of the failure."""
    whole = {"database": "d", **_LOGIN, **fields}
    with pytest.raises(VaultError, match=told):
        _postgres(**whole)

    assert leaks_of(lambda: _postgres(**whole), SENTINEL) == []


_URL = "postgresql://app:p%40w@db.test:5432/shop?sslmode=require"
_SAME = {"host": "DB.test", "username": "app", "password": "p@w", "dbname": "shop", "port": 5432}


def test_a_url_and_parts_that_say_the_same_are_taken() -> None:
    """Templates of secrets often hold both; a port that is the usual one need not be in both."""
    assert _postgres(url=f" {_URL}\n", **_SAME) == _URL
    bare = _URL.replace(":5432", "")
    assert _postgres(url=bare, **_SAME) == bare
    assert _postgres(url=_URL, note="x") == _URL
    socket = "postgresql://app:p%40w@/shop?host=%2Frun%2Fpg&port=1"
    assert _postgres(url=socket, **_SAME | {"host": "/run/pg", "port": 1}) == socket
    assert _valkey(url="redis://:pw@h", host="h", port=6379, password="pw", db=0) == "redis://:pw@h"


@pytest.mark.parametrize(
    "other",
    [
        {"host": "other"},
        {"port": 5433},
        {"username": "ada"},
        {"password": f"{SENTINEL}2"},
        {"dbname": "crm"},
    ],
)
def test_a_url_and_parts_that_contradict_each_other_are_refused(other: dict[str, Any]) -> None:
    """Nobody can say which of the two was forgotten at the last change."""
    ((name, _),) = other.items()
    whole = _SAME | {"password": "p@w"} | other
    with pytest.raises(VaultError, match=f"'{name}' contradicts the field 'url'"):
        _postgres(url=_URL, **whole)

    assert leaks_of(lambda: _postgres(url=_URL, **whole), SENTINEL) == []


@pytest.mark.parametrize("sslmode", ["", "?sslmode=disable", "?application_name=verify-full"])
def test_an_option_that_the_url_does_not_say_is_refused(sslmode: str) -> None:
    """A connection that nobody verifies would be the silent end of a secret that asks for it."""
    url = f"postgresql://app:pw@db.test/shop{sslmode}"
    with pytest.raises(VaultError, match="'sslmode' contradicts the field 'url', or that does not"):
        _postgres(url=url, sslmode="verify-full")
    with pytest.raises(VaultError, match="'ssl_ca_certs' contradicts the field 'url'"):
        _valkey(url="rediss://h", ssl_ca_certs="/ca.pem")

    same = f"{url}&sslmode=verify%2Dfull" if sslmode == "?application_name=verify-full" else _URL
    told = "verify-full" if same != _URL else "require"
    assert _postgres(url=same, sslmode=told) == same


@pytest.mark.parametrize(
    ("url", "tls"),
    [
        ("redis://h", True),
        ("rediss://h", "no"),
        ("valkey+cluster://h", "true"),
        ("VALKEYS://h", 0),
        ("unix:///run/v.sock", 1),
    ],
)
def test_a_scheme_that_says_otherwise_than_the_switch_is_refused(url: str, tls: Any) -> None:
    """Else a secret that asks for TLS would be read, and its password sent in the clear."""
    with pytest.raises(VaultError, match="'tls' contradicts the field 'url'"):
        _valkey(url=url, tls=tls)
    assert _valkey(url=url, tls="") == url


def test_two_switches_that_contradict_each_other_are_refused() -> None:
    """As with any other part that has two names."""
    with pytest.raises(VaultError, match="'ssl' contradicts the field 'tls'"):
        _valkey(host="h", tls="yes", ssl=False)
    assert _valkey(host="h", tls="yes", ssl=True) == "rediss://h/"


def test_the_service_of_sentinels_is_no_part_of_the_database() -> None:
    """The path of such a URL names both."""
    url = "redis+sentinel://a:1,b:2/primary/3"
    assert _valkey(url=url, db=3) == url


def test_half_of_a_surrogate_pair_is_refused() -> None:
    """No URL can hold one, and the error of the codec would hold the password."""
    whole = {"host": "h", "database": "d", "user": "app", "password": f"{SENTINEL}\ud800"}
    with pytest.raises(VaultError, match="'password' has half of a surrogate pair"):
        _postgres(**whole)
    assert leaks_of(lambda: _postgres(**whole), SENTINEL) == []


def test_a_url_without_a_login_and_parts_with_one_are_refused() -> None:
    """To leave the parts' password aside, and fail at the login, would be worse."""
    with pytest.raises(VaultError, match="'username' contradicts the field 'url', or that does"):
        _postgres(url="postgresql://db.test/shop", **_SAME)


def test_a_login_may_be_left_to_a_lease() -> None:
    """Vault's database engine gives user and password then."""
    fields = SecretFields({"host": "db", "database": "d"}, "shop/postgres")

    assert postgres_url(fields, login_required=False) == "postgresql://db/d"


def test_the_getters_read_parts_and_other_mounts() -> None:
    """``mount:path`` is for paths of a configuration; the mount may be a nested one."""
    vault = FakeVaultClient(
        {
            "team/kv-shop:shop/postgres": {"host": "db", "database": "d", **_LOGIN},
            "crm/valkey": {"host": "h"},
        }
    )

    assert vault.get_database_url(path="team/kv-shop:shop/postgres") == "postgresql://app:pw@db/d"
    assert vault.get_valkey_url() == "redis://h/"
    with pytest.raises(VaultError, match="the secret 'shop/postgres' in mount 'secret'"):
        vault.get_database_url(path="shop/postgres")
    unusable: list[Callable[[], object]] = [
        lambda: vault.get_database_url(path=":x"),
        lambda: vault.get_database_url(path="kv:"),
        lambda: vault.get_database_url(path="../kv:x"),
    ]
    for call in unusable:
        with pytest.raises(VaultError, match=r"mount point|secret path"):
            call()
