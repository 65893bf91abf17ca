"""Run one server and end it when its owner is gone, however the owner went.

Started as a script. Its standard input is a pipe that the owner holds, with two lines of JSON: the
server's folder, and then, once the owner has filled the folder, a specification (a command line
would show it to everyone). End of file means that the owner closed the pipe or died, SIGKILL
included: at whatever point that is, the guard stops what runs and removes the folder.
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
import time
from pathlib import Path
from typing import Any

_STOP_TIMEOUT = 10.0
_REMOVE_TIMEOUT = 10.0


def main() -> int:
    """Wait for the specification, run it, and return the server's exit code."""
    # The guard goes last: a signal that reaches both must not orphan the server. A handler and
    # not SIG_IGN, which the server would inherit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        return 0
    folder = Path(json.loads(line))
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        _remove(folder)
        return 0
    guarded = _Guarded(folder, json.loads(line))
    threading.Thread(target=guarded.end_with_owner, daemon=True).start()
    code = guarded.run()
    if guarded.owner_gone:
        _remove(folder)
    return code


class _Guarded:
    """The programs of one specification, of which one runs at a time."""

    def __init__(self, folder: Path, spec: "dict[str, Any]") -> None:
        self.owner_gone = False
        self._folder = folder
        self._spec = spec
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Run the preparations and the server; stop at the first that fails."""
        for argv in self._spec["preparation"]:
            step = self._start(argv)
            if step is None or step.wait() != 0:
                return 1
        server = self._start(self._spec["argv"])
        if server is None:
            return 1
        # Not print: an owner that died this moment must not end the guard by a broken pipe.
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), b"%d\n" % server.pid)
        return server.wait()

    def end_with_owner(self) -> None:
        """Wait for the end of standard input, and stop what runs."""
        sys.stdin.read()
        with self._lock:
            self.owner_gone = True
            running = self._running
        if running is None:
            return
        for number in (self._spec["stop_signal"], signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(_STOP_TIMEOUT)
                return

    def _start(self, argv: "list[str]") -> "subprocess.Popen[bytes] | None":
        spec = self._spec
        identity = {}
        if spec["uid"] is not None:
            identity = {"user": spec["uid"], "group": spec["gid"], "extra_groups": []}
        with self._lock, open(spec["log"], "ab", opener=_private) as log:
            if self.owner_gone:
                return None
            self._running = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=spec["env"],
                **identity,
            )
            return self._running


def _private(path: str, flags: int) -> int:
    # OpenBao prints its root token.
    return os.open(path, flags, 0o600)


def _remove(folder: Path) -> None:
    # More than once: a child of what was stopped may still be writing.
    deadline = time.monotonic() + _REMOVE_TIMEOUT
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
