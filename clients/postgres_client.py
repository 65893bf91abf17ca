"""PostgreSQL with row-level security: one user per transaction, one round trip per query.

Source: https://www.postgresql.org/docs/18/ddl-rowsecurity.html.
"""

from __future__ import annotations

from collections.abc import Sized
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ._postgres.block import Block, BlockEntry, open_block
from ._postgres.bulk import BulkInsert
from ._postgres.configure import checked_configure
from ._postgres.connector import Connector
from ._postgres.execute import InBlock, OneRoundTrip
from ._postgres.identity_key import identity_key_of
from ._postgres.modes import PLAIN, Modes, modes_of
from ._postgres.pool import Pool
from ._postgres.probe import answers, check_role, check_signing, on_clean_session
from ._postgres.recording import query_attributes, telemetry_of
from ._postgres.rls_context import RlsContexts
from ._postgres.rows import PLAIN_SHAPE, Rows, Shape
from ._postgres.run_transaction import checked_work, run_with_retries
from ._postgres.settings import PostgresSettings, url_source
from ._postgres.statements import checked_params, refuse_unsendable, refuse_unsuitable
from ._rls.finding import Finding, Proof
from ._shared.lifecycle import Lifecycle
from ._shared.pool_stats import with_metric_names
from ._shared.rotating_url import hidden
from ._shared.telemetry import Reading, is_enabled, suppressed
from ._shared.validation import checked_count
from .errors import (
    NoRowsError,
    PostgresConfigurationError,
    PostgresConnectionError,
    PostgresError,
    RlsContextError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import psycopg
    from psycopg.abc import Params, Query

    from ._postgres.bulk import OnConflict
    from ._postgres.guarded import GuardedConnection
    from ._postgres.modes import Isolation
    from ._postgres.rls_context import RlsContext, UserId
    from ._postgres.rls_setting import RlsSetting
    from ._postgres.rows import Expectation
    from ._postgres.session import Session
    from ._postgres.settings import OnRlsBypass
    from ._shared.credential_life import CredentialLife
    from ._shared.rotating_url import UrlSource

__all__ = ["Finding", "PostgresClient", "PostgresError", "prove_isolation"]


T = TypeVar("T")


class PostgresClient(Lifecycle):
    """A pool of connections on which every transaction belongs to one user.

    Safe to share between threads. A forked child gets a pool of its own.

    Args:
        connection_url: ``postgresql://user:password@host:port/dbname``, or a callable that
            returns it. It is called for every new connection, so that rotated credentials are
            used. It may take ``use_cache``; after the server refused the login it is called once
            more, with ``use_cache=False``.
        pool_size: The largest number of connections.
        admin_url: Where ``admin_connection()`` goes, likewise; None, or a callable that returns
            None: to the same server with the same role.
        min_size: How many connections are opened at construction, and kept when idle.
        connect_timeout: Seconds for one connection attempt.
        pool_timeout: Seconds to wait for a connection when all are in use; with 0, a call that
            finds all in use fails immediately.
        statement_timeout: Seconds for each statement, enforced by the server; 0 is no limit. A
            stricter one of the role, the database or the URL stays.
        on_rls_bypass: What to do about a role that row-level security does not bind: ``"error"``,
            ``"warn"`` (one line in the log), or ``"ignore"``.
        identity: Whose rows they are: the setting that policies read for each value, by the value's
            name, such as ``{"tenant_id": RlsSetting("shop.tenant_id", int)}``; None:
            ``{"user_id": RlsSetting("app.current_user_id", UUID)}``.
        local_role: The role that each transaction of a user runs under, for policies ``TO`` it:
            ``SET LOCAL ROLE``. The login role has to be a member of it. None: the login role.
        configure: Prepares each new connection before it is used: takes psycopg's connection, and
            is the place to register types (enums, composites, pgvector). Settings, temporary
            tables and LISTEN are refused there: each borrower begins without them. What is
            registered for all of psycopg counts as it is when the client is made.
        identity_key: Signs each value of the identity, for policies that read it with the functions
            of ``sql/optional/signed_identity.sql``: then SQL that runs as the application's role
            cannot take another identity. 32 to 64 bytes, also as hexadecimal text, or a callable
            that returns them. It is called again every half a minute, and once more after the
            server refused a signature; it may take ``use_cache``, which is False then. None: the
            values are plain.

    Raises:
        PostgresConfigurationError: A setting is unusable.
        PostgresConnectionError: The server cannot be reached or refuses the login; with its words.
        RlsContextError: The role is not bound by row-level security; with the SQL that fixes it.
    """

    def __init__(
        self,
        connection_url: str | Callable[..., str],
        pool_size: int = 10,
        *,
        admin_url: str | Callable[..., str | None] | None = None,
        min_size: int = 2,
        connect_timeout: float = 5.0,
        pool_timeout: float = 5.0,
        statement_timeout: float = 30.0,
        on_rls_bypass: OnRlsBypass = "error",
        identity: Mapping[str, RlsSetting] | None = None,
        local_role: str | None = None,
        configure: Callable[[psycopg.Connection[Any]], object] | None = None,
        identity_key: bytes | str | Callable[..., bytes | str] | None = None,
    ) -> None:
        # Error reporters collect local variables.
        connection_url, admin_url = hidden(connection_url), hidden(admin_url)
        key = identity_key = identity_key_of(identity_key)  # type: ignore[assignment]  # hidden
        self._settings = PostgresSettings(
            pool_size=pool_size,
            min_size=min_size,
            connect_timeout=connect_timeout,
            pool_timeout=pool_timeout,
            statement_timeout=statement_timeout,
            on_rls_bypass=on_rls_bypass,
        )
        self._contexts = RlsContexts(
            identity,
            local_role,
            self._settings.statement_timeout_ms,
            signs=key is not None,
        )
        if key is not None:
            key.current()
        self._fitting: set[tuple[object, type]] = set()
        # Not a method of this client, which would then live until the collector comes.
        role_is_bound = partial(
            check_role, on_rls_bypass=on_rls_bypass, local_role=self._contexts.local_role
        )
        self._connector = Connector(
            url_source("connection_url", connection_url),
            self._settings,
            role_is_bound,
            checked_configure(configure),
            key,
        )
        self._pool = self._make_pool(self._connector, self._settings.min_size, "postgres")
        self._admin_pool = self._pool
        self._cursor_numbers = count(1)
        self._probe(None if admin_url is None else url_source("admin_url", admin_url))

    def __repr__(self) -> str:
        if not hasattr(self, "_pool"):  # a failing constructor, shown by an error reporter
            return "<PostgresClient without a server>"
        stats = self._pool.stats()
        return (
            f"<PostgresClient {self._connector.target.description}, "
            f"{stats['in_use']} of {stats['max_size']} connections in use>"
        )

    @property
    def behind_pooler(self) -> bool:
        """Whether a pooler, such as PgBouncer, stands between this client and the server."""
        return self._connector.behind_pooler

    @property
    def server(self) -> str:
        """Host, port, database and user, without the password."""
        return self._connector.target.description

    # -- probe: everything that can be wrong comes out here, in the caller's thread --

    def _probe(self, admin: UrlSource | None) -> None:
        with ExitStack() as opened:
            first = max(1, min(self._settings.min_size, self._settings.pool_size))
            sessions = [self._connect_first(self._connector, opened)]
            while len(sessions) < first and (more := self._connect_another(opened)) is not None:
                sessions.append(more)
            if admin is not None and admin.current() is not None:
                connector = Connector(admin, self._settings, configure=self._connector.configure)
                self._admin_pool = self._make_pool(connector, 0, "postgres admin")
                self._admin_pool.add(self._connect_first(connector, opened))
            self._telemetry = telemetry_of(sessions[0], self._readings)
            self._pool.telemetry = self._admin_pool.telemetry = self._telemetry
            if self._connector.identity_key is not None:
                names = [setting.name for setting in self._contexts.settings.values()]
                check_signing(sessions[0], names[0], self._connector.target)
            for session in sessions:
                self._pool.add(session)
            opened.pop_all()

    def _connect_another(self, opened: ExitStack) -> Session | None:
        try:
            return self._connect_first(self._connector, opened)
        except PostgresConnectionError as error:
            if error.reason == "exhausted":
                return None  # the server takes fewer than min_size: calls wait for those
            raise

    def _connect_first(self, connector: Connector, opened: ExitStack) -> Session:
        session = connector.connect(patient=False)
        opened.callback(session.close)
        return session

    def _make_pool(self, connector: Connector, min_size: int, name: str) -> Pool:
        return Pool(
            connector,
            name=name,
            min_size=min_size,
            max_size=self._settings.pool_size,
            timeout=self._settings.pool_timeout,
        )

    # -- operations --

    def connection(
        self,
        user_id: UserId | None = None,
        *,
        identity: Mapping[str, object] | None = None,
        isolation: Isolation | None = None,
        read_only: bool | None = None,
        timeout: float | None = None,
    ) -> AbstractContextManager[GuardedConnection]:
        """Open one transaction that sees and writes one user's rows alone.

        It commits on a normal end and rolls back on an exception, which comes out unchanged.
        Inside an open block of the same user it is a savepoint of that block. A block belongs to
        the thread, to the task of asyncio or Trio or the greenlet, and to the generator that has
        entered it: others have transactions of their own, and so has who reads from the generator.

        Args:
            user_id: Whose rows: a UUID or its text by default; None: the current user.
            identity: Other values of the identity by name; they stand over ambient ones.
            isolation: ``"read committed"``, ``"repeatable read"`` or ``"serializable"``; None: the
                server's default.
            read_only: Whether the transaction may not write; None: the server's default.
            timeout: Seconds for each statement of it; None: ``statement_timeout``.

        Returns:
            A context manager; it yields the guarded connection.

        Raises:
            RlsContextError: No user, a bad one, another than the open block's, or the context was
                lost; before a connection is taken.
            TransactionAbortedError: At the end, when an SQL error was swallowed in the block.
            PostgresConnectionError: No connection could be had, or it broke.
            PostgresError: The open block began with another isolation, access or time-out.
        """
        modes = modes_of(isolation, read_only=read_only, timeout=timeout)
        context = self._contexts.of(user_id, identity).limited(modes.timeout_ms)
        return BlockEntry(self._pool_for(context), context, modes)

    def admin_connection(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool | None = None,
        timeout: float | None = None,
    ) -> AbstractContextManager[GuardedConnection]:
        """Open one transaction WITHOUT a user: for migrations, batches across users, checks.

        It goes through ``admin_url`` when there is one. With ``row_security`` off, a role that
        policies bind gets an error, and never a silently filtered result.

        Args:
            isolation: As for ``connection``.
            read_only: As for ``connection``.
            timeout: Seconds for each statement of it; None: ``statement_timeout``.

        Returns:
            A context manager; it yields the guarded connection.

        Raises:
            PostgresConnectionError: No connection could be had, or it broke.
            TransactionAbortedError: At the end, when an SQL error was swallowed in the block.
        """
        modes = modes_of(isolation, read_only=read_only, timeout=timeout)
        context = self._contexts.admin.limited(modes.timeout_ms)
        return BlockEntry(self._pool_for(context), context, modes)

    def run_transaction(
        self,
        work: Callable[[GuardedConnection], T],
        user_id: UserId | None = None,
        *,
        identity: Mapping[str, object] | None = None,
        isolation: Isolation | None = None,
        attempts: int = 3,
        admin: bool = False,
    ) -> T:
        """Run *work* in one transaction, and again when another transaction was in its way.

        Only a serialization failure (40001) and a deadlock (40P01) are followed by another attempt,
        after a short random pause: the server has undone all of the transaction. *work* is called
        again for each attempt, so it must do nothing that a rollback does not undo: no mail, no
        request to another service, no list that it appends to.
        https://www.postgresql.org/docs/18/mvcc-serialization-failure-handling.html

        Args:
            work: What to do; it gets the guarded connection of the attempt.
            user_id: Whose rows: a UUID or its text by default; None: the current user.
            identity: Other values of the identity by name; they stand over ambient ones.
            isolation: As for ``connection``.
            attempts: How many attempts there may be in all.
            admin: Whether it has no user, as ``admin_connection()``.

        Returns:
            What *work* returned; its transaction is committed.

        Raises:
            psycopg.Error: A statement of *work* failed: its error comes out unchanged, such as
                ``psycopg.errors.CheckViolation``.
            PostgresError: The last attempt failed like those before it; or a block of the same
                user is open, whose transaction cannot be run again from here.
            PostgresConnectionError: No connection could be had, or it broke.
            RlsContextError: No user, or a bad one.
            PostgresConfigurationError: An argument is unusable.
        """
        checked_count("attempts", attempts, PostgresConfigurationError, minimum=1)
        checked_work(work)
        context = self._context(user_id, identity, admin=admin)
        pool, modes = self._pool_for(context), Modes(isolation)
        if (outer := open_block(pool, context)) is not None:
            raise PostgresError(
                f"{outer.what} is open, and run_transaction() cannot run a part of it again: call "
                "it outside the block, or use the block's own connection"
            )
        return run_with_retries(work, lambda: BlockEntry(pool, context, modes), attempts)

    @overload
    def execute(
        self,
        query: Query,
        params: Params = (),
        user_id: UserId | None = None,
        *,
        identity: Mapping[str, object] | None = None,
        row_type: None = None,
        expect: Expectation | None = None,
        timeout: float | None = None,
        admin: bool = False,
    ) -> Rows[dict[str, Any]]: ...

    @overload
    def execute(
        self,
        query: Query,
        params: Params = (),
        user_id: UserId | None = None,
        *,
        identity: Mapping[str, object] | None = None,
        row_type: type[T],
        expect: Expectation | None = None,
        timeout: float | None = None,
        admin: bool = False,
    ) -> Rows[T]: ...

    def execute(
        self,
        query: Query,
        params: Params = (),
        user_id: UserId | None = None,
        *,
        identity: Mapping[str, object] | None = None,
        row_type: type[T] | None = None,
        expect: Expectation | None = None,
        timeout: float | None = None,
        admin: bool = False,
    ) -> Rows[Any]:
        """Run one statement as one user, commit, and return its rows, in one round trip.

        Inside an open block of the same user it is a part of that block, and commits with it.

        Args:
            query: One SQL statement with ``%s`` or ``%(name)s`` placeholders.
            params: Values for the placeholders; when empty, ``%`` in the query is literal.
            user_id: Whose rows: a UUID or its text by default; None: the current user.
            identity: Other values of the identity by name; they stand over ambient ones.
            row_type: What each row becomes: a dataclass, a NamedTuple, a TypedDict, a pydantic
                model, or a class that takes the columns as keyword arguments; None: a dict. The
                first call of a statement with a type checks its columns before the commit, which
                costs one more round trip.
            expect: How many rows have to be returned or changed: a number, a range, or a callable
                that takes the number. With any other number nothing is committed. The check costs
                one more round trip.
            timeout: Seconds for the statement; None: ``statement_timeout``.
            admin: Whether there is no user, as in ``admin_connection()``.

        Returns:
            The rows, a list whose ``rowcount`` says how many were returned or changed; empty when
            there are none, or the statement has none.

        Raises:
            RlsContextError: No user, or a bad one.
            RowCountError: Another number of rows was returned or changed than expected.
            PostgresConnectionError: No connection could be had, or it broke.
            PostgresError: The statement failed; nothing of it was committed. Or its rows cannot be
                made, and the message says whether it was committed.
        """
        context = self._context(user_id, identity, admin=admin)
        return self._execute(
            "execute", context, query, params, row_type=row_type, expect=expect, timeout=timeout
        )

    @overload
    def execute_one(
        self,
        query: Query,
        params: Params = (),
        user_id: UserId | None = None,
        *,
        identity: Mapping[str, object] | None = None,
        row_type: None = None,
        timeout: float | None = None,
        admin: bool = False,
    ) -> dict[str, Any] | None: ...

    @overload
    def execute_one(
        self,
        query: Query,
        params: Params = (),
        user_id: UserId | None = None,
        *,
        identity: Mapping[str, object] | None = None,
        row_type: type[T],
        timeout: float | None = None,
        admin: bool = False,
    ) -> T | None: ...

    def execute_one(
        self,
        query: Query,
        params: Params = (),
        user_id: UserId | None = None,
        *,
        identity: Mapping[str, object] | None = None,
        row_type: type[T] | None = None,
        timeout: float | None = None,
        admin: bool = False,
    ) -> Any:
        """Run one statement as ``execute`` does, and return its first row, or None.

        Where there must be exactly one, ``execute(..., expect=1)[0]`` says so.

        Args:
            query: One SQL statement with ``%s`` or ``%(name)s`` placeholders.
            params: Values for the placeholders.
            user_id: Whose rows: a UUID or its text by default; None: the current user.
            identity: Other values of the identity by name; they stand over ambient ones.
            row_type: What the row becomes, as for ``execute``; None: a dict.
            timeout: Seconds for the statement; None: ``statement_timeout``.
            admin: Whether there is no user, as in ``admin_connection()``.

        Returns:
            The first row; None when there is none.

        Raises:
            PostgresError: As for ``execute``.
        """
        context = self._context(user_id, identity, admin=admin)
        rows = self._execute(
            "execute_one", context, query, params, row_type=row_type, timeout=timeout
        )
        return rows[0] if rows else None

    def execute_scalar(
        self,
        query: Query,
        params: Params = (),
        user_id: UserId | None = None,
        *,
        identity: Mapping[str, object] | None = None,
        timeout: float | None = None,
        admin: bool = False,
    ) -> Any:
        """Run one statement as ``execute`` does, and return its first row's first column.

        Args:
            query: One SQL statement with ``%s`` or ``%(name)s`` placeholders.
            params: Values for the placeholders.
            user_id: Whose rows: a UUID or its text by default; None: the current user.
            identity: Other values of the identity by name; they stand over ambient ones.
            timeout: Seconds for the statement; None: ``statement_timeout``.
            admin: Whether there is no user, as in ``admin_connection()``.

        Returns:
            The value, which may be None.

        Raises:
            NoRowsError: There is no row; it is a ValueError too.
            PostgresError: As for ``execute``.
        """
        context = self._context(user_id, identity, admin=admin)
        rows = self._execute("execute_scalar", context, query, params, timeout=timeout)
        if not rows or not rows[0]:
            raise NoRowsError(
                "execute_scalar() found no row to take a value from: use execute_one() where "
                "there may be none"
            )
        return next(iter(rows[0].values()))

    def execute_many(
        self,
        query: Query,
        rows: Iterable[Params],
        user_id: UserId | None = None,
        *,
        identity: Mapping[str, object] | None = None,
        timeout: float | None = None,
        admin: bool = False,
    ) -> int:
        """Run one statement once for each row of parameters, all or nothing.

        Args:
            query: One SQL statement with placeholders.
            rows: The parameters of each run; any iterable.
            user_id: Whose rows: a UUID or its text by default; None: the current user.
            identity: Other values of the identity by name; they stand over ambient ones.
            timeout: Seconds for each run; None: ``statement_timeout``.
            admin: Whether there is no user, as in ``admin_connection()``.

        Returns:
            How many rows were changed in all.

        Raises:
            PostgresError: One of them failed; none is committed.
        """
        modes = Modes(timeout=timeout)
        context = self._context(user_id, identity, admin=admin).limited(modes.timeout_ms)
        refuse_unsuitable(query, "execute_many")
        pool = self._pool_for(context)
        outer = open_block(pool, context)
        attributes: dict[str, str | int] = {}
        if is_enabled():
            attributes |= query_attributes(query, rows)
            if isinstance(rows, Sized) and len(rows) > 1:
                attributes["db.operation.batch.size"] = len(rows)
        with self._telemetry.call(attributes=attributes, parent=outer.call if outer else None):
            if outer is None:
                many = OneRoundTrip(pool, context.to_prepare(), "execute_many")
                return many.run_many(query, rows)
            return InBlock("execute_many", pool).run_many(outer, query, rows, modes)

    def bulk_insert(
        self,
        table: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        user_id: UserId | None = None,
        *,
        identity: Mapping[str, object] | None = None,
        on_conflict: OnConflict = None,
        timeout: float | None = None,
        admin: bool = False,
    ) -> int:
        """Insert many rows by COPY, all or nothing, with every policy checked.

        PostgreSQL refuses COPY into a table with row-level security. The rows go into a temporary
        table, and from there into *table* by one INSERT, whose policies, defaults and constraints
        apply to each: eight round trips, for any number of rows. The role needs ``TEMPORARY`` on
        the database, which it has by default.
        Inside an open block of the same user it is a savepoint of that block.
        https://www.postgresql.org/docs/18/sql-copy.html

        Args:
            table: The table, with its schema in front where that is not on the search path.
            columns: The columns that each row has a value for; the others get their defaults.
            rows: Sequences of values; any iterable, which is never held in memory as a whole.
            user_id: Whose rows: a UUID or its text by default; None: the current user.
            identity: Other values of the identity by name; they stand over ambient ones.
            on_conflict: What to do about a row that is there already: None refuses it,
                ``"nothing"`` leaves it, and the columns of a unique constraint update the others.
            timeout: Seconds for the INSERT; None: ``statement_timeout``. The COPY lasts as long as
                *rows* do.
            admin: Whether there is no user, as in ``admin_connection()``.

        Returns:
            How many rows were inserted or updated.

        Raises:
            PostgresError: A row was refused, and nothing was stored; ``.sqlstate``,
                ``.constraint`` and ``.table`` say by what.
            PostgresConfigurationError: *table*, *columns* or *on_conflict* is unusable.
        """
        bulk = BulkInsert(table, columns, on_conflict)
        modes = Modes(timeout=timeout)
        context = self._context(user_id, identity, admin=admin).limited(modes.timeout_ms)
        pool = self._pool_for(context)
        return InBlock("bulk_insert", pool).bulk_insert(
            BlockEntry(pool, context, modes), bulk, rows
        )

    def execute_admin(self, query: Query, params: Params = ()) -> Rows[dict[str, Any]]:
        """Run one statement WITHOUT a user, as ``admin_connection`` would, in one round trip.

        ``execute(..., admin=True)`` is the same, and the other methods take ``admin=True`` too.

        Args:
            query: One SQL statement with ``%s`` or ``%(name)s`` placeholders.
            params: Values for the placeholders.

        Returns:
            The rows.

        Raises:
            PostgresError: As for ``execute``; 42501 where policies would filter the role's result.
        """
        return self._execute("execute_admin", self._contexts.admin, query, params)

    def stream(
        self,
        query: Query,
        params: Params = (),
        *,
        user_id: UserId | None = None,
        identity: Mapping[str, object] | None = None,
        batch_size: int = 1000,
        timeout: float | None = None,
        admin: bool = False,
    ) -> AbstractContextManager[Iterator[dict[str, Any]]]:
        """Read a large result in batches, through a cursor on the server, in bounded memory.

        Args:
            query: One SQL query.
            params: Values for its placeholders.
            user_id: Whose rows: a UUID or its text by default; None: the current user.
            identity: Other values of the identity by name; they stand over ambient ones.
            batch_size: Rows for each round trip.
            timeout: Seconds for each batch; None: ``statement_timeout``.
            admin: Whether there is no user, as in ``admin_connection()``.

        Returns:
            A context manager; it yields an iterator over the rows, which ends with the block.

        Raises:
            PostgresError: As for ``connection``.
            PostgresConfigurationError: *batch_size* is unusable.
        """
        checked_count(
            "batch_size", batch_size, PostgresConfigurationError, minimum=1, maximum=2**31 - 1
        )
        values = checked_params(params, "stream()")
        refuse_unsendable(query, values, "stream()")
        name = f"failfast_{next(self._cursor_numbers)}"
        modes = Modes(timeout=timeout)
        context = self._context(user_id, identity, admin=admin).limited(modes.timeout_ms)
        pool = self._pool_for(context)
        return InBlock("stream", pool).stream(
            BlockEntry(pool, context, modes, for_consumers=True), name, query, values, batch_size
        )

    def begin_block(
        self,
        identity: Mapping[str, object] | None = None,
        *,
        admin: bool = False,
        isolation: Isolation | None = None,
        read_only: bool | None = None,
    ) -> Block:
        """Return a transaction that an adapter begins and ends itself; no call joins it.

        Args:
            identity: Values of the identity by name; they stand over ambient ones.
            admin: Whether it has no user, as ``admin_connection()``.
            isolation: As for ``connection``.
            read_only: As for ``connection``.

        Raises:
            RlsContextError: A value is missing, unknown or unfit.
            PostgresConnectionError: When the block begins: no connection could be had.
        """
        context = self._context(None, identity, admin=admin)
        modes = Modes(isolation, read_only)
        return Block(self._pool_for(context), context, modes, joinable=False)

    # -- health --

    def health_check(self) -> bool:
        """Check that the server answers: over a pooled connection, or an own one when all are busy.

        Returns:
            True.

        Raises:
            PostgresError: There is none; it says why.
        """
        with self._telemetry.call("health_check"):
            return answers(self._pool, "health_check")

    def server_version(self) -> str:
        """Return the server's version, such as ``"18.6"``, as it said when we connected.

        Raises:
            PostgresError: No connection could be had.
        """
        with self._telemetry.call("server_version"):
            number = on_clean_session(
                self._pool, "server_version", lambda session: session.pgconn.server_version
            )
        return f"{number // 10000}.{number % 10000}"

    def check_rls(self) -> list[Finding]:
        """Find everything that makes row-level security leak, fail or run slowly for this role.

        Policies are judged by evaluating them, as this role, over rows that do not exist, in
        transactions that are read-only and rolled back: the settings are those of this client, and
        nothing is written. One round trip for the catalogue, and few for the evaluation.

        Returns:
            What was found, each with its severity and with the SQL that closes it; ``[]`` when all
            is well.

        Raises:
            PostgresError: The catalogue could not be read.
        """
        from ._rls.check import check_rls  # noqa: PLC0415 - few need it

        contexts = self._contexts
        with self._telemetry.call("check_rls"), suppressed():
            return on_clean_session(
                self._pool,
                "check_rls",
                lambda session: check_rls(
                    session.conn, contexts.settings, role=contexts.local_role
                ),
            )

    def prove_isolation(self) -> Proof:
        """Try to break the isolation of two users for real, and return what succeeded.

        In one transaction of the administrator, which is rolled back: rows of two users are added
        to each table of users' rows, and one user, as the application's role, tries to read,
        change, remove and forge the other's: by SELECT, INSERT, UPDATE, DELETE, TRUNCATE and
        upsert, and by each view and function that the role may use. What PostgreSQL does outside
        of transactions stays: sequences go on, and a function that calls out has done so.

        Returns:
            The leaks, each as statements that anybody can run, what was tried, and what could not
            be.

        Raises:
            PostgresConfigurationError: There is no ``admin_url``.
            PostgresError: The administrator may not take the application's role, or the catalogue
                could not be read.
        """
        from ._rls.prove import prove  # noqa: PLC0415 - few need it

        if self._admin_pool is self._pool:
            raise PostgresConfigurationError(
                "prove_isolation() needs admin_url: a role that row-level security does not bind "
                "and that may take the application's role (GRANT app_role TO admin_role)"
            )
        contexts = self._contexts

        def run(application: Session) -> Proof:
            return on_clean_session(
                self._admin_pool,
                "prove_isolation",
                lambda admin: prove(
                    application.conn, admin.conn, contexts.settings, role=contexts.local_role
                ),
            )

        with self._telemetry.call("prove_isolation"), suppressed():
            return on_clean_session(self._pool, "prove_isolation", run)

    def credential_life(self) -> CredentialLife:
        """Return how old the credential in use is and how long it still works, never itself."""
        return self._connector.source.life()

    def stats(self, *, admin: bool = False) -> dict[str, int]:
        """Return the pool's numbers.

        Args:
            admin: Whether to return those of the connections through ``admin_url``.

        Returns:
            In the words of the metrics: now ``max``, ``idle``, ``used``, ``pending_requests``, and
            in all ``timeouts``. Beside these ``size``, ``checkouts``, ``connects``,
            ``connect_failures``, ``stale`` and ``retired``, and under older names ``max_size``,
            ``in_use``, ``waiting`` and ``exhausted``. Nothing with *admin* and without an
            ``admin_url``: administrators then share the users' pool.
        """
        if admin and self._admin_pool is self._pool:
            return {}
        return with_metric_names((self._admin_pool if admin else self._pool).stats())

    # -- close --

    def close(self) -> None:
        """Close all connections; those in use close when their block ends."""
        self._admin_pool.close()
        self._pool.close()

    # -- what the operations share --

    def _pool_for(self, context: RlsContext) -> Pool:
        return self._admin_pool if context.is_admin else self._pool

    def _context(
        self, user_id: UserId | None, identity: Mapping[str, object] | None, *, admin: bool
    ) -> RlsContext:
        if not admin:
            return self._contexts.of(user_id, identity)
        if user_id is not None or identity is not None:
            raise RlsContextError("admin=True has no user: leave out user_id and identity")
        return self._contexts.admin

    def _execute(
        self,
        method: str,
        context: RlsContext,
        query: Query,
        params: Params,
        *,
        row_type: type | None = None,
        expect: Expectation | None = None,
        timeout: float | None = None,
    ) -> Rows[Any]:
        values = checked_params(params, f"{method}()")
        refuse_unsuitable(query, method, values)
        modes = PLAIN
        if timeout is not None:
            modes = Modes(timeout=timeout)
            context = context.limited(modes.timeout_ms)
        pool = self._pool_for(context)
        outer = open_block(pool, context)
        shape = PLAIN_SHAPE
        if row_type is not None or expect is not None:
            shape = Shape(row_type, expect, query, self._fitting, in_block=outer is not None)
        if outer is None:
            run = OneRoundTrip(pool, context.to_prepare(), method).run
        else:
            run = partial(InBlock(method, pool).run, outer, modes)
        if not is_enabled():
            return run(query, values, shape)
        parent = None if outer is None else outer.call
        attributes = query_attributes(query, values)
        with self._telemetry.call(attributes=attributes, parent=parent) as call:
            rows = run(query, values, shape)
            if call is not None:
                call.note("db.response.returned_rows", len(rows))
            return rows

    def _readings(self) -> list[Reading]:
        pools = dict.fromkeys((self._pool, self._admin_pool))
        return [reading for pool in pools for reading in pool.readings()]


def prove_isolation(postgres: PostgresClient) -> Proof:
    """Try to break the isolation of two users for real: three lines in a test of one's own.

    ``assert prove_isolation(client).leaks == []``, with a client that has an ``admin_url``.

    Args:
        postgres: A client of the database, with an administrator.

    Returns:
        As `PostgresClient.prove_isolation`.

    Raises:
        PostgresError: As `PostgresClient.prove_isolation`.
    """
    return postgres.prove_isolation()
