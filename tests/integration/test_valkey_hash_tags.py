"""In a cluster all keys of one call lie in one slot, whatever stands before them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from clients.errors import ValkeyConfigurationError
from clients.valkey_client import SessionStore, ValkeyClient
from tests.valkey_topologies import PASSWORD, ClusterServer, admin, wait_until
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

_BRACES = st.text("ab{}", max_size=6)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServer]:
    """One server that holds all slots: it refuses keys of several ones, as any cluster does."""
    with ClusterServer(password=PASSWORD) as server:
        with admin(server.port) as asked:
            asked.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            wait_until("the cluster is whole", lambda: _is_whole(asked.cluster("INFO")))
        yield server


def _is_whole(info: dict[str, str]) -> bool:
    return info["cluster_state"] == "ok"


def _url(server: ClusterServer) -> str:
    return f"redis+cluster://:{PASSWORD}@127.0.0.1:{server.port}"


def _use(client: ValkeyClient, key: str) -> None:
    """Use every method that touches several keys, or stores several values, for *key*."""
    assert client.cached(key, 60, lambda: key) == key
    assert client.rate_limit(f"limit:{key}", 3, 3600).remaining == 2
    store = SessionStore(client, namespace=key)
    token = store.create("ada", identity={"tenant_id": 7})
    assert store.update(token, {"a": 1}) is not None
    assert len(store.list("ada", identity={"tenant_id": 7})) == 1
    assert store.revoke_all("ada", identity={"tenant_id": 7}) == 1
    values = {"cart:{42}": "1", "user:{42}": "2"}
    client.set_many(values, 60)
    assert client.get_many(values) == values
    assert client.delete_many(values) == 2


@pytest.mark.slow
@given(prefix=_BRACES, key=_BRACES.filter(bool))
@example(prefix="app{", key="k")
@example(prefix="{}", key="k")
@example(prefix="{a}", key="{}")
@example(prefix="}", key="{b")
def test_an_accepted_prefix_parts_no_keys(cluster: ClusterServer, prefix: str, key: str) -> None:
    """Entry and lock, session, limit, keys with one hash tag; a prefix that does is refused."""
    with admin(cluster.port) as asked:
        asked.flushall()
    slots = {key_slot(f"{prefix}{one}".encode()) for one in ("cart:{42}", "user:{42}")}
    if len(slots) == 1:
        with ValkeyClient(_url(cluster), key_prefix=prefix) as client:
            _use(client, key)
    else:
        # They have one hash tag, and the prefix parts them.
        with pytest.raises(ValkeyConfigurationError, match=re.escape(repr(prefix))):
            ValkeyClient(_url(cluster), key_prefix=prefix)


def test_a_brace_matters_to_a_cluster_alone(cluster: ClusterServer) -> None:
    """The refusal says what to write instead; a single server takes any prefix."""
    with pytest.raises(ValkeyConfigurationError, match=r"key_prefix 'app\{'.*cluster.*'\{app\}:'"):
        ValkeyClient(_url(cluster), key_prefix="app{")
    with ValkeyServer() as server, ValkeyClient(server.url, key_prefix="app{") as client:
        _use(client, "k")
