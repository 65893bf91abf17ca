"""Forked children: gunicorn's preloading, Celery, multiprocessing."""

from __future__ import annotations

import json
import os
import threading
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from clients.vault_client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import VaultLab

# pytest's own threads and the proxy's make Python warn of forks; here they are the subject.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

_CHILDREN = 5
_READS = 100


def _in_child(work: Callable[[], Any]) -> tuple[int, int]:
    """Fork; return the child's pid and the pipe on which its result comes as JSON."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        try:
            result = {"result": work()}
        except BaseException:  # noqa: BLE001 - the parent must learn of anything at all
            result = {"error": traceback.format_exc()}
        os.write(writer, json.dumps(result).encode())
    finally:
        os._exit(0)  # without pytest's clean-up, which is the parent's


def _result(child: tuple[int, int]) -> Any:
    pid, reader = child
    with os.fdopen(reader, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    assert "error" not in answer, answer["error"]
    return answer["result"]


@pytest.fixture(params=["token", "approle"])
def credentials(request: pytest.FixtureRequest, vault_lab: VaultLab) -> dict[str, Any]:
    """Each way to log in."""
    if request.param == "token":
        return {"token": vault_lab.token(), "environ": {}}
    return vault_lab.role().arguments()


def test_forked_children_read_the_right_secrets(
    vault_lab: VaultLab, credentials: dict[str, Any]
) -> None:
    """Five children and their parent, each with a hundred reads of its own secret: none wrong."""
    for number in range(_CHILDREN + 1):
        vault_lab.write(f"fork/{number}", {"n": number})

    with VaultClient(vault_lab.url, cache_ttl=0, **credentials) as client:
        client.get_secret("app/db")  # so that there is a connection to inherit

        def wrong_reads(number: int) -> int:
            return sum(client.get_secret(f"fork/{number}") != {"n": number} for _ in range(_READS))

        children = [_in_child(partial(wrong_reads, number)) for number in range(_CHILDREN)]
        own = wrong_reads(_CHILDREN)
        assert [_result(child) for child in children] == [0] * _CHILDREN
        assert own == 0


def test_a_child_that_closes_leaves_the_parent_its_token(vault_lab: VaultLab) -> None:
    """The child revokes what it obtained itself, and nothing else."""
    role = vault_lab.role()
    with VaultClient(vault_lab.url, cache_ttl=0, **role.arguments()) as client:

        def read_and_close() -> str:
            url = client.get_secret("app/db")["url"]
            client.close()
            return str(url)

        def close() -> None:
            client.close()

        assert _result(_in_child(read_and_close)) == "postgresql://app"
        _result(_in_child(close))
        assert len(vault_lab.tokens_of(role)) == 1
        assert client.get_secret("app/db")


def test_a_child_logs_in_for_itself_and_only_when_it_reads(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """One login for each process that reads; none for one that does not."""
    with VaultClient(vault_proxy.url, cache_ttl=0, **vault_lab.role().arguments()) as client:
        _result(_in_child(lambda: None))
        assert vault_proxy.count("/login") == 1
        _result(_in_child(lambda: [client.get_secret("app/db") for _ in range(3)]))

        assert vault_proxy.count("/login") == 2


def test_a_fork_in_the_midst_of_other_threads_reads_deadlocks_nobody(
    vault_lab: VaultLab,
) -> None:
    """Locks that other threads held at the fork are new in the child."""
    with VaultClient(vault_lab.url, vault_lab.token(), cache_ttl=0.001, environ={}) as client:
        stop = threading.Event()

        def read_on() -> None:
            while not stop.is_set():
                client.get_secret("app/db")

        threads = [threading.Thread(target=read_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                child = _in_child(lambda: client.get_secret("app/db")["url"])
                assert _result(child) == "postgresql://app"
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)
