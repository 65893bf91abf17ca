"""What is tried again, how often, and for how long: a fault proxy before a real server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from clients.errors import VaultAuthenticationError, VaultConnectionError, VaultError
from clients.vault_client import VaultClient
from tests.http_fault_proxy import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import VaultLab

_PASSING = [*map(Fault, (412, 429, 500, 502, 503, 504)), Fault(reset=True)]
_PASSING_NAMES = [str(fault.status or "reset") for fault in _PASSING]


@pytest.fixture
def client(vault_lab: VaultLab, vault_proxy: HttpFaultProxy) -> Iterator[VaultClient]:
    """A client behind the proxy that knows its mount's version; the counts begin after that."""
    with VaultClient(vault_proxy.url, vault_lab.token(), environ={}) as made:
        made.get_secret("app/db")
        made.clear_cache()
        vault_proxy.forget()
        yield made


@pytest.mark.parametrize("fault", _PASSING, ids=_PASSING_NAMES)
def test_a_read_survives_what_passes_by_itself(
    client: VaultClient, vault_proxy: HttpFaultProxy, fault: Fault
) -> None:
    """Three failures in a row cost three further requests and no failed call."""
    vault_proxy.plan(fault, times=3)

    assert client.get_secret("app/db") == {"url": "postgresql://app"}
    assert vault_proxy.count() == 4


@pytest.mark.parametrize("fault", _PASSING, ids=_PASSING_NAMES)
def test_a_login_survives_what_passes_by_itself(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, fault: Fault
) -> None:
    """AppRole logins are tried again as reads are, although they are POST requests."""
    vault_proxy.plan(fault, times=3)
    with VaultClient(vault_proxy.url, **vault_lab.role().arguments()) as client:
        assert vault_proxy.count("/login") == 4
        assert client.get_secret("app/db")


def test_a_failure_that_stays_is_reported_with_status_and_tries(
    client: VaultClient, vault_proxy: HttpFaultProxy
) -> None:
    """After `retries` further tries the last failure comes out, and is not cached."""
    vault_proxy.plan(Fault(502), times=4)
    with pytest.raises(VaultConnectionError, match=r"HTTP 502.*after 4 tries") as caught:
        client.get_secret("app/db")
    assert (caught.value.status, caught.value.reason) == (502, "server_error")
    assert vault_proxy.count() == 4

    assert client.get_secret("app/db")


@pytest.mark.parametrize("status", [400, 404, 405, 501, 503])
def test_what_needs_a_person_costs_one_request(
    client: VaultClient, vault_proxy: HttpFaultProxy, status: int
) -> None:
    """Client errors, an uninitialised and a sealed server are reported at once."""
    vault_proxy.plan(Fault(status, b'{"errors":["no"]}'), times=9, path="/data/")
    vault_proxy.plan(Fault(200, b'{"initialized":true,"sealed":true}'), path="/sys/health")
    with pytest.raises(VaultError) as caught:
        client.get_secret("app/db")

    assert caught.value.status == status
    assert vault_proxy.count("/data/") == 1


def test_a_real_quota_is_waited_out(vault_lab: VaultLab) -> None:
    """A rate-limit quota of the server, with the Retry-After that it sends, fails no read."""
    admin = vault_lab.admin
    token = vault_lab.token()
    admin.write("sys/quotas/config", enable_rate_limit_response_headers=True)
    with VaultClient(vault_lab.url, token, cache_ttl=0, environ={}) as client:
        admin.write_data(
            "sys/quotas/rate-limit/reads",
            data={"path": "secret/", "rate": 2, "interval": "1s"},
        )
        try:
            began = time.monotonic()
            for _ in range(5):
                assert client.get_secret("app/db")
            assert time.monotonic() - began > 0.9  # two reads a second let five through in two
            with VaultClient(vault_lab.url, token, retries=0, cache_ttl=0, environ={}) as hasty:
                error = _first_failure(lambda: hasty.get_secret("app/db"))
        finally:
            admin.delete("sys/quotas/rate-limit/reads")

    assert "quota exceeded" in str(error)
    assert (error.reason, error.status) == ("rate_limited", 429)
    assert error.retry_after is not None


def _first_failure(read: Callable[[], object]) -> VaultConnectionError:
    for _ in range(20):
        try:
            read()
        except VaultConnectionError as error:
            return error
    raise AssertionError("twenty reads at once did not meet the quota")


