"""What holds for every login that can be repeated: checked, renewed, healed, given back."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from clients.errors import (
    VaultAuthenticationError,
    VaultConfigurationError,
    VaultError,
    VaultSecretNotFoundError,
)
from clients.vault_auth import Agent, AppRole, Certificate, Jwt, Kubernetes, Token, TokenFile
from clients.vault_client import VaultClient
from tests.http_fault_proxy import Fault, HttpFaultProxy
from tests.vault_logins import (
    REPEATABLE,
    AgentProcess,
    CertificateLab,
    LoginCase,
    LoginLab,
    replace_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.vault_fixtures import VaultLab

_FOUND = {"url": "postgresql://app"}


def _client(url: str, case: LoginCase, **more: Any) -> VaultClient:
    settings: dict[str, Any] = {"cache_ttl": 0.0, "environ": case.environ} | more
    return VaultClient(url, auth=case.auth, **settings)


@pytest.mark.parametrize("kind", REPEATABLE)
def test_each_login_keeps_to_the_request_budget(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy, kind: str
) -> None:
    """Construction 1 request (a wrapped secret id 2 more, once), a read 1, a close 1 or none."""
    case = login_lab.case(kind)
    first = 3 if kind == "app_role_wrapped" else 1
    with _client(vault_proxy.url, case, cache_ttl=300.0) as client:
        assert vault_proxy.count() == first
        for _ in range(20):
            assert client.get_secret("app/db") == _FOUND
        assert vault_proxy.count() == first + 1
    assert vault_proxy.count("revoke-self") == case.owned
    assert vault_proxy.count() == first + 1 + case.owned
    vault_proxy.forget()
    with _client(vault_proxy.url, case):
        assert vault_proxy.count() == 1


@pytest.mark.parametrize("kind", REPEATABLE)
def test_a_revoked_token_is_replaced_once_for_sixteen_threads(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy, kind: str
) -> None:
    """No thread sees an error, and there is one login."""
    case = login_lab.case(kind)
    with _client(vault_proxy.url, case) as client:
        client.get_secret("app/db")
        case.revoke()
        case.rotate()
        vault_proxy.forget()
        together = threading.Barrier(16)

        def read(_: int) -> dict[str, str]:
            together.wait(20)
            return client.get_secret("app/db")

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(read, range(16)))

        assert found == [_FOUND] * 16
        assert vault_proxy.count(case.login) == 1


@pytest.mark.parametrize("kind", REPEATABLE)
def test_a_denial_causes_no_storm_of_logins(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy, kind: str
) -> None:
    """A path that stays denied costs one login at most, and the client works on."""
    case = login_lab.case(kind)
    with _client(vault_proxy.url, case) as client:
        vault_proxy.forget()
        for _ in range(10):
            with pytest.raises(VaultAuthenticationError, match="denied by policy"):
                client.get_secret("denied/x")

        assert vault_proxy.count(case.login) <= 1
        assert client.get_secret("app/db") == _FOUND


@pytest.mark.parametrize("kind", REPEATABLE)
def test_a_child_of_a_fork_logs_in_for_itself(login_lab: LoginLab, kind: str) -> None:
    """A wrapped secret id that was unwrapped before the fork serves the child as well."""
    case = login_lab.case(kind)
    with _client(login_lab.lab.url, case) as client:
        client.get_secret("app/db")
        child = os.fork()
        if not child:
            status = 1
            try:
                status = 0 if client.get_secret("app/db") == _FOUND else 2
                client.close()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

        assert client.get_secret("app/db") == _FOUND


@pytest.mark.slow
@pytest.mark.parametrize("kind", REPEATABLE)
def test_short_lived_tokens_fail_no_call(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy, kind: str
) -> None:
    """Eight threads, thirty seconds, tokens of four: no failed call, logins by tokens' lives."""
    seconds, threads = 30, 8
    case = login_lab.case(kind, ttl="4s", max_ttl="10s")
    with _client(vault_proxy.url, case) as client:
        vault_proxy.forget()
        ends_at = time.monotonic() + seconds
        over = threading.Event()

        def rotate_on() -> None:
            # The owner of a token replaces it a second before its end.
            while not over.wait(3):
                case.rotate()

        def read_on(_: int) -> int:
            reads = 0
            while time.monotonic() < ends_at:
                assert client.get_secret("app/db") == _FOUND
                reads += 1
                time.sleep(0.01)
            return reads

        owner = threading.Thread(target=rotate_on)
        owner.start()
        try:
            with ThreadPoolExecutor(threads) as pool:
                reads = sum(pool.map(read_on, range(threads)))
        finally:
            over.set()
            owner.join()
        logins = vault_proxy.count(case.login)

    assert reads > seconds * threads
    # An owned token is renewed up to ten seconds, another one is looked up anew: never more often
    # than once in 0.6 of four seconds, or once a second near its end.
    assert seconds / 10 - 1 <= logins <= (seconds / (0.6 * 4) if case.owned else seconds) + 2


