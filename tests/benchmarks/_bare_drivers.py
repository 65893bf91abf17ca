"""What ``build_clients()`` stands beside: the three drivers, opened as their documentation says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hvac
import redis
from psycopg_pool import ConnectionPool

if TYPE_CHECKING:
    from contextlib import ExitStack

__all__ = ["open_drivers"]


def open_drivers(addr: str, token: str, opened: ExitStack) -> None:
    """Read the URLs from Vault, and open as many connections as ``build_clients()`` does.

    Args:
        addr: Vault's URL.
        token: A token that may read ``crm/*``.
        opened: Closes what is opened here.
    """
    vault: Any = hvac.Client(url=addr, token=token)
    opened.callback(vault.adapter.close)

    def read(path: str) -> dict[str, str]:
        answer = vault.secrets.kv.v2.read_secret_version(path, raise_on_deleted_version=True)
        return dict(answer["data"]["data"])

    assert vault.is_authenticated()
    database = read("crm/database")
    for url, size in ((database["url"], 2), (database["admin_url"], 1)):
        pool = opened.enter_context(ConnectionPool(url, min_size=size, max_size=10, open=False))
        pool.wait()
    valkey = opened.enter_context(redis.Redis.from_url(read("crm/valkey")["url"]))
    assert valkey.ping()
