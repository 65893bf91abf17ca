"""SQLAlchemy on a PostgresClient: models and sessions with the client's promises.

``create_engine(postgres)`` returns an Engine on the client's own connections and pool. Every
transaction belongs to one identity, and begins in its first statement's round trip::

    engine = create_engine(postgres)
    with user_context(user_id), Session(engine) as session:
        session.scalars(select(Contact)).all()

The identity is ``Session(engine, info={"identity": {"user_id": ada}})``'s or that of
``execution_options(identity=...)``, else the ambient one. Without any, or with a second one in the
same transaction, the statement raises RlsContextError, and nothing is sent.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from copy import copy
from inspect import unwrap
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NoReturn

try:
    import sqlalchemy
except ModuleNotFoundError as error:
    words = f"{error}: pip install 'failfast-clients[sqlalchemy]'"
    raise ModuleNotFoundError(words, name=error.name) from error

from psycopg.rows import tuple_row
from sqlalchemy import event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from ._postgres.first_statement import FirstStatement
from .errors import PostgresConfigurationError, PostgresError, RlsContextError
from .identity import current_identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ._postgres.block import Block
    from ._postgres.guarded import GuardedConnection, GuardedCursor
    from .postgres_client import PostgresClient

    _Options = Mapping[Any, Any]

__all__ = ["create_engine"]

_OTHER = "this transaction belongs to another identity: commit or roll back first"
# What the client does itself, or cannot let anybody else do.
_NOT_THE_ENGINES = {
    "PostgresClient's URL and settings": "async_creator connect_args creator module strategy url",
    "PostgresClient's configure=": "json_deserializer json_serializer use_native_hstore "
    "native_inet_types",
    "PostgresClient's pool_size": "max_overflow pool pool_size pool_use_lifo poolclass",
    "PostgresClient's pool_timeout": "pool_timeout",
    "nothing: the client does it": "pool_pre_ping pool_recycle pool_reset_on_return",
}


def create_engine(
    postgres: PostgresClient, *, admin: bool = False, **kwargs: Any
) -> sqlalchemy.Engine:
    """Return an Engine whose connections and transactions are the client's.

    Args:
        postgres: The client; it stays the caller's to close.
        admin: Whether transactions have no identity, as in ``admin_connection()``: for migrations.
        kwargs: ``sqlalchemy.create_engine``'s own, such as ``echo`` and ``isolation_level``.

    Returns:
        The engine. It keeps no connections of its own: the client's pool is the pool.

    Raises:
        PostgresConfigurationError: An argument is the client's to decide.
        PostgresError: The server cannot be reached.
    """
    for instead, names in _NOT_THE_ENGINES.items():
        if found := ", ".join(sorted(kwargs.keys() & set(names.split()))):
            raise PostgresConfigurationError(f"create_engine() takes no {found}: use {instead}")
    # SQLAlchemy reads a new server's version and defaults once: below, and without any user.
    admins = chain([True], repeat(admin))
    # Not as an instrumentation has wrapped it: the client records each statement itself.
    engine: sqlalchemy.Engine = unwrap(sqlalchemy.create_engine)(
        "postgresql+failfast://",
        poolclass=NullPool,
        creator=lambda: _Connection(postgres, admin=next(admins)),
        use_native_hstore=False,
        **kwargs,
    )
    event.listen(engine, "engine_connect", lambda conn: _take(conn, conn.get_execution_options()))
    event.listen(engine, "set_connection_execution_options", _take)
    event.listen(engine, "before_cursor_execute", _take_execution_options)
    engine.raw_connection().close()
    return engine


class _Connection:
    """What SQLAlchemy takes for a driver's connection: a transaction of the client at a time."""

    closed = broken = autocommit = False
    read_only: bool | None = None
    isolation: Any = None

    def __init__(self, postgres: PostgresClient, *, admin: bool) -> None:
        self._postgres, self._admin = postgres, admin
        self._block: Block | None = None
        self._handle: GuardedConnection | None = None
        self._identity: _Options | None = None
        self._info: _Options = {}  # where the identity was found, and may be changed
        self.options: _Options = {}  # SQLAlchemy's; raw cursors have their identity, too

    def belong_to(self, identity: _Options, info: _Options | None = None) -> None:
        """Say whose rows the transaction sees; until its end nothing else can be said."""
        if identity != self._identity and (self._block is not None or self._identity is not None):
            raise RlsContextError(_OTHER)
        self._identity, self._info = copy(identity), info or self._info

    def cursor(self, name: str | None = None, **options: Any) -> _Cursor:
        if self.closed:
            raise PostgresError("this connection was given back: take a new one from the engine")
        return _Cursor(self, name, options)

    def begin(self, first: FirstStatement | None = None) -> GuardedConnection:
        if self._identity is None:
            self._identity = copy(self.options.get("identity"))
        block = self._block_of(self._identity)
        self._handle = block.__enter__() if first is None else block.begin_with(first)
        self._block = block
        return self._handle

    @property
    def handle(self) -> GuardedConnection | None:
        now = self._info.get("identity", self._identity)
        block = self._block if now != self._identity or current_identity() else None
        if block is not None and self._block_of(now).context != block.context:
            raise RlsContextError(_OTHER)
        return self._handle

    def commit(self) -> None:
        self.rollback(commits=True)

    def rollback(self, *, commits: bool = False) -> None:
        block, self._block, self._handle, self._identity = self._block, None, None, None
        self._info = {}
        if block is not None:
            block.end(commits=commits)

    def close(self) -> None:
        self.closed = True
        self.rollback()

    def _block_of(self, identity: _Options | None) -> Block:
        return self._postgres.begin_block(
            identity, admin=self._admin, isolation=self.isolation, read_only=self.read_only
        )