def test_an_agents_sink_is_followed_while_it_rotates(
    vault_lab: VaultLab, login_lab: LoginLab
) -> None:
    """The file of a real agent, whose tokens live three seconds: no failed call."""
    role = vault_lab.role(token_ttl="2s", token_max_ttl="3s")
    with AgentProcess(vault_lab.server, role.role_id, role.secret_id) as agent:
        tokens = {agent.sink.read_text()}
        with VaultClient(vault_lab.url, auth=TokenFile(agent.sink), cache_ttl=0, environ={}) as c:
            ends_at = time.monotonic() + 7
            while time.monotonic() < ends_at:
                assert c.get_secret("app/db") == _FOUND
                tokens.add(agent.sink.read_text())
                time.sleep(0.02)

    assert len(tokens) >= 3


def test_an_agent_adds_its_own_token(vault_lab: VaultLab) -> None:
    """No token of ours is needed, sent or revoked; reads, health and life work as with one."""
    role = vault_lab.role(token_ttl="1h")
    with AgentProcess(vault_lab.server, role.role_id, role.secret_id) as agent:
        environ = {"VAULT_ADDR": agent.url, "VAULT_AUTH_METHOD": "agent", "VAULT_TOKEN": "ignored"}
        with HttpFaultProxy(agent.port) as proxy, VaultClient(proxy.url, environ=environ) as client:
            assert client.get_secret("app/db") == _FOUND
            assert client.health_check() is True
            assert 3000 < (client.credential_life().remaining or 0) <= 3600
            assert "x-vault-token" not in {
                name.lower() for one in proxy.seen for name in one.headers
            }
            with pytest.raises(VaultAuthenticationError, match="denied by policy"):
                client.get_secret("denied/x")
        assert len(vault_lab.tokens_of(role)) == 1


def test_an_agent_and_the_server_behind_it_are_told_apart(
    vault_lab: VaultLab, closed_port: int
) -> None:
    """An agent that is not there, one that adds nothing, and one whose server is not there."""
    with pytest.raises(VaultError, match="the agent itself") as caught:
        VaultClient(f"http://127.0.0.1:{closed_port}", auth=Agent(), retries=0, environ={})
    assert caught.value.reason == "unreachable"
    role = vault_lab.role()
    with (
        AgentProcess(vault_lab.server, role.role_id, role.secret_id, adds_token=False) as agent,
        pytest.raises(VaultAuthenticationError, match="adds no token that Vault knows") as refused,
    ):
        VaultClient(agent.url, auth=Agent(), environ={})
    assert refused.value.reason == "token_invalid"
    with (
        AgentProcess(vault_lab.server, role.role_id, role.secret_id) as agent,
        HttpFaultProxy(agent.port) as proxy,
        VaultClient(proxy.url, auth=Agent(), retries=0, environ={}) as client,
    ):
        proxy.plan(Fault(500, b'{"errors":["failed to get the response"]}'), times=9)
        for call in (client.health_check, lambda: client.get_secret("app/db")):
            with pytest.raises(
                VaultError, match=r"the agent answers.*the server behind it"
            ) as gone:
                call()
            assert gone.value.reason == "server_error"


@pytest.mark.slow
def test_an_agents_own_tokens_may_be_short_lived(vault_lab: VaultLab) -> None:
    """A real agent with tokens of four seconds under eight threads: no failed call."""
    role = vault_lab.role(token_ttl="4s", token_max_ttl="10s")
    with (
        AgentProcess(vault_lab.server, role.role_id, role.secret_id) as agent,
        VaultClient(agent.url, auth=Agent(), cache_ttl=0, environ={}) as client,
    ):
        ends_at = time.monotonic() + 30

        def read_on(_: int) -> None:
            while time.monotonic() < ends_at:
                assert client.get_secret("app/db") == _FOUND
                time.sleep(0.02)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read_on, range(8)))


