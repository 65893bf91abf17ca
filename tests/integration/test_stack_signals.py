"""Signals to the development stack: whatever the moment, no process and no folder is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
# Each starts and stops a stack of its own.
pytestmark = pytest.mark.slow


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A TMPDIR of the test's own, which any user may enter, as PostgreSQL's must."""
    folder = Path(tempfile.mkdtemp(prefix="failfast-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _run(*command: str, temporary: Path, stack: str = "embedded") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "utils.local_stack", "run", "--", *command],
        cwd=ROOT,
        env={"PATH": os.defpath, "TMPDIR": str(temporary), "STACK": stack},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["failfast-openbao-*", "failfast-postgres-*/data"])
def test_a_start_that_is_broken_off_leaves_nothing(
    temporary: Path, moment: str, number: signal.Signals
) -> None:
    """Before the last server has a folder, or while initdb fills it: all is removed."""
    owner = _run("true", temporary=temporary)
    _wait(lambda: list(temporary.glob(moment)), f"no {moment}")

    os.killpg(owner.pid, number)
    _, errors = owner.communicate(timeout=60)

    assert owner.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in errors
    _wait(lambda: not list(temporary.iterdir()), f"left: {list(temporary.iterdir())}")
    assert _processes_that_name(temporary) == []


def test_a_guard_whose_owner_is_gone_at_once_ends_without_a_word() -> None:
    """It has been told of no folder yet, and so there is none."""
    guard = [sys.executable, "-I", "-S", "utils/_stack/guard.py"]
    done = subprocess.run(guard, cwd=ROOT, input="", capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_second_ctrl_c_does_not_break_the_stopping_off(temporary: Path) -> None:
    """Impatience leaves nothing behind either."""
    owner = _run("sleep", "60", temporary=temporary)
    _wait(lambda: _processes_that_name(temporary, "postgres: "), "no PostgreSQL")

    while owner.poll() is None:
        os.killpg(owner.pid, signal.SIGINT)
        time.sleep(0.01)
    _, errors = owner.communicate(timeout=60)

    assert "Traceback" not in errors
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_may_clean_up_before_the_servers_go(
    temporary: Path, number: signal.Signals
) -> None:
    """``run`` passes a signal on once, and waits for the command to end by itself."""
    script = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n"
        "    time.sleep(0.5); pathlib.Path(sys.argv[1], 'clean').touch(); sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGINT, end)\n"
        "print('up', flush=True); time.sleep(60)\n"
    )
    owner = _run(
        sys.executable, "-c", script, str(temporary), temporary=temporary, stack="external"
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"

    # Ctrl-C reaches the terminal's whole group, SIGTERM mostly one process.
    (os.killpg if number == signal.SIGINT else os.kill)(owner.pid, number)
    owner.communicate(timeout=60)

    assert owner.returncode == 128 + number
    assert (temporary / "clean").exists()


def test_a_command_that_a_signal_ended_has_the_shells_exit_code(temporary: Path) -> None:
    """128 and the signal's number, as a shell says it."""
    owner = _run("sh", "-c", "kill -9 $$", temporary=temporary, stack="external")
    owner.communicate(timeout=60)

    assert owner.returncode == 128 + signal.SIGKILL


def test_what_nohup_ignores_stays_ignored(temporary: Path) -> None:
    """A closed terminal does not end a run that was started to outlive it."""
    command = [sys.executable, "-m", "utils.local_stack", "run", "--", "sh", "-c", "echo; cat"]
    with subprocess.Popen(
        ["nohup", *command],
        cwd=ROOT,
        env={"PATH": os.defpath, "TMPDIR": str(temporary), "STACK": "external"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        owner.stdout.readline()
        owner.send_signal(signal.SIGHUP)
        owner.stdin.close()

        assert owner.wait(60) == 0


def _processes_that_name(folder: Path, words: str = "") -> list[str]:
    listed = {
        one.pid: (one.info["ppid"], " ".join(one.info["cmdline"] or []))
        for one in psutil.process_iter(["ppid", "cmdline"])
    }
    named = {pid for pid, (_, command) in listed.items() if str(folder) in command}
    return [
        command
        for pid, (parent, command) in listed.items()
        if words in command and (pid in named or parent in named)
    ]
