"""A Vault of the tests' own, whatever STACK says: to make roles, revoke tokens and make faults."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hvac.exceptions
import pytest

from clients.vault_client import VaultClient
from tests.http_fault_proxy import HttpFaultProxy
from utils._stack.openbao import OpenBaoServer
from utils._stack.seed import direct_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints

__all__ = ["Role", "VaultLab"]

_POLICY = """
path "secret/*" { capabilities = ["read", "list"] }
path "secret/data/denied/*" { capabilities = ["deny"] }
"""


@dataclass(frozen=True)
class Role:
    """An AppRole's credentials."""

    name: str
    role_id: str
    secret_id: str

    def arguments(self) -> dict[str, Any]:
        """Return them as arguments of VaultClient, with an empty environment."""
        return {"role_id": self.role_id, "secret_id": self.secret_id, "environ": {}}


class VaultLab:
    """A running server and what tests do to it as its administrator."""

    def __init__(self, server: OpenBaoServer) -> None:
        self.server = server
        self.url = server.url
        self.root_token = server.root_token
        # Any by intent: hvac's methods carry no types of use.
        self.admin: Any = direct_client(server.url, server.root_token)
        self.admin.sys.create_or_update_policy("app", _POLICY)
        self.admin.sys.enable_auth_method("approle")
        self.write("app/db", {"url": "postgresql://app"})
        self.write("denied/x", {"a": "b"})

    def write(self, path: str, data: dict[str, Any], mount_point: str = "secret") -> None:
        """Write a new version of a secret."""
        deadline = time.monotonic() + 10
        while True:
            try:
                self.admin.secrets.kv.v2.create_or_update_secret(
                    path=path, secret=data, mount_point=mount_point
                )
            except hvac.exceptions.InvalidRequest:
                # A new engine refuses writes while it upgrades itself to version 2.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def role(self, **settings: Any) -> Role:
        """Make an AppRole of its own with the policy ``app``."""
        name = f"role-{secrets.token_hex(4)}"
        settings = {"token_policies": ["app"], "token_ttl": "1h"} | settings
        approle = self.admin.auth.approle
        approle.create_or_update_approle(name, **settings)
        return Role(
            name,
            approle.read_role_id(name)["data"]["role_id"],
            approle.generate_secret_id(name)["data"]["secret_id"],
        )

    def token(self, **settings: Any) -> str:
        """Make a token with the policy ``app``."""
        settings = {"policies": ["app"], "ttl": "1h"} | settings
        return str(self.admin.auth.token.create(**settings)["auth"]["client_token"])

    def tokens_of(self, role: Role) -> list[str]:
        """Return the accessors of the role's living tokens."""
        found = []
        for accessor in self.admin.auth.token.list_accessors()["data"]["keys"]:
            try:
                data = self.admin.auth.token.lookup_accessor(accessor)["data"]
            except hvac.exceptions.VaultError:
                continue  # it expired meanwhile
            if (data.get("meta") or {}).get("role_name") == role.name:
                found.append(accessor)
        return found

    def revoke_tokens_of(self, role: Role) -> int:
        """Revoke the role's living tokens; return how many there were."""
        accessors = self.tokens_of(role)
        for accessor in accessors:
            self.admin.auth.token.revoke_accessor(accessor)
        return len(accessors)


@pytest.fixture(scope="session")
def vault_lab() -> Iterator[VaultLab]:
    """A development server with AppRole, a policy ``app``, and the secret ``app/db``."""
    with OpenBaoServer() as server:
        yield VaultLab(server)


@pytest.fixture
def vault_proxy(vault_lab: VaultLab) -> Iterator[HttpFaultProxy]:
    """A proxy in front of ``vault_lab`` that counts and misbehaves."""
    with HttpFaultProxy(vault_lab.server.port) as proxy:
        yield proxy


@pytest.fixture
def vault(vault_lab: VaultLab) -> Iterator[VaultClient]:
    """A client with a token that may read what lies under ``secret/``."""
    with VaultClient(vault_lab.url, vault_lab.token(), environ={}) as client:
        yield client


@pytest.fixture
def own_secrets(vault_lab: VaultLab, stack: StackEndpoints) -> dict[str, str]:
    """The variables that lead to the stack by way of ``vault_lab``, where a test may spoil them.

    The stack's own Vault may be somebody's, and is only read.
    """
    database = {"url": stack.database_url, "admin_url": stack.admin_url}
    vault_lab.write("crm/database", database)
    vault_lab.write("crm/valkey", {"url": stack.valkey_url})
    return {"VAULT_ADDR": vault_lab.url, "VAULT_TOKEN": vault_lab.token()}
