"""SQLAlchemy on a PostgresClient: models and sessions with the client's promises.

``create_engine(postgres)`` returns an Engine whose connections are the client's: made by it, lent
by its pool, and given back clean. Every transaction belongs to one identity, and the first
statement travels together with what begins the transaction::

    engine = create_engine(postgres)
    with user_context(user_id), Session(engine) as session:
        session.scalars(select(Contact)).all()

The identity is the session's (``Session(engine, info={"identity": {"user_id": ada}})``), else that
of ``execution_options(identity=...)``, else the ambient one. Without any, the first statement
raises RlsContextError and nothing is sent.
Source: https://docs.sqlalchemy.org/en/20/core/connections.html.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import sqlalchemy
from psycopg.rows import tuple_row
from sqlalchemy import event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from ._postgres.first_statement import FirstStatement
from .errors import PostgresConfigurationError, PostgresError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine.interfaces import IsolationLevel

    from ._postgres.block import Block
    from ._postgres.guarded import GuardedConnection, GuardedCursor
    from ._postgres.modes import Isolation
    from .postgres_client import PostgresClient

__all__ = ["create_engine"]

_NAME = "postgresql.failfast"
_LEVELS: dict[str | None, Isolation | None] = {
    None: None,
    "READ COMMITTED": "read committed",
    # Which PostgreSQL takes for the same.
    "READ UNCOMMITTED": "read committed",
    "REPEATABLE READ": "repeatable read",
    "SERIALIZABLE": "serializable",
}
# What the client does itself, or cannot let anybody else do.
_NOT_THE_ENGINES = {
    "connect_args": "PostgresClient's URL and settings",
    "creator": "PostgresClient's URL",
    "async_creator": "a synchronous engine: this client has no asyncio",
    "json_deserializer": "PostgresClient's configure=",
    "json_serializer": "PostgresClient's configure=",
    "max_overflow": "PostgresClient's pool_size",
    "pool": "PostgresClient's pool",
    "pool_pre_ping": "nothing: stale connections are seen before they are lent",
    "pool_recycle": "nothing: PostgresClient's pool renews its connections",
    "pool_size": "PostgresClient's pool_size",
    "pool_timeout": "PostgresClient's pool_timeout",
    "poolclass": "PostgresClient's pool",
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
    for name in sorted(kwargs.keys() & _NOT_THE_ENGINES.keys()):
        raise PostgresConfigurationError(
            f"create_engine() does not take {name}: use {_NOT_THE_ENGINES[name]}"
        )
    _refuse_autocommit(kwargs.get("isolation_level"))
    lender = _Lender(postgres, admin=admin)
    engine = sqlalchemy.create_engine(
        "postgresql+failfast://",
        poolclass=NullPool,
        creator=lender.connect,
        use_native_hstore=False,
        **kwargs,
    )
    event.listen(engine, "begin", _take_execution_options)
    # SQLAlchemy asks a new server for its version and defaults once: now, and without any user.
    engine.raw_connection().close()
    lender.is_ready = True
    return engine


class _Lender:
    """Makes the connections that SQLAlchemy sees.

    Args:
        postgres: Whose sessions they use.
        admin: Whether their transactions have no identity.
    """

    def __init__(self, postgres: PostgresClient, *, admin: bool) -> None:
        self._postgres = postgres
        self._admin = admin
        self.is_ready = False

    def connect(self) -> _Connection:
        return _Connection(self._postgres, admin=self._admin or not self.is_ready)


class _Connection:
    """What SQLAlchemy takes for a driver's connection: a transaction of the client at a time."""

    #: SQLAlchemy discards a connection that is broken; the client has done so before it asks.
    broken = False
    autocommit = False
    read_only: bool | None = None

    def __init__(self, postgres: PostgresClient, *, admin: bool) -> None:
        self._postgres = postgres
        self._admin = admin
        self._block: Block | None = None
        self._handle: GuardedConnection | None = None
        #: Whose rows the next transaction sees; None: the current user's.
        self.identity: Mapping[str, object] | None = None
        self.isolation_level: str | None = None
        self.closed = False

    def cursor(self, name: str | None = None, **options: Any) -> _Cursor:
        if self.closed:
            raise PostgresError("this connection was given back: take a new one from the engine")
        return _Cursor(self, name, options)

    def begin(self, first: FirstStatement | None = None) -> GuardedCursor | None:
        """Open the transaction, together with its first statement where there is one."""
        block = self._postgres.begin_block(
            self.identity,
            admin=self._admin,
            isolation=_LEVELS[self.isolation_level],
            read_only=self.read_only,
        )
        self._block = block
        if first is None:
            self._handle = block.__enter__()
            return None
        try:
            self._handle, cursor = block.begin_with(first)
        except BaseException:
            if not block.is_open:
                self._block = None
            raise
        return cursor

    @property
    def handle(self) -> GuardedConnection | None:
        """The running transaction."""
        return self._handle

    def commit(self) -> None:
        self._end(None)

    def rollback(self) -> None:
        self._end(_RolledBack())

    def close(self) -> None:
        self.closed = True
        self.rollback()

    def _end(self, reason: BaseException | None) -> None:
        block, self._block, self._handle = self._block, None, None
        self.identity = None
        if block is not None and block.is_open:
            block.__exit__(None if reason is None else type(reason), reason, None)


