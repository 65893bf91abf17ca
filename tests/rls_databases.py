"""Databases of a test's own, in which it makes tables, roles and mistakes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils._stack.postgres import PostgresServer

__all__ = ["ROLE_PASSWORD", "Scratch", "scratch_database"]

#: The password of every role that a test makes, and of the project's two.
ROLE_PASSWORD = "secret"


@dataclass
class Scratch:
    """One empty database.

    Args:
        server: Where it is.
        name: Its name.
    """

    server: PostgresServer
    name: str
    roles: list[str] = field(default_factory=list)

    def connect(self, role: str = "crm_user") -> psycopg.Connection[tuple[object, ...]]:
        """Connect as an application would, in autocommit mode."""
        url = self.server.url(role, ROLE_PASSWORD, self.name)
        return psycopg.connect(url, autocommit=True)

    def run(self, statements: str) -> None:
        """Run statements as superuser; several in one text are one transaction."""
        with psycopg.connect(self.server.url(dbname=self.name), autocommit=True) as connection:
            connection.execute(statements.encode())

    def make_role(self, name: str, attributes: str = "") -> None:
        """Make a role that may log in, until ``drop_roles()``."""
        quoted = sql.Identifier(name).as_string()
        self.run(f"CREATE ROLE {quoted} LOGIN {attributes} PASSWORD '{ROLE_PASSWORD}'")
        self.roles.append(name)

    def drop_roles(self) -> None:
        """Drop the roles made here, with everything that they own in this database."""
        quoted = [sql.Identifier(name).as_string() for name in reversed(self.roles)]
        self.roles.clear()
        for name in quoted:
            self.run(f"DROP OWNED BY {name}")
        for name in quoted:
            self.run(f"DROP ROLE {name}")


@contextmanager
def scratch_database(server: PostgresServer, name: str) -> Iterator[Scratch]:
    """Make an empty database, and drop it and its roles at the end."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        database = sql.Identifier(name)
        connection.execute(sql.SQL("CREATE DATABASE {}").format(database))
        scratch = Scratch(server, name)
        try:
            yield scratch
        finally:
            scratch.drop_roles()
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))
