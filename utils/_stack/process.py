"""What the three embedded servers share: folder, port, start, wait, stop."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Self

__all__ = ["HeldPort", "ServerProcess", "StackError", "free_port", "package_folder"]


class HeldPort:
    """A port that no other program is given while we hold it.

    While no server listens on it, whoever connects is refused. A server that sets
    ``SO_REUSEADDR`` may listen on it: Linux lets two have a port when one alone listens. No other
    system does, and there it is free until a server takes it.

    Args:
        number: Which; any free one when 0.

    Raises:
        OSError: Another program has it.
    """

    def __init__(self, number: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", number))
        except OSError:
            self._socket.close()
            raise
        #: The port's number, also after ``release``.
        self.number = int(self._socket.getsockname()[1])
        if sys.platform != "linux":
            self.release()

    def release(self) -> None:
        """Release the port; a second call does nothing."""
        self._socket.close()


def free_port() -> int:
    """Return a port that nothing listens on now, for a server that we do not start ourselves."""
    held = HeldPort()
    held.release()
    return held.number


_GUARD = Path(__file__).with_name("guard.py")
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 30.0
_LOG_TAIL_LINES = 15


class StackError(RuntimeError):
    """The development stack failed; the message says why and how to fix it."""


class ServerProcess(ABC):
    """One embedded server on a free loopback port, in a folder of its own.

    Use it as a context manager, or call ``start`` and ``close``. ``stop`` keeps folder and port,
    so that a later ``start`` is a restart: nobody else gets either.

    Args:
        unprivileged: Give the server to an ordinary user when we are root, as PostgreSQL demands.
    """

    #: Name in messages and of the folder.
    name: str
    #: The signal for a quick but clean shutdown.
    stop_signal: signal.Signals = signal.SIGTERM

    def __init__(self, *, unprivileged: bool = False) -> None:
        self.identity = _unprivileged_identity() if unprivileged else None
        self.pid = 0
        self._folder: Path | None = None
        self._has_folder = False
        self._port: int | None = None
        self._held_ports: list[HeldPort] = []
        self._guard: subprocess.Popen[str] | None = None

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "stopped"
        return f"<{type(self).__name__} on 127.0.0.1:{self.port}, {state}>"

    @property
    def port(self) -> int:
        """The server's own port, held for it from the first use until ``close``; may be chosen."""
        if self._port is None:
            self._port = self.hold_port()
        return self._port

    @port.setter
    def port(self, number: int) -> None:
        self._port = self.hold_port(number)

    def hold_port(self, number: int = 0) -> int:
        """Hold a port for this server until ``close``, and return its number.

        Args:
            number: Which; any free one when 0.

        Raises:
            OSError: Another program has it.
        """
        held = HeldPort(number)
        self._held_ports.append(held)
        return held.number

    @property
    def folder(self) -> Path:
        """The server's own folder; made at the first use."""
        path = self._path()
        if not self._has_folder:
            path.mkdir(mode=0o700)
            self._has_folder = True
            if self.identity is not None:
                os.chown(path, *self.identity)
        return path

    def _path(self) -> Path:
        if self._folder is None:
            self._folder = _place_for(f"failfast-{self.name}-{token_hex(4)}", self.identity)
        return self._folder

    def preparation(self) -> list[list[str]]:
        """Return the argument lists of programs that run, to their ends, before the server."""
        return []

    @abstractmethod
    def command(self) -> list[str]:
        """Return the argument list that runs the server in the foreground."""

    @abstractmethod
    def ready(self) -> bool:
        """Return True when the server answers as it should."""

    def environment(self) -> dict[str, str]:
        """Return the server's whole environment: nothing ambient may steer it."""
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(self.folder)}

    @property
    def running(self) -> bool:
        """Whether the server process is there."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def log(self) -> Path:
        """The file that has what the server printed."""
        return self.folder / "server.log"

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            StackError: It ended, or did not answer within 60 seconds; with the end of its log.
        """
        self.pid = 0
        self._guard = self._start_guard()
        # The guard gets the folder's name before the folder is made: it removes it in any case.
        spec = {
            "preparation": self.preparation(),
            "argv": self.command(),
            "env": self.environment(),
            "log": str(self.log),
            "uid": self.identity[0] if self.identity else None,
            "gid": self.identity[1] if self.identity else None,
            "stop_signal": int(self.stop_signal),
        }
        self._tell_guard(self._guard, spec)
        assert self._guard.stdout is not None  # noqa: S101 - PIPE was asked for
        self.pid = int(self._guard.stdout.readline() or 0)
        deadline = time.monotonic() + _START_TIMEOUT
        while not self.ready():
            if not self.running or time.monotonic() > deadline:
                state = "did not answer in time" if self.running else "ended while starting"
                failure = f"{self.name} on port {self.port} {state}:\n{self._log_tail()}"
                self.stop(signal.SIGKILL)
                self.close()
                raise StackError(failure)
            time.sleep(0.02)
        return self

    def _start_guard(self) -> subprocess.Popen[str]:
        # -I and -S skip site-packages, which the guard does not need: it starts faster.
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._tell_guard(guard, str(self._path()))
        return guard

    def _tell_guard(self, guard: subprocess.Popen[str], words: object) -> None:
        assert guard.stdin is not None  # noqa: S101 - PIPE was asked for
        # If the guard has ended already, the wait for the server reports it with the log.
        with suppress(BrokenPipeError):
            guard.stdin.write(json.dumps(words) + "\n")
            guard.stdin.flush()

    def stop(self, stop_signal: signal.Signals | None = None) -> None:
        """Stop the server; folder and port stay.

        Args:
            stop_signal: Another signal than the server's own, to stop it the hard way.
        """
        if self._guard is None:
            return
        # Without a pid the start was interrupted: closing the pipe makes the guard clean up.
        if self.running and self.pid:
            # The guard would stop it too, but would remove the folder as well.
            for number in (stop_signal or self.stop_signal, signal.SIGKILL):
                self.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self._guard.wait(_STOP_TIMEOUT)
                    break
        self._release_guard()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the server itself, if there is one."""
        if not self.pid:
            return  # number 0 would be our own process group
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def restart(self, stop_signal: signal.Signals | None = None) -> None:
        """Stop the server and start it again with the same data on the same port."""
        self.stop(stop_signal)
        self.start()

    def close(self) -> None:
        """Stop the server and remove its folder; a second call does nothing."""
        self.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        for held in self._held_ports:
            held.release()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _release_guard(self) -> None:
        if self._guard is None:
            return
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                pipe.close()
        self._guard.wait()
        self._guard = None

    def _log_tail(self) -> str:
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])


def package_folder(name: str) -> Path:
    """Return the folder of an installed package without importing it.

    Raises:
        StackError: It is not installed; the message names the extra.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise StackError(
            f"the package {name!r} is not installed: pip install 'failfast-clients[local]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _unprivileged_identity() -> tuple[int, int] | None:
    """Return user and group for a server that refuses root; None when we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise StackError(
            "PostgreSQL refuses root, and there is no user 'nobody' to run it"
        ) from None
    return entry.pw_uid, entry.pw_gid


def _place_for(name: str, identity: tuple[int, int] | None) -> Path:
    if identity is None:
        return Path(tempfile.gettempdir(), name)
    # The other user must be able to enter the folder, and TMPDIR may be inside root's own.
    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):  # noqa: S108 - a new name
        path = Path(base)
        if path.is_dir() and all(p.stat().st_mode & 0o001 for p in (path, *path.parents)):
            return path / name
    raise StackError("no temporary folder that the user 'nobody' may enter: set TMPDIR to one")
