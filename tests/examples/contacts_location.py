"""A Dagster code location to copy: one user's rows, a figure in Valkey, a check and a sensor.

Vault says where PostgreSQL and Valkey are, and with which password; row-level security sees to
it that nobody else's contacts are counted. ``dagster definitions validate -f
tests/examples/contacts_location.py`` checks it, and ``dagster dev -f`` with the same file
serves it.
"""
# Without `from __future__ import annotations`: Dagster reads the class OneUser from the signature.

from collections.abc import Iterator

import dagster as dg

from clients import user_context
from clients.dagster_adapter import ClientsResource, VaultSecretsResource


class OneUser(dg.Config):
    """Whose contacts."""

    user_id: str


@dg.asset
def contact_count(config: OneUser, clients: ClientsResource) -> None:
    """Count the user's contacts, and keep the figure for an hour."""
    with user_context(config.user_id):
        count = clients.postgres.execute_scalar("SELECT count(*) FROM contacts")
    clients.valkey.set(f"contacts:{config.user_id}", str(count), expire_seconds=3600)


@dg.asset_check(asset=contact_count)
def vault_answers(vault: VaultSecretsResource) -> dg.AssetCheckResult:
    """Say whether Vault is unsealed and knows us."""
    return dg.AssetCheckResult(passed=vault.health_check())


@dg.sensor(target=contact_count)
def missing_figures(clients: ClientsResource) -> Iterator[dg.RunRequest]:
    """Ask for the figure of each user who has none, or whose figure has expired."""
    for user in clients.postgres.execute_admin("SELECT id::text AS user_id FROM users"):
        if not clients.valkey.exists(f"contacts:{user['user_id']}"):
            yield dg.RunRequest(run_config=dg.RunConfig({"contact_count": OneUser(**user)}))


defs = dg.Definitions(
    assets=[contact_count],
    asset_checks=[vault_answers],
    sensors=[missing_figures],
    resources={"clients": ClientsResource.from_env(), "vault": VaultSecretsResource.from_env()},
)
