"""One resource object works wherever Dagster code can get hold of it, with one login."""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING

import pytest

from clients.dagster_adapter import VaultSecretsResource
from tests.dagster_entry_points import ENTRY_POINTS

if TYPE_CHECKING:
    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import Role

LOGIN = "auth/approle/login"


def read_by(entry: str) -> str:
    # Dagster leaves the storage of a closed instance in a context variable.
    return copy_context().run(ENTRY_POINTS[entry], VaultSecretsResource.from_env())


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_a_secret_is_read_with_one_login(
    entry: str, role: Role, vault_proxy: HttpFaultProxy
) -> None:
    """Each entry point reads the secret, whatever Dagster does with the resource object."""
    value = read_by(entry)

    assert value == "postgresql://app"
    assert vault_proxy.count(LOGIN) == 1


@pytest.mark.slow
def test_all_entry_points_of_a_process_share_one_login(
    role: Role, vault_proxy: HttpFaultProxy
) -> None:
    """Ticks, runs and nested uses make many resource objects, and log in once."""
    for _ in range(2):
        for entry in ENTRY_POINTS:
            read_by(entry)

    assert vault_proxy.count(LOGIN) == 1


def test_nothing_is_sent_before_the_first_use(role: Role, vault_proxy: HttpFaultProxy) -> None:
    """Making, initialising and clearing a resource asks nothing of Vault."""
    resource = VaultSecretsResource.from_env().process_config_and_initialize()
    resource.clear_cache()

    assert vault_proxy.seen == []
