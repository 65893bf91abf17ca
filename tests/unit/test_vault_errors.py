"""The one mapping from answers and driver exceptions to our errors."""

from __future__ import annotations

import inspect
import pickle
import re
import ssl
from typing import TYPE_CHECKING, Any

import hvac.exceptions
import pytest
import requests.exceptions
import urllib3.exceptions

from clients import VaultClient
from clients._vault.errors import Answer, Operation, error_from_answer, error_from_exception
from clients._vault.paths import secret_path
from clients._vault.retry import RETRIED_REASONS
from clients.errors import (
    VaultAuthenticationError,
    VaultConfigurationError,
    VaultConnectionError,
    VaultError,
    VaultSecretNotFoundError,
)
from tests.source_files import ROOT, found

if TYPE_CHECKING:
    from clients._vault.probes import State

_READ = Operation(
    kind="read", text="read the secret 'a'", addr="http://v", path=secret_path("secret", "a")
)
_LOGIN = Operation(kind="login", text="log in", addr="http://v")
_LEASE = Operation(kind="lease", text="get the credential", addr="http://v")


def _classes(*modules: Any) -> list[type[Exception]]:
    return [
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Exception)
        and not issubclass(value, Warning)
        and value.__module__ == module.__name__
    ]


def _made(kind: type[Exception]) -> Exception:
    try:
        return kind("SENTINEL text")
    except TypeError:  # it wants a document and a position, as a JSON error does
        return kind("SENTINEL text", "document", 0)


@pytest.mark.parametrize("kind", _classes(hvac.exceptions, requests.exceptions))
def test_every_exception_of_the_drivers_is_mapped(kind: type[Exception]) -> None:
    """A new class in either library becomes a VaultError too, and shows no secret."""
    error = error_from_exception(_READ, _made(kind), timeout=1.0, secrets=("SENTINEL",))

    assert isinstance(error, VaultError)
    assert error.reason
    assert "SENTINEL" not in str(error)
    assert str(error).startswith("cannot read the secret 'a' at http://v: ")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.exceptions.ConnectionError("refused"), "unreachable"),
        (requests.exceptions.ProxyError("x"), "unreachable"),
        (requests.exceptions.ChunkedEncodingError("x"), "unreachable"),
        (requests.exceptions.ConnectTimeout("x"), "timeout"),
        (requests.exceptions.ReadTimeout("x"), "timeout"),
        (requests.exceptions.SSLError("x"), "tls"),
        (requests.exceptions.SSLError(ssl.SSLEOFError("cut")), "unreachable"),
        (requests.exceptions.InvalidHeader("x"), "setting"),
        (requests.exceptions.InvalidSchema("x"), "setting"),
        (OSError("no such file"), "setting"),
        (UnicodeEncodeError("latin-1", "x", 0, 1, "x"), "setting"),
        (requests.exceptions.ContentDecodingError("x"), "not_vault"),
        (hvac.exceptions.ParamValidationError("x"), "unexpected"),
    ],
)
def test_each_failure_of_the_transport_has_its_reason(error: Exception, reason: str) -> None:
    """What may pass by itself is told from what needs a person."""
    found = error_from_exception(_READ, error, timeout=1.0)

    assert found.reason == reason
    assert isinstance(found, VaultConfigurationError) == (reason in {"tls", "setting"})


def test_the_message_has_the_first_cause_and_not_the_wrapping() -> None:
    """What the operating system said is what helps."""
    inner = ConnectionRefusedError(111, "Connection refused")
    wrapped = urllib3.exceptions.ProtocolError("Connection aborted.", inner)
    error = error_from_exception(_READ, requests.exceptions.ConnectionError(wrapped), timeout=1.0)

    assert "unreachable: [Errno 111] Connection refused; see" in str(error)


_CASES: list[tuple[Operation, int, list[str], State | None, type[VaultError], str]] = [
    (_LOGIN, 400, ["x"], None, VaultAuthenticationError, "login_refused"),
    (_LOGIN, 403, ["x"], None, VaultAuthenticationError, "login_refused"),
    (_LOGIN, 401, [], None, VaultAuthenticationError, "login_refused"),
    (_LOGIN, 404, ["x"], "namespace_missing", VaultSecretNotFoundError, "namespace"),
    (_LOGIN, 500, ["x"], None, VaultConnectionError, "server_error"),
    (_LEASE, 400, ["x"], None, VaultSecretNotFoundError, "missing"),
    (_LEASE, 400, [], None, VaultError, "invalid_request"),
    (_READ, 400, ["x"], None, VaultError, "invalid_request"),
    (_READ, 401, [], None, VaultAuthenticationError, "token_invalid"),
    (_READ, 401, [], "token_known", VaultAuthenticationError, "permission_denied"),
    (_READ, 403, ["x"], "token_unknown", VaultAuthenticationError, "token_invalid"),
    (_READ, 403, ["x"], "token_known", VaultAuthenticationError, "permission_denied"),
    (_READ, 403, ["x"], None, VaultAuthenticationError, "permission_denied"),
    (_READ, 404, [], None, VaultSecretNotFoundError, "missing"),
    (_READ, 404, ["x"], None, VaultSecretNotFoundError, "mount"),
    (_READ, 404, ["x"], "token_known", VaultSecretNotFoundError, "mount"),
    (_READ, 404, ["x"], "namespace_missing", VaultSecretNotFoundError, "namespace"),
    (_READ, 405, ["x"], None, VaultError, "invalid_request"),
    (_READ, 412, [], None, VaultConnectionError, "standby_behind"),
    (_READ, 429, ["x"], None, VaultConnectionError, "rate_limited"),
    (_READ, 472, [], None, VaultError, "invalid_request"),
    (_READ, 501, [], None, VaultConnectionError, "uninitialised"),
    (_READ, 500, ["x"], None, VaultConnectionError, "server_error"),
    (_READ, 502, [], None, VaultConnectionError, "server_error"),
    (_READ, 503, ["x"], "sealed", VaultConnectionError, "sealed"),
    (_READ, 503, ["x"], "uninitialised", VaultConnectionError, "uninitialised"),
    (_READ, 503, ["x"], None, VaultConnectionError, "server_error"),
    (_READ, 503, [], None, VaultConnectionError, "server_error"),
    (_READ, 504, [], None, VaultConnectionError, "server_error"),
    (_READ, 304, [], None, VaultConnectionError, "not_vault"),
]


