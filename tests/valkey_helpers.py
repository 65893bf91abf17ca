"""What several Valkey tests share: a client behind a proxy, and threads that start together."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from clients.valkey_client import ValkeyClient
from tests.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from utils._stack.valkey import ValkeyServer

T = TypeVar("T")


@contextmanager
def client_behind_proxy(
    server: ValkeyServer, **settings: Any
) -> Iterator[tuple[ValkeyClient, FaultProxy]]:
    """Open a client whose connections all go through a fault proxy."""
    with FaultProxy(server.port) as proxy:
        url = server.url.replace(f":{server.port}/", f":{proxy.port}/")
        with ValkeyClient(url, **settings) as client:
            yield client, proxy


def raw(client: ValkeyClient, *words: str) -> Any:
    """Send any command through the plain driver, whose own method is untyped."""
    driver: Any = client.client
    return driver.execute_command(*words)


def at_once(number: int, call: Callable[[], T]) -> list[T | BaseException]:
    """Run *call* in *number* threads that start together; return results and errors."""
    gate = threading.Barrier(number)
    results: list[T | BaseException] = []

    def one_of_them() -> None:
        gate.wait()
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results.append(error)

    threads = [threading.Thread(target=one_of_them) for _ in range(number)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return results
