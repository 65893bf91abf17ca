"""The stack that ``make up`` leaves running, and its state in ``.stack/``.

A lock says whether it runs, not a process id: the kernel drops the lock with its holder, while a
number may come to mean another process.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils._stack.docker import DockerStack
from utils._stack.endpoints import StackEndpoints
from utils._stack.openbao import vault_answers
from utils._stack.process import StackError
from utils._stack.settings import StackSettings, child_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from utils._stack.embedded import EmbeddedStack

__all__ = ["down", "endpoints", "serve", "up"]

_TIMEOUT = 120.0
_LOCK_TRIES = 10

_EXPORTS = "`python -m utils.local_stack env` prints its exports"


def up(settings: StackSettings) -> str:
    """Leave a stack running; do nothing when one already is.

    Args:
        settings: Which kind, and the ports for Docker.

    Returns:
        A sentence that says what was done.

    Raises:
        StackError: It did not start.
    """
    if settings.kind == "external":
        raise StackError("STACK=external: the servers are not ours to start")
    state = _settled_state()
    if state is not None and _answers(state):
        return f"already running ({state['kind']}); {_EXPORTS}"
    _folder().mkdir(mode=0o700, exist_ok=True)
    if settings.kind == "docker":
        _start_docker(DockerStack(project=_docker_project(), ports=settings))
    else:
        _start_keeper()
    return f"running ({settings.kind}); {_EXPORTS}, `python -m utils.local_stack down` stops it"


def down() -> str:
    """Stop the stack; do nothing when none runs.

    Returns:
        A sentence that says what was done.
    """
    state = _settled_state()
    if state is not None and state["kind"] == "docker":
        DockerStack(project=_docker_project(), ports=StackSettings()).close()
    elif state is not None:
        os.kill(state["pid"], signal.SIGTERM)
        _wait(lambda: not _keeper_runs(), "the stack did not stop")
    shutil.rmtree(_folder(), ignore_errors=True)
    return "stopped" if state is not None else "not running"


def endpoints() -> StackEndpoints:
    """Return how the running stack is reached.

    Raises:
        StackError: None runs.
    """
    state = _read_state()
    if state is None:
        here = Path.cwd()
        checkout = (here / "Makefile").is_file() and (here / "utils/local_stack.py").is_file()
        start = "make up" if checkout else "python -m utils.local_stack up"
        raise StackError(
            f"no stack is running here: none was started from this folder ({here}); "
            f"`{start}` starts one"
        )
    return StackEndpoints.from_json(state["endpoints"])


def serve(stack: EmbeddedStack) -> int:
    """Run the servers until a signal ends them.

    Args:
        stack: The servers, not yet started.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: stop.set())
    # The lock is released after the servers have ended: a free lock means that none runs.
    with _lock(), stack:
        # A keeper that was killed leaves its state file, which would pass for this one's.
        (_folder() / "state.json").unlink(missing_ok=True)
        _write_state("embedded", stack.start())
        stop.wait()
    return 0


def _start_docker(docker: DockerStack) -> None:
    # Two may start at the same time: the second one waits for the first one's state.
    with _lock():
        # Remove what an earlier start left: PostgreSQL's volume keeps the passwords of that start.
        docker.close()
        _write_state("docker", docker.start())


def _docker_project() -> str:
    # One name for each checkout: `make down` must not stop the containers of another one.
    return f"failfast-clients-{sha256(os.fsencode(Path.cwd())).hexdigest()[:8]}"


def _answers(state: dict[str, Any]) -> bool:
    if state["kind"] == "embedded":
        return True  # the lock says so
    # The state file survives a reboot and the containers do not; Vault's token ends with them.
    endpoints = StackEndpoints.from_json(state["endpoints"])
    return vault_answers(endpoints.vault_addr, endpoints.vault_root_token)


def _start_keeper() -> None:
    with (_folder() / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "utils.local_stack", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=child_environment({"STACK": "embedded"}),
        )
    try:
        # Two may start at the same time: one of them gets the lock, and both wait for it.
        _wait(
            lambda: _read_state() is not None or (keeper.poll() is not None and not _keeper_runs()),
            "the stack did not start",
        )
    except BaseException:
        keeper.terminate()
        raise
    if _read_state() is None:
        raise StackError((_folder() / "keeper.log").read_text(errors="replace"))


def _settled_state() -> dict[str, Any] | None:
    """Return the state, once a stack that is just starting has started or failed."""
    _wait(lambda: _read_state() is not None or not _keeper_runs(), "the stack did not start")
    return _read_state()


def _folder() -> Path:
    return Path.cwd() / ".stack"


@contextmanager
def _lock() -> Iterator[None]:
    with (_folder() / "lock").open("w") as file:
        for _ in range(_LOCK_TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            # A process that checks whether the keeper runs holds the lock for a moment.
            time.sleep(0.01)
        else:
            raise StackError("another stack is already running here")
        yield


def _keeper_runs() -> bool:
    if not (_folder() / "lock").exists():
        return False
    with (_folder() / "lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _read_state() -> dict[str, Any] | None:
    path = _folder() / "state.json"
    if not path.exists():
        return None
    state: dict[str, Any] = json.loads(path.read_text())
    if state["kind"] == "embedded" and not _keeper_runs():
        return None
    return state


def _write_state(kind: str, stack: StackEndpoints) -> None:
    path = _folder() / "state.json"
    draft = path.with_suffix(".draft")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps({"kind": kind, "pid": os.getpid(), "endpoints": stack.to_json()}))
    draft.replace(path)


def _wait(condition: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"{failure} within {_TIMEOUT:.0f} s; see {_folder()}")
        time.sleep(0.05)
