"""FastAPI: each request belongs to the user of its session.

``uvicorn tests.examples.fastapi_app:app`` serves it.

The dependency that enters ``user_context()`` is an ``async def``: FastAPI runs it in the request's
own task, and the endpoint, sync or async, runs with a copy of its context. A ``def`` dependency
with ``yield`` would set the user in a context that no endpoint sees, and every query would raise
RlsContextError. Endpoints that call the clients are ``def``: FastAPI runs them in threads, so that
a query does not hold up the event loop.
"""
# Without `from __future__ import annotations`: FastAPI reads the annotations.

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse

from clients import SessionStore, build_clients, user_context

__all__ = ["app"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the clients before the first request, or do not start; close them after the last."""
    with build_clients() as clients:
        app.state.db = clients.postgres
        app.state.sessions = SessionStore(clients.valkey)
        yield


app = FastAPI(lifespan=lifespan)


async def current_user(authorization: Annotated[str, Header()] = "") -> AsyncIterator[str]:
    """Make the session's user the current user until the response has been made."""
    token = authorization.removeprefix("Bearer ")
    session = await asyncio.to_thread(app.state.sessions.read, token) if token else None
    if session is None:
        raise HTTPException(401)
    with user_context(session.user_id):
        yield session.user_id


User = Annotated[str, Depends(current_user)]


@app.get("/contacts")
def contacts(_user: User) -> list[str]:
    """Return the names of the user's contacts: the query names no user."""
    return [row["name"] for row in app.state.db.execute("SELECT name FROM contacts ORDER BY name")]


@app.post("/contacts", status_code=201)
def add_contact(user: User, name: str) -> dict[str, Any]:
    """Store a contact of the user."""
    query = "INSERT INTO contacts (user_id, name) VALUES (%s, %s) RETURNING id, name"
    contact: dict[str, Any] = app.state.db.execute_one(query, (user, name))
    return contact


@app.get("/contacts.txt")
def export(user: User) -> StreamingResponse:
    """Send the names as they are read.

    The body is sent after the dependency has ended, so its generator enters the user itself.
    """

    def body() -> Iterator[str]:
        query = "SELECT name FROM contacts ORDER BY name"
        with user_context(user), app.state.db.stream(query) as rows:
            for row in rows:
                yield f"{row['name']}\n"

    return StreamingResponse(body(), media_type="text/plain")


@app.get("/summary")
async def summary(_user: User) -> dict[str, int]:
    """Run two queries at a time: threads that asyncio starts belong to the user too."""
    count = app.state.db.execute_scalar
    contacts, tickets = await asyncio.gather(
        asyncio.to_thread(count, "SELECT count(*) FROM contacts"),
        asyncio.to_thread(count, "SELECT count(*) FROM tickets"),
    )
    return {"contacts": contacts, "tickets": tickets}
