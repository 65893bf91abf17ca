"""``build_clients()``: all three clients, or none and the reason."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import redis.exceptions

from clients import (
    ClientError,
    Clients,
    PostgresConfigurationError,
    PostgresConnectionError,
    PostgresOptions,
    RlsContextError,
    RlsSetting,
    ValkeyConnectionError,
    VaultClient,
    VaultConfigurationError,
    VaultConnectionError,
    VaultSecretNotFoundError,
    build_clients,
    prove_isolation,
    user_context,
)
from tests.postgres_helpers import open_sockets

if TYPE_CHECKING:
    from tests.vault_fixtures import VaultLab
    from utils.local_stack import StackEndpoints

_DEAD_POSTGRES = "postgresql://u:hunter2@127.0.0.1:1/x"
_DEAD_VALKEY = "redis://:hunter2@127.0.0.1:1/0"


@pytest.fixture
def environ(stack: StackEndpoints) -> dict[str, str]:
    return stack.environment()


def test_the_three_clients_work_together(environ: dict[str, str]) -> None:
    """One call gives three working clients."""
    user = uuid4()

    with build_clients(environ=environ, key_prefix=f"{user}:") as clients:
        assert clients.health_check().healthy
        clients.postgres.execute(
            "INSERT INTO contacts (user_id, name) VALUES (%s, 'Ada')", (user,), user_id=user
        )
        rows = clients.postgres.execute("SELECT name FROM contacts", user_id=user)
        assert rows == [{"name": "Ada"}]
        assert clients.valkey.incr("visits") == 1
        clients.valkey.delete("visits")


def test_stats_are_in_the_words_of_the_metrics(environ: dict[str, str]) -> None:
    """All clients and both pools in one call, and what is measured is counted under its name."""
    with build_clients(environ=environ, pool_size=3, min_size=1) as clients:
        clients.postgres.execute_admin("SELECT 1")
        with clients.postgres.connection(uuid4()):
            stats = clients.stats()
        later = clients.stats()

    assert list(stats) == ["vault", "postgres", "postgres admin", "valkey"]
    assert (stats["postgres"]["used"], stats["postgres"]["max"]) == (1, 3)
    assert (later["postgres"]["used"], later["postgres"]["checkouts"]) == (
        0,
        stats["postgres"]["checkouts"],
    )
    assert stats["postgres admin"]["connects"] == 1
    words = {"idle", "used", "max", "pending_requests", "timeouts"}
    for pool in ("postgres", "postgres admin", "valkey"):
        assert words <= set(stats[pool])
    assert stats["vault"]["cache_misses"] >= 2


def test_administrators_without_a_url_of_their_own_have_no_numbers_of_their_own(
    environ: dict[str, str],
) -> None:
    """They share the users' pool, which is not counted twice."""
    with build_clients(environ=environ, postgres={"admin_url": None}) as clients:
        assert clients.postgres.stats(admin=True) == {}
        assert list(clients.stats()) == ["vault", "postgres", "valkey"]


def test_an_identity_reaches_postgres(environ: dict[str, str]) -> None:
    """Names, settings and the role that users' transactions run under."""
    identity = {
        "tenant_id": RlsSetting("shop.tenant_id", int),
        "user_id": RlsSetting("shop.user_id", str),
    }
    values = (
        "SELECT current_setting('shop.tenant_id') AS tenant, current_setting('shop.user_id') AS"
        " who, current_user AS role"
    )
    with build_clients(environ=environ, identity=identity, local_role="crm_user") as clients:
        row = {"tenant": "7", "who": "auth0|abc", "role": "crm_user"}
        given = {"tenant_id": 7, "user_id": "auth0|abc"}
        assert clients.postgres.execute(values, identity=given) == [row]
        with user_context("auth0|abc", tenant_id=7):
            assert clients.postgres.execute(values) == [row]
        with pytest.raises(RlsContextError, match="no tenant_id"):
            clients.postgres.execute(values, user_id="auth0|abc")
    with pytest.raises(PostgresConfigurationError, match="postgres: local_role"):
        build_clients(environ=environ, local_role="nobody_there")


def test_without_settings_the_error_names_all_that_are_missing() -> None:
    """An empty environment is told in one error."""
    with pytest.raises(
        VaultConfigurationError, match=r"^vault: VAULT_ADDR not set.*VAULT_TOKEN not set"
    ):
        build_clients(environ={})


def test_an_unreachable_vault_is_named(environ: dict[str, str], closed_port: int) -> None:
    """The message says that it was Vault, and where."""
    dead = f"http://127.0.0.1:{closed_port}"
    with VaultClient(environ=environ) as vault:
        assert vault.addr != dead

    with pytest.raises(VaultConnectionError, match=f"^vault: .*{dead}"):
        build_clients(environ=environ | {"VAULT_ADDR": dead})


