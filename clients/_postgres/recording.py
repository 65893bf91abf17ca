"""What telemetry records of PostgreSQL: one span for a block, and one for each statement in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._shared.telemetry import Reading, Telemetry
from .statements import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from .._shared.telemetry import Call
    from .session import Session

__all__ = ["BlockRecorder", "pool_readings", "query_attributes", "telemetry_of"]

_DEFAULT_PORT = 5432
_POOL = "db.client.connection."


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


def pool_readings(name: str, stats: dict[str, int], min_size: int) -> list[Reading]:
    """Return what is collected of one pool.

    Args:
        name: The pool's name.
        stats: Its numbers.
        min_size: How many idle connections it keeps.
    """
    pool = {f"{_POOL}pool.name": name}
    return [
        Reading(f"{_POOL}count", stats["idle"], {**pool, f"{_POOL}state": "idle"}),
        Reading(f"{_POOL}count", stats["in_use"], {**pool, f"{_POOL}state": "used"}),
        Reading(f"{_POOL}idle.max", stats["max_size"], pool),
        Reading(f"{_POOL}idle.min", min_size, pool),
        Reading(f"{_POOL}max", stats["max_size"], pool),
        Reading(f"{_POOL}pending_requests", stats["waiting"], pool),
        Reading(f"{_POOL}timeouts", stats["exhausted"], pool),
    ]


def query_attributes(query: Any) -> dict[str, str]:
    """Return what a span says of a statement: its text with placeholders, and no value.

    Args:
        query: The statement.
    """
    return {"db.query.text": text_of(query)}


class BlockRecorder:
    """Records the statements of one block, as parts of the block's own span.

    Args:
        telemetry: The client's.
        parent: The block's call; None while nothing is recorded.
    """

    def __init__(self, telemetry: Telemetry, parent: Call | None) -> None:
        self._telemetry = telemetry
        self._parent = parent

    def statement(self, query: Any) -> AbstractContextManager[object]:
        """Return a context manager that records one statement.

        Args:
            query: The statement.
        """
        return self._telemetry.call(attributes=query_attributes(query), parent=self._parent)
