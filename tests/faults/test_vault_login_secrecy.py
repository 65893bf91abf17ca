"""No failing login shows its credential: not in frames, attributes, causes or texts."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from clients import (
    PostgresClient,
    PostgresOptions,
    RlsSetting,
    ValkeyClient,
    VaultAuthenticationError,
    VaultConfigurationError,
    build_clients,
)
from clients._vault.sources import LARGEST_CREDENTIAL
from clients.vault_auth import (
    Agent,
    AppRole,
    Certificate,
    Jwt,
    Kubernetes,
    Token,
    TokenFile,
    VaultAuth,
)
from clients.vault_client import VaultClient
from tests.http_fault_proxy import Fault, HttpFaultProxy
from tests.secret_walker import SENTINEL, SoftTimeLimit, leaks_in, leaks_of
from tests.vault_logins import REPEATABLE, AgentProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from tests.vault_fixtures import VaultLab
    from tests.vault_logins import CertificateLab, LoginLab
    from utils.local_stack import StackEndpoints

_KINDS = (
    "token", "wrapped_token", "callable", "token_file", "secret_id", "secret_id_file", "wrapped",
    "kubernetes", "jwt", "jwt_file",
)  # fmt: skip
_JWT = f"aaaa.{SENTINEL}.cccc"
_ECHO = f'{{"errors":["seen: {SENTINEL}"],"data":{{"x":"{SENTINEL}"}}}}'.encode()
_FAULTS = {
    "reset": Fault(reset=True),
    "echo 400": Fault(400, _ECHO),
    "echo 403": Fault(403, _ECHO),
    "echo 500": Fault(500, _ECHO),
    "echo 200": Fault(200, _ECHO),
    "no JSON": Fault(200, SENTINEL.encode()),
}


def _auth(kind: str, path: Path, secret: str = SENTINEL) -> VaultAuth:
    jwt = _JWT.replace(SENTINEL, secret)
    path.write_text(jwt if kind in {"kubernetes", "jwt_file"} else secret)
    made: dict[str, Callable[[], VaultAuth]] = {
        "token": lambda: Token(secret),
        "wrapped_token": lambda: Token(wrapped=secret),
        "callable": lambda: Token(path.read_text),
        "token_file": lambda: TokenFile(path),
        "secret_id": lambda: AppRole("a-role-id", secret),
        "secret_id_file": lambda: AppRole("a-role-id", secret_id_file=path),
        "wrapped": lambda: AppRole("a-role-id", wrapped_secret_id=secret),
        "kubernetes": lambda: Kubernetes("a-role", path),
        "jwt": lambda: Jwt("a-role", jwt),
        "jwt_file": lambda: Jwt("a-role", path),
    }
    return made[kind]()


@pytest.mark.parametrize("kind", _KINDS)
def test_no_failure_of_a_login_shows_what_it_sent(
    vault_proxy: HttpFaultProxy, tmp_path: Path, kind: str
) -> None:
    """Whatever the server says, or echoes."""
    auth = _auth(kind, tmp_path / "credential")
    for fault in _FAULTS.values():
        vault_proxy.forget()
        vault_proxy.plan(fault, times=9)
        # A token that the server denies a look at itself is accepted, so it also has to read.
        found = leaks_of(
            lambda: VaultClient(
                vault_proxy.url, auth=auth, retries=0, timeout=1.0, environ={}
            ).get_secret("x"),
            SENTINEL,
        )
        assert found == []


@pytest.fixture
def alarm() -> Iterator[Callable[[float], object]]:
    """A soft time limit, as task queues have it: a signal whose handler raises."""

    def raise_limit(_: int, __: FrameType | None) -> None:
        raise SoftTimeLimit

    before = signal.signal(signal.SIGALRM, raise_limit)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", _KINDS)
def test_a_soft_time_limit_in_a_silent_login_shows_nothing(
    vault_proxy: HttpFaultProxy, tmp_path: Path, alarm: Callable[[float], object], kind: str
) -> None:
    """The libraries' frames, which hold what is sent, are not kept."""
    auth = _auth(kind, tmp_path / "credential")
    vault_proxy.plan(Fault(pause=1.5), times=9)
    alarm(0.4)
    with pytest.raises(SoftTimeLimit) as caught:
        VaultClient(vault_proxy.url, auth=auth, environ={})

    assert leaks_in(caught.value, SENTINEL) == []


def test_a_soft_time_limit_of_the_older_keywords_and_of_the_environment_shows_nothing(
    vault_proxy: HttpFaultProxy, alarm: Callable[[float], object]
) -> None:
    """The arguments of the constructors are masked before anything waits."""
    calls: list[Callable[[], object]] = [
        lambda: VaultClient(vault_proxy.url, SENTINEL, environ={}),
        lambda: VaultClient(vault_proxy.url, role_id="r-id", secret_id=SENTINEL, environ={}),
        lambda: VaultClient(environ={"VAULT_ADDR": vault_proxy.url, "VAULT_TOKEN": SENTINEL}),
        lambda: build_clients(environ={"VAULT_ADDR": vault_proxy.url, "VAULT_TOKEN": SENTINEL}),
    ]
    for call in calls:
        vault_proxy.forget()
        vault_proxy.plan(Fault(pause=1.0), times=9)
        alarm(0.3)
        with pytest.raises(SoftTimeLimit) as caught:
            call()
        assert leaks_in(caught.value, SENTINEL) == []