@pytest.mark.parametrize(
    ("path", "secret", "error", "words"),
    [
        ("database", None, VaultSecretNotFoundError, "vault, for postgres: .*crm/database"),
        ("database", {"url": _DEAD_POSTGRES}, PostgresConnectionError, "postgres: .*refused"),
        ("valkey", None, VaultSecretNotFoundError, "vault, for valkey: .*crm/valkey"),
        ("valkey", {"url": _DEAD_VALKEY}, ValkeyConnectionError, "valkey: .*refused"),
        ("valkey", {"uri": _DEAD_VALKEY}, ClientError, "vault, for valkey: .*'url'"),
    ],
)
def test_a_failure_names_the_service_and_leaves_nothing_open(
    vault_lab: VaultLab,
    own_secrets: dict[str, str],
    path: str,
    secret: dict[str, str] | None,
    error: type[ClientError],
    words: str,
) -> None:
    """All or nothing: what was opened is closed, and the message starts with the service."""
    if secret is None:
        vault_lab.admin.secrets.kv.v2.delete_latest_version_of_secret(f"crm/{path}")
    else:
        vault_lab.write(f"crm/{path}", secret)
    threads = threading.active_count()

    with pytest.raises(error, match=f"(?s)^{words}") as raised:
        build_clients(environ=own_secrets)

    assert "hunter2" not in str(raised.value)
    assert threading.active_count() == threads


def test_a_failure_gives_back_what_was_obtained(
    vault_lab: VaultLab, own_secrets: dict[str, str]
) -> None:
    """The token of an AppRole login is revoked, and no socket stays open beside the error."""
    role = vault_lab.role()
    environ = {
        "VAULT_ADDR": own_secrets["VAULT_ADDR"],
        "VAULT_ROLE_ID": role.role_id,
        "VAULT_SECRET_ID": role.secret_id,
    }
    vault_lab.write("crm/valkey", {"url": _DEAD_VALKEY})
    sockets = open_sockets()

    with pytest.raises(ValkeyConnectionError) as raised:
        build_clients(environ=environ)

    assert isinstance(raised.value.__cause__, redis.exceptions.ConnectionError)
    assert open_sockets() <= sockets
    assert vault_lab.tokens_of(role) == []


def test_the_administrators_url_need_not_be_in_the_services_secret(
    stack: StackEndpoints, vault_lab: VaultLab, own_secrets: dict[str, str]
) -> None:
    """A test of the isolation gives it as an option, beside the secret of the service."""
    vault_lab.write("crm/database", {"url": stack.database_url})
    options = PostgresOptions(admin_url=stack.admin_url)
    with build_clients(environ=own_secrets, postgres=options) as clients:
        assert prove_isolation(clients.postgres).leaks == []
        assert "postgres admin" in clients.stats()


def test_the_settings_reach_the_clients(
    stack: StackEndpoints, vault_lab: VaultLab, own_secrets: dict[str, str]
) -> None:
    """Each argument goes to the client that it is for."""
    vault_lab.write("crm/database", {"url": stack.admin_url})
    with build_clients(
        environ=own_secrets,
        pool_size=4,
        min_size=3,
        statement_timeout=7.5,
        on_rls_bypass="ignore",
        key_prefix="mine:",
    ) as clients:
        stats = clients.postgres.stats()
        assert (stats["max_size"], stats["size"]) == (4, 3)
        shown = clients.postgres.execute_scalar("SHOW statement_timeout", user_id=uuid4())
        assert shown == "7500ms"
        assert clients.valkey.key_prefix == "mine:"


def test_a_vault_client_that_was_handed_in_stays_open(environ: dict[str, str]) -> None:
    """Whoever made a client closes it."""
    with VaultClient(environ=environ) as vault:
        build_clients(vault=vault).close()

        assert vault.health_check() is True


def test_close_closes_all_even_when_one_fails(environ: dict[str, str]) -> None:
    """A failing close does not keep the others open, and comes out at the end."""
    clients = build_clients(environ=environ)
    broken = Clients(clients.vault, clients.postgres, _FailingClose())  # type: ignore[arg-type]  # a double that fails

    with pytest.raises(RuntimeError, match="cannot close"):
        broken.close()
    clients.valkey.close()

    with pytest.raises(ClientError, match="is closed"):
        clients.postgres.health_check()
    with pytest.raises(ClientError, match="is closed"):
        clients.vault.health_check()


def test_the_health_report_tells_of_each_service(environ: dict[str, str]) -> None:
    """One dead service does not hide the others, and raises only when asked to."""
    with build_clients(environ=environ) as clients:
        clients.valkey.close()

        report = clients.health_check()

        assert (
            report.vault.healthy,
            report.postgres.healthy,
            report.valkey.healthy,
        ) == (True, True, False)
        assert report.vault.latency > 0
        assert not report.healthy
        with pytest.raises(ClientError, match="is closed"):
            clients.health_check(raise_on_failure=True)


def test_nothing_secret_shows_in_the_repr(stack: StackEndpoints, environ: dict[str, str]) -> None:
    """The repr of all clients holds no password and no token."""
    with build_clients(environ=environ) as clients:
        text = repr(clients)

    for url in (stack.database_url, stack.admin_url, stack.valkey_url):
        assert url.split("@")[0].rsplit(":", 1)[1] not in text
    assert stack.vault_token not in text


def test_a_silent_listener_does_not_hold_the_constructor(environ: dict[str, str]) -> None:
    """A port that accepts and never answers ends in an error within the time-out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(VaultConnectionError, match=r"127\.0\.0\.1"):
            VaultClient(address, "a-token", timeout=0.5, retries=0)


class _FailingClose:
    def close(self) -> None:
        raise RuntimeError("cannot close")
