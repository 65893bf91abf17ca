"""What telemetry records of PostgreSQL: one span for a block, and one for each statement in it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .._shared.telemetry import Telemetry
from .statements import text_of, without_literals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from .._shared.telemetry import Call, Reading
    from .session import Session

__all__ = ["BlockRecorder", "query_attributes", "telemetry_of"]

_DEFAULT_PORT = 5432


def telemetry_of(session: Session, readings: Callable[[], Iterable[Reading]]) -> Telemetry:
    """Return what records a client's calls.

    Args:
        session: A session of the client, which says where the server is.
        readings: A method that gives the values to be collected.
    """
    pgconn = session.pgconn
    attributes: dict[str, str | int] = {
        "db.system.name": "postgresql",
        "db.namespace": pgconn.db.decode(errors="replace"),
        "server.address": pgconn.host.decode(errors="replace"),
    }
    port = int(pgconn.port or _DEFAULT_PORT)
    if port != _DEFAULT_PORT:
        attributes["server.port"] = port
    return Telemetry(attributes, str(attributes["db.namespace"]), readings=readings)


def query_attributes(query: Any, params: Any) -> dict[str, str]:
    """Return what a span says of a statement.

    What is quoted in it is left out, beside parameters too, and numbers where there are none.
    https://opentelemetry.io/docs/specs/semconv/database/database-spans/

    Args:
        query: The statement.
        params: Its parameters.
    """
    has_parameters = bool(params) and isinstance(query, str | bytes)
    return {"db.query.text": without_literals(text_of(query), numbers=not has_parameters)}


class BlockRecorder:
    """Records one block, which begins now, and the statements in it as parts of its own span.

    Args:
        telemetry: The client's.
        parent: The block that it has joined.
    """

    def __init__(self, telemetry: Telemetry, parent: Call | None = None) -> None:
        self._telemetry = telemetry
        self._recorded = telemetry.call("TRANSACTION", parent=parent)
        self._pid = os.getpid()
        #: None where nothing is recorded.
        self.call = self._recorded.__enter__()

    def statement(self, query: Any, params: Any = None) -> AbstractContextManager[Call | None]:
        """Return a context manager that records one statement.

        Args:
            query: The statement.
            params: Its parameters.
        """
        return self._telemetry.call(attributes=query_attributes(query, params), parent=self.call)

    def end(self, error: BaseException | None) -> None:
        """End the block's own span; a forked child leaves it to the parent.

        Args:
            error: What the block has failed with.
        """
        if self._pid == os.getpid():
            self._recorded.__exit__(type(error) if error else None, error, None)

    @contextmanager
    def ending(self, error: BaseException | None) -> Iterator[None]:
        """Record the end of the block, which comes in the ``with`` block.

        Args:
            error: What has ended it, unless its end fails itself.
        """
        try:
            yield
        except BaseException as failure:
            error = failure
            raise
        finally:
            self.end(error)
