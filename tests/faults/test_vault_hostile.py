"""Servers and proxies that waste time or talk nonsense: over in time, and an error of ours."""

from __future__ import annotations

import contextlib
import gzip
import socket
import time
import tracemalloc
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest

from clients.errors import VaultConnectionError, VaultError
from clients.vault_client import VaultClient
from tests.http_fault_proxy import Fault
from tests.tls_relay import TlsRelay, make_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import VaultLab

_SLOWLY = {
    "status line": Fault(raw=b"HTTP/1.1 200 " + b"O" * 400, drip=0.1),
    "headers": Fault(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 90, drip=0.05),
    "interim answers": Fault(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 20, drip=0.05),
    "chunk size": Fault(
        raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"x" * 400, drip=0.05
    ),
    "body to the end of the connection": Fault(raw=b"HTTP/1.0 200 OK\r\n\r\n{" * 30, drip=0.05),
    "body of a redirect": Fault(
        307, body=b" " * 400, drip=0.05, headers={"Location": "/v1/secret/data/app/db"}
    ),
}


@pytest.fixture
def client(vault_lab: VaultLab, vault_proxy: HttpFaultProxy) -> Iterator[VaultClient]:
    """A client behind the proxy, that has a second for a call."""
    with VaultClient(vault_proxy.url, vault_lab.token(), timeout=1.0, environ={}) as made:
        vault_proxy.forget()
        yield made


@pytest.mark.parametrize("fault", _SLOWLY.values(), ids=_SLOWLY)
def test_no_part_of_an_answer_can_be_sent_so_slowly_that_the_timeout_passes(
    client: VaultClient, vault_proxy: HttpFaultProxy, fault: Fault
) -> None:
    """Every byte comes in time for the last one, and the whole answer never does."""
    vault_proxy.plan(fault, times=9)
    began = time.monotonic()
    with pytest.raises(VaultConnectionError) as caught:
        client.get_secret("app/db")

    assert caught.value.reason == "timeout"
    assert time.monotonic() - began < 2


def test_neither_can_it_through_tls(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, tmp_path: Path
) -> None:
    """The same holds for what is read through TLS."""
    certificates = make_certificates(tmp_path)
    environ = {"VAULT_TOKEN": vault_lab.token(), "VAULT_CACERT": str(certificates.ca)}
    with TlsRelay(vault_proxy.port, certificates) as relay:
        url = f"https://127.0.0.1:{relay.port}"
        with VaultClient(url, timeout=1.0, environ=environ) as client:
            vault_proxy.plan(_SLOWLY["headers"], times=9)
            began = time.monotonic()
            with pytest.raises(VaultConnectionError, match="no answer within 1 s"):
                client.get_secret("app/db")
            assert time.monotonic() - began < 2


@pytest.fixture
def dead_addresses() -> Iterator[list[str]]:
    """Three loopback addresses on one port that let nobody in and refuse nobody."""
    with contextlib.ExitStack() as stack:
        port = 0
        for number in (2, 3, 4):
            hole = stack.enter_context(socket.socket())
            hole.bind((f"127.0.0.{number}", port))
            hole.listen(0)
            port = hole.getsockname()[1]
            for _ in range(3):  # fill its queue
                filler = stack.enter_context(socket.socket())
                filler.settimeout(0)
                filler.connect_ex(hole.getsockname())
        time.sleep(0.1)
        yield [f"127.0.0.{number}:{port}" for number in (2, 3, 4)]


