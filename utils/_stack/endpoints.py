"""Where a running development stack is reached, and with which credentials."""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass, field
from typing import Self

__all__ = ["StackEndpoints"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackEndpoints:
    """Addresses and credentials of one stack; secrets stay out of the repr.

    Args:
        vault_addr: Vault's URL.
        vault_token: A token that may read and list what lies under ``secret/``.
        vault_root_token: A token that may do everything.
        role_id: The AppRole's role id, with the same rights as *vault_token*.
        secret_id: The AppRole's secret id.
        database_url: PostgreSQL as ``crm_user``, whom row-level security binds.
        admin_url: PostgreSQL as ``crm_admin``, who bypasses it.
        valkey_url: Valkey's URL.
        superuser_url: PostgreSQL as superuser; None where the stack is not ours.
    """

    vault_addr: str
    vault_token: str = field(repr=False)
    vault_root_token: str = field(repr=False)
    role_id: str
    secret_id: str = field(repr=False)
    database_url: str = field(repr=False)
    admin_url: str = field(repr=False)
    valkey_url: str = field(repr=False)
    superuser_url: str | None = field(default=None, repr=False)

    def environment(self) -> dict[str, str]:
        """Return the variables that ``make env`` exports.

        The ``VAULT_`` ones are what an application needs. The ``STACK_`` ones are for migrations
        and for secrets of your own, in development alone; a stack that is not ours has none.
        """
        application = {
            "VAULT_ADDR": self.vault_addr,
            "VAULT_TOKEN": self.vault_token,
            "VAULT_ROLE_ID": self.role_id,
            "VAULT_SECRET_ID": self.secret_id,
        }
        development = {
            "STACK_SUPERUSER_URL": self.superuser_url,
            "STACK_VAULT_ROOT_TOKEN": self.vault_root_token,
        }
        return application | {name: value for name, value in development.items() if value}

    def exports(self) -> str:
        """Return ``export`` lines for ``eval "$(make -s env)"``."""
        return "\n".join(f"export {k}={shlex.quote(v)}" for k, v in self.environment().items())

    def to_json(self) -> str:
        """Return everything, secrets included, for a file that only its owner reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the endpoints that ``to_json`` wrote.

        Args:
            text: What it wrote.
        """
        return cls(**json.loads(text))
