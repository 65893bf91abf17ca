"""A Dagster home without telemetry, and the variables that lead its code to a Vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clients._dagster.registry import close_shared_clients

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import dagster as dg

    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import Role, VaultLab


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home; clients that a test shares in this process end with the test."""
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
    yield home
    close_shared_clients()


@pytest.fixture
def instance(dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    """An instance that stores runs and events in the home."""
    from dagster import DagsterInstance  # noqa: PLC0415 - half a second that others need not pay

    with DagsterInstance.get() as found:
        yield found


@pytest.fixture
def role(
    vault_lab: VaultLab,
    vault_proxy: HttpFaultProxy,
    dagster_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Role:
    """An AppRole of the test's own in the environment, and a counting proxy before its Vault."""
    role = vault_lab.role()
    monkeypatch.setenv("VAULT_ADDR", vault_proxy.url)
    monkeypatch.setenv("VAULT_ROLE_ID", role.role_id)
    monkeypatch.setenv("VAULT_SECRET_ID", role.secret_id)
    return role
