"""Spans and metrics of the three clients, as OpenTelemetry's in-memory exporters get them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, urlsplit

import pytest

from clients.postgres_client import PostgresClient
from clients.valkey_client import ValkeyClient
from clients.vault_client import VaultClient
from tests.pgbouncer_server import PgBouncerServer
from tests.telemetry_program import SECRETS, run_program
from tests.valkey_topologies import ClusterTopology, SentinelTopology

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils._stack.postgres import PostgresServer
    from utils.local_stack import StackEndpoints

#: What a span of the application has below it; a list is a span with spans of its own.
Tree = dict[str, list[Any]]

_BLOCK = "TRANSACTION crm"
#: For each public call its spans, whatever instruments the drivers.
CALLS: Tree = {
    "vault.get_secret": ["vault read"],
    "vault.get_secret cached": [],
    "vault.get_secret missing": ["vault read"],
    "vault.list_secrets": ["vault list"],
    "vault.secret_age": ["vault read"],
    "vault.get_database_url": ["vault read"],
    "vault.get_valkey_url": ["vault read"],
    "vault.health_check": ["vault health", "vault token"],
    "vault.server_version": ["vault health"],
    "postgres.execute": ["crm"],
    "postgres.execute failing": ["crm"],
    "postgres.execute literal": ["crm"],
    "postgres.execute mixed": ["crm"],
    "postgres.execute ambient": ["crm"],
    "postgres.execute_one": ["crm"],
    "postgres.execute_scalar": ["crm"],
    "postgres.execute_many": ["crm"],
    "postgres.execute_admin": ["crm"],
    "postgres.bulk_insert": [[_BLOCK, *["crm"] * 5]],
    "postgres.connection": [
        [_BLOCK, "crm", "crm", [_BLOCK, "crm"], "crm", "crm", "crm"],
        ["part", "crm"],
    ],
    "postgres.connection failing": [[_BLOCK, "crm"]],
    "postgres.admin_connection": [[_BLOCK, "crm"]],
    "postgres.run_transaction": [[_BLOCK, "crm"]],
    "postgres.stream": [[_BLOCK, "crm"]],
    "postgres.health_check": ["health_check crm"],
    "postgres.server_version": ["server_version crm"],
    "postgres.check_rls": ["check_rls crm"],
    "valkey.set": ["SET"],
    "valkey.get": ["GET"],
    "valkey.incr": ["INCRBY"],
    "valkey.incr expiring": ["EVALSHA"],
    "valkey.incr failing": ["INCRBY"],
    "valkey.expire": ["EXPIRE"],
    "valkey.ttl": ["TTL"],
    "valkey.exists": ["EXISTS"],
    "valkey.set_json": ["SET"],
    "valkey.get_json": ["GET"],
    "valkey.set_many": ["MSET"],
    "valkey.get_many": ["PIPELINE"],
    "valkey.delete_many": ["DEL"],
    "valkey.delete": ["DEL"],
    "valkey.pipeline": ["PIPELINE"],
    "valkey.rate_limit": ["EVALSHA"],
    "valkey.cached": ["EVALSHA"] * 3,
    "valkey.sessions": ["EVALSHA"] * 3,
    "valkey.health_check": ["PING"],
    "valkey.server_version": ["INFO"],
}
#: These talk to no server, or to one through a method above, or through the driver.
_SILENT = {
    *("addr", "behind_pooler", "begin_block", "cache_stats", "clear_cache", "client", "close"),
    *("credential_life", "key_prefix", "leased_url", "server", "stats"),
    *("get_api_key", "get_database_admin_url", "get_database_credentials", "get_email_credentials"),
    "prove_isolation",
}


def tree_of(spans: list[dict[str, Any]]) -> Tree:
    """Return what is below the application's outermost spans."""
    below: dict[int | None, list[Any]] = {}
    for one in spans:
        below.setdefault(one["parent"], []).append(one)

    def branch(span: dict[str, Any]) -> Any:
        inner = [branch(one) for one in below.get(span["id"], [])]
        return [span["name"], *inner] if inner else span["name"]

    roots = [one for one in below[None] if one["kind"] == "INTERNAL"]
    return {one["name"]: [branch(inner) for inner in below.get(one["id"], [])] for one in roots}


@pytest.fixture(scope="module")
def given(stack: StackEndpoints) -> dict[str, str]:
    return {"database": stack.database_url, "admin": stack.admin_url, "valkey": stack.valkey_url}


@pytest.fixture(scope="module", params=["off", "on"])
def calls(
    request: pytest.FixtureRequest, stack: StackEndpoints, given: dict[str, str]
) -> dict[str, Any]:
    """What each public call records, with the drivers' own instrumentation off and on."""
    instrumented = request.param == "on"
    return run_program("calls", given, instrumented=instrumented, environ=stack.environment())


