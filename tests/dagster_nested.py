"""A user's own resources that have ours inside, and assets that use them."""
# Without `from __future__ import annotations`: it breaks ResourceDependency.

from typing import Any
from uuid import uuid4

import dagster as dg

from clients import PostgresClient
from clients.dagster_adapter import ClientsResource

__all__ = ["FigureManager", "FigureRepository", "doubled", "figure", "pools_used"]

#: The PostgreSQL clients that the assets came by.
pools_used: set[PostgresClient] = set()


class FigureRepository(dg.ConfigurableResource[Any]):
    """Reads a figure from PostgreSQL."""

    clients: dg.ResourceDependency[ClientsResource]

    def figure(self) -> int:
        """Return it."""
        pools_used.add(self.clients.postgres)
        return int(self.clients.postgres.execute_scalar("SELECT 21", user_id=uuid4()))


class FigureManager(dg.ConfigurableIOManager):
    """Keeps figures in Valkey."""

    clients: dg.ResourceDependency[ClientsResource]

    def handle_output(self, context: dg.OutputContext, obj: int) -> None:
        """Store the figure under the asset's name."""
        self.clients.valkey.set(context.asset_key.path[-1], str(obj), expire_seconds=60)

    def load_input(self, context: dg.InputContext) -> int:
        """Read it again."""
        return int(self.clients.valkey.get(context.asset_key.path[-1]) or 0)


@dg.asset
def figure(repository: FigureRepository) -> int:
    """Read the figure through the repository."""
    return repository.figure()


@dg.asset
def doubled(figure: int, clients: ClientsResource) -> int:
    """Double what the I/O manager kept."""
    pools_used.add(clients.postgres)
    return figure * 2
