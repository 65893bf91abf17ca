"""Ports of 127.0.0.1 for servers that start, stop and start again."""

from __future__ import annotations

import socket
import sys

__all__ = ["HeldPort", "free_port"]


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
        """Let others have the port; more than once does no harm."""
        self._socket.close()


def free_port() -> int:
    """Return a port that nothing listens on now, for a server that we do not start ourselves."""
    held = HeldPort()
    held.release()
    return held.number
