"""What FastAPI's endpoints, background tasks and streamed bodies see of a user_context."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from clients.identity import current_identity, user_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send

ADA = UUID(int=1)

#: What the parts of a request have seen, in order.
seen: list[tuple[str, str]] = []


def who() -> str:
    return "Ada" if current_identity().get("user_id") == ADA else "nobody"


def note(part: str) -> None:
    seen.append((part, who()))


def sync_dependency() -> Iterator[None]:
    with user_context(ADA):
        note("dependency")
        yield


async def async_dependency() -> AsyncIterator[None]:
    with user_context(ADA):
        note("dependency")
        yield


def sync_endpoint(tasks: BackgroundTasks) -> dict[str, str]:
    note("endpoint")
    tasks.add_task(note, "background")
    return {}


async def async_endpoint(tasks: BackgroundTasks) -> dict[str, str]:
    note("endpoint")
    note_in_a_thread = await asyncio.to_thread(who)
    seen.append(("thread", note_in_a_thread))
    tasks.add_task(note, "background")
    return {}


def streamed() -> StreamingResponse:
    def body() -> Iterator[str]:
        for n in range(3):
            note("body")
            yield str(n)

    return StreamingResponse(body())


def streamed_as_ada() -> StreamingResponse:
    def body() -> Iterator[str]:
        with user_context(ADA):
            for n in range(3):
                note("body")
                yield str(n)

    return StreamingResponse(body())


def streamed_as_ada_asynchronously() -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        with user_context(ADA):
            for n in range(3):
                seen.append(("body", await asyncio.to_thread(who)))
                yield str(n)

    return StreamingResponse(body())


class PlainMiddleware:
    """ASGI middleware: the whole request runs inside the block."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application as Ada."""
        with user_context(ADA):
            await self.app(scope, receive, send)


async def http_middleware(request: Any, call_next: Any) -> Any:
    """As ``@app.middleware("http")`` has it: the response is sent after its end."""
    with user_context(ADA):
        return await call_next(request)


def request(app: FastAPI, *, times: int = 2) -> set[tuple[str, str]]:
    """Send requests, and return what their parts saw; nobody is left behind."""
    seen.clear()
    with TestClient(app) as client:
        for _ in range(times):
            assert client.get("/").status_code == 200
            seen.append(("after", asyncio.run(asyncio.to_thread(who))))
    return set(seen)


def app_with(endpoint: Any, *dependencies: Any) -> FastAPI:
    app = FastAPI(dependencies=[Depends(one) for one in dependencies])
    app.get("/")(endpoint)
    return app


@pytest.mark.parametrize("endpoint", [sync_endpoint, async_endpoint])
def test_an_async_dependency_makes_the_endpoint_adas(endpoint: Any) -> None:
    """FastAPI enters it in the request's own task; threads get a copy of its context."""
    saw = request(app_with(endpoint, async_dependency))

    assert {("dependency", "Ada"), ("endpoint", "Ada"), ("after", "nobody")} <= saw
    assert ("thread", "nobody") not in saw


@pytest.mark.parametrize("endpoint", [sync_endpoint, async_endpoint])
def test_a_sync_dependency_ends_without_an_error_and_reaches_nobody(endpoint: Any) -> None:
    """FastAPI begins and ends it in other threads, in copies of the request's context."""
    saw = request(app_with(endpoint, sync_dependency))

    assert {("dependency", "Ada"), ("endpoint", "nobody"), ("after", "nobody")} <= saw
    assert ("background", "nobody") in saw


@pytest.mark.parametrize("endpoint", [sync_endpoint, async_endpoint])
def test_plain_middleware_makes_the_whole_request_adas(endpoint: Any) -> None:
    """Endpoint, threads and background tasks all run inside its block."""
    app = app_with(endpoint)
    app.add_middleware(PlainMiddleware)
    saw = request(app)

    assert {("endpoint", "Ada"), ("background", "Ada"), ("after", "nobody")} <= saw
    assert ("thread", "nobody") not in saw


def test_plain_middleware_makes_a_streamed_body_adas() -> None:
    """It is sent inside the block, too."""
    app = app_with(streamed)
    app.add_middleware(PlainMiddleware)

    assert request(app) == {("body", "Ada"), ("after", "nobody")}


def test_http_middleware_makes_the_endpoint_adas_and_nothing_behind_it() -> None:
    """The response is sent in another task when the block has ended."""
    app = app_with(async_endpoint)
    app.middleware("http")(http_middleware)
    assert {("endpoint", "Ada"), ("thread", "Ada"), ("after", "nobody")} <= request(app)

    app = app_with(streamed)
    app.middleware("http")(http_middleware)
    saw = request(app)
    assert ("body", "nobody") in saw
    assert ("after", "nobody") in saw


@pytest.mark.parametrize("endpoint", [streamed_as_ada, streamed_as_ada_asynchronously])
def test_a_streamed_bodys_generator_is_ada_from_end_to_end(endpoint: Any) -> None:
    """Each of its steps runs with another copy of the request's context."""
    assert request(app_with(endpoint)) == {("body", "Ada"), ("after", "nobody")}


def test_a_body_that_is_not_read_to_its_end_leaves_nobody_behind() -> None:
    """The client hangs up, and the generator is closed wherever that is noticed."""
    app = app_with(streamed_as_ada)
    seen.clear()
    with TestClient(app) as client:
        for _ in range(5):
            with client.stream("GET", "/") as response:
                assert next(response.iter_text()) == "0"
        assert asyncio.run(asyncio.to_thread(who)) == "nobody"
        saw = client.get("/")
    assert saw.text == "012"
    assert set(seen) == {("body", "Ada")}
