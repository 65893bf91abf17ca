"""A program of its own for each test of telemetry: a provider can be set once in a process.

``python -m tests.telemetry_program SCENARIO on|off`` reads what it needs as JSON from its standard
input and prints what OpenTelemetry's in-memory exporters have got; ``on`` switches the drivers' own
instrumentation on as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["SECRETS", "run_program"]

ROOT = Path(__file__).parents[1]
ADA = UUID(int=1, version=4)
#: What is a value, a key, a path or a literal in what the scenarios do.
SECRETS = ("sentinel-value", "sentinel-key", "sentinel-path", "sentinel-literal", "99887766")


def run_program(
    scenario: str, given: Mapping[str, Any], *, instrumented: bool, environ: Mapping[str, str]
) -> dict[str, Any]:
    """Run a scenario in a process of its own, and return what was recorded.

    Args:
        scenario: Its name.
        given: What it needs.
        instrumented: Whether the drivers' own instrumentation is on.
        environ: Environment variables to add.
    """
    words = ["-W", "ignore::DeprecationWarning", "-m", "tests.telemetry_program", scenario]
    done = subprocess.run(
        [sys.executable, *words, "on" if instrumented else "off"],
        cwd=ROOT,
        env={**os.environ, **environ},
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Recorded:
    """The providers of this process, and what they have got."""

    def __init__(self, *, instrumented: bool) -> None:
        # Here, for the tests import this module.
        from opentelemetry import metrics, trace  # noqa: PLC0415
        from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor  # noqa: PLC0415
        from opentelemetry.instrumentation.redis import RedisInstrumentor  # noqa: PLC0415
        from opentelemetry.instrumentation.requests import RequestsInstrumentor  # noqa: PLC0415
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: PLC0415
            InMemorySpanExporter,
        )

        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([self.reader]))
        if instrumented:
            instrumentors: tuple[Any, ...] = (
                PsycopgInstrumentor(),
                RedisInstrumentor(),
                RequestsInstrumentor(),
            )
            for one in instrumentors:
                one.instrument()
        self.tracer = trace.get_tracer("the application")
        #: The clients: of one that is dropped no metric is read.
        self.clients: list[object] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Open a span of the application; a failure of ours inside it is swallowed."""
        from clients import ClientError  # noqa: PLC0415 - see __init__

        quiet: Any = {"record_exception": False, "set_status_on_exception": False}
        with suppress(ClientError), self.tracer.start_as_current_span(name, **quiet):
            yield

    def each(self, calls: Mapping[str, Callable[[], object]]) -> None:
        """Make each call in a span of the application that has its name."""
        for name, call in calls.items():
            with self.part(name):
                call()

    def spans(self) -> list[dict[str, Any]]:
        """Return all ended spans in the order of their beginnings."""
        ended = sorted(self.exporter.get_finished_spans(), key=lambda one: one.start_time or 0)
        names = {one.context.span_id: one.name for one in ended if one.context}
        return [
            {
                "name": one.name,
                "id": str(one.context.span_id) if one.context else "",
                "kind": one.kind.name,
                "parent": str(one.parent.span_id) if one.parent else None,
                "parent_name": names.get(one.parent.span_id) if one.parent else None,
                "attributes": dict(one.attributes or {}),
                "status": one.status.status_code.name,
                "description": one.status.description,
                "events": [[event.name, dict(event.attributes or {})] for event in one.events],
                "process": os.getpid(),
            }
            for one in ended
        ]

    def points(self) -> dict[str, list[dict[str, Any]]]:
        """Return our metrics: the attributes of each point, and its value or count."""
        found: dict[str, list[dict[str, Any]]] = {}
        data = self.reader.get_metrics_data()
        for scope in data.resource_metrics[0].scope_metrics if data else ():
            if scope.scope.name != "failfast-clients":
                continue
            for metric in scope.metrics:
                found[metric.name] = [
                    {
                        **(point.attributes or {}),
                        "value": getattr(point, "value", getattr(point, "count", None)),
                        "unit": metric.unit,
                    }
                    for point in metric.data.data_points
                ]
        return found


