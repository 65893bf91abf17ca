"""What a program does whose threads are greenlets: run by a test, in a process of its own.

Its arguments are the library, and the URLs of PostgreSQL and Valkey; its last line of output is
what came of it, as JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Callable

INSERT = "INSERT INTO contacts (user_id, name) VALUES (%s, %s)"
NAMES = "SELECT name FROM contacts ORDER BY name"


def _all_results(library: str, work: list[Callable[[], Any]]) -> list[Any]:
    """Run each in a greenlet of its own, and return what they returned, or the error's class."""

    def guarded(one: Callable[[], Any]) -> Any:
        try:
            return one()
        except Exception as error:  # noqa: BLE001 - the test judges it
            return type(error).__name__

    spawn = importlib.import_module(library).spawn
    started = [spawn(guarded, one) for one in work]
    return [one.get() if library == "gevent" else one.wait() for one in started]


def main(library: str, postgres_url: str, valkey_url: str) -> dict[str, Any]:
    """Use the clients in greenlets, which take turns whenever one of them waits."""
    # Behind the patch, as in a program.
    from clients import PostgresClient, ValkeyClient, user_context  # noqa: PLC0415
    from clients._shared.single_flight import SingleFlight  # noqa: PLC0415 - see above

    user, other = uuid4(), uuid4()

    def write(name: str, *, fails: bool) -> None:
        with postgres.connection(user) as conn:
            conn.execute(INSERT, (user, name))
            time.sleep(0.05)
            if fails:
                raise ZeroDivisionError

    def slow_request() -> int:
        with user_context(user), postgres.connection() as conn:
            time.sleep(0.05)
            return int(conn.execute("SELECT 1 AS one").fetchone()["one"])

    def produce() -> int:
        made.append(1)
        time.sleep(0.2)
        return 7

    def in_a_block() -> list[Any]:
        with postgres.connection(user):
            return _all_results(
                library,
                [
                    lambda: write("undone", fails=True),
                    lambda: write("kept", fails=False),
                    lambda: len(postgres.execute("SELECT 1 AS one", user_id=other)),
                ],
            )

    made: list[int] = []
    flight: SingleFlight[str, int] = SingleFlight()
    with (
        PostgresClient(postgres_url, pool_size=3, pool_timeout=20) as postgres,
        ValkeyClient(valkey_url, max_connections=2, pool_timeout=20) as valkey,
    ):
        key = f"greenlets:{user}"
        told = {
            "more requests than connections": _all_results(library, [slow_request] * 8),
            "tasks of a block": in_a_block(),
            "names": [row["name"] for row in postgres.execute(NAMES, user_id=user)],
            "one call for all": _all_results(library, [lambda: flight.run("key", produce)] * 4),
            "cached": _all_results(library, [lambda: valkey.cached(key, 60, produce)] * 4),
            "incr": sorted(_all_results(library, [lambda: valkey.incr(f"{key}:n")] * 5)),
            "in use": postgres.stats()["in_use"],
        }
        valkey.delete(key)
        valkey.delete(f"{key}:n")
        return {**told, "productions": len(made)}


if __name__ == "__main__":
    if sys.argv[1] == "gevent":
        importlib.import_module("gevent.monkey").patch_all()
    else:
        importlib.import_module("eventlet").monkey_patch()
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