def test_a_wish_beyond_the_deadline_fails_at_once(
    client: VaultClient, vault_proxy: HttpFaultProxy
) -> None:
    """A server that asks to wait for six hours gets no six hours."""
    vault_proxy.plan(Fault(503, headers={"Retry-After": "21600"}))
    began = time.monotonic()
    with pytest.raises(VaultConnectionError) as caught:
        client.get_secret("app/db")

    assert time.monotonic() - began < 5
    assert caught.value.retry_after == 21600
    assert vault_proxy.count() == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(pause=30),
        Fault(200, body=b"{" + b" " * 400, drip=0.05),
        Fault(200, body=b"{ ", drip=30, pause=0.9),
        Fault(503, pause=0.4),
    ],
    ids=["never answers", "answers byte by byte", "stops in the middle", "fails slowly for ever"],
)
def test_the_timeout_bounds_the_whole_call(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, fault: Fault
) -> None:
    """However the server wastes time, the call is over in time, and not before."""
    with VaultClient(
        vault_proxy.url, vault_lab.token(), timeout=1.0, retries=50, environ={}
    ) as client:
        vault_proxy.plan(fault, times=60)
        began = time.monotonic()
        with pytest.raises(VaultConnectionError):
            client.get_secret("app/db")
        took = time.monotonic() - began

    assert 0.3 < took < 2


def test_a_server_that_never_answers_fails_construction_in_time(
    vault_proxy: HttpFaultProxy,
) -> None:
    """A constructor does not hang, and names the limit."""
    vault_proxy.plan(Fault(pause=30), times=9)
    with pytest.raises(VaultConnectionError, match=r"no answer within 0.5 s") as caught:
        VaultClient(vault_proxy.url, "hvs.some-token", timeout=0.5, environ={})

    assert caught.value.reason == "timeout"


_HTML: dict[str, Any] = {"headers": {"Content-Type": "text/html"}, "body": b"<html>login</html>"}


_EMPTY = [b"[]", b"{}", b"", b'"x"', b'{"data":[]}', b'{"data":{"data":null}}']


@pytest.mark.parametrize(
    "fault", [Fault(200, **_HTML), Fault(204, b""), *(Fault(200, body) for body in _EMPTY)]
)
def test_an_answer_that_is_not_of_vault_is_named_as_such(
    client: VaultClient, vault_proxy: HttpFaultProxy, fault: Fault
) -> None:
    """A login page with status 200 is no secret."""
    vault_proxy.plan(fault)
    with pytest.raises(VaultConnectionError, match="not a Vault response") as caught:
        client.get_secret("app/db")

    assert caught.value.reason == "not_vault"
    assert vault_proxy.count() == 1


@pytest.mark.parametrize("body", [b"{}", b'{"auth":{}}', b'{"auth":{"client_token":5}}', b"[]"])
def test_a_login_without_a_token_is_no_login(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, body: bytes
) -> None:
    """A strange answer to a login fails construction."""
    vault_proxy.plan(Fault(200, body))
    with pytest.raises(VaultConnectionError, match="not a Vault response"):
        VaultClient(vault_proxy.url, **vault_lab.role().arguments())


def test_an_error_page_with_a_charset_is_understood(
    client: VaultClient, vault_proxy: HttpFaultProxy
) -> None:
    """Proxies that add a charset to the content type do not hide the server's words."""
    headers = {"Content-Type": "application/json; charset=utf-8"}
    vault_proxy.plan(Fault(403, b'{"errors":["1 error occurred: denied"]}', headers))
    with pytest.raises(VaultAuthenticationError, match="1 error occurred: denied"):
        client.get_secret("app/db")


def test_a_redirect_of_a_list_is_followed_as_it_is_written(
    client: VaultClient, vault_proxy: HttpFaultProxy
) -> None:
    """What says that it is a list stands in the new address, once."""
    there = "/v1/secret/metadata/app?list=true"
    vault_proxy.plan(Fault(307, headers={"Location": there}))

    assert "db" in client.list_secrets("elsewhere")
    assert vault_proxy.seen[-1].path == there


def test_a_redirect_inside_the_origin_is_followed_once(
    client: VaultClient, vault_proxy: HttpFaultProxy
) -> None:
    """One hop is a move; two are a loop."""
    there = Fault(307, headers={"Location": "/v1/secret/data/app/db"})
    vault_proxy.plan(there)
    assert client.get_secret("app/other") == {"url": "postgresql://app"}
    vault_proxy.plan(there, there)
    with pytest.raises(VaultConnectionError, match="not a Vault response"):
        client.get_secret("app/third")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_token_follows_no_redirect_to_another_origin(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, client: VaultClient, status: int
) -> None:
    """The other server never hears of us, and the error says where it was."""
    other = f"http://localhost:{vault_lab.server.port}"
    vault_proxy.plan(Fault(status, headers={"Location": f"{other}/v1/secret/data/app/db"}))
    with pytest.raises(VaultConnectionError, match=other):
        client.get_secret("app/db")

    assert vault_proxy.count() == 1


def test_a_login_is_not_turned_into_a_read_by_a_redirect(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """A 302 on a POST would send the credentials nowhere and read something else."""
    vault_proxy.plan(Fault(302, headers={"Location": "/v1/auth/approle/login"}))
    with pytest.raises(VaultConnectionError, match="not a Vault response"):
        VaultClient(vault_proxy.url, **vault_lab.role().arguments())

    assert vault_proxy.count() == 1
