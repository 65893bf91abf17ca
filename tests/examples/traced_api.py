"""A FastAPI application whose requests, statements and commands are one trace.

``opentelemetry-instrument uvicorn tests.examples.traced_api:app`` sets a provider and instruments
FastAPI; ``python -m tests.examples.traced_api`` does the same by hand, makes one request, and
prints its trace.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Header

from clients import Clients, build_clients, user_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

_opened: list[Clients] = []


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    with build_clients() as clients:
        _opened.append(clients)
        yield
        _opened.clear()


app = FastAPI(lifespan=_lifespan)


def current_user(x_user: Annotated[UUID, Header()]) -> Iterator[UUID]:
    """Take the user from the request; a real application verifies a token here."""
    with user_context(x_user):
        yield x_user


@app.post("/contacts/{name}")
def add_contact(name: str, user: Annotated[UUID, Depends(current_user)]) -> dict[str, int]:
    """Store a contact, and count the user's."""
    clients = _opened[0]
    clients.valkey.rate_limit(f"contacts:{user}", 5, 60)
    with clients.postgres.connection(user) as conn:
        conn.execute("INSERT INTO contacts (user_id, name) VALUES (%s, %s)", (user, name))
        count = clients.postgres.execute_scalar("SELECT count(*) FROM contacts", (), user)
    clients.valkey.set(f"contacts:{user}", str(count), expire_seconds=60)
    return {"contacts": count}


def trace_of(spans: Sequence[ReadableSpan]) -> str:
    """Return a trace as an indented tree, in the order in which its spans began."""
    ordered = sorted(spans, key=lambda one: one.start_time or 0)

    def lines(parent: int | None, depth: int) -> Iterator[str]:
        for one in ordered:
            if (one.parent.span_id if one.parent else None) == parent:
                text = str((one.attributes or {}).get("db.query.text", ""))
                yield "  " * depth + one.name + (f": {text}" if text else "")
                yield from lines(one.context.span_id if one.context else 0, depth + 1)

    return "\n".join(lines(None, 0))


def main() -> None:
    """Do what ``opentelemetry-instrument`` does, make a request, and print its trace."""
    from fastapi.testclient import TestClient  # noqa: PLC0415 - the application needs none of it
    from opentelemetry import trace  # noqa: PLC0415 - likewise
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor  # noqa: PLC0415
    from opentelemetry.instrumentation.redis import RedisInstrumentor  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: PLC0415
        InMemorySpanExporter,
    )

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    FastAPIInstrumentor.instrument_app(app, exclude_spans=["send", "receive"])
    PsycopgInstrumentor().instrument()
    RedisInstrumentor().instrument()
    with TestClient(app) as client:
        exporter.clear()
        user = str(UUID(int=7, version=4))
        assert client.post("/contacts/Ada", headers={"X-User": user}).status_code == 200
        print(trace_of(exporter.get_finished_spans()))  # noqa: T201 - a command line prints


if __name__ == "__main__":
    main()
