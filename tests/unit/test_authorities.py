"""One check of hosts and ports: what one client refuses, no other one takes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from clients import ClientError
from clients._postgres.settings import parse_url
from clients._shared.authority import Server, port_of, server_in, servers_in
from clients._shared.secrecy import Masked
from clients._valkey.url import parse_valkey_url
from clients._vault.connection_urls import postgres_url, valkey_url
from clients._vault.fields import SecretFields
from clients._vault.settings import GivenLogin, resolve_options

if TYPE_CHECKING:
    from collections.abc import Callable

_LABELS = st.sampled_from(
    ["db", "a" * 63, "a" * 64, "", "b\u00fccher", "x_y", "-", "1", "\u200b", "\ud800"]
)
_NAMES = st.lists(_LABELS, min_size=1, max_size=3).map(".".join)
_ADDRESSES = st.ip_addresses().map(str) | st.sampled_from(
    ["::1", "fe80::1%25eth0", "fe80::1%25", "::1::", "1:2", "[::1", "::1]", "[]", "[db]", "[[::1]]"]
)
_ODD = st.text(
    st.sampled_from("ab1.:-_[]%\\^{}|\"'`<>$&+=;!*()~\t\n\r\x00\x7f\xa0 "), min_size=1, max_size=6
)
_HOSTS = (
    _NAMES
    | _ADDRESSES.map(lambda one: f"[{one}]" if ":" in one and "[" not in one else one)
    | _ADDRESSES
    | _ODD
)
_PORTS = (
    st.none()
    | st.integers(-1, 70_000).map(str)
    | st.sampled_from(["", "0", "00080", "000080", "+1", "1_0", "\u0663", "\u00b2", "1.5", "x"])
    | st.sampled_from(["1 2", "8200\t1", "9" * 50])
)


def _vault(authority: str) -> object:
    return resolve_options(
        addr=Masked(f"http://{authority}"),
        login=GivenLogin(token=Masked("x")),
        namespace=None,
        mount_point="secret",
        timeout=1.0,
        retries=0,
        cache_ttl=0.0,
        environ={},
    )


def _postgres(authority: str) -> object:
    return parse_url("connection_url", f"postgresql://u:p@{authority}/d")


def _valkey(authority: str) -> object:
    return parse_valkey_url(f"redis://u:p@{authority}/0")


def _parts(read: Callable[[SecretFields], str], host: str, port: str | None) -> str:
    fields = {"host": host, "port": port, "username": "u", "password": "p", "database": "0"}
    return read(SecretFields(fields, "x"))


def _accepts(call: Callable[[], object]) -> bool:
    try:
        call()
    except ClientError:
        return False
    return True


def _without_blanks_around(text: str | None) -> bool:
    # People store parts with blanks around them, and lists with blanks behind the commas.
    return text is None or text == text.strip()


@settings(max_examples=150)
@given(
    host=_HOSTS.filter(_without_blanks_around).filter(lambda one: not set("/?#@,") & set(one)),
    port=_PORTS.filter(_without_blanks_around),
)
@example(host="db", port="5432")
@example(host="[::1]", port=None)
@example(host="db:1", port=None)
def test_all_urls_take_and_refuse_the_same_servers(host: str, port: str | None) -> None:
    """Vault's address, PostgreSQL's and Valkey's URLs, and both URLs that are made of parts."""
    authority = host if port is None else f"{host}:{port}"
    assume(authority)  # libpq goes to its default server where none is named
    server = server_in(authority)
    taken = {
        "vault": _accepts(lambda: _vault(authority)),
        "postgres": _accepts(lambda: _postgres(authority)),
        "valkey": _accepts(lambda: _valkey(authority)),
    }

    assert set(taken.values()) == {isinstance(server, Server) and _is_printable(authority)}, taken
    if ":" in host and not host.startswith("["):
        return  # in parts an address needs no brackets, and a port has a field of its own
    bare = host.replace("%25", "%") if host.startswith("[") else host
    made = {
        read: _accepts(partial(_parts, read, bare, port)) for read in (postgres_url, valkey_url)
    }

    assert set(made.values()) == {isinstance(server, Server)}, made


def _is_printable(text: str) -> bool:
    return text.isprintable() and " " not in text


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(_NAMES | _ADDRESSES.map(lambda one: f"[{one}]"), st.integers(0, 70_000)),
        min_size=2,
        max_size=4,
    )
)
def test_lists_of_servers_are_taken_and_refused_alike(servers: list[tuple[str, int]]) -> None:
    """Several hosts for libpq and for a cluster, as URLs and as parts."""
    authority = ",".join(f"{host}:{port}" for host, port in servers)
    taken = {
        isinstance(servers_in(authority), tuple),
        _accepts(lambda: _postgres(authority)),
        _accepts(lambda: parse_valkey_url(f"redis+cluster://{authority}")),
        _accepts(
            lambda: _parts(
                postgres_url,
                ",".join(host.replace("%25", "%") for host, _ in servers),
                ",".join(str(port) for _, port in servers),
            )
        ),
    }

    assert len(taken) == 1


@given(
    st.sampled_from(["db.test", "db-1", "[::1]", "[fe80::1%25eth0]", "10.0.0.1"]),
    st.none() | st.integers(1, 65_535),
)
def test_what_the_parts_make_the_clients_take(host: str, port: int | None) -> None:
    """A URL that is made of good parts names the same server."""
    told = None if port is None else str(port)
    bare = host.strip("[]").replace("%25", "%")
    target = parse_valkey_url(_parts(valkey_url, bare, told))

    assert tuple(target.addresses[0]) == (bare, port or 6379)
    assert parse_url("x", _parts(postgres_url, bare, told)).description == (
        f"{bare}:{port or 5432}/0 as u"
    )
    assert server_in(host if port is None else f"{host}:{port}") == Server(bare, port)


def test_what_is_no_port_is_none() -> None:
    """Also what Python would not print."""
    for value in (True, None, 1.5, [1], 0, -1, 65_536, 10**5000, "1" * 5000):
        assert port_of(value) is None


@pytest.mark.parametrize(
    "url",
    ["postgresql:///d", "postgresql://u:p@/d?host=/run/pg", "postgresql://u:p@%2Frun%2Fpg/d",
     "postgresql:///d?host=%40abstract", "postgresql://u:p@h1,h2:5433/d", "postgresql://h1:1,h2/d"],
)  # fmt: skip
def test_libpqs_own_ways_to_name_a_server_stay(url: str) -> None:
    """Sockets, the default server, and ports for some of several hosts."""
    parse_url("connection_url", url)