def test_every_call_is_one_span_below_the_callers(calls: dict[str, Any]) -> None:
    """No statement twice and none missing; joined blocks and spans of the caller in between."""
    assert tree_of(calls["spans"]) == CALLS
    assert [one["kind"] for one in calls["spans"] if one["parent"]] == [
        "INTERNAL" if one["name"] == "part" else "CLIENT" for one in calls["spans"] if one["parent"]
    ]
    # Those of the threads, which have no span of the caller's.
    assert [one["name"] for one in calls["spans"][-3:]] == ["crm"] * 3
    assert [one["parent"] for one in calls["spans"][-3:]] == [None] * 3


@pytest.mark.parametrize(
    ("client", "name"),
    [(VaultClient, "vault"), (PostgresClient, "postgres"), (ValkeyClient, "valkey")],
)
def test_no_public_method_is_left_out_here(client: type, name: str) -> None:
    """Whatever talks to a server stands in the tree above."""
    public = {one for one in dir(client) if not one.startswith("_")} - _SILENT
    assert public == {key.split(".")[1].split()[0] for key in CALLS if key.startswith(name)} - {
        "sessions"
    }


def test_attributes_are_the_conventions(calls: dict[str, Any]) -> None:
    """System, namespace, server, text with placeholders; codes of what failed."""
    attributes = {
        one["parent_name"]: one["attributes"] for one in calls["spans"] if one["kind"] == "CLIENT"
    }
    execute = attributes["postgres.execute"]
    assert (execute["db.system.name"], execute["db.namespace"]) == ("postgresql", "crm")
    assert (execute["server.address"], execute["db.response.returned_rows"]) == ("127.0.0.1", 1)
    assert execute["db.query.text"] == "SELECT %s"
    assert attributes["postgres.execute literal"]["db.query.text"] == "SELECT ?"
    mixed = attributes["postgres.execute mixed"]["db.query.text"]
    assert mixed == "SELECT %s AS a, ? AS b LIMIT 2 "
    assert attributes["postgres.execute_admin"]["db.query.text"] == "SELECT ?"
    assert attributes["postgres.execute_many"]["db.operation.batch.size"] == 2
    failed = attributes["postgres.execute failing"]
    assert (failed["error.type"], failed["db.response.status_code"]) == ("22012", "22012")
    assert "db.operation.name" not in execute
    get = attributes["valkey.get"]
    assert (get["db.system.name"], get["db.namespace"]) == ("redis", "0")
    assert (get["db.operation.name"], get["network.peer.address"]) == ("GET", "127.0.0.1")
    assert get["network.peer.port"] == get["server.port"]
    assert "db.query.text" not in get
    assert attributes["valkey.incr failing"]["db.response.status_code"] == "ERR"
    assert len(attributes["valkey.rate_limit"]["db.stored_procedure.name"]) == 40
    assert attributes["valkey.pipeline"]["db.operation.batch.size"] == 2
    missing = attributes["vault.get_secret missing"]
    assert (missing["error.type"], missing["http.response.status_code"]) == ("404", 404)
    assert attributes["vault.get_secret"]["http.request.method"] == "GET"
    # Retired names of the conventions would be counted beside the stable ones.
    old = {"db.system", "db.statement", "db.name", "db.operation", "net.peer.name", "db.user"}
    assert [one for one in calls["spans"] if old & set(one["attributes"])] == []


def test_nothing_personal_and_no_message_is_in_it(
    calls: dict[str, Any], stack: StackEndpoints
) -> None:
    """No value, key, secret path, literal, credential or text of an error anywhere."""
    urls = (stack.database_url, stack.admin_url, stack.valkey_url)
    own = [urlsplit(url).password or "" for url in urls]
    own += [stack.vault_token, stack.secret_id, stack.role_id, *urls]
    forms = {
        form
        for one in filter(None, (*SECRETS, *own))
        for form in (one, quote(one), quote_plus(one))
    }
    # Apart from the numbers of spans, which may hold any digits.
    text = json.dumps([{**one, "id": "", "parent": ""} for one in calls["spans"]])
    text += json.dumps(calls["points"])

    assert [text[text.index(one) - 90 :][:200] for one in forms if one in text] == []
    assert [one for one in calls["spans"] if one["events"] or one["description"]] == []


def test_pools_and_durations_are_measured(calls: dict[str, Any]) -> None:
    """A duration of each kind of call, what each pool has, and what the cache did."""
    points = calls["points"]
    pools = {"postgres", "postgres admin", "valkey"}
    pool, state = "db.client.connection.pool.name", "db.client.connection.state"
    for name in ("max", "idle.max", "idle.min", "pending_requests", "timeouts"):
        assert {one[pool] for one in points[f"db.client.connection.{name}"]} == pools, name
    for name in ("wait_time", "use_time"):
        assert {one[pool] for one in points[f"db.client.connection.{name}"]} == pools, name
        assert {one["unit"] for one in points[f"db.client.connection.{name}"]} == {"s"}
    counted = {
        (one[pool], one[state]): one["value"] for one in points["db.client.connection.count"]
    }
    assert {key for key, value in counted.items() if key[1] == "used" and value} == set()
    assert counted["postgres", "idle"] == 2
    assert {one[pool] for one in points["db.client.connection.create_time"]} >= {"valkey"}
    durations = points["db.client.operation.duration"]
    assert {one["db.system.name"] for one in durations} == {"postgresql", "redis", "vault"}
    assert {one["error.type"] for one in durations if "error.type" in one} == {
        "22012",
        "404",
        "ERR",
    }
    cache = {
        name: points[f"failfast.vault.cache.{name}"][0]["value"] for name in ("hits", "misses")
    }
    assert cache == {"hits": 1, "misses": 4}


