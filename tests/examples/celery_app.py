"""Celery with prefork workers and soft time limits.

``celery -A tests.examples.celery_app worker`` runs it, with Valkey as the broker.

Each worker process makes its clients when it starts. A soft time limit raises an exception in the
middle of a call: the connection is closed, which rolls its transaction back, the user ends with the
block, and the next task of the process finds all connections as they should be.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_process_init, worker_process_shutdown

from clients import Clients, VaultClient, build_clients, user_context
from clients.identity import current_identity

__all__ = ["app", "count_contacts", "slow_report", "who"]

with VaultClient() as _vault:
    _broker = _vault.get_valkey_url()

app = Celery("crm", broker=_broker, backend=_broker)
app.conf.update(task_acks_late=True, broker_connection_retry_on_startup=False)

_made: list[Clients] = []


@worker_process_init.connect
def make_clients(**_: Any) -> None:
    """Connect, or end the worker process with the reason."""
    _made.append(build_clients(pool_size=2))


@worker_process_shutdown.connect
def close_clients(**_: Any) -> None:
    """Close the connections, and revoke the token of a login."""
    while _made:
        _made.pop().close()


@app.task
def count_contacts(user_id: str) -> int:
    """Return how many contacts the user has."""
    with user_context(user_id):
        return int(_made[0].postgres.execute_scalar("SELECT count(*) FROM contacts"))


@app.task(soft_time_limit=1)
def slow_report(user_id: str) -> str:
    """Write a row and take too long: the limit undoes both."""
    try:
        with user_context(user_id), _made[0].postgres.connection() as conn:
            conn.execute("INSERT INTO contacts (user_id, name) VALUES (%s, 'half')", (user_id,))
            conn.execute("SELECT pg_sleep(25)")
    except SoftTimeLimitExceeded:
        return f"too slow: {_made[0].postgres.stats()['used']} connections in use"
    return "done"


@app.task
def who() -> dict[str, Any]:
    """Return the process, and whose user it has between tasks: nobody's."""
    return {"pid": os.getpid(), "user": current_identity()}