_UNFIT = [f"{SENTINEL}\u200b", f"{SENTINEL} x", f"{SENTINEL}\n{SENTINEL}", f"{SENTINEL}\x00"]


@pytest.mark.parametrize("text", _UNFIT)
def test_a_credential_with_an_invisible_character_is_not_shown(
    vault_lab: VaultLab, tmp_path: Path, text: str
) -> None:
    """It is refused where it was given, whichever way that was."""
    path = tmp_path / "credential"
    path.write_text(text)
    environ = {"VAULT_ADDR": vault_lab.url}
    calls: list[Callable[[], Any]] = [
        lambda: Token(text),
        lambda: Token(wrapped=text),
        lambda: AppRole("r-id", text),
        lambda: AppRole("r-id", wrapped_secret_id=text),
        lambda: Jwt("role", text),
        lambda: VaultClient(vault_lab.url, text, environ={}),
        lambda: VaultClient(vault_lab.url, role_id="r-id", secret_id=text, environ={}),
        lambda: VaultClient(vault_lab.url, auth=Token(lambda: text), environ={}),
        lambda: VaultClient(vault_lab.url, auth=TokenFile(path), environ={}),
        lambda: VaultClient(environ=environ | {"VAULT_TOKEN": text}),
        lambda: build_clients(environ=environ | {"VAULT_TOKEN": text}),
        lambda: build_clients(environ=environ | {"VAULT_TOKEN": text, "VAULT_SKIP_VERIFY": "?"}),
    ]
    for call in calls:
        assert leaks_of(call, SENTINEL) == []


@pytest.mark.parametrize("kind", REPEATABLE)
def test_no_failure_after_a_login_shows_the_token_that_it_gave(
    login_lab: LoginLab, vault_proxy: HttpFaultProxy, kind: str
) -> None:
    """Nor does the client, whatever the server answers: a denial, an echo, silence, its end."""
    case = login_lab.case(kind)
    with VaultClient(
        vault_proxy.url, auth=case.auth, retries=0, timeout=1.0, cache_ttl=0, environ=case.environ
    ) as client:
        assert _leaks_after_login(client, vault_proxy, _token_of(client)) == []


def test_no_failure_after_a_certificates_login_shows_its_token(
    certificate_lab: CertificateLab,
) -> None:
    """Behind TLS: a denial, a missing secret, and a client that is closed."""
    environ = certificate_lab.environ()
    client = VaultClient(auth=Certificate("shop"), retries=0, cache_ttl=0, environ=environ)
    token = _token_of(client)
    calls: list[Callable[[], object]] = [
        lambda: client.get_secret("none"),
        lambda: client.list_secrets("app"),
        lambda: client.get_secret("x", mount_point="none"),
    ]
    found = [leak for call in calls for leak in leaks_of(call, token)]
    client.close()

    assert found + leaks_of(lambda: client.get_secret("app/db"), token) == []


def test_no_failure_behind_an_agent_shows_the_agents_token(vault_lab: VaultLab) -> None:
    """The client never has it; an answer that repeats it is not shown either."""
    role = vault_lab.role()
    with AgentProcess(vault_lab.server, role.role_id, role.secret_id) as agent:
        token = agent.sink.read_text()
        client = VaultClient(agent.url, auth=Agent(), retries=0, cache_ttl=0, environ={})
        for path in ("none", "denied/x"):
            assert leaks_of(lambda: client.get_secret(path), token) == []  # noqa: B023 - run now
        client.close()


def _token_of(client: VaultClient) -> str:
    token = client._session.tokens.current(client._deadline()).token
    assert token is not None
    return token.reveal()


def _leaks_after_login(client: VaultClient, proxy: HttpFaultProxy, token: str) -> list[str]:
    echo = f'{{"errors":["seen: {token}"],"data":{{"x":"{token}"}}}}'.encode()
    faults = [Fault(reset=True), Fault(200, token.encode()), Fault(pause=1.5)]
    faults += [Fault(status, echo) for status in (200, 400, 403, 404, 500, 503)]
    found = leaks_of(lambda: client.get_secret("denied/x"), token)
    for fault in faults:
        proxy.forget()
        proxy.plan(fault, times=9, path="/data/")
        found += leaks_of(lambda: client.get_secret("app/db"), token)
    proxy.forget()
    return found


