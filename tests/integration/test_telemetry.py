"""Spans and metrics of the three clients, as OpenTelemetry's in-memory exporters get them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from utils.local_stack import StackEndpoints

ROOT = Path(__file__).parents[2]
# In a process of its own: a provider can be set once.
PROGRAM = """
import json, os, sys, threading
from uuid import UUID
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from clients import ClientError, PostgresClient, ValkeyClient, VaultClient

exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))
if sys.argv[1] == "on":
    for one in (PsycopgInstrumentor, RedisInstrumentor, RequestsInstrumentor):
        one().instrument()
tracer = trace.get_tracer("the application")
ADA = UUID(int=1, version=4)
database, valkey_url = json.loads(sys.stdin.readline())

def failing(call):
    try:
        call()
    except ClientError:
        pass

vault = VaultClient()
db = PostgresClient(database, 2)
valkey = ValkeyClient(valkey_url)
exporter.clear()
with tracer.start_as_current_span("request"):
    vault.get_secret("crm/database", use_cache=False)
    failing(lambda: vault.get_secret("crm/sentinel-path"))
    db.execute("SELECT %s AS sentinel", ("sentinel-value",), ADA)
    failing(lambda: db.execute("SELECT 1/0", (), ADA))
    db.execute_many("UPDATE contacts SET name = %s", [("sentinel-value",), ("b",)], ADA)
    with db.connection(ADA) as conn:
        conn.execute("SELECT 2")
        with tracer.start_as_current_span("part"):
            conn.execute("SELECT 3")
        db.execute("SELECT 4", (), ADA)
    valkey.set("sentinel-key", "sentinel-value")
    valkey.incr("sentinel-count", expire_seconds=60)
    failing(lambda: valkey.incr("sentinel-key"))
    with valkey.pipeline() as pipe:
        pipe.get("sentinel-key").delete("sentinel-key")
threads = [threading.Thread(target=db.execute, args=("SELECT 5", (), ADA)) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
names = {s.context.span_id: s.name for s in exporter.get_finished_spans()}
spans = [
    [s.name, s.kind.name, names.get(s.parent.span_id) if s.parent else None, dict(s.attributes),
     s.status.status_code.name, [e.name for e in s.events], s.status.description]
    for s in exporter.get_finished_spans()
]
points = {}
for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics:
    if scope.scope.name == "failfast-clients":
        for metric in scope.metrics:
            points[metric.name] = [dict(p.attributes) for p in metric.data.data_points]
print(json.dumps({"spans": spans, "points": points}))
for client in (valkey, db, vault): client.close()
"""


@pytest.fixture(scope="module", params=["off", "on"])
def recorded(request: pytest.FixtureRequest, stack: StackEndpoints) -> dict[str, Any]:
    """What one program's telemetry says, with the drivers' own instrumentation off and on."""
    import os  # noqa: PLC0415 - the child's environment alone

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, request.param],
        cwd=ROOT,
        env={**os.environ, **stack.environment()},
        input=json.dumps([stack.database_url, stack.valkey_url]) + "\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_call_is_one_span_below_the_callers(recorded: dict[str, Any]) -> None:
    """No statement twice, none missing, whatever instruments the drivers."""
    tree = [(name, parent) for name, kind, parent, *_ in recorded["spans"] if kind == "CLIENT"]

    assert tree == [
        ("vault read", "request"),
        ("vault read", "request"),
        ("crm", "request"),
        ("crm", "request"),
        ("crm", "request"),
        ("crm", "TRANSACTION crm"),
        ("crm", "part"),
        ("crm", "TRANSACTION crm"),
        ("TRANSACTION crm", "request"),
        ("SET", "request"),
        ("EVALSHA", "request"),
        ("INCRBY", "request"),
        ("PIPELINE", "request"),
        ("crm", None),
        ("crm", None),
        ("crm", None),
    ]


def test_attributes_are_the_conventions(recorded: dict[str, Any]) -> None:
    """System, namespace, server and text with placeholders; codes of what failed."""
    spans = recorded["spans"]
    texts = [one[3].get("db.query.text") for one in spans if one[0] == "crm"]
    failed = [one[3] for one in spans if one[4] == "ERROR"]
    execute = next(one[3] for one in spans if one[0] == "crm")
    batch = [one[3] for one in spans if "db.operation.batch.size" in one[3]]
    script = next(one[3] for one in spans if one[0] == "EVALSHA")

    assert texts[:3] == ["SELECT %s AS sentinel", "SELECT ?/?", "UPDATE contacts SET name = %s"]
    assert (execute["db.system.name"], execute["db.namespace"]) == ("postgresql", "crm")
    assert (execute["server.address"], execute["db.response.returned_rows"]) == ("127.0.0.1", 1)
    assert [one["db.operation.batch.size"] for one in batch] == [2, 2]
    assert [one["error.type"] for one in failed] == ["404", "22012", "ERR"]
    assert len(script["db.stored_procedure.name"]) == 40


def test_nothing_personal_and_no_message_is_in_it(recorded: dict[str, Any]) -> None:
    """No value, key, secret path or text of an error, in attributes, events and statuses."""
    text = json.dumps(recorded).replace("SELECT %s AS sentinel", "")

    assert "sentinel" not in text
    assert [one for one in recorded["spans"] if one[5] or one[6]] == []


def test_pools_and_durations_are_measured(recorded: dict[str, Any]) -> None:
    """One duration for each kind of call, and what the pool has."""
    points = recorded["points"]
    states = {
        (one["db.client.connection.pool.name"], one["db.client.connection.state"])
        for one in points["db.client.connection.count"]
    }

    assert {"postgresql", "redis", "vault"} == {
        one["db.system.name"] for one in points["db.client.operation.duration"]
    }
    assert states >= {("postgres", "idle"), ("postgres", "used")}
    assert {
        *("db.client.connection.max", "db.client.connection.idle.max"),
        *("db.client.connection.idle.min", "db.client.connection.pending_requests"),
        *("db.client.connection.timeouts", "db.client.connection.wait_time"),
        *("db.client.connection.use_time",),
    } <= set(points)