def test_the_end_of_an_agents_first_token_is_not_told_as_the_end_of_the_next(
    vault_lab: VaultLab,
) -> None:
    """A monitor of what remains would raise an alarm for ever."""
    role = vault_lab.role(token_ttl="2s", token_max_ttl="4s")
    with (
        AgentProcess(vault_lab.server, role.role_id, role.secret_id) as agent,
        VaultClient(agent.url, auth=Agent(), cache_ttl=0, environ={}) as client,
    ):
        assert client.credential_life().remaining
        time.sleep(2.2)
        assert client.get_secret("app/db") == _FOUND

        assert client.credential_life().remaining is None


@pytest.mark.slow
def test_short_lived_tokens_of_a_certificate_fail_no_call(certificate_lab: CertificateLab) -> None:
    """The same for a login by certificate, whose tokens live four seconds."""
    environ = certificate_lab.environ()
    with VaultClient(auth=Certificate("shop"), cache_ttl=0, environ=environ) as client:
        ends_at = time.monotonic() + 30

        def read_on(_: int) -> None:
            while time.monotonic() < ends_at:
                assert client.get_secret("app/db") == _FOUND
                time.sleep(0.02)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read_on, range(8)))

        assert 30 / 10 - 1 <= client.stats()["logins"] <= 30 / (0.6 * 4) + 2


def test_a_certificate_logs_in_and_heals(certificate_lab: CertificateLab) -> None:
    """The certificate of the environment is all that it needs; a revoked token is replaced."""
    environ = certificate_lab.environ(VAULT_AUTH_METHOD="cert", VAULT_AUTH_ROLE="shop")
    with VaultClient(cache_ttl=0, environ=environ) as client:
        assert client.get_secret("app/db") == _FOUND
        client._session.tokens._give_back(client._deadline())  # type: ignore[attr-defined]  # a revocation from outside

        assert client.get_secret("app/db") == _FOUND


def test_a_certificate_is_shown_anew_by_each_login(certificate_lab: CertificateLab) -> None:
    """A renewed certificate file counts from the next login on, not from the next process."""
    lab = certificate_lab
    environ = lab.environ()
    with VaultClient(auth=Certificate(), cache_ttl=0, environ=environ) as client:
        certificate, key = lab.certificates.client
        before = certificate.read_bytes(), key.read_bytes()
        other, other_key = lab.certificates.server  # of the same authority, but without a role
        certificate.write_bytes(other.read_bytes())
        key.write_bytes(other_key.read_bytes())
        try:
            client._session.tokens._grant = None
            with pytest.raises(VaultAuthenticationError, match="log in by certificate") as caught:
                client.get_secret("app/db")
            assert caught.value.reason == "login_refused"
        finally:
            certificate.write_bytes(before[0])
            key.write_bytes(before[1])

        assert client.get_secret("app/db") == _FOUND


def test_a_certificate_login_needs_a_certificate_and_tls(certificate_lab: CertificateLab) -> None:
    """Both are missed before anything is sent."""
    environ = certificate_lab.environ(VAULT_CLIENT_CERT="", VAULT_CLIENT_KEY="")
    with pytest.raises(VaultConfigurationError, match=r"^VAULT_CLIENT_CERT not set"):
        VaultClient(auth=Certificate(), environ=environ)
    environ = certificate_lab.environ(VAULT_ADDR="http://127.0.0.1:1")
    with pytest.raises(VaultConfigurationError, match="VAULT_ADDR has no https"):
        VaultClient(auth=Certificate(), environ=environ)


def test_a_wrapped_secret_id_is_unwrapped_once_for_all_clients_of_a_process(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy
) -> None:
    """A second client with the same wrapping token, and a login much later, do not unwrap again."""
    case = login_lab.case("app_role_wrapped")
    together = threading.Barrier(8)

    def make(_: int) -> None:
        together.wait(20)
        with _client(vault_proxy.url, case) as client:
            assert client.get_secret("app/db") == _FOUND

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(8)))

    assert vault_proxy.count("wrapping/unwrap") == 1


