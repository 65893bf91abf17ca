"""In a cluster each command finds its server, also while slots move and servers die."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pytest
from redis.crc import key_slot

from clients._valkey.cached import lock_name
from clients._valkey.pool import Batch
from clients.errors import ValkeyConnectionError
from clients.valkey_client import SessionStore, ValkeyClient, ValkeyError
from tests.valkey_helpers import at_once
from tests.valkey_topologies import PASSWORD, ClusterServer, ClusterTopology, admin, wait_until
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def topology() -> Iterator[ClusterTopology]:
    """One cluster for the tests here; the one that kills a primary is the last."""
    with ClusterTopology() as started:
        yield started


@pytest.fixture
def client(topology: ClusterTopology) -> Iterator[ValkeyClient]:
    """A client that was told two of the six servers."""
    with ValkeyClient(topology.url, connect_timeout=1, socket_timeout=1) as opened:
        yield opened


def test_keys_of_all_slots_work(client: ValkeyClient) -> None:
    """Single-key operations go to the server that holds the key."""
    for number in range(300):
        assert client.set(f"k{number}", str(number)) is True
        assert client.incr(f"n{number}", 1, 60) == 1

    assert [client.get(f"k{number}") for number in range(300)] == [str(n) for n in range(300)]
    assert client.health_check() is True
    assert client.server_version().startswith("valkey ")


def test_a_pipeline_spans_the_cluster(client: ValkeyClient) -> None:
    """Results come in the order of the commands, whichever servers answered."""
    pipe = client.pipeline()
    for number in range(200):
        pipe.set(f"p{number}", str(number)).get(f"p{number}")

    assert pipe.execute() == [one for number in range(200) for one in (True, str(number))]


def test_keys_with_one_hash_tag_go_together(client: ValkeyClient) -> None:
    """Multi-key operations take keys of one slot."""
    client.set_many({"{42}a": "1", "{42}b": "2"}, 60)

    assert client.get_many(["{42}a", "{42}b"]) == {"{42}a": "1", "{42}b": "2"}
    assert client.delete_many(["{42}a", "{42}b"]) == 2


def _noting(order: list[str], step: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
    def noted(batch: Batch) -> Any:
        order.append(step.__name__)
        return step(batch)

    return noted


def test_many_keys_of_all_slots_are_read_at_once(
    client: ValkeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each server gets one batch, and all have theirs before the first reply is read."""
    names = [f"many-{number}" for number in range(300)]
    for name in names:
        client.set(name, name)
    order: list[str] = []
    for name in ("send", "receive"):
        monkeypatch.setattr(Batch, name, _noting(order, getattr(Batch, name)))

    assert client.get_many([*names, "absent"]) == {**{n: n for n in names}, "absent": None}
    assert order == ["send"] * 3 + ["receive"] * 3
    client.client.rpush("many-list", "x")
    with pytest.raises(ValkeyError, match=r"'many-list'.*WRONGTYPE"):
        client.get_many([*names, "many-list"])


def test_a_node_s_plain_url_is_told_as_what_it_is(topology: ClusterTopology) -> None:
    """Not a bare MOVED: the message says what to write."""
    url = f"redis://:{PASSWORD}@127.0.0.1:{topology.servers[0].port}"
    moved = next(f"k{n}" for n in range(100) if key_slot(f"k{n}".encode()) > 5460)
    with ValkeyClient(url) as client, pytest.raises(ValkeyError) as caught:
        client.get(moved)

    assert caught.value.code == "MOVED"
    assert "a node of a cluster: write redis+cluster://" in str(caught.value)


def test_keys_of_several_slots_are_refused(client: ValkeyClient) -> None:
    """The message says what a hash tag is, and nothing was written."""
    with pytest.raises(ValkeyError, match=r"different slots.*hash tag") as caught:
        client.set_many({"a": "1", "b": "2", "c": "3"})

    assert caught.value.code == "CROSSSLOT"
    assert not client.exists("a")


def test_the_building_blocks_work(client: ValkeyClient) -> None:
    """Rate limits, sessions and cache-aside each stay within one slot."""
    store = SessionStore(client)
    for number in range(20):
        token = store.create(f"user-{number}")
        session = store.read(token)
        assert session is not None
        assert store.revoke_all(session.user_id) == 1
        assert client.rate_limit(f"limit-{number}", 1, 60).allowed
        assert client.cached(f"cached-{number}", 60, lambda: 5) == 5
        assert client.cached(f"cached-{{{number}}}", 60, lambda: 6) == 6


