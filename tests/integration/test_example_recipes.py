"""The recipes without a framework work: before and after, and the isolation test for others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from clients import RlsContextError
from tests.examples import after_clients, before_by_hand
from utils._stack.settings import child_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[before_by_hand, after_clients], ids=["before", "after"])
def service(
    request: pytest.FixtureRequest, stack: StackEndpoints, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The service, put together by hand and with the clients."""
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    made = request.param.Service()
    yield made
    made.close()


def test_both_services_do_the_same(service: Any) -> None:
    """Whoever moves from one to the other changes no caller."""
    ada, bob, key = str(uuid4()), str(uuid4()), f"requests:{uuid4()}"

    service.add(ada, "Grace")
    service.add(bob, "Hedy")

    assert service.names(ada) == ["Grace"]
    assert service.names(bob) == ["Hedy"]
    assert [service.count_request(key) for _ in range(2)] == [1, 2]


def test_a_query_without_a_user_is_refused_after_and_leaks_before(service: Any) -> None:
    """The reason to move: the service by hand answers with the rows of the last user."""
    service.add(str(uuid4()), "Grace")

    if isinstance(service, before_by_hand.Service):
        assert service.names(None) == ["Grace"]
    else:
        with pytest.raises(RlsContextError):
            service.names(None)


def test_moving_makes_the_service_shorter() -> None:
    """What is deleted is what the clients do."""
    lines = [len(Path(str(one.__file__)).read_text().splitlines()) for one in (
        before_by_hand, after_clients,
    )]  # fmt: skip

    assert lines[1] < lines[0] * 0.8


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Somebody else's suite, with a copy of the test."""
    shutil.copy(ROOT / "tests/examples/isolation_in_pytest.py", tmp_path / "test_isolation.py")
    return tmp_path


def run_suite(suite: Path, stack: StackEndpoints) -> subprocess.CompletedProcess[str]:
    """Run it as its owner does."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite)],
        cwd=suite,
        env=child_environment(stack.environment()) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_isolation_test_passes_on_the_projects_schema(
    suite: Path, stack: StackEndpoints
) -> None:
    """Both of its tests run, and nothing leaks."""
    done = run_suite(suite, stack)

    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


@pytest.mark.slow
def test_the_isolation_test_fails_on_a_policy_that_leaks(
    suite: Path, stack: StackEndpoints
) -> None:
    """It names the table, and shows the statements."""
    assert stack.superuser_url is not None
    with psycopg.connect(stack.superuser_url, autocommit=True) as conn:
        conn.execute("CREATE TABLE leaky (user_id uuid NOT NULL, text text)")
        conn.execute("CREATE INDEX ON leaky (user_id)")
        conn.execute("ALTER TABLE leaky ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        conn.execute("CREATE POLICY all_rows ON leaky USING (user_id IS NOT NULL)")
        conn.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON leaky TO crm_user, crm_admin")
        try:
            done = run_suite(suite, stack)
        finally:
            conn.execute("DROP TABLE leaky")

    assert done.returncode == 1, done.stdout
    assert "2 failed" in done.stdout
    assert "leaky" in done.stdout