def test_a_wrapping_token_that_somebody_used_is_an_alarm(login_lab: LoginLab) -> None:
    """It is told as that, with what to do; likewise one that has expired."""
    lab = login_lab.lab
    role = lab.role()
    stolen = login_lab.wrapped(role.name)
    lab.admin.sys.unwrap(stolen)
    expired = login_lab.wrapped(role.name, ttl="1s")
    time.sleep(1.5)
    for token in (stolen, expired):
        with pytest.raises(
            VaultAuthenticationError, match="used already, or has expired"
        ) as caught:
            VaultClient(lab.url, auth=AppRole(role.role_id, wrapped_secret_id=token), environ={})
        assert caught.value.reason == "wrapping_token_used"
        assert "somebody else has what it held" in str(caught.value)


def test_a_wrapping_token_that_wraps_something_else_is_left_alone(login_lab: LoginLab) -> None:
    """A thief may put one of their own in its place: what made it is looked at first."""
    lab = login_lab.lab
    role = lab.role()
    answer = lab.admin.auth.token.create(policies=["app"], wrap_ttl="60s")
    other = answer["wrap_info"]["token"]
    with pytest.raises(VaultAuthenticationError, match=r"wraps something else.*token/create") as c:
        VaultClient(lab.url, auth=AppRole(role.role_id, wrapped_secret_id=other), environ={})

    assert c.value.reason == "wraps_something_else"
    assert lab.admin.sys.unwrap(other)["auth"]["client_token"]


def _wrapped_secret(lab: VaultLab, path: str, secret: dict[str, Any]) -> str:
    """Return what wraps a secret of a KV version 1 mount, which may have any path."""
    mount = f"kv-{secrets.token_hex(4)}"
    lab.admin.sys.enable_secrets_engine("kv", path=mount, options={"version": "1"})
    lab.admin.secrets.kv.v1.create_or_update_secret(path, secret=secret, mount_point=mount)
    headers = lab.admin.adapter.session.headers
    headers["X-Vault-Wrap-TTL"] = "60s"
    try:
        return str(lab.admin.read(f"{mount}/{path}")["wrap_info"]["token"])
    finally:
        del headers["X-Vault-Wrap-TTL"]


def test_a_secret_at_a_path_like_a_logins_is_no_secret_id_and_no_token(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy
) -> None:
    """Who may write one secret could make up a path that ends as the right one does."""
    lab = login_lab.lab
    role = lab.role()
    secret = {"secret_id": role.secret_id}
    for auth in (
        AppRole(
            role.role_id,
            wrapped_secret_id=_wrapped_secret(
                lab, f"auth/approle/role/{role.name}/secret-id", secret
            ),
        ),
        Token(wrapped=_wrapped_secret(lab, "auth/token/create", secret)),
    ):
        with pytest.raises(VaultAuthenticationError, match="it was left wrapped") as caught:
            VaultClient(vault_proxy.url, auth=auth, environ={})
        assert caught.value.reason == "wraps_something_else"
    assert vault_proxy.count("sys/wrapping/unwrap") == 0


@pytest.mark.parametrize("namespace", ["wrapping", "wrapping/inner"])
def test_a_secret_id_that_a_namespace_wrapped_is_taken(login_lab: LoginLab, namespace: str) -> None:
    """What made it is told without the namespace."""
    lab = login_lab.lab
    headers = lab.admin.adapter.session.headers
    parent, _, name = namespace.rpartition("/")
    try:
        headers["X-Vault-Namespace"] = parent
        lab.admin.write(f"sys/namespaces/{name}")
        headers["X-Vault-Namespace"] = namespace
        lab.admin.sys.enable_auth_method("approle")
        approle = lab.admin.auth.approle
        approle.create_or_update_approle("app")
        role_id = approle.read_role_id("app")["data"]["role_id"]
        wrapping = login_lab.wrapped("app")
    finally:
        del headers["X-Vault-Namespace"]
    auth = AppRole(role_id, wrapped_secret_id=wrapping)
    with VaultClient(lab.url, auth=auth, namespace=namespace, environ={}) as client:
        assert client.health_check()


def _wrapped_token(lab: VaultLab, ttl: str = "60s") -> str:
    answer = lab.admin.auth.token.create(policies=["app"], wrap_ttl=ttl)
    return str(answer["wrap_info"]["token"])


