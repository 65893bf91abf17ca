"""One query in the ways that a user would pick from, each as its own documentation shows it.

All pools have ten connections, and all ways return the same rows as dictionaries.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

import django
import sqlalchemy
from django.conf import settings as django_settings
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from clients.postgres_client import PostgresClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

__all__ = ["BARE", "BLOCK", "EXECUTE", "FIVE_TRIPS", "QUERY", "USER", "open_ways"]

EXECUTE = "execute()"
BLOCK = "connection()"
FIVE_TRIPS = "BEGIN, set_config, query, reset, COMMIT"
PIPELINE = "psycopg_pool, BEGIN to COMMIT in one pipeline"
BARE = "psycopg_pool, no RLS"
SQLALCHEMY = "SQLAlchemy 2, set_config on begin"
DJANGO = "Django, middleware, CONN_MAX_AGE=None"
DJANGO_POOL = "Django, middleware, pool"

POOL_SIZE = 10
USER = UUID("00000000-0000-4000-8000-0000000b0b0b")
QUERY = "SELECT id, name, email FROM contacts WHERE user_id = %s ORDER BY created_at, id LIMIT 5"
SET = "SELECT set_config('app.current_user_id', %s, true)"

Rows: TypeAlias = list[dict[str, Any]]


def open_ways(app_url: str, admin_url: str, opened: ExitStack) -> dict[str, Callable[[], Rows]]:
    """Return every way by name.

    Args:
        app_url: The URL of the role that row-level security binds.
        admin_url: The URL of one that it does not bind, for the way without protection.
        opened: Closes what is opened here; Django's connections in the thread that exits.
    """
    client = opened.enter_context(PostgresClient(app_url, POOL_SIZE, min_size=POOL_SIZE))

    def block() -> Rows:
        with client.connection(USER) as conn:
            return list(conn.execute(QUERY, (USER,)).fetchall())

    app_pool = opened.enter_context(_pool(app_url, autocommit=False))
    pipeline_pool = opened.enter_context(_pool(app_url, autocommit=True))
    bare_pool = opened.enter_context(_pool(admin_url, autocommit=True))
    for pool in (app_pool, pipeline_pool, bare_pool):
        # What it still connects in the background would be counted as a way's round trips.
        pool.wait()

    def five_trips() -> Rows:
        with app_pool.connection() as conn:
            conn.execute(SET, (str(USER),))
            rows: Rows = conn.execute(QUERY, (USER,)).fetchall()
            conn.execute(SET, ("",))
        return rows

    def pipeline() -> Rows:
        # BEGIN and COMMIT by hand: conn.transaction() waits for three answers.
        with pipeline_pool.connection() as conn:
            with conn.pipeline():
                conn.execute("BEGIN")
                conn.execute(SET, (str(USER),))
                cursor = conn.execute(QUERY, (USER,))
                conn.execute("COMMIT")
            rows: Rows = cursor.fetchall()
        return rows

    def bare() -> Rows:
        with bare_pool.connection() as conn:
            rows: Rows = conn.execute(QUERY, (USER,)).fetchall()
        return rows

    return {
        EXECUTE: lambda: client.execute(QUERY, (USER,), USER),
        BLOCK: block,
        FIVE_TRIPS: five_trips,
        PIPELINE: pipeline,
        BARE: bare,
        SQLALCHEMY: _sqlalchemy_way(app_url, opened),
        DJANGO: _django_way(app_url, {"CONN_MAX_AGE": None}, opened),
        DJANGO_POOL: _django_way(
            app_url,
            {"OPTIONS": {"pool": {"min_size": POOL_SIZE, "max_size": POOL_SIZE}}},
            opened,
        ),
    }


def _pool(url: str, *, autocommit: bool) -> ConnectionPool[Any]:
    return ConnectionPool(
        url,
        min_size=POOL_SIZE,
        max_size=POOL_SIZE,
        open=False,
        kwargs={"row_factory": dict_row, "autocommit": autocommit},
    )


def _sqlalchemy_way(url: str, opened: ExitStack) -> Callable[[], Rows]:
    """The usual way: an event sets the user at each begin, for the transaction alone."""
    engine = sqlalchemy.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://"),
        pool_size=POOL_SIZE,
        max_overflow=0,
    )
    opened.callback(engine.dispose)
    user = str(USER)

    @sqlalchemy.event.listens_for(engine, "begin")
    def set_user(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql(SET, (user,))

    query = sqlalchemy.text(QUERY.replace("%s", ":user_id"))

    def call() -> Rows:
        with engine.begin() as connection:
            found = connection.execute(query, {"user_id": USER}).mappings()
            return [dict(row) for row in found]

    return call


_aliases = iter(f"bench{number}" for number in range(1_000_000))


def _django_way(url: str, options: dict[str, Any], opened: ExitStack) -> Callable[[], Rows]:
    """The usual middleware: a transaction for each request, which sets the user first.

    What a request costs beside its database is left out; what Django does to the connection when
    a request starts and ends is not.
    """
    if not django_settings.configured:
        django_settings.configure(DATABASES={}, USE_TZ=True)
        django.setup()
    from django.db import close_old_connections, connections, transaction  # noqa: PLC0415 - now

    parts = urlsplit(url)
    alias = next(_aliases)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": parts.username,
        "PASSWORD": parts.password,
        "HOST": parts.hostname,
        "PORT": parts.port,
        **options,
    }
    connections.settings.update(connections.configure_settings({"default": {}, alias: database}))
    used: list[Any] = []
    here = threading.local()

    @contextmanager
    def request() -> Iterator[Any]:
        """Do what Django and the middleware do around a view."""
        close_old_connections()
        connection = connections[alias]
        if not hasattr(here, "known"):
            here.known = True
            # Each thread has its own, and the thread that closes them is another.
            connection.inc_thread_sharing()
            used.append(connection)
        with transaction.atomic(using=alias), connection.cursor() as cursor:
            cursor.execute(SET, (str(USER),))
            yield cursor
        close_old_connections()

    def call() -> Rows:
        with request() as cursor:
            cursor.execute(QUERY, (USER,))
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def close() -> None:
        for connection in used:
            connection.close()
        if used and used[0].pool is not None:
            used[0].close_pool()

    opened.callback(close)
    call()
    if used[0].pool is not None:
        used[0].pool.wait()
    return call
