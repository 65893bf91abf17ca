"""``STACK=docker`` from end to end, where the engine is a stand-in and the servers are real."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.compose_stand_in import containers, install
from utils._stack.process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CHECK = (sys.executable, "-m", "clients", "check")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Path]:
    """The stand-in's folder; what a failed test leaves running ends with it."""
    folder = tmp_path / "engine"
    folder.mkdir()
    install(folder)
    yield folder
    for pid in containers(folder).values():
        os.kill(pid, signal.SIGTERM)


@pytest.fixture
def environ(engine: Path) -> dict[str, str]:
    """A machine with docker-compose 1.29 and no docker, and free ports."""
    names = ("SDK_VAULT_PORT", "SDK_POSTGRES_PORT", "SDK_VALKEY_PORT")
    ports = {name: str(free_port()) for name in names}
    return {"PATH": f"{engine}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "STACK": "docker"} | ports


def _run(*words: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_a_stack_outlives_its_containers_and_its_state(
    engine: Path, checkout: Path, environ: dict[str, str]
) -> None:
    """``up`` starts anew what a reboot ended, and what it no longer knows the passwords of."""

    def tool(word: str) -> str:
        command = (sys.executable, "-m", "utils.local_stack", word)
        return _run(*command, cwd=checkout, env=environ).stdout

    def is_healthy() -> bool:
        script = f'eval "{tool("env")}"; exec {" ".join(CHECK)}'
        return (
            "All infrastructure clients" in _run("sh", "-c", script, cwd=ROOT, env=environ).stdout
        )

    assert tool("up").startswith("running (docker)")
    assert is_healthy()
    first = containers(engine)
    assert tool("up").startswith("already running (docker)")
    assert containers(engine) == first

    _end(engine)
    assert tool("up").startswith("running (docker)")
    assert is_healthy()

    shutil.rmtree(checkout / ".stack")
    assert tool("up").startswith("running (docker)")
    assert is_healthy()

    assert tool("down") == "stopped\n"
    assert (containers(engine), list((engine / "projects").iterdir())) == ({}, [])
    assert list(checkout.iterdir()) == []
    assert tool("down") == "not running\n"


def test_a_check_leaves_no_container(engine: Path, checkout: Path, environ: dict[str, str]) -> None:
    """``run`` waits for all three, seeds them, and removes them with their volumes."""
    tool = (sys.executable, "-m", "utils.local_stack", "run", "--")

    done = _run(*tool, *CHECK, cwd=checkout, env=environ)

    assert done.stdout.splitlines()[-1] == "All infrastructure clients healthy!"
    assert done.stderr == ""
    assert (containers(engine), list((engine / "projects").iterdir())) == ({}, [])


def test_the_tests_run_in_containers(engine: Path, environ: dict[str, str]) -> None:
    """pytest-docker starts them with the project's words, and removes them."""
    test = "tests/integration/test_factory.py::test_the_three_clients_work_together"
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test)

    _run(*command, cwd=ROOT, env=environ)
    calls = re.findall(r"(?:up|down) .*$", (engine / "calls").read_text(), re.MULTILINE)

    assert calls == ["up -d", "down -v --remove-orphans"]
    assert (containers(engine), list((engine / "projects").iterdir())) == ({}, [])


def _end(engine: Path) -> None:
    """End all containers, as a reboot does."""
    for pid in containers(engine).values():
        os.kill(pid, signal.SIGTERM)
    while containers(engine):
        time.sleep(0.05)