@pytest.mark.parametrize(("operation", "status", "errors", "state", "kind", "reason"), _CASES)
def test_each_status_has_its_error(
    operation: Operation,
    status: int,
    errors: list[str],
    state: State | None,
    kind: type[VaultError],
    reason: str,
) -> None:
    """The class says what a caller can do, the reason says why, the status is kept."""
    error = error_from_answer(operation, Answer(status=status, errors=tuple(errors), state=state))

    assert (type(error), error.reason, error.status) == (kind, reason, status)
    assert str(status) in str(error) or isinstance(error, VaultSecretNotFoundError)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made a line above
    assert (str(again), vars(again)) == (str(error), vars(error))


@pytest.mark.parametrize("operation", [_READ, _LOGIN], ids=["read", "login"])
def test_no_status_is_left_out(operation: Operation) -> None:
    """Whatever a server or proxy answers, it is a VaultError with a reason."""
    for status in (*range(300, 310), *range(400, 600)):
        error = error_from_answer(operation, Answer(status=status))
        retried = error.reason in RETRIED_REASONS

        assert error.reason, status
        assert retried == (status in {412, 429} or (status >= 500 and status != 501)), status


def test_long_words_of_the_server_are_cut_and_put_on_one_line() -> None:
    """A page of text does not flood the log."""
    error = error_from_answer(_READ, Answer(status=500, errors=("x\n\ty " * 500,)))

    assert len(str(error)) < 500
    assert "\n" not in str(error)


def test_every_reason_stands_in_the_reference() -> None:
    """Who looks a reason up finds it, with the class that carries it."""
    sources = found("clients/_vault/*.py", "clients/vault_client.py")
    given = re.compile(r'(?:reason=|reason = |reason, state = |return (?="\w+", "))"([a-z_]+)"')
    reasons = {one for path in sources for one in given.findall(path.read_text())}
    table = (
        (ROOT / "clients" / "README.md").read_text().partition("## Errors")[2].partition("\n## ")[0]
    )
    listed = set(re.findall("`([a-z_]+)`", table))

    assert len(reasons) > 20
    assert sorted(reasons - listed) == []


@pytest.mark.parametrize("path", ["secret/crm/db", "data/crm/db", "metadata/crm/db"])
@pytest.mark.parametrize("status", [403, 404])
def test_a_path_that_names_the_mount_twice_gets_a_hint(path: str, status: int) -> None:
    """The commonest mistake is named together with the path that was meant."""
    operation = Operation(
        kind="read", text="read", addr="http://v", path=secret_path("secret", path)
    )
    answer = Answer(status=status, errors=("1 error occurred: * permission denied",))
    if status == 404:
        answer = Answer(status=status)

    assert "did you mean 'crm/db'?" in str(error_from_answer(operation, answer))


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("kv-shop:shop/prod/valkey", "pass mount_point='kv-shop' and the path 'shop/prod/valkey'"),
        ("kv-shop:valkey", "pass mount_point='kv-shop' and the path 'valkey'"),
        ("kv-shop/shop/valkey", "pass mount_point='kv-shop', or 'kv-shop:shop/valkey' where"),
        ("valkey", None),
        ("valkey:", None),
    ],
)
def test_a_path_that_begins_with_a_mount_gets_a_hint(
    path: str, hint: str | None, status: int
) -> None:
    """A denied or missing secret of another mount leads to the argument that names the mount."""
    operation = Operation(
        kind="read", text="read", addr="http://v", path=secret_path("secret", path)
    )

    message = str(error_from_answer(operation, Answer(status=status)))

    assert (hint or "mount_point") in message or hint is None
    assert hint is not None or "mount_point" not in message


def test_a_deleted_secret_gets_no_hint_at_another_mount() -> None:
    """It was there: its path is right."""
    operation = Operation(
        kind="read", text="read", addr="http://v", path=secret_path("secret", "crm/db")
    )

    error = error_from_answer(operation, Answer(status=404, metadata={"destroyed": True}))

    assert (error.reason, "another mount" in str(error)) == ("destroyed", False)


def test_what_the_caller_was_handling_is_no_cause_of_a_failure() -> None:
    """A call from inside an ``except`` block tells its own reason, and not that of the block."""
    try:
        raise RuntimeError("the caller's own trouble")  # noqa: TRY301 - the block is the point
    except RuntimeError:
        with pytest.raises(VaultConnectionError) as caught:
            VaultClient("http://127.0.0.1:1", "token", retries=0)

    assert caught.value.reason == "unreachable"
    assert "RuntimeError" not in str(caught.value)
