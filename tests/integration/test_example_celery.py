"""The Celery recipe works in a real worker with prefork and soft time limits."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from clients import PostgresClient
from utils._stack.settings import child_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def tasks(stack: StackEndpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the tasks, with a worker that runs them in one child process."""
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    module = importlib.import_module("tests.examples.celery_app")
    log = tmp_path / "log"
    command = [sys.executable, "-m", "celery", "-A", "tests.examples.celery_app", "worker"]
    options = ["--pool=prefork", "--concurrency=1", "--loglevel=INFO", "--without-gossip"]
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [*command, *options, "--without-mingle"],
            cwd=ROOT,
            env=child_environment(stack.environment()),
            stdout=output,
            stderr=output,
        )
    try:
        yield module
    finally:
        worker.send_signal(signal.SIGTERM)
        code = worker.wait(60)
        module.app.close()
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def user(stack: StackEndpoints) -> UUID:
    """A user with three contacts."""
    user = uuid4()
    with PostgresClient(stack.database_url, min_size=1) as db:
        query = "INSERT INTO contacts (user_id, name) VALUES (%s, %s)"
        db.execute_many(query, [(user, str(n)) for n in range(3)], user_id=user)
    return user


def test_a_task_that_is_too_slow_leaves_nothing_behind(tasks: Any, user: UUID) -> None:
    """Its row is undone, its connection is free, and the next task has no user."""
    before = tasks.who.delay().get(timeout=60)
    assert tasks.count_contacts.delay(str(user)).get(timeout=60) == 3

    assert tasks.slow_report.delay(str(user)).get(timeout=60) == "too slow: 0 connections in use"

    assert tasks.who.delay().get(timeout=60) == before == {"pid": before["pid"], "user": {}}
    assert tasks.count_contacts.delay(str(user)).get(timeout=60) == 3
    assert tasks.count_contacts.delay(str(uuid4())).get(timeout=60) == 0
