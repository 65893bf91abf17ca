"""Half a minute of short-lived tokens under load."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from clients.vault_client import VaultClient

if TYPE_CHECKING:
    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import VaultLab

_SECONDS = 30
_THREADS = 8
_TTL = 4
_MAX_TTL = 10


@pytest.mark.slow
def test_short_lived_tokens_cost_no_error_and_few_logins(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """Eight threads, thirty seconds: no error, and logins by token life, not by thread."""
    role = vault_lab.role(token_ttl=f"{_TTL}s", token_max_ttl=f"{_MAX_TTL}s")
    with VaultClient(vault_proxy.url, cache_ttl=0, **role.arguments()) as client:
        ends_at = time.monotonic() + _SECONDS

        def read_on(_: int) -> int:
            reads = 0
            while time.monotonic() < ends_at:
                assert client.get_secret("app/db") == {"url": "postgresql://app"}
                reads += 1
                time.sleep(0.01)
            return reads

        with ThreadPoolExecutor(_THREADS) as pool:
            reads = sum(pool.map(read_on, range(_THREADS)))

    # No token lives longer than ten seconds, and none is replaced before 0.6 of four seconds.
    assert _SECONDS / _MAX_TTL <= vault_proxy.count("/login") <= _SECONDS / (0.6 * _TTL) + 1
    assert vault_proxy.count("renew-self") <= _SECONDS / (0.6 * _TTL) + 1
    assert vault_proxy.count("/data/") == reads > _SECONDS * _THREADS
