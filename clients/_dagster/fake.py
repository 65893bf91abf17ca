"""A Vault client that reads from a dict, for tests of assets. No Dagster is imported.

It is VaultClient itself, on a transport that answers as Vault's HTTP API does, so that it has
every method and every error of the real one.
Source of the answers: https://openbao.org/api-docs/.
"""

from __future__ import annotations

import io
import itertools
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

from .._vault.paths import secret_path, split_mount
from ..errors import VaultConfigurationError
from ..vault_client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FakeVaultClient"]

_ADDR = "http://fake-vault.invalid:8200"
_MOUNT = "secret"
_VERSION = "2.0.0"
_LEASE_SECONDS = 3600

_Answer = tuple[int, dict[str, Any]]


class FakeVaultClient(VaultClient):
    """Answers from *secrets* and never from a server; everything else is VaultClient's.

    Args:
        secrets: The fields of each secret, by path, or by ``mount:path``.
        healthy: False lets every call fail as if Vault were unreachable.

    Raises:
        VaultConfigurationError: A path is unfit, or a field has a value that JSON does not know.
    """

    def __init__(self, secrets: Mapping[str, Mapping[str, Any]], *, healthy: bool = True) -> None:
        self._vault = _FakeVault(secrets)
        # Nothing to try again, and no pause before it.
        super().__init__(_ADDR, "fake-token", retries=0, environ={})
        self._vault.healthy = healthy

    def __repr__(self) -> str:
        return f"<FakeVaultClient with {self._vault.count} secrets>"

    def _start(self) -> None:
        super()._start()
        self._session.transport.session.mount("http://", self._vault)


class _FakeVault(HTTPAdapter):
    """Answers requests as a Vault with KV version 2 and a database secrets engine would."""

    def __init__(self, secrets: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        self.healthy = True
        self._secrets: dict[str, dict[str, bytes]] = {_MOUNT: {}}
        self._written = datetime.now(UTC).isoformat()
        self._leases = itertools.count(1)
        for name, fields in secrets.items():
            mount, path = split_mount(name)
            place = secret_path(mount or _MOUNT, path)
            try:
                text = json.dumps(dict(fields)).encode()
            except (TypeError, ValueError, RecursionError) as error:
                raise VaultConfigurationError(
                    f"the fake Vault's secret {place} is no JSON, as all secrets of Vault are: "
                    f"{type(error).__name__}",
                    reason="setting",
                ) from None
            self._secrets.setdefault(place.mount, {})[place.path] = text

    @property
    def count(self) -> int:
        return sum(map(len, self._secrets.values()))

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        if not self.healthy:
            raise requests.exceptions.ConnectionError(
                "the fake Vault is unreachable, because healthy=False"
            )
        url = urlsplit(request.url or "")
        path = unquote(url.path).removeprefix("/v1/")
        status, body = self._answer(path, parse_qs(url.query))
        raw = HTTPResponse(
            io.BytesIO(json.dumps(body).encode()),
            status=status,
            headers={"Content-Type": "application/json"},
            preload_content=False,
        )
        return self.build_response(request, raw)

    def _answer(self, path: str, query: dict[str, list[str]]) -> _Answer:
        for mount, secrets in self._secrets.items():
            _, _, name = path.removeprefix(f"{mount}/").partition("/")
            if path.startswith(f"{mount}/data/"):
                return self._secret(secrets.get(name), query.get("version", ["1"])[0])
            if path.startswith(f"{mount}/metadata/"):
                return _folder(secrets, name)
            if path == f"sys/internal/ui/mounts/{mount}":
                return 200, {"data": {"type": "kv", "options": {"version": "2"}}}
        body = self._outside_secrets(path)
        if body is None:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        return 200, body

    def _outside_secrets(self, path: str) -> dict[str, Any] | None:
        match path.split("/"):
            case ["sys", "health"]:
                return {"initialized": True, "sealed": False, "version": _VERSION}
            case ["auth", "token", "lookup-self"]:
                # 0 is a token that never ends.
                return {"data": {"ttl": 0, "type": "service", "renewable": False}}
            case ["sys", "internal", "ui", "namespaces"]:
                return {"data": {"keys": [""]}}
            case ["sys", "leases", *_]:
                return {"lease_duration": _LEASE_SECONDS, "renewable": True}
            case [_, "creds" | "static-creds" as kind, *role] if role:
                return self._credential(kind, "/".join(role))
        return None

    def _secret(self, text: bytes | None, version: str) -> _Answer:
        if text is None or version not in {"0", "1"}:
            return 404, {"errors": []}
        metadata = {
            "created_time": self._written,
            "deletion_time": "",
            "destroyed": False,
            "version": 1,
        }
        return 200, {"data": {"data": json.loads(text), "metadata": metadata}}

    def _credential(self, kind: str, role: str) -> dict[str, Any]:
        number = next(self._leases)
        if kind == "static-creds":
            data = {"ttl": _LEASE_SECONDS, "rotation_period": _LEASE_SECONDS}
            return {"data": {"username": role, "password": f"fake-{number}", **data}}
        return {
            "lease_id": f"database/creds/{role}/{number}",
            "lease_duration": _LEASE_SECONDS,
            "renewable": True,
            "data": {"username": f"v-{role}-{number}", "password": f"fake-{number}"},
        }


def _folder(secrets: Mapping[str, bytes], name: str) -> _Answer:
    prefix = f"{name.strip('/')}/" if name.strip("/") else ""
    below = (one.removeprefix(prefix) for one in secrets if one.startswith(prefix))
    names = {f"{head}/" if rest else head for head, _, rest in (s.partition("/") for s in below)}
    return (200, {"data": {"keys": sorted(names)}}) if names else (404, {"errors": []})
