"""A docker-compose for machines without Docker: its containers are the stack's own servers.

It knows the words that the project uses. As with Docker, the containers get the environment's
passwords, a volume keeps PostgreSQL's first one until ``down -v``, and containers that run are
left alone by ``up`` unless their environment has changed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg

from utils._stack.openbao import OpenBaoServer
from utils._stack.postgres import PostgresServer
from utils._stack.valkey import ValkeyServer

__all__ = ["containers", "install"]

#: Seconds until the servers end by themselves: a test that was killed says no ``down``.
_LONGEST_LIFE = 600


def install(folder: Path) -> None:
    """Put a program ``docker-compose`` into *folder*; its calls are logged in ``calls``."""
    program = folder / "docker-compose"
    root = Path(__file__).parents[1]
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" -m {__name__} "{folder}" "$@"\n'
    )
    program.chmod(0o755)


def containers(folder: Path) -> dict[str, int]:
    """Return the process that stands for the containers of each project."""
    return {
        path.parent.name: int(path.read_text())
        for path in folder.glob("projects/*/pid")
        if _runs(path.parent)
    }


def main(folder: Path, words: list[str]) -> int:
    """Do what Compose would."""
    with (folder / "calls").open("a") as log:
        print(*words, file=log)
    if "version" in words:
        return 0
    project = folder / "projects" / words[words.index("-p") + 1]
    project.mkdir(parents=True, exist_ok=True)
    if "up" in words:
        _up(project)
    elif "ps" in words and _runs(project):
        sys.stdout.write("vault\nvalkey\npostgres\n")
    elif "down" in words:
        _stop(project)
        if "-v" in words:
            shutil.rmtree(project)
    return 0


def _up(project: Path) -> None:
    wanted = {name: value for name, value in os.environ.items() if name.startswith("SDK_")}
    state = project / "environment"
    if containers(project.parents[1]).get(project.name) and json.loads(state.read_text()) == wanted:
        return
    _stop(project)
    state.write_text(json.dumps(wanted))
    volume = project / "volume"
    if not volume.exists():
        volume.write_text(wanted["SDK_POSTGRES_DEV_PASSWORD"])
    with (project / "log").open("ab") as log, (project / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(project)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock.fileno(),),  # held until it ends
        )
    (project / "pid").write_text(str(engine.pid))


def _stop(project: Path) -> None:
    pid = containers(project.parents[1]).get(project.name)
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while _runs(project) and time.monotonic() < deadline:
        time.sleep(0.05)


def _runs(project: Path) -> bool:
    with (project / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _serve(project: Path) -> int:
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, lambda *_: sys.exit(0))
    signal.alarm(_LONGEST_LIFE)
    given = json.loads((project / "environment").read_text())
    vault = OpenBaoServer(root_token=given["SDK_VAULT_DEV_TOKEN"])
    valkey = ValkeyServer(password=given["SDK_VALKEY_DEV_PASSWORD"])
    postgres = PostgresServer()
    postgres.password = (project / "volume").read_text()
    ports = ("SDK_VAULT_PORT", "SDK_VALKEY_PORT", "SDK_POSTGRES_PORT")
    with ExitStack() as running:
        for server, port in zip((vault, valkey, postgres), ports, strict=True):
            server.port = int(given[port])
            running.enter_context(server)
        with psycopg.connect(postgres.url(dbname="postgres"), autocommit=True) as conn:
            conn.execute("CREATE DATABASE crm")  # as POSTGRES_DB says
        signal.pause()
    return 0


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sys.exit(main(folder, sys.argv[2:]) if sys.argv[2:] else _serve(folder))