@pytest.mark.parametrize("key", ["a}b", "report:{}", "{}", "a{b", "{a}{b}"])
def test_any_key_can_be_cached(client: ValkeyClient, key: str) -> None:
    """Braces that are no hash tag do not part a value from its lock."""
    assert client.cached(key, 60, lambda: key) == key


def test_a_pipeline_with_bytes_is_executed_on_all_servers(client: ValkeyClient) -> None:
    """A value that is no text on one server fails its own command only."""
    client.client.set("raw", b"\xff")
    names = [f"beside{number}" for number in range(20)]
    pipe = client.pipeline().get("raw")
    for name in names:
        pipe.incr(name)

    with pytest.raises(ValkeyError, match=r"GET 'raw'.*not UTF-8.*1 of 21"):
        pipe.execute()
    assert [client.get(name) for name in names] == ["1"] * 20


def test_an_exhausted_pool_waits_once(topology: ClusterTopology) -> None:
    """A place that is not to be had is no reason to look for another server."""
    with ValkeyClient(topology.url, max_connections=1, pool_timeout=1.0) as client:
        link: Any = client.runner.link
        pool = link._pool(link._owner(0))
        held = pool.take()
        start = time.monotonic()
        with pytest.raises(ValkeyConnectionError, match="all 1 connections"):
            client.get(_name_in_slots_of_the_first())
        assert 0.9 < time.monotonic() - start < 1.9
        assert not link._suspects
        held.disconnect()


def test_a_server_that_left_the_cluster_is_passed_over(topology: ClusterTopology) -> None:
    """One that knows no slot may stand first in the URL: the others are asked."""
    with ClusterServer(password=PASSWORD) as alone:
        url = topology.url.replace("@", f"@127.0.0.1:{alone.port},")
        with ValkeyClient(url) as client:
            assert client.set("a", "x") is True
            assert client.health_check() is True


def test_the_plain_driver_is_a_cluster_s(client: ValkeyClient) -> None:
    """client.client reaches every slot."""
    for number in range(20):
        client.set(f"d{number}", "x")

        assert client.client.get(f"d{number}") == "x"
    client.client.set("bytes", b"\xff")
    with pytest.raises(ValkeyError, match="not UTF-8"):
        client.client.get("bytes")


def test_a_forked_child_has_its_own_connections(client: ValkeyClient) -> None:
    """The child talks to all servers over sockets of its own."""
    names = [f"f{number}" for number in range(30)]
    for name in names:
        client.set(name, name)
    child = os.fork()
    if child == 0:
        good = all(client.get(name) == name for name in names * 5)
        os._exit(0 if good else 1)
    good = all(client.get(name) == name for name in names * 5)
    _, code = os.waitpid(child, 0)

    assert good
    assert code == 0


