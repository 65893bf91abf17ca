"""Three schemas whose rows belong to somebody: the project's, a shop's, and Supabase's shape."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest

from clients.identity import RlsSetting
from clients.postgres_client import PostgresClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from utils._stack.postgres import PostgresServer

_EXAMPLES = Path(__file__).parent / "examples"

Identity = dict[str, Any]

#: Rows remember who wrote them in ``writer``, whatever their columns say.
_NOTES_OF_USERS = """
CREATE TABLE notes (user_id uuid NOT NULL, writer text NOT NULL);
CREATE INDEX ON notes (user_id);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON notes FOR ALL
    USING (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid))
    WITH CHECK (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid));
GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO crm_user;
"""


@dataclass(frozen=True)
class Example:
    """One schema, and the identities that its tests use.

    Args:
        name: Which.
        dbname: In which database it stands.
        login: The application's role.
        identity: The client's; None: the default.
        local_role: The client's.
        identities: Whose rows there are; each has one note from the start.
        columns: Of a note, less the writer.
        settings: What policies read.
        sql: What makes the schema, the table of the notes included.
    """

    name: str
    dbname: str
    login: str
    identity: Mapping[str, RlsSetting] | None
    local_role: str | None
    identities: tuple[Identity, ...]
    columns: tuple[str, ...]
    settings: tuple[str, ...]
    sql: str

    @property
    def owner(self) -> str:
        """SQL for whose a note is, as ``key`` says it."""
        return f"concat_ws('/', {', '.join(self.columns)})"

    @property
    def insert(self) -> str:
        """SQL that takes ``row(...)``."""
        return f"INSERT INTO notes VALUES ({', '.join(['%s'] * len(self.columns))}, %s)"

    @property
    def options(self) -> dict[str, Any]:
        """What a client of it is told."""
        return {"identity": self.identity, "local_role": self.local_role}

    def values(self, identity: Identity) -> tuple[object, ...]:
        """Return the columns of a note of *identity*, less the writer."""
        if "claims" in identity:
            return (UUID(identity["claims"]["sub"]),)
        return tuple(identity[column] for column in self.columns)

    def key(self, identity: Identity) -> str:
        """Return what one identity is called in rows."""
        return "/".join(map(str, self.values(identity)))

    def row(self, owner: Identity, writer: Identity) -> tuple[object, ...]:
        """Return a note of *owner* that *writer* writes."""
        return (*self.values(owner), self.key(writer))

    def texts(self, identity: Identity) -> tuple[str, ...]:
        """Return what a careless function would write into the settings."""
        if "claims" in identity:
            return (f'{{"sub": "{identity["claims"]["sub"]}"}}',)
        return tuple(map(str, self.values(identity)))

    def given(self, identity: Identity) -> dict[str, Any]:
        """Return the arguments of a call for *identity*."""
        return dict(identity) if self.identity is None else {"identity": identity}

    def fill(self, superuser: psycopg.Connection[Any]) -> None:
        """Leave one note for each identity."""
        superuser.execute("TRUNCATE notes")
        for identity in self.identities:
            superuser.execute(self.insert.encode(), self.row(identity, identity))


_USERS = tuple(UUID(int=number, version=4) for number in range(100, 104))

USERS = Example(
    name="users",
    dbname="crm",
    login="crm_user",
    identity=None,
    local_role=None,
    identities=tuple({"user_id": user} for user in _USERS),
    columns=("user_id",),
    settings=("app.current_user_id",),
    sql=_NOTES_OF_USERS,
)
TENANTS = Example(
    name="tenants",
    dbname="tenants",
    login="shop_user",
    identity={
        "tenant_id": RlsSetting("shop.tenant_id", int),
        "user_id": RlsSetting("shop.user_id", str),
    },
    local_role=None,
    # Each tenant has two users, and each user two tenants.
    identities=tuple(
        {"tenant_id": tenant, "user_id": user}
        for tenant in (1, 2)
        for user in ("auth0|ada", "auth0|bob")
    ),
    columns=("tenant_id", "user_id"),
    settings=("shop.tenant_id", "shop.user_id"),
    sql=(_EXAMPLES / "tenants.sql").read_text(),
)
SUPABASE = Example(
    name="supabase",
    dbname="supabase",
    login="authenticator",
    identity={"claims": RlsSetting("request.jwt.claims", dict)},
    local_role="authenticated",
    identities=tuple({"claims": {"sub": str(user), "role": "authenticated"}} for user in _USERS),
    columns=("user_id",),
    settings=("request.jwt.claims",),
    sql=(_EXAMPLES / "supabase.sql").read_text(),
)
EXAMPLES = (USERS, TENANTS, SUPABASE)


class NewClientOf:
    """Makes clients of one example on one server, and closes them.

    Args:
        example: Which schema.
        server: Where it stands.
        opened: Closes what is made.
    """

    def __init__(self, example: Example, server: PostgresServer, opened: ExitStack) -> None:
        self.example = example
        self.server = server
        self._opened = opened

    def url(self) -> str:
        """Return the application's URL."""
        return self.server.url(self.example.login, "secret", self.example.dbname)

    def superuser(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Open an autocommit connection that passes row-level security by."""
        url = self.server.url(dbname=self.example.dbname)
        return self._opened.enter_context(psycopg.connect(url, autocommit=True))

    def __call__(
        self, url: str | Callable[..., str] | None = None, **settings: Any
    ) -> PostgresClient:
        """Return a client with the example's identity and role."""
        made = PostgresClient(url or self.url(), **{**self.example.options, **settings})
        self._opened.callback(made.close)
        return made


@pytest.fixture(params=EXAMPLES, ids=[example.name for example in EXAMPLES])
def example(request: pytest.FixtureRequest) -> Example:
    """Each of the three schemas."""
    found: Example = request.param
    return found


@pytest.fixture
def client_of(
    request: pytest.FixtureRequest, example: Example, server: PostgresServer
) -> Iterator[NewClientOf]:
    """A maker of clients of the example, whose notes are as they were at first."""
    installed: set[str] = request.getfixturevalue("installed_examples")
    with ExitStack() as opened:
        maker = NewClientOf(example, server, opened)
        if example.name not in installed:
            if example.dbname != "crm":
                with psycopg.connect(server.url(), autocommit=True) as conn:
                    conn.execute(f"CREATE DATABASE {example.dbname}".encode())
            maker.superuser().execute(example.sql.encode())
            installed.add(example.name)
        example.fill(maker.superuser())
        yield maker


@pytest.fixture(scope="session")
def installed_examples() -> set[str]:
    """Which examples stand on the fault tests' server."""
    return set()
