"""The servers that the tests talk to: embedded, Docker or external, by ``--stack`` or ``STACK``."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from clients._shared.environment import VaultSettings
from clients.vault_client import VaultClient
from utils._stack.docker import DockerStack, compose_command
from utils._stack.postgres import PostgresServer
from utils._stack.process import HeldPort, free_port
from utils._stack.seed import apply_sql
from utils._stack.settings import StackSettings, forget_ambient_servers
from utils.local_stack import EmbeddedStack, StackEndpoints

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clients._shared.secrecy import Masked


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        choices=["embedded", "docker", "external"],
        default=None,
        help="where the servers come from; the default is what STACK says, else embedded",
    )


@pytest.fixture(scope="session")
def stack_kind(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--stack") or StackSettings.from_env().kind)


@pytest.fixture(scope="session", autouse=True)
def _signals() -> Iterator[None]:
    """Let Ctrl-C mean something: a run in the background ignores it, and so would its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def ambient() -> Iterator[dict[str, str]]:
    """What leads to a developer's own servers: out of reach for all tests, but for this dict."""
    removed = forget_ambient_servers()
    yield removed
    os.environ.update(removed)


@pytest.fixture(scope="session")
def stack(
    stack_kind: str, ambient: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[StackEndpoints]:
    """The running stack; when it was asked for and is dead, the whole run ends here."""
    try:
        if stack_kind == "external":
            yield _external_endpoints(ambient)
        elif stack_kind == "docker":
            yield _docker_endpoints(request)
        else:
            with EmbeddedStack() as embedded:
                yield embedded.start()
    # Whatever it was: pytest-docker raises plain Exceptions.
    except Exception as error:  # noqa: BLE001 - see above
        reason = f"STACK={stack_kind}: the servers are not there: {error}"
        request.session.shouldstop = reason  # what a worker of a parallel run tells of its end
        pytest.exit(reason, returncode=3)


@pytest.fixture(scope="session")
def docker_plan() -> DockerStack:
    """Free ports and fresh passwords for this run's containers."""
    ports = replace(
        StackSettings(), vault_port=free_port(), postgres_port=free_port(), valkey_port=free_port()
    )
    return DockerStack(project=f"failfast-tests-{os.getpid()}", ports=ports)


@pytest.fixture(scope="session")
def docker_compose_file(docker_plan: DockerStack) -> Path:
    return docker_plan.compose_file


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    return " ".join(compose_command())


@pytest.fixture(scope="session")
def docker_compose_project_name(docker_plan: DockerStack) -> str:
    return docker_plan.project


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    """Without --wait: docker-compose 1.29 does not know it, and our probes see more."""
    return ["up -d"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return ["down -v --remove-orphans"]


def _docker_endpoints(request: pytest.FixtureRequest) -> StackEndpoints:
    plan: DockerStack = request.getfixturevalue("docker_plan")
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    for name, value in plan.compose_environment().items():
        patch.setenv(name, value)
    # Only here, so that an embedded run never looks for Docker.
    try:
        request.getfixturevalue("docker_services")
    except Exception:
        # pytest-docker cleans up after a start that succeeded, and only then.
        plan.close(check=False)
        raise
    # Not pytest-docker's own waiting, which ends without a word of the servers' logs.
    plan.wait()
    return plan.seed()


def _external_endpoints(ambient: dict[str, str]) -> StackEndpoints:
    settings = VaultSettings.from_env(ambient)
    with VaultClient(environ=ambient) as vault:
        admin_url = vault.get_database_admin_url()
        if admin_url is None:
            raise RuntimeError("the secret 'crm/database' has no 'admin_url', which tests need")
        return StackEndpoints(
            vault_addr=settings.addr.reveal() if settings.addr else "",
            vault_token=_revealed(settings.token),
            vault_root_token="",
            role_id=_revealed(settings.role_id),
            secret_id=_revealed(settings.secret_id),
            database_url=vault.get_database_url(),
            admin_url=admin_url,
            valkey_url=vault.get_valkey_url(),
        )


def _revealed(secret: Masked | None) -> str:
    return "" if secret is None else secret.reveal()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses everybody, and that no server of another test is given meanwhile."""
    held = HeldPort()
    yield held.number
    held.release()


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of the tests' own, whatever STACK says: to make roles, tables and faults.

    The project's SQL is applied; both roles have the password ``secret``.
    """
    with PostgresServer() as server:
        apply_sql(server.url(), {"crm_user": "secret", "crm_admin": "secret"})
        yield server
