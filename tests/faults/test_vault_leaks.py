"""No failure that can be driven shows a token, a secret id or a secret."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from clients.errors import VaultError
from clients.vault_client import VaultClient
from tests.http_fault_proxy import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import VaultLab

_TOKEN = "hvs-SENTINELtoken"
_SECRET_ID = "SENTINEL-secret-id"
_VALUE = "SENTINEL-value"


def _shown(error: BaseException) -> str:
    """Return all that a reporter could write down, the local variables of frames included."""
    out = io.StringIO()
    traceback.TracebackException.from_exception(
        error, capture_locals=True, lookup_lines=False
    ).print(file=out)
    texts = ["".join(traceback.format_exception(error)), out.getvalue(), str(error), repr(error)]
    texts += [repr(vars(error)), repr(pickle.dumps(error))]
    one: BaseException | None = error
    while one is not None:
        texts += [str(one), repr(one), repr(vars(one)) if hasattr(one, "__dict__") else ""]
        # What an error reporter finds that looks into the driver's own attributes.
        texts.append(repr(vars(getattr(one, "request", None) or error)))
        one = one.__cause__ or one.__context__
    return "\n".join(texts)


def _token_client(url: str, **more: Any) -> None:
    arguments: dict[str, Any] = {"environ": {}, "retries": 1, "timeout": 1.0}
    VaultClient(url, _made_token(), **(arguments | more))


def _approle_client(url: str, **more: Any) -> None:
    arguments: dict[str, Any] = {"environ": {}, "retries": 1, "timeout": 1.0}
    VaultClient(url, role_id="role", secret_id=_made_secret_id(), **(arguments | more))


def _made_token() -> str:
    return "hvs-SENTINELtoken"


def _made_secret_id() -> str:
    return "SENTINEL-secret-id"


_ECHO = b'{"errors":["seen: hvs-SENTINELtoken SENTINEL-secret-id"],"data":{"x":"SENTINEL-value"}}'
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_FAULTS = {
    "reset": Fault(reset=True),
    "time-out": Fault(pause=3),
    "echo 400": Fault(400, _ECHO),
    "echo 403": Fault(403, _ECHO),
    "echo 404": Fault(404, _ECHO),
    "echo 500": Fault(500, _ECHO),
    "echo 503": Fault(503, _ECHO),
    "echo 200": Fault(200, b"hvs-SENTINELtoken SENTINEL-secret-id SENTINEL-value"),
    "redirect": Fault(307, headers={"Location": "http://127.0.0.1:1/SENTINEL-value"}),
    "no token": Fault(200, b'{"auth":{"client_token":["SENTINEL-value"]}}'),
    "bad encoding": Fault(200, b"SENTINEL-value", {"Content-Encoding": "gzip"}),
    "no HTTP": Fault(raw=b"SENTINEL-value\r\n"),
    "no header": Fault(raw=b"HTTP/1.1 200 OK\r\nSENTINEL-value\r\n\r\n{}"),
    "cut off": Fault(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nSENTINEL-value"),
    "cut chunk": Fault(raw=_CHUNKED + b"99\r\nSENTINEL-value"),
    "bad chunk": Fault(raw=_CHUNKED + b"1\r\n{\r\nSENTINEL-value\r\n"),
    "bad time": Fault(404, b'{"data":{"metadata":{"deletion_time":"SENTINEL-value"}}}'),
    "bad token": Fault(
        200, '{"auth":{"client_token":"SENTINEL-value\u20ac","lease_duration":60}}'.encode()
    ),
}


@pytest.mark.parametrize("make", [_token_client, _approle_client])
@pytest.mark.parametrize("name", _FAULTS)
def test_no_failed_login_shows_a_credential(
    vault_proxy: HttpFaultProxy,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[str], None],
    name: str,
) -> None:
    """Text, traceback, frames' locals, causes, pickles and logs at DEBUG are all clean."""
    caplog.set_level(logging.DEBUG)
    vault_proxy.plan(_FAULTS[name], times=9)
    error = _failure_of(lambda: make(vault_proxy.url))
    if error is None:  # a token that may not look itself up is accepted
        assert (name, make) == ("echo 403", _token_client)
    else:
        own = "SENTINELtoken" if make is _token_client else "SENTINEL-secret-id"
        assert _lines_with(own, error) + _lines_with(_VALUE, error) == []
    assert "SENTINEL" not in caplog.text


def _lines_with(word: str, error: VaultError) -> list[str]:
    # A list, so that no assertion leaves the word itself in the frame that is looked at.
    return [line for line in _shown(error).splitlines() if word in line]


def _failure_of(work: Callable[[], object]) -> VaultError | None:
    try:
        work()
    except VaultError as error:
        return error
    return None


@pytest.mark.parametrize("make", [_token_client, _approle_client])
def test_no_local_failure_shows_a_credential(
    caplog: pytest.LogCaptureFixture, make: Callable[..., None], closed_port: int
) -> None:
    """Failures before any answer are as clean."""
    caplog.set_level(logging.DEBUG)
    cases: list[tuple[str, dict[str, Any]]] = [
        (f"http://127.0.0.1:{closed_port}", {}),
        ("https://127.0.0.1:1", {}),
        ("http://no-such-host.invalid", {}),
        ("ftp://x", {}),
        ("http://127.0.0.1:1", {"timeout": -1}),
        ("http://127.0.0.1:1", {"environ": {"VAULT_CACERT": "/nowhere"}}),
    ]
    for url, more in cases:
        error = _failure_of(lambda: make(url, **more))  # noqa: B023 - called at once
        assert error is not None
        assert _lines_with("SENTINEL", error) == []
    assert "SENTINEL" not in caplog.text


def test_no_failed_read_shows_a_token_or_a_secret(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither does any failure of a client that works, nor its repr."""
    caplog.set_level(logging.DEBUG)
    token = vault_lab.token(id="hvs-SENTINELtoken")
    vault_lab.write("leaks/x", {"password": _VALUE, "url": {_VALUE: 1}})
    kv = vault_lab.admin.secrets.kv.v2
    vault_lab.write("leaks/deleted", {"password": _VALUE})
    kv.delete_latest_version_of_secret("leaks/deleted")
    with VaultClient(vault_proxy.url, token, retries=1, timeout=1.0, environ={}) as client:
        del token
        assert client.get_secret("leaks/x")["password"] == _VALUE
        failures: list[Callable[[], object]] = [
            lambda: client.get_secret("leaks/deleted"),
            lambda: client.get_secret("leaks/none"),
            lambda: client.get_secret("denied/x"),
            lambda: client.get_database_url(path="leaks/x"),
            lambda: client.get_api_key("x", "leaks"),
            lambda: client.list_secrets("none"),
        ]
        for fault in _FAULTS.values():

            def read(fault: Fault = fault) -> object:
                # Two tries, and for each a request that finds out what the answer does not tell.
                vault_proxy.plan(fault, times=4)
                try:
                    return client.get_secret("leaks/x", use_cache=False)
                finally:
                    vault_proxy.forget()

            failures.append(read)
        for failure in failures:
            error = _failure_of(failure)
            assert error is not None
            assert _lines_with("SENTINELtoken", error) + _lines_with(_VALUE, error) == []
        assert "SENTINEL" not in repr(client) + str(client) + repr(vars(client))
        public = {name: getattr(client, name) for name in dir(client) if not name.startswith("_")}
        assert "SENTINEL" not in repr({k: v for k, v in public.items() if not callable(v)})
        for leak in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                leak(client)
    assert "SENTINEL" not in caplog.text
