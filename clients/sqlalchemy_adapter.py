"""SQLAlchemy on a PostgresClient: models and sessions with the client's promises.

``create_engine(postgres)`` returns an Engine whose connections are the client's: made by it, lent
by its pool, and given back clean. Every transaction belongs to one identity, and the first
statement travels together with what begins the transaction::

    engine = create_engine(postgres)
    with user_context(user_id), Session(engine) as session:
        session.scalars(select(Contact)).all()

The identity is ``Session(engine, info={"identity": {"user_id": ada}})``'s or that of
``execution_options(identity=...)``, else the ambient one. Without any, the first statement raises
RlsContextError and nothing is sent; so does a second identity in one transaction.
Source: https://docs.sqlalchemy.org/en/20/core/connections.html.
"""

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NoReturn

import sqlalchemy
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
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine.interfaces import IsolationLevel

    from ._postgres.block import Block
    from ._postgres.guarded import GuardedConnection, GuardedCursor
    from .postgres_client import PostgresClient

__all__ = ["create_engine"]

_OTHER = "this transaction belongs to another identity: commit or roll back first"
_NO_RESULT = {"description": None, "rowcount": -1}
# What the client does itself, or cannot let anybody else do.
_NOT_THE_ENGINES = {
    name: instead
    for names, instead in (
        ("async_creator connect_args creator module", "PostgresClient's URL and settings"),
        ("json_deserializer json_serializer use_native_hstore", "PostgresClient's configure="),
        ("max_overflow pool pool_size pool_use_lifo poolclass", "PostgresClient's pool_size"),
        ("pool_pre_ping pool_recycle pool_reset_on_return", "nothing: the client does it"),
        ("pool_timeout", "PostgresClient's pool_timeout"),
    )
    for name in names.split()
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
    # SQLAlchemy asks a new server for its version and defaults once: below, and without any user.
    admins = chain([True], repeat(admin))
    engine = sqlalchemy.create_engine(
        "postgresql+failfast://",
        poolclass=NullPool,
        creator=lambda: _Connection(postgres, admin=next(admins)),
        use_native_hstore=False,
        **kwargs,
    )
    event.listen(engine, "before_cursor_execute", _take_execution_options)
    engine.raw_connection().close()
    return engine


class _Connection:
    """What SQLAlchemy takes for a driver's connection: a transaction of the client at a time."""

    broken = False
    autocommit = False
    read_only: bool | None = None
    isolation: Any = None

    def __init__(self, postgres: PostgresClient, *, admin: bool) -> None:
        self._postgres = postgres
        self._admin = admin
        self._block: Block | None = None
        self._handle: GuardedConnection | None = None
        self._identity: Mapping[str, object] | None = None
        self._ambient: dict[str, object] = {}
        self.closed = False

    def belong_to(self, identity: Mapping[str, object]) -> None:
        """Say whose rows the transaction sees; until its end nothing else can be said."""
        if identity != self._identity and (self._handle is not None or self._identity is not None):
            raise RlsContextError(_OTHER)
        self._identity = identity

    def cursor(self, name: str | None = None, **options: Any) -> _Cursor:
        if self.closed:
            raise PostgresError("this connection was given back: take a new one from the engine")
        return _Cursor(self, name, options)

    def begin(self, first: FirstStatement | None = None) -> GuardedConnection:
        self._ambient = current_identity()
        block = self._postgres.begin_block(
            self._identity, admin=self._admin, isolation=self.isolation, read_only=self.read_only
        )
        self._handle = block.__enter__() if first is None else block.begin_with(first)
        self._block = block
        return self._handle

    @property
    def handle(self) -> GuardedConnection | None:
        if self._handle is not None and self._identity is None and not self._admin:
            ambient = current_identity()
            if ambient and ambient != self._ambient:
                raise RlsContextError(_OTHER)
        return self._handle

    def commit(self) -> None:
        self._end()

    def rollback(self) -> None:
        self._end(PostgresError("rolled back"))

    def close(self) -> None:
        self.closed = True
        self.rollback()

    def _end(self, reason: PostgresError | None = None) -> None:
        block, self._block, self._handle, self._identity = self._block, None, None, None
        if block is not None:
            block.__exit__(None if reason is None else PostgresError, reason, None)


class _Cursor:
    """A cursor whose first statement opens the transaction."""

    arraysize = 1

    def __init__(self, connection: _Connection, name: str | None, options: dict[str, Any]) -> None:
        self.connection = connection
        self._options = {"name": name, "row_factory": tuple_row, **options}
        self._cursor: GuardedCursor | None = None

    def execute(self, query: Any, params: Any = None) -> None:
        if self.connection.handle or self._cursor or self._options["name"]:
            self._opened().execute(query, params)
            return
        first = FirstStatement(query, params)
        handle = self.connection.begin(first)
        if first.error is not None:
            raise first.error
        self._cursor = handle.adopt(first.cursor)

    def executemany(self, query: Any, rows: Sequence[Any]) -> None:
        self._opened().executemany(query, rows)

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor.close()

    def __getattr__(self, name: str) -> Any:
        # Before its first statement a driver's cursor has no result either.
        if self._cursor is None and name in _NO_RESULT:
            return _NO_RESULT[name]
        return getattr(self._cursor, name)

    def _opened(self) -> GuardedCursor:
        if self._cursor is None:
            handle = self.connection.handle or self.connection.begin()
            self._cursor = handle.cursor(**self._options)
        return self._cursor


class _Dialect(PGDialect_psycopg):
    """SQLAlchemy's dialect for psycopg, without what the client does itself."""

    driver = "failfast"
    supports_statement_cache = True

    @classmethod
    def get_async_dialect_cls(cls, url: Any) -> NoReturn:
        raise PostgresConfigurationError(f"{url.drivername}: this client has no asyncio")

    def connect(self, *_args: Any, **_params: Any) -> NoReturn:
        raise PostgresConfigurationError("use clients.sqlalchemy_adapter.create_engine(postgres)")

    def on_connect(self) -> None:
        # The first transaction is not begun before its first statement.
        return None

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        return (dbapi_connection.isolation or "read committed").upper()

    def set_isolation_level(self, dbapi_connection: Any, level: IsolationLevel) -> None:
        _refuse_autocommit(level)
        # Which PostgreSQL takes for the same.
        dbapi_connection.isolation = level.lower().replace("uncommitted", "committed")

    def set_deferrable(self, *_: Any) -> NoReturn:
        raise PostgresConfigurationError("neither DEFERRABLE nor two-phase commit is supported")

    do_begin_twophase = set_deferrable  # type: ignore[assignment]  # never returns


def _refuse_autocommit(level: object) -> None:
    if isinstance(level, str) and level.upper() == "AUTOCOMMIT":
        raise PostgresConfigurationError(
            "AUTOCOMMIT leaves a statement without an identity: use PostgresClient.execute() for "
            "one statement in a transaction of its own, or session.commit() after it"
        )


def _take_execution_options(connection: Any, *args: Any) -> None:
    context = args[3]
    if context is not None and (identity := context.execution_options.get("identity")) is not None:
        connection.connection.driver_connection.belong_to(identity)


def _take_session_info(session: Session, _: object, connection: Any) -> None:
    if connection.dialect.driver == _Dialect.driver and "identity" in session.info:
        connection.connection.driver_connection.belong_to(session.info["identity"])


registry.register("postgresql.failfast", __name__, "_Dialect")
event.listen(Session, "after_begin", _take_session_info)
