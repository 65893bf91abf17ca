"""PgBouncer in front of a PostgreSQL, for the tests that are marked with its name."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING

import psycopg
import pytest

from utils._stack.process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils._stack.postgres import PostgresServer

#: Where it is; None where it is missing.
PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")


class PgBouncerServer(ServerProcess):
    """PgBouncer in transaction mode with one server connection for each user and database.

    It refuses to run as root, and knows the application's role by its password. It asks the server
    for users that it does not know, as it has to where they come and go.

    Args:
        server: The PostgreSQL behind it.
        max_clients: How many clients it lets in.
    """

    name = "pgbouncer"
    # It has nothing to lose, and the signal that ends it at once is another one from 1.23 on.
    stop_signal = signal.SIGKILL

    def __init__(self, server: PostgresServer, *, max_clients: int = 100) -> None:
        super().__init__(unprivileged=True)
        self._server = server
        self._max_clients = max_clients

    def url(self, role: str = "crm_user", dbname: str = "crm") -> str:
        """Return an application's URL through the pooler."""
        return f"postgresql://{role}:secret@127.0.0.1:{self.port}/{dbname}"

    def command(self) -> list[str]:
        """Write the configuration, and return the command."""
        assert PROGRAM is not None
        users = self.folder / "users.txt"
        users.write_text(f'"crm_user" "secret"\n"postgres" "{self._server.password}"\n')
        config = self.folder / "pgbouncer.ini"
        config.write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={self._server.port}\n"
            "[pgbouncer]\n"
            "listen_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\n"
            "unix_socket_dir =\n"
            "auth_type = scram-sha-256\n"
            f"auth_file = {users}\n"
            "auth_user = postgres\n"
            "auth_query = SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1\n"
            "pool_mode = transaction\n"
            "default_pool_size = 1\n"
            f"max_client_conn = {self._max_clients}\n"
            "server_login_retry = 0.1\n"
            "admin_users = crm_user\n"
        )
        return [PROGRAM, str(config)]

    def ready(self) -> bool:
        """Return True when the application's role reaches the database."""
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture
def pgbouncer(fault_server: PostgresServer) -> Iterator[PgBouncerServer]:
    """A PgBouncer with one server connection in front of the fault tests' server."""
    with PgBouncerServer(fault_server) as pooler:
        yield pooler