class _Cursor(AbstractContextManager["_Cursor"]):
    """A cursor whose first statement opens the transaction."""

    def __init__(self, connection: _Connection, name: str | None, options: dict[str, Any]) -> None:
        self.connection = connection
        self._options = options if name is None else {"name": name, **options}
        self._cursor: GuardedCursor | None = None

    def execute(self, query: Any, params: Any = None) -> None:
        if self.connection.handle or self._cursor or self._options:
            self._opened().execute(query, params)
            return
        first = FirstStatement(query, params)
        handle = self.connection.begin(first)
        if first.error is not None:
            raise first.error
        self._cursor = handle.adopt(first.cursor)

    def close(self, *_: object) -> None:
        if self._cursor is not None:
            self._cursor.close()

    __exit__ = close

    def __iter__(self) -> Iterator[Any]:
        return iter(self._opened())

    def __getattr__(self, name: str) -> Any:
        # Before its first statement a driver's cursor has no result either.
        found = {} if self._cursor else {"description": None, "rowcount": -1}
        return found[name] if name in found else getattr(self._opened(), name)

    def _opened(self) -> GuardedCursor:
        if self._cursor is None:
            handle = self.connection.handle or self.connection.begin()
            self._cursor = handle.cursor(**{"row_factory": tuple_row, **self._options})
        return self._cursor


def _refused(words: str) -> Any:
    def refuse(*_args: object, **_kwargs: object) -> NoReturn:
        raise PostgresConfigurationError(words)

    return refuse


class _Dialect(PGDialect_psycopg):
    """SQLAlchemy's dialect for psycopg, without what the client does itself."""

    driver = "failfast"
    supports_statement_cache = True

    connect = _refused("use clients.sqlalchemy_adapter.create_engine(postgres)")
    get_async_dialect_cls = _refused("this client has no asyncio: use SQLAlchemy's Session")
    set_deferrable = _refused("DEFERRABLE is not supported")
    do_begin_twophase = _refused("two-phase commit is not supported")

    def on_connect(self) -> None:
        """Do nothing: a transaction begins with its first statement."""

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        return (dbapi_connection.isolation or "read committed").upper()

    def set_isolation_level(self, dbapi_connection: Any, level: str) -> None:
        if level.upper() == "AUTOCOMMIT":
            raise PostgresConfigurationError("AUTOCOMMIT has no identity: commit instead")
        dbapi_connection.isolation = level.lower().replace("uncommitted", "committed")  # the same


def _take(connection: Any, options: _Options) -> None:
    driver = connection.connection.driver_connection
    if driver.handle is not None and "identity" in options:
        driver.belong_to(options["identity"])
    driver.options |= options


def _take_execution_options(connection: Any, *args: Any) -> None:
    if args[3] and (identity := args[3].execution_options.get("identity")) is not None:
        connection.connection.driver_connection.belong_to(identity)


def _take_session_info(session: Session, _: object, conn: Any) -> None:
    if conn.dialect.driver == _Dialect.driver and "identity" in session.info:
        conn.connection.driver_connection.belong_to(session.info["identity"], session.info)


registry.register("postgresql.failfast", __name__, "_Dialect")
# Before the application's own listeners, whose statements need the identity.
event.listen(Session, "after_begin", _take_session_info, insert=True)