def test_a_wrapped_token_is_unwrapped_once_for_a_process_and_its_children(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """Construction 3 requests, a second client 1; a forked child goes on with the same token."""
    auth = Token(wrapped=f" {_wrapped_token(vault_lab)}\n")
    with VaultClient(vault_proxy.url, auth=auth, environ={}) as client:
        assert [one.path for one in vault_proxy.seen] == [
            f"/v1/{path}"
            for path in ("sys/wrapping/lookup", "sys/wrapping/unwrap", "auth/token/lookup-self")
        ]
        assert client.get_secret("app/db") == _FOUND
        with VaultClient(vault_proxy.url, auth=auth, environ={}) as other:
            assert other.get_secret("app/db") == _FOUND
        child = os.fork()
        if not child:
            status = 1
            try:
                status = 0 if client.get_secret("app/db") == _FOUND else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert vault_proxy.count("wrapping/unwrap") == 1
    assert vault_proxy.count("revoke-self") == 0


def test_a_token_that_a_login_gave_wrapped_is_taken(vault_lab: VaultLab) -> None:
    """A pipeline may log in for somebody else, who gets the token wrapped."""
    role = vault_lab.role()
    login = vault_lab.admin.auth.approle.login
    vault_lab.admin.adapter.session.headers["X-Vault-Wrap-TTL"] = "60s"
    try:
        answer = login(role.role_id, role.secret_id, use_token=False)
    finally:
        del vault_lab.admin.adapter.session.headers["X-Vault-Wrap-TTL"]
    auth = Token(wrapped=answer["wrap_info"]["token"])
    with VaultClient(vault_lab.url, auth=auth, environ={}) as client:
        assert client.get_secret("app/db") == _FOUND


def test_a_wrapped_token_that_somebody_used_is_an_alarm(vault_lab: VaultLab) -> None:
    """As for a wrapped secret id, likewise one that has expired and one that never was."""
    stolen = _wrapped_token(vault_lab)
    vault_lab.admin.sys.unwrap(stolen)
    expired = _wrapped_token(vault_lab, "1s")
    time.sleep(1.5)
    for wrapping in (stolen, expired, "hvs.never-was"):
        with pytest.raises(
            VaultAuthenticationError, match="used already, or has expired"
        ) as caught:
            VaultClient(vault_lab.url, auth=Token(wrapped=wrapping), environ={})
        assert caught.value.reason == "wrapping_token_used"
        assert "cannot unwrap the token" in str(caught.value)
        assert "somebody else has what it held" in str(caught.value)


def test_what_wraps_no_token_is_left_alone(login_lab: LoginLab) -> None:
    """A secret id, a secret, and anything that anybody may wrap."""
    lab = login_lab.lab
    session = lab.admin.adapter.session
    session.headers["X-Vault-Wrap-TTL"] = "60s"
    try:
        secret = lab.admin.read("secret/data/app/db")["wrap_info"]["token"]
        forged = lab.admin.write("sys/wrapping/wrap", token="hvs.x")["wrap_info"]["token"]
    finally:
        del session.headers["X-Vault-Wrap-TTL"]
    for wrapping, made_by in (
        (login_lab.wrapped(lab.role().name), "auth/approle/role/.*/secret-id"),
        (secret, "secret/data/app/db"),
        (forged, "sys/wrapping/wrap"),
    ):
        with pytest.raises(
            VaultAuthenticationError, match=f"something else than a token, made by '{made_by}'"
        ) as caught:
            VaultClient(lab.url, auth=Token(wrapped=wrapping), environ={})
        assert caught.value.reason == "wraps_something_else"
        assert lab.admin.sys.unwrap(wrapping)


def test_a_token_is_given_in_one_way() -> None:
    """Both, none and an empty one are refused by name."""
    with pytest.raises(VaultConfigurationError, match="neither token nor wrapped") as caught:
        Token()
    assert caught.value.reason == "missing_setting"
    with pytest.raises(VaultConfigurationError, match="both token and wrapped") as caught:
        Token("a", wrapped="b")
    assert caught.value.reason == "contradiction"
    with pytest.raises(VaultConfigurationError, match="wrapped is empty"):
        Token(wrapped="  ")
    with pytest.raises(VaultConfigurationError, match="token is empty"):
        Token("")


def test_a_lost_answer_to_the_unwrapping_is_not_sent_again(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy
) -> None:
    """The second try would be told that somebody used the token: it was this client itself."""
    case = login_lab.case("app_role_wrapped")
    vault_proxy.plan(Fault(reset=True), path="wrapping/unwrap")
    with pytest.raises(VaultError, match="may be used up by this"):
        _client(vault_proxy.url, case)

    assert vault_proxy.count("wrapping/unwrap") == 1


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


_WRITE: dict[str, Callable[[Path], object]] = {
    "file_missing": lambda path: path.unlink(),
    "file_empty": lambda path: path.write_text(" \n"),
    "file_content": lambda path: path.write_text("two words"),
    "file_unreadable": _make_folder,
}


@pytest.mark.parametrize("kind", ["token_file", "app_role_file", "jwt", "kubernetes"])
@pytest.mark.parametrize("reason", _WRITE)
def test_each_fault_of_a_file_has_its_own_reason(
    login_lab: LoginLab, tmp_path: Path, kind: str, reason: str
) -> None:
    """Nothing is sent; the message names the file."""
    path = tmp_path / "credential"
    path.write_text("x")
    _WRITE[reason](path)
    auth: Any = {
        "token_file": TokenFile(path),
        "app_role_file": AppRole("role", secret_id_file=path),
        "jwt": Jwt("role", path),
        "kubernetes": Kubernetes("role", path),
    }[kind]
    with pytest.raises(VaultConfigurationError, match=str(path)) as caught:
        VaultClient(login_lab.lab.url, auth=auth, environ={})

    assert caught.value.reason == reason
    assert type(caught.value) is VaultConfigurationError
    assert ("not in a pod?" in str(caught.value)) == (kind + reason == "kubernetesfile_missing")


def test_a_pipe_in_place_of_a_file_is_not_waited_for(login_lab: LoginLab, tmp_path: Path) -> None:
    """To read it would wait for its writer."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(VaultConfigurationError, match="it is no file"):
        VaultClient(login_lab.lab.url, auth=TokenFile(tmp_path / "pipe"), environ={})


def test_a_file_that_is_written_in_place_is_read_when_it_is_whole(login_lab: LoginLab) -> None:
    """A writer that empties the file first costs no failed call."""
    lab = login_lab.lab
    path = login_lab.file(lab.token())
    with VaultClient(lab.url, auth=TokenFile(path), cache_ttl=0, environ={}) as client:
        over = threading.Event()

        def write_on() -> None:
            while not over.is_set():
                token = lab.token()
                with path.open("w") as file:
                    file.flush()
                    time.sleep(0.005)
                    file.write(token[:5])
                    file.flush()
                    time.sleep(0.005)
                    file.write(token[5:] + "\n")
                lab.admin.auth.token.revoke(token) if over.is_set() else time.sleep(0.02)

        writer = threading.Thread(target=write_on)
        writer.start()
        try:
            for _ in range(30):
                client._session.tokens._grant = None
                assert client.get_secret("app/db") == _FOUND
        finally:
            over.set()
            writer.join()


def test_a_secret_id_that_was_replaced_during_the_login_is_read_again(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy
) -> None:
    """A refusal of the old one is not told when the file has a new one by then."""
    lab = login_lab.lab
    role = lab.role()
    path = login_lab.file("the-old-one")
    vault_proxy.plan(Fault(pause=0.5), path="/login")
    replacing = threading.Timer(0.2, lambda: replace_file(path, role.secret_id))
    replacing.start()
    auth = AppRole(role.role_id, secret_id_file=path)
    with VaultClient(vault_proxy.url, auth=auth, environ={}) as client:
        assert client.get_secret("app/db") == _FOUND
    replacing.join()


def test_a_failing_callable_is_named_and_its_words_are_not_shown(vault_lab: VaultLab) -> None:
    """Its text may be anything, the token included."""

    def broken() -> str:
        raise ValueError("hvs-SENTINEL")

    # An exception that a tracer raised in an earlier test can still count as being handled.
    handled = sys.exc_info()[1]
    for produce, told in ((broken, "raised ValueError"), (lambda: "", "is empty")):
        with pytest.raises(VaultConfigurationError, match=told) as caught:
            VaultClient(vault_lab.url, auth=Token(produce), environ={})
        assert caught.value.reason == "callable"
        assert "SENTINEL" not in str(caught.value)
        assert caught.value.__context__ is handled


def test_each_refusal_of_a_jwt_has_its_own_words(login_lab: LoginLab) -> None:
    """Expired, not yet valid, for another audience, by another issuer, of no role, at no mount."""
    issuer, role = login_lab.issuer, login_lab.jwt_role()
    url = login_lab.lab.url
    now = int(time.time())
    cases: list[tuple[Jwt, str, str]] = [
        (Jwt(role, issuer.issue(lasts=-500)), "jwt_expired", "expired 5.. s ago"),
        (Jwt(role, issuer.issue(nbf=now + 500)), "jwt_not_yet_valid", "valid only in"),
        (Jwt(role, issuer.issue(aud="other")), "login_refused", "audience 'other'"),
        (Jwt(role, type(issuer)().issue()), "login_refused", "signature"),
        (Jwt("no-such-role", issuer.issue()), "login_refused", "no-such-role.*could not be found"),
        (Jwt(role, issuer.issue(), mount="none"), "mount", "no auth method at 'auth/none'"),
        (Jwt(role, lambda: "no.jwt"), "no_jwt", "is no JWT"),
    ]
    for auth, reason, told in cases:
        with pytest.raises(VaultError, match=told) as caught:
            VaultClient(url, auth=auth, environ={})
        assert caught.value.reason == reason
    with pytest.raises(VaultConfigurationError, match="is no JWT"):
        Jwt(role, "no-jwt")


@pytest.mark.parametrize("number", [10**400, -(10**400), float("inf"), float("nan"), True, "x"])
def test_a_claim_that_is_no_moment_is_left_aside(login_lab: LoginLab, number: object) -> None:
    """The refusal is the server's; a JWT of many groups is as quickly refused as a short one."""
    jwt = login_lab.issuer.issue(nbf=number, groups=["g" * 50] * 800, aud="other")
    auth = Jwt(login_lab.jwt_role(), jwt)
    with pytest.raises(VaultAuthenticationError) as caught:
        VaultClient(login_lab.lab.url, auth=auth, environ={})

    assert caught.value.reason == "login_refused"


def test_each_failure_of_kubernetes_has_its_own_words(login_lab: LoginLab) -> None:
    """A service account that is not bound, one that the API does not know, an API that breaks."""
    api, lab = login_lab.api, login_lab.lab
    other = login_lab.file(login_lab.issuer.service_account("system:serviceaccount:shop:other"))
    case = login_lab.case("kubernetes")
    assert isinstance(case.auth, Kubernetes)
    with pytest.raises(VaultAuthenticationError, match="Kubernetes") as caught:
        VaultClient(lab.url, auth=Kubernetes(case.auth.role, other), environ={})
    assert caught.value.reason == "login_refused"
    with pytest.raises(VaultAuthenticationError, match="no auth method at 'auth/k8s'") as caught:
        VaultClient(lab.url, auth=Kubernetes(case.auth.role, other, mount="k8s"), environ={})
    try:
        api.mood = "refuse"
        with pytest.raises(VaultAuthenticationError, match="login was refused") as caught:
            _client(lab.url, case)
        assert caught.value.reason == "login_refused"
        assert "TokenReview: system:auth-delegator" in str(caught.value)
        api.mood = "break"
        with pytest.raises(VaultError) as broken:
            _client(lab.url, case, retries=0)
        assert broken.value.reason in {"server_error", "login_refused"}
    finally:
        api.mood = "answer"
    _client(lab.url, case).close()


def test_a_role_that_does_not_exist_is_refused_by_each_login(
    login_lab: LoginLab, certificate_lab: CertificateLab
) -> None:
    """The login is named, and what to check; nothing is tried again."""
    url = login_lab.lab.url
    account = login_lab.file(login_lab.issuer.service_account())
    cases: list[tuple[Any, dict[str, str], str]] = [
        (AppRole("none", "none"), {"VAULT_ADDR": url}, "AppRole.*check role id, secret id"),
        (Kubernetes("none", account), {"VAULT_ADDR": url}, "Kubernetes as role 'none'.*check the"),
        (Jwt("none", login_lab.issuer.issue()), {"VAULT_ADDR": url}, "JWT as role 'none'.*check"),
        (Certificate("none"), certificate_lab.environ(), "certificate.*check the certificate"),
    ]
    for auth, environ, told in cases:
        with pytest.raises(VaultAuthenticationError, match=told) as caught:
            VaultClient(auth=auth, environ=environ)
        assert caught.value.reason == "login_refused"


@pytest.mark.parametrize(
    "kind",
    [
        "app_role",
        "app_role_file",
        "app_role_wrapped",
        "jwt",
        "kubernetes",
        "token_file",
        "callable",
    ],
)
def test_each_login_that_stalls_ends_in_time(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy, kind: str
) -> None:
    """A server that says nothing costs the time-out, and a login is sent once."""
    case = login_lab.case(kind)
    path = "wrapping/lookup" if kind == "app_role_wrapped" else case.login
    vault_proxy.plan(Fault(pause=20), times=9, path=path)
    began = time.monotonic()
    with pytest.raises(VaultError, match="no answer within 1 s") as caught:
        _client(vault_proxy.url, case, timeout=1.0, retries=0)

    assert caught.value.reason == "timeout"
    assert time.monotonic() - began < 10  # half of what one answer takes
    assert vault_proxy.count(path) == 1


def test_a_file_that_may_not_be_read_has_its_own_reason(login_lab: LoginLab) -> None:
    """Its owner is somebody else, as of a secret that was mounted for another user."""
    path = login_lab.file("hvs.SENTINEL")
    path.chmod(0)
    user = os.geteuid()
    if not user:  # permissions do not bind root
        path.parent.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(VaultConfigurationError, match="cannot be read") as caught:
            VaultClient(login_lab.lab.url, auth=TokenFile(path), environ={})
    finally:
        os.seteuid(user)
        path.chmod(0o600)

    assert caught.value.reason == "file_unreadable"


def test_a_login_that_stalls_ends_in_time_and_is_not_sent_again(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy
) -> None:
    """The API behind Vault says nothing: the time-out is told, whatever the number of retries."""
    case = login_lab.case("kubernetes")
    login_lab.api.mood = "stall"
    try:
        began = time.monotonic()
        with pytest.raises(VaultError, match="no answer within 1 s") as caught:
            _client(vault_proxy.url, case, timeout=1.0)
        assert time.monotonic() - began < 5
        assert caught.value.reason == "timeout"
        assert vault_proxy.count("/login") == 1
    finally:
        login_lab.api.mood = "answer"
        login_lab.api.released.set()
        login_lab.api.released.clear()


def test_a_mount_and_a_namespace_of_ones_own_are_respected(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy
) -> None:
    """Both go into the login's request."""
    with pytest.raises(VaultSecretNotFoundError, match="no such namespace"):
        VaultClient(
            vault_proxy.url,
            auth=AppRole("a-role-id", "a-secret-id", mount="team/approle"),
            namespace="team-a",
            environ={},
        )
    first = vault_proxy.seen[0]

    assert first.path == "/v1/auth/team/approle/login"
    assert first.headers["X-Vault-Namespace"] == "team-a"


def test_a_denial_by_policy_does_not_wait_for_another_token(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy
) -> None:
    """The file's owner has no reason to replace a good token; when it ends, that is waited for."""
    case = login_lab.case("token_file")
    with _client(vault_proxy.url, case) as client:
        for _ in range(2):
            with pytest.raises(VaultAuthenticationError, match="denied by policy"):
                client.get_secret("denied/x")
        case.revoke()
        replacing = threading.Timer(0.4, case.rotate)
        replacing.start()

        assert client.get_secret("app/db") == _FOUND
    replacing.join()


def test_a_denied_token_that_was_replaced_is_used_at_once(login_lab: LoginLab) -> None:
    """To see that costs no login, so no pause between logins keeps it from being seen."""
    lab = login_lab.lab
    path = login_lab.file(lab.token(policies=["default"]))
    with VaultClient(lab.url, auth=TokenFile(path), cache_ttl=0, environ={}) as client:
        for _ in range(2):
            with pytest.raises(VaultAuthenticationError, match="denied by policy"):
                client.get_secret("app/db")
        replace_file(path, lab.token())

        assert client.get_secret("app/db") == _FOUND


def test_a_token_that_nobody_replaces_is_told_at_once_to_all_but_one(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy
) -> None:
    """One call waits a moment for the file's owner; those after it do not wait again."""
    case = login_lab.case("token_file")
    with _client(vault_proxy.url, case) as client:
        case.revoke()
        took = []
        for _ in range(6):
            began = time.monotonic()
            with pytest.raises(VaultAuthenticationError) as caught:
                client.get_secret("app/db")
            took.append(time.monotonic() - began)
            assert caught.value.reason == "token_invalid"
        # The median: a single one may meet a machine that stands still.
        assert sorted(took[1:])[2] < took[0]
        case.rotate()

        assert client.get_secret("app/db") == _FOUND
