"""A Dagster code location in a pod: it logs in as its service account, and rows belong to tenants.

The tables are those of ``tenants.sql``. Nothing that Dagster stores is a secret.
``dagster definitions validate -f tests/examples/tenants_location.py`` checks it, and ``dagster dev
-f`` with the same file serves it.
"""
# Without `from __future__ import annotations`: Dagster reads the signature.

import dagster as dg

from clients import user_context
from clients.dagster_adapter import ClientsResource
from clients.vault_auth import SERVICE_ACCOUNT_TOKEN, Kubernetes


class OneTenant(dg.Config):
    """Whose orders."""

    tenant_id: int
    user_id: str


def clients_in_a_pod(token_path: str = SERVICE_ACCOUNT_TOKEN) -> ClientsResource:
    """Return the resource; the path of the token is another one in tests."""
    return ClientsResource.from_env(
        auth=Kubernetes("shop", token_path),
        identity={"tenant_id": "shop.tenant_id:int", "user_id": "shop.user_id:str"},
        database_path="shop/postgres",
        key_prefix="shop:",
        pool_size=4,
    )


@dg.asset
def order_count(config: OneTenant, clients: ClientsResource) -> dg.MaterializeResult[None]:
    """Count the orders of one user in one tenant, and keep the figure for an hour."""
    with user_context(config.user_id, tenant_id=config.tenant_id):
        count = clients.postgres.execute_scalar("SELECT count(*) FROM orders")
    clients.valkey.set(f"orders:{config.tenant_id}", str(count), expire_seconds=3600)
    return dg.MaterializeResult(metadata={"orders": count})


defs = dg.Definitions(assets=[order_count], resources={"clients": clients_in_a_pod()})
