"""Run one server and end it when its owner is gone, however the owner went.

Started as a script. Its standard input is a pipe that the owner holds: the first line is a JSON
specification (a command line would show it to everyone), and end of file means that the owner
closed the pipe or died, SIGKILL included: the guard then stops the server and removes its folder.
It prints the server's process id.

It stays alive in its own session, so a Ctrl-C in the owner's terminal does not reach it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

_STOP_TIMEOUT = 10.0


def main() -> int:
    """Start the server, tell its pid, and wait for it; return its exit code."""
    spec = json.loads(sys.stdin.readline())
    identity = {}
    if spec["uid"] is not None:
        identity = {"user": spec["uid"], "group": spec["gid"], "extra_groups": []}
    with Path(spec["log"]).open("ab") as log:
        server = subprocess.Popen(
            spec["argv"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=spec["folder"],
            env=spec["env"],
            **identity,
        )
    print(server.pid, flush=True)  # noqa: T201 - the owner reads it
    # The guard itself goes last: a signal that reaches both must not orphan the server.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    owner_gone = threading.Event()
    threading.Thread(target=_end_with_owner, args=(server, spec, owner_gone), daemon=True).start()
    code = server.wait()
    if owner_gone.is_set():
        shutil.rmtree(spec["folder"], ignore_errors=True)
    return code


def _end_with_owner(
    server: "subprocess.Popen[bytes]", spec: "dict[str, Any]", owner_gone: threading.Event
) -> None:
    sys.stdin.read()
    owner_gone.set()
    for number in (spec["stop_signal"], signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_TIMEOUT)
            return


if __name__ == "__main__":
    sys.exit(main())