@pytest.mark.parametrize("work", ["close", "client"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_child_does_not_wait_for_locks_of_its_parent_s_threads(
    topology: ClusterTopology, work: str
) -> None:
    """A slow source of URLs holds two of them at the fork; nobody in the child releases them."""
    asked, answer, parent = threading.Semaphore(0), threading.Event(), os.getpid()
    answer.set()

    def url() -> str:
        if os.getpid() == parent:
            asked.release()
            assert answer.wait(20)
        return topology.url

    with ValkeyClient(url) as client, ThreadPoolExecutor(2) as threads:
        answer.clear()
        while asked.acquire(blocking=False):
            pass
        client.runner.link._stale = True  # type: ignore[attr-defined]  # a cluster's
        calls: list[Future[Any]] = [
            threads.submit(client.exists, "a"),
            threads.submit(lambda: client.client),
        ]
        for _ in calls:
            assert asked.acquire(timeout=10)
        child = os.fork()
        if child == 0:
            # A child that hangs ends itself.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(15)
            code = 1
            try:
                if work == "client":
                    client.client.exists("a")
                client.close()
                code = 0
            finally:
                os._exit(code)
        answer.set()
        _, code = os.waitpid(child, 0)
        for call in calls:
            call.result(20)

    assert code == 0


def test_a_moving_slot_loses_nothing(client: ValkeyClient, topology: ClusterTopology) -> None:
    """While a slot moves from one server to another, every call works, and counts once."""
    tag = "{moving}"
    slot = key_slot(b"moving")
    from_number = 0 if slot <= 5460 else 1 if slot <= 10922 else 2
    to_number = (from_number + 1) % 3
    names = [f"{tag}{number}" for number in range(50)]
    for name in names:
        client.set(name, "0")
    stop = threading.Event()
    counts = dict.fromkeys(names, 0)

    def count() -> None:
        while not stop.is_set():
            for name in names:
                counts[name] += 1
                assert client.incr(name) == counts[name]

    errors: list[BaseException] = []

    def counted() -> None:
        try:
            count()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            errors.append(error)

    thread = threading.Thread(target=counted)
    thread.start()
    source, sink = topology.servers[from_number], topology.servers[to_number]
    with admin(source.port) as old, admin(sink.port) as new:
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", topology.ids[from_number])
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", topology.ids[to_number])
        for name in names:
            old.migrate("127.0.0.1", sink.port, name, 0, 5000, auth=PASSWORD)
        for asked in (new, old):
            asked.execute_command("CLUSTER SETSLOT", slot, "NODE", topology.ids[to_number])
    time.sleep(0.2)
    stop.set()
    thread.join()

    assert errors == []
    assert {name: client.get(name) for name in names} == {n: str(c) for n, c in counts.items()}


def test_a_move_that_stands_still_is_an_outage_and_no_wrong_url(
    client: ValkeyClient, topology: ClusterTopology
) -> None:
    """A server names another one for a key, and that one names the first again."""
    key = next(n for n in map("stuck-{}".format, range(100)) if key_slot(n.encode()) <= 5460)
    slot = key_slot(key.encode())
    client.set(key, "x")
    with admin(topology.servers[0].port) as old:
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", topology.ids[1])
        try:
            assert client.get(key) == "x"
            client.delete(key)
            with pytest.raises(ValkeyConnectionError, match="still moving") as caught:
                client.get(key)
            limit = client.rate_limit(key, 5, 1.0, on_unavailable="deny")
        finally:
            old.execute_command("CLUSTER SETSLOT", slot, "STABLE")

    assert caught.value.code == "CLUSTERDOWN"
    assert limit.without_server
    assert client.rate_limit(key, 5, 1.0).allowed


@contextmanager
def _moving(topology: ClusterTopology, tag: str) -> Iterator[Callable[..., None]]:
    """Let the slot of *tag* be on its way to another server; yield what takes keys there."""
    slot = key_slot(tag.encode())
    source, sink = topology.servers[0], topology.servers[1]
    with admin(source.port) as old, admin(sink.port) as new:
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", topology.ids[0])
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", topology.ids[1])

        def carry(*names: str) -> None:
            for name in names:
                assert old.migrate("127.0.0.1", sink.port, name, 0, 5000, auth=PASSWORD) == "OK"

        try:
            yield carry
        finally:
            carry(*old.execute_command("CLUSTER GETKEYSINSLOT", slot, 1000))
            for asked in (new, old):
                asked.execute_command("CLUSTER SETSLOT", slot, "NODE", topology.ids[1])


@pytest.fixture
def tag(topology: ClusterTopology) -> str:
    """A hash tag whose slot is the first server's, and is empty."""
    with admin(topology.servers[0].port) as first:
        owned = first.execute_command("CLUSTER SLOTS")
        slots = {
            n
            for start, end, *who in owned
            for n in range(start, end + 1)
            if who[0][1] == topology.servers[0].port
        }
        return next(
            one
            for one in map("{{t{}}}".format, itertools.count())
            if (slot := key_slot(one.encode())) in slots
            and first.execute_command("CLUSTER COUNTKEYSINSLOT", slot) == 0
        )


def test_keys_that_are_parted_by_a_move_are_read(topology: ClusterTopology, tag: str) -> None:
    """While a slot moves, MGET of its keys is refused: each is read alone, without a wait."""
    names = [f"{tag}{number}" for number in range(4)]
    # The time-out of a reply, for which a command of several keys would wait.
    with ValkeyClient(topology.url, socket_timeout=60) as client:
        for name in names:
            client.set(name, name)
        with _moving(topology, tag) as carry:
            carry(*names[:2])
            start = time.monotonic()
            found = client.get_many([*names, f"{tag}missing"])
            took = time.monotonic() - start

        assert found == {name: name for name in names} | {f"{tag}missing": None}
        assert took < client.runner.limits.socket_timeout


@pytest.mark.parametrize("policy", ["raise", "produce"])
def test_entries_are_cached_while_their_slot_moves(
    client: ValkeyClient,
    topology: ClusterTopology,
    tag: str,
    policy: Literal["raise", "produce"],
) -> None:
    """A value and its lock lie apart, or are not there: both are found, and produced once."""
    made: list[str] = []

    def produce(name: str, seconds: float = 0.0) -> str:
        time.sleep(seconds)
        made.append(name)
        return name

    def cached(name: str) -> Any:
        return client.cached(f"{tag}{name}", 60, lambda: produce(name), on_unavailable=policy)

    with ValkeyClient(topology.url) as other:
        for name in ("staying", "moved", "due"):
            cached(name)
        client.expire(f"{tag}due", 3)
        made.clear()
        with _moving(topology, tag) as carry:
            carry(f"{tag}moved")
            results = [cached(name) for name in ("staying", "moved", "due", "new", "new")]
            slow = at_once(
                8,
                lambda: [
                    one.cached(f"{tag}slow", 60, lambda: produce("slow", 0.3))
                    for one in (client, other)
                ],
            )
            with pytest.raises(ZeroDivisionError):
                client.cached(f"{tag}failing", 60, lambda: 1 / 0, on_unavailable=policy)
            again = cached("failing")
            left = [client.exists(lock_name("", f"{tag}{name}")) for name in ("new", "failing")]
        after = [cached(name) for name in ("staying", "moved", "due", "new", "failing")]

    assert results == ["staying", "moved", "due", "new", "new"]
    assert (again, left) == ("failing", [False, False])
    assert slow == [["slow", "slow"]] * 8
    assert made == ["due", "new", "slow", "failing"]
    assert after == ["staying", "moved", "due", "new", "failing"]
    assert client.ttl(f"{tag}due") > 50


def test_a_value_of_a_lost_lock_is_not_stored_while_its_slot_moves(
    client: ValkeyClient, topology: ClusterTopology, tag: str
) -> None:
    """Whoever produced in the meantime is not overwritten."""
    name = f"{tag}entry"

    def slow() -> str:
        client.delete(lock_name("", name))
        client.set_json(name, "newer", 60)
        return "older"

    with _moving(topology, tag):
        assert client.cached(name, 60, slow) == "older"
        assert client.get_json(name) == "newer"


def test_limits_and_sessions_work_while_their_slot_moves(
    client: ValkeyClient, topology: ClusterTopology, tag: str
) -> None:
    """Each is one key, which is on either server, or not there yet."""
    store = SessionStore(client, namespace=tag)
    tokens = {user: store.create(user, {"n": 0}) for user in ("staying", "moved")}
    session = store.read(tokens["moved"])
    assert session is not None
    limits = [f"{tag}limit-{name}" for name in ("staying", "moved", "new")]
    for name in limits[:2]:
        client.rate_limit(name, 3, 3600)
    with _moving(topology, tag) as carry:
        carry(limits[1], store._place(tokens["moved"]).key)  # type: ignore[union-attr]
        left = [client.rate_limit(name, 3, 3600).remaining for name in limits]
        tokens["new"] = store.create("new", {"n": 0})
        for user, token in tokens.items():
            assert store.update(token, {"n": 1}) is not None
            session = store.read(token)
            assert session is not None
            assert (session.user_id, session.data) == (user, {"n": 1})
            assert [one.id for one in store.list(user)] == [session.id]
        assert store.revoke(tokens["moved"])
        assert store.revoke_all("staying") == 1
        assert store.read(tokens["moved"]) is store.read(tokens["staying"]) is None

    assert left == [1, 1, 2]
    assert store.read(tokens["new"]) is not None


def test_changes_of_several_keys_wait_for_the_end_of_a_move(
    client: ValkeyClient, topology: ClusterTopology, tag: str
) -> None:
    """They are one step, which no server can do before that; then they are done."""
    names = [f"{tag}{number}" for number in range(4)]
    for name in names:
        client.set(name, name)
    with ThreadPoolExecutor(3) as threads:
        with _moving(topology, tag) as carry:
            carry(*names[:2])
            calls: list[Future[Any]] = [
                threads.submit(client.delete_many, names),
                threads.submit(client.set_many, {f"{tag}a": "1", f"{tag}b": "2"}),
                threads.submit(client.set_many, {f"{tag}c": "1", f"{tag}d": "2"}, 60),
            ]
            time.sleep(0.2)
            waited = [not call.done() for call in calls]
        results = [call.result(20) for call in calls]

    assert waited == [True] * 3
    assert results == [4, None, None]
    written = {f"{tag}{one}": value for one, value in zip("abcd", "1212", strict=True)}
    assert client.get_many([*names, *written]) == dict.fromkeys(names) | written


def test_changes_of_several_keys_wait_no_longer_than_for_a_reply(
    client: ValkeyClient, topology: ClusterTopology, tag: str
) -> None:
    """A move that stands still: nothing was changed, and the error says so."""
    names = [f"{tag}{number}" for number in range(4)]
    for name in names:
        client.set(name, name)
    with _moving(topology, tag) as carry:
        carry(*names[:2])
        start = time.monotonic()
        with pytest.raises(ValkeyError, match="being moved") as caught:
            client.delete_many(names)
        took = time.monotonic() - start
        found = client.get_many(names)

    assert (caught.value.code, caught.value.maybe_applied) == ("TRYAGAIN", False)
    assert found == {name: name for name in names}
    timeout = client.runner.limits.socket_timeout
    assert timeout <= took < 3 * timeout


def test_a_single_server_is_no_cluster() -> None:
    """The server's own words come out at construction."""
    with ValkeyServer(password=PASSWORD) as server:
        url = server.url.replace("redis://", "redis+cluster://").removesuffix("/0")
        with pytest.raises(ValkeyConnectionError, match="cluster support disabled"):
            ValkeyClient(url)


def test_a_cluster_that_serves_no_slot_is_refused_and_left() -> None:
    """The connections of a failed construction are closed, also while its error is kept."""
    with ClusterServer(password="") as server:
        with pytest.raises(ValkeyConnectionError, match="served by nobody") as kept:
            ValkeyClient(f"redis+cluster://127.0.0.1:{server.port}")
        with admin(server.port, None) as asked:
            wait_until("only our own", lambda: int(asked.info()["connected_clients"]) == 1, 5)

    assert kept.value.code == "CLUSTERDOWN"


def test_no_node_is_a_clear_error(closed_port: int) -> None:
    """Nobody listens: refused, at once."""
    start = time.monotonic()
    with pytest.raises(ValkeyConnectionError, match="refused"):
        ValkeyClient(f"redis+cluster://127.0.0.1:{closed_port}")

    assert time.monotonic() - start < 1


def _name_in_slots_of_the_first() -> str:
    return next(f"marker-{n}" for n in range(100) if key_slot(f"marker-{n}".encode()) <= 5460)


def test_a_killed_primary_is_replaced(client: ValkeyClient, topology: ClusterTopology) -> None:
    """Its slots fail clearly until its replica takes over; no value is read as another's."""
    names = [f"value-{number}" for number in range(300)]
    for name in names:
        client.set(name, name)
    with admin(topology.servers[0].port) as asked:
        # WAIT is for the writes of its own connection, and those before them.
        asked.set(_name_in_slots_of_the_first(), "x")
        wait_until("its replica has all of them", lambda: asked.wait(1, 1000) == 1)
    topology.let_fail_over()
    topology.servers[0].stop(signal.SIGKILL)
    failures = []
    end, working = time.monotonic() + 120, 0
    while working < len(names):
        assert time.monotonic() < end
        working = 0
        for name in names:
            try:
                assert client.get(name) == name
                working += 1
            except ValkeyError as error:
                failures.append(error)
                time.sleep(0.02)
    results = at_once(8, lambda: [client.set(name, name) for name in names])

    assert failures
    assert all("value-" in str(error) for error in failures)
    assert results == [[True] * len(names)] * 8
    assert client.health_check() is True
