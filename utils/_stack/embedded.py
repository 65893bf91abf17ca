"""The three servers as child processes, from wheels: no Docker."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from utils._stack.openbao import OpenBaoServer
from utils._stack.postgres import PostgresServer
from utils._stack.seed import seed_stack
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from utils._stack.endpoints import StackEndpoints

__all__ = ["EmbeddedStack"]


class EmbeddedStack:
    """The three servers, started and seeded on entry and stopped on exit.

    They end with this process, also when it is killed. Works as root and as an ordinary user.
    """

    def __init__(self) -> None:
        self.vault = OpenBaoServer()
        self.postgres = PostgresServer()
        self.valkey = ValkeyServer()
        self._running = ExitStack()

    def start(self) -> StackEndpoints:
        """Start and seed the servers.

        Returns:
            Where they are, and how to log in.

        Raises:
            StackError: One of them did not start; none is left running.
        """
        with ExitStack() as starting:
            for server in (self.valkey, self.vault, self.postgres):
                starting.callback(server.close)
                server.start()
            endpoints = seed_stack(
                vault_addr=self.vault.url,
                vault_root_token=self.vault.root_token,
                superuser_url=self.postgres.url(),
                valkey_url=self.valkey.url,
            )
            self._running = starting.pop_all()
        return endpoints

    def close(self) -> None:
        """Stop the servers and remove their folders."""
        self._running.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