def _calls(recorded: Recorded, given: dict[str, Any]) -> None:
    """Make every public call that talks to a server, and the parts of a block."""
    from psycopg import sql  # noqa: PLC0415 - see Recorded

    from clients import PostgresClient, ValkeyClient, VaultClient, user_context  # noqa: PLC0415
    from clients.valkey_client import SessionStore  # noqa: PLC0415

    vault = VaultClient()
    db = PostgresClient(given["database"], 2, admin_url=given["admin"])
    valkey = ValkeyClient(given["valkey"])
    recorded.clients += [vault, db, valkey]
    recorded.exporter.clear()
    insert = "INSERT INTO contacts (user_id, name) VALUES (%s, %s)"
    row = (ADA, "sentinel-value")

    def block() -> None:
        with db.connection(ADA) as conn:
            conn.execute("SELECT %s", ("sentinel-value",))
            with recorded.tracer.start_as_current_span("part"):
                conn.execute("SELECT 3")
            db.execute("SELECT 4", (), ADA)
            with db.connection(ADA) as inner:
                inner.execute("SELECT 5")
            conn.cursor().executemany(insert, [row, row])
            list(conn.cursor().stream("SELECT 6"))
            with conn.cursor().copy("COPY (SELECT 'sentinel-literal') TO STDOUT") as copy:
                list(copy)

    def failing_block() -> None:
        with db.connection(ADA) as conn, suppress(Exception):
            conn.execute("SELECT 1/0")

    def stream() -> None:
        with db.stream("SELECT generate_series(1, 99887766)", user_id=ADA) as rows:
            assert next(rows)

    def pipeline() -> None:
        with valkey.pipeline() as pipe:
            pipe.get("sentinel-key").delete("sentinel-key")

    def sessions() -> None:
        store = SessionStore(valkey)
        token = store.create("sentinel-value", {"a": "sentinel-value"})
        store.read(token)
        store.revoke(token)

    def in_context() -> None:
        with user_context(ADA):
            db.execute("SELECT 7")

    absent = f"sentinel-key-{os.getpid()}"
    literal = sql.SQL("SELECT {}").format(sql.Literal("sentinel-literal"))
    recorded.each(
        {
            "vault.get_secret": lambda: vault.get_secret("crm/database", use_cache=False),
            "vault.get_secret cached": lambda: vault.get_secret("crm/database"),
            "vault.get_secret missing": lambda: vault.get_secret("crm/sentinel-path"),
            "vault.list_secrets": lambda: vault.list_secrets("crm"),
            "vault.secret_age": lambda: vault.secret_age("crm/database"),
            "vault.get_database_url": lambda: vault.get_database_url(use_cache=False),
            "vault.get_valkey_url": lambda: vault.get_valkey_url(use_cache=False),
            "vault.health_check": vault.health_check,
            "vault.server_version": vault.server_version,
            "postgres.execute": lambda: db.execute("SELECT %s", ("sentinel-value",), ADA),
            "postgres.execute failing": lambda: db.execute("SELECT 1/0", (), ADA),
            "postgres.execute literal": lambda: db.execute(literal, (), ADA),
            "postgres.execute mixed": lambda: db.execute(
                "SELECT %s AS a, 'sentinel-literal' AS b LIMIT 2 -- sentinel-literal", ("x",), ADA
            ),
            "postgres.execute ambient": in_context,
            "postgres.execute_one": lambda: db.execute_one("SELECT 'sentinel-literal'", (), ADA),
            "postgres.execute_scalar": lambda: db.execute_scalar("SELECT 99887766", (), ADA),
            "postgres.execute_many": lambda: db.execute_many(insert, [row, row], ADA),
            "postgres.execute_admin": lambda: db.execute_admin("SELECT $$sentinel-literal$$"),
            "postgres.bulk_insert": lambda: db.bulk_insert(
                "contacts", ["user_id", "name"], [row], ADA
            ),
            "postgres.connection": block,
            "postgres.connection failing": failing_block,
            "postgres.admin_connection": lambda: db.run_transaction(
                lambda conn: conn.execute("SELECT 1"), admin=True
            ),
            "postgres.run_transaction": lambda: db.run_transaction(
                lambda conn: conn.execute("SELECT 1"), ADA
            ),
            "postgres.stream": stream,
            "postgres.health_check": db.health_check,
            "postgres.server_version": db.server_version,
            "postgres.check_rls": db.check_rls,
            "valkey.set": lambda: valkey.set("sentinel-key", "sentinel-value"),
            "valkey.get": lambda: valkey.get("sentinel-key"),
            "valkey.incr": lambda: valkey.incr("sentinel-key2"),
            "valkey.incr expiring": lambda: valkey.incr("sentinel-key3", expire_seconds=60),
            "valkey.incr failing": lambda: valkey.incr("sentinel-key"),
            "valkey.expire": lambda: valkey.expire("sentinel-key", 60),
            "valkey.ttl": lambda: valkey.ttl("sentinel-key"),
            "valkey.exists": lambda: valkey.exists("sentinel-key"),
            "valkey.set_json": lambda: valkey.set_json("sentinel-key4", {"a": "sentinel-value"}),
            "valkey.get_json": lambda: valkey.get_json("sentinel-key4"),
            "valkey.set_many": lambda: valkey.set_many(
                {"sentinel-key5": "1", "sentinel-key6": "2"}
            ),
            "valkey.get_many": lambda: valkey.get_many(["sentinel-key5", "sentinel-key6"]),
            "valkey.delete_many": lambda: valkey.delete_many(["sentinel-key5", "sentinel-key6"]),
            "valkey.delete": lambda: valkey.delete("sentinel-key2"),
            "valkey.pipeline": pipeline,
            "valkey.rate_limit": lambda: valkey.rate_limit("sentinel-key7", 5, 60),
            "valkey.cached": lambda: valkey.cached(absent, 60, lambda: "sentinel-value"),
            "valkey.sessions": sessions,
            "valkey.health_check": valkey.health_check,
            "valkey.server_version": valkey.server_version,
        }
    )
    threads = [Thread(target=db.execute, args=("SELECT 5", (), ADA)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _postgres(recorded: Recorded, given: dict[str, Any]) -> None:
    """Make calls and blocks on PostgreSQL, wherever the URL leads."""
    from clients import PostgresClient  # noqa: PLC0415 - see Recorded

    db = PostgresClient(given["database"], 2)
    recorded.exporter.clear()

    def block() -> None:
        with db.connection(ADA) as conn:
            conn.execute("SELECT 1")
            db.execute("SELECT 2", (), ADA)

    insert = "INSERT INTO contacts (user_id, name) VALUES (%s, %s)"
    recorded.each(
        {
            "execute": lambda: db.execute("SELECT 1", (), ADA),
            "execute_many": lambda: db.execute_many(insert, [(ADA, "a")] * 2, ADA),
            "failing": lambda: db.execute("SELECT 1/0", (), ADA),
            "connection": block,
        }
    )


def _valkey(recorded: Recorded, given: dict[str, Any]) -> None:
    """Make calls on Valkey, wherever the URL leads."""
    from clients import ValkeyClient  # noqa: PLC0415 - see Recorded

    valkey = ValkeyClient(given["valkey"])
    valkey.get("x")
    recorded.exporter.clear()

    def pipeline() -> None:
        with valkey.pipeline() as pipe:
            for name in ("sentinel-key", "b", "c", "d"):
                pipe.get(name)

    recorded.each(
        {
            "set": lambda: valkey.set("sentinel-key", "sentinel-value"),
            "get": lambda: valkey.get("b"),
            "failing": lambda: valkey.incr("sentinel-key"),
            "rate_limit": lambda: valkey.rate_limit("c", 5, 60),
            "get_many": lambda: valkey.get_many(["a", "b", "c"]),
            "pipeline": pipeline,
            "health_check": valkey.health_check,
        }
    )


def _fork(recorded: Recorded, given: dict[str, Any]) -> dict[str, Any]:
    """Fork inside a block: the child makes calls of its own, the parent goes on."""
    from clients import PostgresClient, ValkeyClient  # noqa: PLC0415 - see Recorded

    db, valkey = PostgresClient(given["database"], 2), ValkeyClient(given["valkey"])
    recorded.exporter.clear()
    reader, writer = os.pipe()
    with recorded.part("parent"), db.connection(ADA) as conn:
        conn.execute("SELECT 1")
        child = os.fork()
        if child == 0:
            recorded.exporter.clear()
            with recorded.part("child"):
                db.execute("SELECT 2", (), ADA)
                valkey.set("sentinel-key", "sentinel-value")
            with suppress(BaseException), recorded.part("left over"):
                conn.execute("SELECT 3")
            os.write(writer, json.dumps(recorded.spans()).encode())
            os._exit(0)
        os.waitpid(child, 0)
        conn.execute("SELECT 4")
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return {"child": json.loads(pipe.read())}


def _sqlalchemy(recorded: Recorded, given: dict[str, Any]) -> None:
    """Use sessions of SQLAlchemy."""
    from sqlalchemy import select, text  # noqa: PLC0415 - see Recorded
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - likewise
    from sqlalchemy.orm import Session  # noqa: PLC0415 - likewise

    from clients import PostgresClient  # noqa: PLC0415 - likewise
    from clients.sqlalchemy_adapter import create_engine  # noqa: PLC0415 - likewise
    from tests.sqlalchemy_models import Contact  # noqa: PLC0415 - likewise

    engine = create_engine(PostgresClient(given["database"], 2))
    recorded.exporter.clear()
    info: dict[Any, Any] = {"identity": {"user_id": ADA}}

    def commits() -> None:
        with Session(engine, info=info) as session:
            session.add(Contact(user_id=ADA, name="sentinel-value"))
            session.commit()
            session.scalars(select(Contact).where(Contact.name == "sentinel-value")).all()
            session.commit()

    def rolls_back() -> None:
        with Session(engine, info=info) as session:
            session.scalar(text("SELECT 1"))
            session.scalar(text("SELECT 2"))

    def fails() -> None:
        with Session(engine, info=info) as session, suppress(DBAPIError):
            session.scalar(text("SELECT 1/0"))

    def nobody() -> None:
        with Session(engine) as session:
            session.scalar(text("SELECT 1"))

    def streams() -> None:
        with Session(engine, info=info) as session:
            session.scalars(select(Contact).execution_options(yield_per=1)).first()

    recorded.each(
        {
            "commits": commits,
            "rolls back": rolls_back,
            "fails": fails,
            "nobody": nobody,
            "streams": streams,
        }
    )


def _rotation(recorded: Recorded, given: dict[str, Any]) -> None:
    """Follow credentials of PostgreSQL, of Valkey and of Vault while they are replaced."""
    import requests  # noqa: PLC0415 - see Recorded

    from clients import PostgresClient, ValkeyClient, VaultClient  # noqa: PLC0415 - likewise

    vault = VaultClient()
    urls = {"database": given["database"], "valkey": given["valkey"]}
    db = PostgresClient(lambda: urls["database"], 2, min_size=1)
    valkey = ValkeyClient(lambda: urls["valkey"])
    recorded.clients += [vault, db, valkey]
    urls = {"database": given["next database"], "valkey": given["next valkey"]}
    db._pool.drain()
    valkey.runner.link.pool.drop_idle()  # type: ignore[attr-defined]  # one server
    db.execute("SELECT 1", (), ADA)
    valkey.get("sentinel-key")
    vault.get_secret("crm/database")
    token = vault._session.tokens.current(vault._deadline()).token
    assert token is not None
    url, headers = f"{vault.addr}/v1/auth/token/revoke-self", {"X-Vault-Token": token.reveal()}
    assert requests.post(url, headers=headers, timeout=10).status_code == 204
    recorded.exporter.clear()
    with recorded.part("healed"):
        vault.get_secret("crm/database", use_cache=False)


SCENARIOS: dict[str, Callable[[Recorded, dict[str, Any]], dict[str, Any] | None]] = {
    "calls": _calls,
    "rotation": _rotation,
    "postgres": _postgres,
    "valkey": _valkey,
    "fork": _fork,
    "sqlalchemy": _sqlalchemy,
}

if __name__ == "__main__":
    this = Recorded(instrumented=sys.argv[2] == "on")
    more = SCENARIOS[sys.argv[1]](this, json.loads(sys.stdin.read())) or {}
    found = {"spans": this.spans(), "points": this.points(), **more}
    print(json.dumps(found))  # noqa: T201 - see run_program
    sys.stdout.flush()
    # Not the clients' own farewells: what is recorded is printed.
    os._exit(0)