@pytest.mark.parametrize("size", [LARGEST_CREDENTIAL + 1, 1024 * 1024])
def test_a_credential_of_any_source_has_a_largest_size(
    vault_proxy: HttpFaultProxy, tmp_path: Path, size: int
) -> None:
    """A megabyte is no credential: it is refused with the limit, and never sent."""
    jwt = f"aaaa.{SENTINEL.ljust(size - 10, 'b')}.cccc"
    path = tmp_path / "credential"
    path.write_text(jwt)
    makes: list[Callable[[], VaultAuth]] = [
        lambda: Token(jwt),
        lambda: Token(wrapped=jwt),
        lambda: Token(lambda: jwt),
        lambda: TokenFile(path),
        lambda: AppRole("r", jwt),
        lambda: AppRole("r", secret_id_file=path),
        lambda: AppRole("r", wrapped_secret_id=jwt),
        lambda: Kubernetes("r", path),
        lambda: Jwt("r", jwt),
        lambda: Jwt("r", path),
        lambda: Jwt("r", lambda: jwt),
    ]

    for make in makes:
        with pytest.raises(VaultConfigurationError, match=str(LARGEST_CREDENTIAL)) as caught:
            VaultClient(vault_proxy.url, auth=make(), environ={})
        assert leaks_in(caught.value, SENTINEL) == []
    assert vault_proxy.count("") == 0


def test_a_jwt_of_the_largest_size_is_sent(vault_proxy: HttpFaultProxy) -> None:
    """The limit is a size that a server takes: this one says what is wrong with the token."""
    jwt = f"aaaa.{'b' * (LARGEST_CREDENTIAL - 10)}.cccc"

    with pytest.raises(VaultAuthenticationError):
        VaultClient(vault_proxy.url, auth=Jwt("r", lambda: jwt), environ={})
    assert vault_proxy.count("auth/jwt/login") > 0


def _fail(*_: object, **__: object) -> str:
    raise ValueError("a callable fails")


class _Producer:
    """A callable object that shows what it holds."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return f"_Producer({self.secret!r})"

    def __call__(self) -> str:
        return _fail()


@pytest.mark.parametrize("make", [lambda secret: partial(_fail, secret), _Producer])
def test_a_callable_is_known_by_its_name_alone(
    vault_lab: VaultLab, stack: StackEndpoints, make: Callable[[str], Callable[..., str]]
) -> None:
    """What it was bound to may be the secret: in settings, and in the frames of every failure."""
    produce = make(SENTINEL)
    name = "_fail" if isinstance(produce, partial) else "_Producer"
    held: list[object] = [
        Token(produce),
        Jwt("role", produce),
        RlsSetting("app.user_id", str, encode=produce),
    ]
    for one in held:
        assert SENTINEL not in repr(one)
        assert name in repr(one)
    options = PostgresOptions(admin_url=produce)
    calls: list[Callable[[], object]] = [
        lambda: Token(produce, wrapped=SENTINEL),
        lambda: Jwt("", produce),
        lambda: VaultClient(vault_lab.url, auth=Token(produce), environ={}),
        lambda: VaultClient(vault_lab.url, auth=Token(produce), timeout=0, environ={}),
        lambda: VaultClient(vault_lab.url, auth=Jwt("role", produce), environ={}),
        lambda: PostgresClient(produce),
        lambda: PostgresClient(produce, pool_size=0),
        lambda: PostgresClient(stack.database_url, admin_url=produce),
        lambda: ValkeyClient(produce),
        lambda: ValkeyClient(produce, max_connections=0),
        lambda: build_clients(postgres=options, environ=stack.environment()),
        lambda: build_clients(postgres=options, pool_size=0, environ=stack.environment()),
        _leased(stack, produce),
        lambda: _with_encoder(stack, produce),
    ]
    for number, call in enumerate(calls):
        assert (number, leaks_of(call, SENTINEL)) == (number, [])


def _leased(stack: StackEndpoints, produce: Callable[..., str]) -> Callable[[], str]:
    with VaultClient(environ=stack.environment()) as vault:
        return vault.leased_url("crm-app", produce)


def _with_encoder(stack: StackEndpoints, encode: Callable[..., str]) -> None:
    identity = {"user_id": RlsSetting("app.user_id", str, encode=encode)}
    with PostgresClient(stack.database_url, identity=identity) as client:
        client.execute("SELECT 1", (), "ada")


def test_a_literal_url_among_options_shows_in_no_failure(stack: StackEndpoints) -> None:
    """The options of build_clients() may hold the administrator's URL."""
    options = PostgresOptions(admin_url=f"postgresql://u:{SENTINEL}@127.0.0.1:1/d")
    calls: list[Callable[[], object]] = [
        lambda: build_clients(postgres=options, environ=stack.environment()),
        lambda: build_clients(postgres=options, environ={}),
        lambda: build_clients(postgres=options, pool_size=0, environ=stack.environment()),
        lambda: ValkeyClient(f"redis://:{SENTINEL}@127.0.0.1:1", max_connections=0),
    ]
    for number, call in enumerate(calls):
        assert (number, leaks_of(call, SENTINEL)) == (number, [])


def test_a_certificate_login_has_nothing_to_show() -> None:
    """Its key stays in its file."""
    assert repr(Certificate("a-role")) == "Certificate(role='a-role', mount='cert')"
