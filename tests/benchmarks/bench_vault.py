"""What reading secrets costs: cold, warm, and in a mix as of a pipeline.

Run by `make bench`; plain pytest does not collect files of this name.
"""

from __future__ import annotations

import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from clients.errors import VaultError
from clients.vault_client import VaultClient

if TYPE_CHECKING:
    from tests.vault_fixtures import VaultLab

pytestmark = pytest.mark.bench

_READS = 500
_SECRETS = 40
_THREADS = 8


def _p95(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=20)[-1] * 1000


def _timed(client: VaultClient, path: str, *, use_cache: bool) -> float:
    began = time.perf_counter()
    client.get_secret(path, use_cache=use_cache)
    return time.perf_counter() - began


def test_uncached_and_cached_reads(vault_lab: VaultLab, capsys: pytest.CaptureFixture[str]) -> None:
    """The p95 of an uncached read is under 500 ms."""
    with VaultClient(vault_lab.url, vault_lab.token(), environ={}) as client:
        cold = [_timed(client, "app/db", use_cache=False) for _ in range(_READS)]
        warm = [_timed(client, "app/db", use_cache=True) for _ in range(_READS)]
    with capsys.disabled():
        print(  # noqa: T201 - a benchmark prints
            f"\nvault: uncached read p95 {_p95(cold):.2f} ms (wanted < 500), "
            f"cached {_p95(warm) * 1000:.1f} us, ratio {_p95(cold) / _p95(warm):.0f}"
        )

    assert _p95(cold) < 500


def test_a_realistic_mix(vault_lab: VaultLab, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight threads over forty secrets: hit rate over 80 %, error rate under 0.1 %."""
    for number in range(_SECRETS):
        vault_lab.write(f"bench/{number}", {"n": number})
    draw = random.Random(1)  # noqa: S311 - a repeatable mix
    paths = [f"bench/{int(draw.paretovariate(1.2)) % _SECRETS}" for _ in range(5000)]
    with VaultClient(vault_lab.url, vault_lab.token(), environ={}) as client:

        def errors_of(path: str) -> int:
            try:
                client.get_secret(path, use_cache=random.random() > 0.02)  # noqa: S311 - a mix
            except VaultError:
                return 1
            return 0

        began = time.perf_counter()
        with ThreadPoolExecutor(_THREADS) as pool:
            errors = sum(pool.map(errors_of, paths))
        took = time.perf_counter() - began
        stats = client.cache_stats()
    with capsys.disabled():
        print(  # noqa: T201 - a benchmark prints
            f"\nvault: mix of {len(paths)} reads in {took:.2f} s, hit rate "
            f"{stats['hit_rate']:.1%} (wanted > 80 %), errors {errors / len(paths):.2%} "
            "(wanted < 0.1 %)"
        )

    assert stats["hit_rate"] > 0.8
    assert errors / len(paths) < 0.001