class _RolledBack(Exception):  # noqa: N818 - what a block is told, and nobody else sees
    """The transaction was rolled back on purpose."""


class _Cursor:
    """A cursor whose first statement opens the transaction."""

    arraysize = 1

    def __init__(self, connection: _Connection, name: str | None, options: dict[str, Any]) -> None:
        self.connection = connection
        self._name = name
        self._options = options
        self._cursor: GuardedCursor | None = None

    def execute(self, query: Any, params: Any = None) -> None:
        if self.connection.handle is None and self._name is None:
            self._cursor = self.connection.begin(FirstStatement(query, params))
        else:
            self._opened().execute(query, params)

    def executemany(self, query: Any, rows: Sequence[Any]) -> None:
        self._opened().executemany(query, rows)

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor.close()

    def __getattr__(self, name: str) -> Any:
        # Before its first statement a driver's cursor has no result either.
        if self._cursor is None:
            if name in {"description", "rowcount"}:
                return None if name == "description" else -1
            raise AttributeError(name)
        return getattr(self._cursor, name)

    def _opened(self) -> GuardedCursor:
        if self.connection.handle is None:
            self.connection.begin()
        handle = self.connection.handle
        if self._cursor is None and handle is not None:
            self._cursor = handle.cursor(self._name, row_factory=tuple_row, **self._options)
        if self._cursor is None:
            raise PostgresError("the transaction could not be opened")
        return self._cursor


class _Dialect(PGDialect_psycopg):
    """SQLAlchemy's dialect for psycopg, without what the client does itself."""

    driver = "failfast"
    supports_statement_cache = True

    @classmethod
    def get_async_dialect_cls(cls, url: Any) -> NoReturn:
        raise PostgresConfigurationError(f"{url.drivername}: this client has no asyncio")

    def on_connect(self) -> None:
        # The first transaction is not begun before its first statement.
        return None

    def get_default_isolation_level(self, dbapi_conn: Any) -> IsolationLevel:
        return self.get_isolation_level(dbapi_conn)

    def get_isolation_level(self, dbapi_connection: Any) -> IsolationLevel:
        level: IsolationLevel = dbapi_connection.isolation_level or "READ COMMITTED"
        return level

    def set_isolation_level(self, dbapi_connection: Any, level: IsolationLevel) -> None:
        _refuse_autocommit(level)
        dbapi_connection.isolation_level = level


def _refuse_autocommit(level: object) -> None:
    if isinstance(level, str) and level.upper() == "AUTOCOMMIT":
        raise PostgresConfigurationError(
            "AUTOCOMMIT leaves a statement without an identity: use PostgresClient.execute() for "
            "one statement in a transaction of its own, or session.commit() after it"
        )


def _take_execution_options(connection: sqlalchemy.Connection) -> None:
    identity = connection.get_execution_options().get("identity")
    if identity is not None:
        _adapted(connection).identity = identity


def _take_session_info(session: Session, _: object, connection: sqlalchemy.Connection) -> None:
    if connection.dialect.driver == _Dialect.driver and "identity" in session.info:
        _adapted(connection).identity = session.info["identity"]


def _adapted(connection: sqlalchemy.Connection) -> _Connection:
    adapted: _Connection = connection.connection.driver_connection  # type: ignore[assignment]  # our own
    return adapted


registry.register(_NAME, __name__, "_Dialect")
event.listen(Session, "after_begin", _take_session_info)