@pytest.mark.pgbouncer
@pytest.mark.parametrize("instrumented", [False, True])
def test_a_pooler_adds_nothing(own_postgres: PostgresServer, *, instrumented: bool) -> None:
    """Behind PgBouncer the tree is the same, and the server's address is the pooler's."""
    with PgBouncerServer(own_postgres) as pooler:
        given = {"database": pooler.url()}
        spans = run_program("postgres", given, instrumented=instrumented, environ={})["spans"]

    assert tree_of(spans) == {
        "execute": ["crm"],
        "execute_many": ["crm"],
        "failing": ["crm"],
        "connection": [[_BLOCK, "crm", "crm"]],
    }
    assert {one["attributes"]["server.port"] for one in spans if one["parent"]} == {pooler.port}


@pytest.fixture(scope="module", params=["sentinel", "cluster"])
def topology(request: pytest.FixtureRequest) -> Iterator[SentinelTopology | ClusterTopology]:
    with SentinelTopology() if request.param == "sentinel" else ClusterTopology() as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("instrumented", [False, True])
def test_sentinels_and_clusters_add_nothing(
    topology: SentinelTopology | ClusterTopology, *, instrumented: bool
) -> None:
    """One span for each call, however many servers it reaches, which names who answered."""
    given = {"valkey": topology.url}
    spans = run_program("valkey", given, instrumented=instrumented, environ={})["spans"]

    assert tree_of(spans) == {
        "set": ["SET"],
        "get": ["GET"],
        "failing": ["INCRBY"],
        "rate_limit": ["EVALSHA"],
        "get_many": ["PIPELINE"],
        "pipeline": ["PIPELINE"],
        "health_check": ["PING"],
    }
    if isinstance(topology, SentinelTopology):
        servers = {topology.primary.port}
    else:
        servers = {one.port for one in topology.servers[:3]}
    single = [one for one in spans if one["name"] in {"SET", "GET", "INCRBY", "EVALSHA"}]
    assert {one["attributes"]["network.peer.port"] for one in single} <= servers
    assert "sentinel-" not in json.dumps([one["attributes"] for one in spans])


@pytest.mark.parametrize("instrumented", [False, True])
def test_a_forked_child_records_its_own(given: dict[str, str], *, instrumented: bool) -> None:
    """Its calls are below its own span, and the block that it has inherited is the parent's."""
    found = run_program("fork", given, instrumented=instrumented, environ={})

    assert tree_of(found["spans"]) == {"parent": [[_BLOCK, "crm", "crm"]]}
    child = [(one["name"], one["parent_name"]) for one in found["child"] if one["kind"] == "CLIENT"]
    assert child == [("crm", "child"), ("SET", "child")]


@pytest.mark.parametrize("instrumented", [False, True])
def test_transactions_of_sqlalchemy_are_blocks(
    given: dict[str, str], *, instrumented: bool
) -> None:
    """Each is a span with its statements below it, the first included; a rollback is no failure."""
    spans = run_program("sqlalchemy", given, instrumented=instrumented, environ={})["spans"]

    assert tree_of(spans) == {
        "commits": [[_BLOCK, "crm"], [_BLOCK, "crm"]],
        "rolls back": [[_BLOCK, "crm", "crm"]],
        "fails": [[_BLOCK, "crm"]],
        "nobody": [],
        "streams": [[_BLOCK, "crm"]],
    }
    failed = [
        (one["name"], one["attributes"]["error.type"])
        for one in spans
        if one["status"] == "ERROR" and one["kind"] == "CLIENT"
    ]
    assert failed == [("crm", "22012")]
    assert "sentinel-value" not in json.dumps(spans)


def test_rotations_are_counted_and_a_healed_call_is_one_span(
    given: dict[str, str], stack: StackEndpoints
) -> None:
    """Each credential's metric says how often it was replaced; both tries are in one span."""
    changed = {
        # The same server under other words: for the client another credential.
        "next database": f"{stack.database_url}?application_name=next",
        "next valkey": stack.valkey_url.removesuffix("/0") + "/1",
    }
    environ = {**stack.environment(), "VAULT_TOKEN": "", "VAULT_AUTH_METHOD": "approle"}
    found = run_program("rotation", given | changed, instrumented=True, environ=environ)

    rotations = found["points"]["failfast.credential.rotations"]
    assert {one.get("db.system.name"): one["value"] for one in rotations} == {
        "postgresql": 1,
        "redis": 1,
        None: 1,
    }
    remaining = found["points"]["failfast.credential.remaining"]
    assert [one["unit"] for one in remaining] == ["s"]
    names = [one["name"] for one in found["spans"] if one["parent_name"] == "healed"]
    assert sorted(names) == ["vault login", "vault read"]