def _resolve_to(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    # What no real name server on loopback can be made to say.
    def resolve(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        pairs = [one.split(":") for one in addresses]
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (host, int(port))) for host, port in pairs]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("retries", [0, 2])
def test_many_dead_addresses_share_one_timeout(
    dead_addresses: list[str], monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    """A host with several addresses behind a broken network takes no longer than one."""
    _resolve_to(monkeypatch, dead_addresses)
    began = time.monotonic()
    with pytest.raises(VaultConnectionError) as caught:
        VaultClient("http://vault.test:1", "t", timeout=1.0, retries=retries, environ={})

    assert caught.value.reason == "timeout"
    assert time.monotonic() - began < 2


def test_a_dead_address_and_a_silent_one_share_one_timeout(
    dead_addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TLS handshake has the time that the connection has left, and not all of it again."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        _resolve_to(monkeypatch, [dead_addresses[0], f"127.0.0.1:{port}"])
        began = time.monotonic()
        with pytest.raises(VaultConnectionError) as caught:
            VaultClient("https://vault.test:1", "t", timeout=2.0, retries=0, environ={})

    assert caught.value.reason == "timeout"
    assert time.monotonic() - began < 3.5


def test_a_dead_address_leaves_time_for_a_living_one(
    vault_lab: VaultLab, dead_addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dead address out of two costs time, and no failed call."""
    token, living = vault_lab.token(), f"127.0.0.1:{vault_lab.server.port}"
    _resolve_to(monkeypatch, [dead_addresses[0], living])
    with VaultClient("http://vault.test:1", token, timeout=3.0, environ={}) as client:
        assert client.get_secret("app/db")


def test_a_stalled_try_leaves_time_for_another(
    client: VaultClient, vault_proxy: HttpFaultProxy
) -> None:
    """A connection that died without a word costs half of the time, and no failed read."""
    vault_proxy.plan(Fault(pause=3))

    assert client.get_secret("app/db") == {"url": "postgresql://app"}
    assert vault_proxy.count() == 2


def test_a_login_without_an_answer_is_not_sent_again(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """It may have used up a secret id that is good for one login alone."""
    vault_proxy.plan(Fault(pause=3), path="/login")
    with pytest.raises(VaultConnectionError, match="no answer within 1 s"):
        VaultClient(vault_proxy.url, timeout=1.0, **vault_lab.role().arguments())

    assert vault_proxy.count("/login") == 1


def test_the_wish_of_a_proxy_may_be_a_date(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """Retry-After in its other form is honoured as the seconds are, and never past the deadline."""
    with VaultClient(vault_proxy.url, vault_lab.token(), environ={}) as client:
        soon, late = (formatdate(time.time() + n, usegmt=True) for n in (2, 3600))
        vault_proxy.plan(Fault(429, headers={"Retry-After": soon}))
        began = time.monotonic()
        assert client.get_secret("app/db")
        assert time.monotonic() - began > 0.9  # a date has whole seconds
        vault_proxy.forget()
        vault_proxy.plan(Fault(503, headers={"Retry-After": late}))
        with pytest.raises(VaultConnectionError) as caught:
            client.get_secret("app/db", use_cache=False)

    assert caught.value.retry_after == pytest.approx(3600, abs=60)
    assert vault_proxy.count() == 1


@pytest.mark.parametrize("wish", ["-1", "1.5", "soon", "", "\u00b2", "Wed, 99 Foo 2015"])
def test_an_unreadable_wish_is_none(
    client: VaultClient, vault_proxy: HttpFaultProxy, wish: str
) -> None:
    """The client's own pause takes its place."""
    vault_proxy.plan(Fault(503, headers={"Retry-After": wish}))

    assert client.get_secret("app/db")
    assert vault_proxy.count() == 2


_NONSENSE = {
    "redirect to a bad host": Fault(307, headers={"Location": "http://[::1/x"}),
    "redirect to a bad port": Fault(307, headers={"Location": "http://host:99999/"}),
    "redirect to a word": Fault(307, headers={"Location": "http://host:port/"}),
    "endless nesting": Fault(200, b"[" * 200_000),
    "deep nesting": Fault(
        200, b'{"data":{"metadata":{},"data":{"a":' + b"[" * 900 + b"]" * 900 + b"}}}"
    ),
    "no UTF-8": Fault(200, b'{"data":{"data":{"a":"\xff"}}}'),
    "a huge number": Fault(200, b'{"data":{"data":{"a":' + b"1" * 5000 + b"}}}"),
    "another protocol": Fault(raw=b"-ERR unknown command\r\n"),
    "headers without end": Fault(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500),
}


@pytest.mark.parametrize("fault", _NONSENSE.values(), ids=_NONSENSE)
def test_nonsense_is_named_as_no_answer_of_vault(
    client: VaultClient, vault_proxy: HttpFaultProxy, fault: Fault
) -> None:
    """It needs a person: one request, our error, and nothing of a library's comes through."""
    vault_proxy.plan(fault, times=9)
    with pytest.raises(VaultConnectionError, match="not a Vault response") as caught:
        client.get_secret("app/db")

    assert caught.value.reason == "not_vault"
    assert vault_proxy.count() == 1


@pytest.mark.parametrize("status", [200, pytest.param(307, marks=pytest.mark.slow)])
def test_a_body_that_swells_up_does_not_fill_the_memory(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, status: int
) -> None:
    """A small answer that unpacks to 200 MiB is left unread, that of a redirect as well."""
    bomb = gzip.compress(bytes(200 << 20))
    headers = {"Content-Encoding": "gzip", "Location": "http://127.0.0.1:1/"}
    with VaultClient(vault_proxy.url, vault_lab.token(), environ={}) as client:
        vault_proxy.plan(Fault(status, bomb, headers))
        tracemalloc.start()
        try:
            with pytest.raises(VaultConnectionError, match="not a Vault response"):
                client.get_secret("app/db")
            assert tracemalloc.get_traced_memory()[1] < 150 << 20
        finally:
            tracemalloc.stop()


def test_an_answer_that_is_cut_off_is_asked_for_again(
    client: VaultClient, vault_proxy: HttpFaultProxy
) -> None:
    """Half an answer is an outage, and no secret."""
    vault_proxy.plan(Fault(raw=b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"data":'))
    vault_proxy.plan(Fault(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{"))

    assert client.get_secret("app/db") == {"url": "postgresql://app"}
    assert vault_proxy.count() == 3


def test_what_a_server_says_of_a_version_is_not_repeated_unseen(
    client: VaultClient, vault_proxy: HttpFaultProxy
) -> None:
    """Metadata that is no number and no time stays out of the message."""
    body = b'{"data":{"metadata":{"version":"SENTINEL","deletion_time":"SENTINEL"}}}'
    vault_proxy.plan(Fault(404, body))
    with pytest.raises(VaultError) as caught:
        client.get_secret("app/db")

    assert caught.value.reason == "deleted"
    assert "SENTINEL" not in str(caught.value)


def test_reads_share_one_connection(client: VaultClient, vault_proxy: HttpFaultProxy) -> None:
    """Reading an answer to its end keeps its connection for the next one; a redirect's, too."""
    vault_proxy.plan(Fault(307, headers={"Location": "/v1/secret/data/app/db"}))
    for _ in range(20):
        client.get_secret("app/db", use_cache=False)

    assert vault_proxy.connections == 1
