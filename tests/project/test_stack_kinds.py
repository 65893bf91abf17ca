"""``STACK`` and the environment: what the stack and the tests take from it, and what not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from utils.local_stack import StackEndpoints

ROOT = Path(__file__).parents[2]
CHECK = (sys.executable, "-m", "clients", "check")
# What a developer's shell may hold; each of these once broke something.
AMBIENT = {
    "BAO_ADDR": "http://127.0.0.1:1",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
    "PGOPTIONS": "-c no_such_setting=1",
    "PGSSLMODE": "require",
    "PGTARGETSESSIONATTRS": "standby",
    "REDIS_URL": "redis://127.0.0.1:1",
}


def _pytest(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=ROOT,
        env={"PATH": os.defpath, "HOME": os.devnull} | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_the_embedded_stack_ignores_the_ambient_environment() -> None:
    """Neither libpq's variables nor a proxy keep the check from being healthy."""
    done = subprocess.run(
        [sys.executable, "-m", "utils.local_stack", "run", "--", *CHECK],
        cwd=ROOT,
        env={"PATH": os.defpath, "VAULT_SKIP_VERIFY": "no boolean"} | AMBIENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.stdout.splitlines()[-1] == "All infrastructure clients healthy!"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_tests_pass_on_an_external_stack_that_may_only_be_read(stack: StackEndpoints) -> None:
    """STACK=external with what ``make env`` exports: a token that can write nothing is enough."""
    done = _pytest(
        "tests/integration/test_factory.py",
        "tests/integration/test_command_line.py",
        "tests/unit/test_dagster_config.py",
        "tests/integration/test_dagster_clients.py::test_a_failure_is_not_kept",
        "-k",
        "not how_far",  # they bring servers of their own
        env={"STACK": "external"} | AMBIENT | stack.environment(),
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("token", ["", "no-such-token"])
def test_an_external_stack_that_is_not_there_ends_the_run(
    stack: StackEndpoints, closed_port: int, token: str
) -> None:
    """One line and exit code 3, and not an error for each test."""
    address = stack.vault_addr if token else f"http://127.0.0.1:{closed_port}"
    done = _pytest(
        "tests/integration/test_factory.py",
        env={"STACK": "external", "VAULT_ADDR": address, "VAULT_TOKEN": token or "t"},
    )

    assert done.returncode == 3
    assert "STACK=external: the servers are not there" in done.stdout
    assert " errors" not in done.stdout


def test_a_parallel_run_ends_as_soon(stack: StackEndpoints) -> None:
    """The reason reaches the terminal from the worker that met it."""
    done = _pytest(
        *("-n", "2"),
        "tests/integration/test_factory.py",
        "tests/integration/test_command_line.py",
        env={"STACK": "external", "VAULT_ADDR": stack.vault_addr, "VAULT_TOKEN": "no-such-token"},
    )

    assert done.returncode == 2
    assert "STACK=external: the servers are not there" in done.stdout
    assert " passed" not in done.stdout
    assert " errors" not in done.stdout
    assert "INTERNALERROR" not in done.stdout


def test_a_docker_that_cannot_start_ends_the_run(tmp_path: Path) -> None:
    """pytest-docker is asked for the project's commands; its failure ends the run, cleaned up."""
    log = tmp_path / "calls"
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\ncase "$*" in *" up "*) echo no engine; exit 1;; esac\n'
    )
    docker.chmod(0o755)

    done = _pytest(
        "tests/integration/test_factory.py",
        env={"STACK": "docker", "PATH": f"{tmp_path}:{os.defpath}"},
    )
    calls = re.findall(r"(?:up|down) .*$", log.read_text(), re.MULTILINE)

    assert done.returncode == 3
    assert "STACK=docker: the servers are not there" in done.stdout
    assert calls == ["up -d", "down -v --remove-orphans"]
