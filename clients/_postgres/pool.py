"""The pool: psycopg_pool keeps the places, and the caller's thread connects what is in them.

psycopg_pool pools places, which cost nothing to make and to close. The call that takes a place
connects a session into it. So a failure is raised where it happened, with its own words, and no
back-off delays the next call when the server is back. psycopg_pool's threads have nothing to do:
they are not started, and its tasks run in the thread that adds them.

A place belongs to the holder of its session, and is free when that is dropped: an exception that a
signal raises between any two steps loses none. The garbage collector, too, may end a block in the
middle of any method here, in the same thread.

Uses semi-private parts of psycopg_pool, pinned by ``tests/unit/test_psycopg_pool_contract.py``.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from _thread import allocate_lock
from collections import deque
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests
from psycopg_pool.pool import AddConnection, ReturnConnection

from .._shared.fork import on_fork
from .._shared.locks import OwnedLock
from .._shared.single_flight import fresh_copy
from .._shared.telemetry import (
    Reading,
    Telemetry,
    credential_readings,
    is_metered,
    pool_readings,
)
from ..errors import ClientError, PostgresConnectionError, PostgresError
from .errors import is_read_only, is_role_gone
from .identity_key import REFUSED
from .owner import Owner, calling_owner

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType

    import psycopg
    from psycopg_pool.pool import MaintenanceTask, WaitingClient

    from .connector import Connector
    from .session import Session
    from .settings import Target

__all__ = ["Holder", "Pool", "calling_place", "describe_holders"]

_NAME = "clients.postgres"
_log = logging.getLogger("clients.postgres")
#: Seconds of waiting for a connection that are worth a line in the log.
_SLOW_CHECKOUT = 1.0
_MAX_LIFETIME = 3600.0
_MAX_IDLE = 600.0
# What PgBouncer says when it has max_client_conn clients, and of much else. Where it has let others
# of ours in, what they asked for was right, and theirs can be waited for.
# https://www.pgbouncer.org/config.html#max_client_conn
_POOLER_REFUSAL = "08P01"
# Tries to connect to a server that takes no more connections, while none of ours is open.
_FULL_TRIES = 5
_FULL_PAUSE = 0.05
# Seconds for which a pool makes do with the connections that the server has let it have.
_FULL_FOR = 1.0


class _Place:
    """What psycopg_pool takes for a connection: room for one, and the session that is idle in it.

    Args:
        home: The pool that it belongs to.
    """

    # The first three are psycopg_pool's own, which it sets.
    __slots__ = (
        "__weakref__",
        "_created_at",
        "_expire_at",
        "_pool",
        "closed",
        "holder",
        "home",
        "session",
    )
    _created_at: float
    _expire_at: float
    _pool: _Places | None

    def __init__(self, home: weakref.ref[_Places]) -> None:
        self.home = home
        self.session: Session | None = None
        #: Who has it; None while it is idle or still being connected.
        self.holder: Holder | None = None
        self.closed = False

    @classmethod
    def connect(cls, _conninfo: str, *, home: weakref.ref[_Places]) -> Self:
        """Make one, without a session."""
        return cls(home)

    @property
    def pgconn(self) -> Self:
        """Itself: psycopg_pool reads ``pgconn.transaction_status``."""
        return self

    @property
    def transaction_status(self) -> TransactionStatus:
        """Whether it can be lent; one without a session is dropped when it comes back."""
        return TransactionStatus.UNKNOWN if self.session is None else TransactionStatus.IDLE

    @property
    def is_over_age(self) -> bool:
        """Whether its session has lived for long enough; psycopg_pool drew the limit once."""
        return self._expire_at <= time.monotonic()

    def was_connected(self, born: float) -> None:
        """Note when its session was asked for: before a drain, or after it."""
        self._created_at = born

    def close(self) -> None:
        """Close the session, and free the place; more than once does no harm."""
        self.closed = True
        session, self.session = self.session, None
        if session is not None:
            session.close()
        if (home := self.home()) is not None:
            home.free(retired=session is not None)

    def __del__(self) -> None:
        # Its holder has dropped it, perhaps before it was whole.
        if not getattr(self, "closed", True):
            self.close()


class _Wakeup:
    """Wakes one waiting caller, in place of the condition that psycopg_pool gives it.

    A condition forgets a notification that comes before the wait: here one that the collector
    makes, when it ends a block in the waiting thread itself. And a lock of its own would be held
    while that block waits for the pool's lock, whose holder may be waiting for this one.
    """

    __slots__ = ("_bell",)

    def __init__(self) -> None:
        self._bell = allocate_lock()
        self._bell.acquire()

    def __enter__(self) -> None:
        """Take no lock: the pool's own is held by the thread that notifies."""

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, timeout: float) -> bool:
        """Return True when notified, also before this, and False after *timeout* seconds."""
        return self._bell.acquire(timeout=max(timeout, 0.0))

    def notify_all(self) -> None:
        """Let the wait end."""
        with suppress(RuntimeError):
            self._bell.release()


class _Queue(deque[Any]):
    """The waiting callers; it knows which of them this thread is."""

    def __init__(self) -> None:
        super().__init__()
        self._mine = threading.local()

    def append(self, client: WaitingClient[Any]) -> None:
        """Put *client* last."""
        client._cond = cast("Any", _Wakeup())  # noqa: SLF001 - see _Wakeup
        # Not itself: it keeps the place that it is given.
        self._mine.last = id(client)
        super().append(client)

    def begin(self) -> None:
        """Forget which caller this thread has been before."""
        self._mine.last = None

    def withdraw(self) -> None:
        """Take this thread's caller out; psycopg_pool leaves it there after a failure."""
        for client in [one for one in list(self) if id(one) == self._mine.last]:
            self.remove(client)


class _Places(ConnectionPool[Any]):
    """psycopg_pool without its threads, with places that are counted by who has them."""

    _waiting: _Queue

    def __init__(self, min_size: int, max_size: int) -> None:
        self._made: list[weakref.ref[_Place]] = []
        self._due: tuple[float, MaintenanceTask] | None = None
        self.stale = self.retired = 0
        self._limit, self._limit_ends = max_size, 0.0
        super().__init__(
            connection_class=cast("Any", _Place),
            kwargs={"home": weakref.ref(self)},
            name=_NAME,
            min_size=min(min_size, max_size),
            max_size=max_size,
            open=False,
            max_lifetime=_MAX_LIFETIME,
            max_idle=_MAX_IDLE,
        )
        self._lock = OwnedLock()
        self._waiting = _Queue()
        self.open()

    # -- who has a place --

    def alive(self) -> list[_Place]:
        """Return the places that are taken or idle."""
        return [one for ref in list(self._made) if (one := ref()) is not None and not one.closed]

    def holders(self) -> list[Holder]:
        """Return who has one."""
        return [one.holder for one in self.alive() if one.holder is not None]

    @property
    def _nconns(self) -> int:
        return len(self.alive())

    @_nconns.setter
    def _nconns(self, value: int) -> None:
        """Ignore what psycopg_pool counts: an interrupt may come before the change."""

    def free(self, *, retired: bool) -> None:
        """Let the next caller in the queue have what a closed place has left."""
        with self._lock:
            self.retired += retired
            self._maybe_grow_pool()

    # -- no threads --

    def _start_workers(self) -> None:
        pass

    def run_task(self, task: MaintenanceTask) -> None:
        """Do it here; a place that is free is not filled before somebody wants one."""
        place = task.conn if isinstance(task, ReturnConnection) else None
        if isinstance(place, _Place) and place.session is None:
            # Its caller's time was up in the moment in which it got it.
            place.close()
        elif not isinstance(task, AddConnection):
            task.run()

    def schedule_task(self, task: MaintenanceTask, delay: float) -> None:
        """Keep the one that is repeated: it shrinks the pool."""
        self._due = (time.monotonic() + delay, task)

    def run_due(self) -> None:
        """Do what is due; called by each thread that gives a session back."""
        if self._due is not None and time.monotonic() >= self._due[0]:
            self._due[1].run()

    # -- taking one --

    def take_idle(self) -> _Place | None:
        """Take the place that came back last: the others may pass their idle time.

        What psycopg_pool does for a caller who need not wait, without what it does for others.
        """
        with self._lock:
            idle = self._pool
            if not idle or self._closed:
                return None
            place: _Place = idle.pop()
            # psycopg_pool shrinks the pool by this number.
            self._nconns_min = min(self._nconns_min, len(idle))
        place._pool = self  # noqa: SLF001 - as psycopg_pool does; putconn() checks it
        return place

    def take(self, timeout: float) -> _Place:
        """Take a place, with a session or without one; wait for it where there is none.

        Raises:
            PoolTimeout: None came free in time.
            TooManyRequests: This thread holds them all.
            PoolClosed: The pool is closed.
        """
        self._waiting.begin()
        try:
            # Not getconn(): its loop takes a signal's exception for a failed check, and goes on.
            return cast("_Place", self._getconn_unchecked(timeout))
        except BaseException:
            with self._lock:
                self._waiting.withdraw()
            raise

    def _get_ready_connection(self, timeout: float | None) -> _Place | None:
        if self.closed:
            raise PoolClosed
        if (place := self._take_now()) is None and timeout is not None and self._is_hopeless():
            raise TooManyRequests
        return place

    def _take_now(self) -> _Place | None:
        # A caller who has no time gets what is there, too.
        place = self.take_idle()
        return self._new_place() if place is None and self._has_room() else place

    def put(self, place: _Place) -> None:
        """Take back a place whose session can be lent again."""
        with self._lock:
            if not (self._waiting or self._closed or place.is_over_age or self._was_drained(place)):
                place._pool = None  # noqa: SLF001 - as psycopg_pool does
                self._pool.append(place)
                return
        self.putconn(place)

    def _was_drained(self, place: _Place) -> bool:
        return place._created_at <= self._drained_at  # noqa: SLF001 - psycopg_pool's own

    def _has_room(self) -> bool:
        limited = time.monotonic() < self._limit_ends
        return self._nconns < (self._limit if limited else self.max_size)

    def is_busy(self) -> bool:
        """Whether there is neither an idle place nor room for another one."""
        return not self._pool and not self._has_room()

    def settle_for_others(self) -> bool:
        """Make do with the other places, as the server takes no more; False without any."""
        with self._lock:
            self._limit = self._nconns - 1
            self._limit_ends = time.monotonic() + _FULL_FOR
            return self._limit > 0

    def _is_hopeless(self) -> bool:
        """Whether no place can come back while the caller waits."""
        holders = [place.holder for place in self.alive()]
        return all(holder is not None and holder.owner.blocks_caller() for holder in holders)

    def _maybe_grow_pool(self) -> None:
        # The first in the queue looked before what is free now came free.
        if not self._waiting or self.closed:
            return
        if (place := self._take_now()) is not None:
            self._add_to_pool(place)
            if place.session is None and place in self._pool:
                # That caller has given up in this moment.
                self._pool.remove(place)
                place.close()

    def _new_place(self) -> _Place:
        place = cast("_Place", self._connect())
        self._made = [*map(weakref.ref, self.alive()), weakref.ref(place)]
        return place

    def add(self, session: Session) -> None:
        """Make a place for *session*, idle."""
        with self._lock:
            place = self._new_place()
        place.session = session
        self._add_to_pool(place)

    def sweep(self) -> None:
        """Close all idle sessions that the server has hung up on."""
        with self._lock:
            stale = self._take_out_stale()
        for place in stale:
            place.close()

    def _take_out_stale(self) -> list[_Place]:
        stale = [one for one in list(self._pool) if one.session is None or one.session.is_stale()]
        self.stale += len(stale)
        for place in stale:
            self._pool.remove(place)
        return stale

    def counts(self) -> dict[str, int]:
        """Return what is true at this moment."""
        with self._lock:
            now, in_use = self.get_stats(), len(self.holders())
        return {
            "max_size": self.max_size,
            "size": now["pool_size"],
            "idle": now["pool_available"],
            "in_use": in_use,
            "waiting": now["requests_waiting"],
            "stale": self.stale,
            "retired": self.retired,
        }


class Pool:
    """Keeps up to *max_size* sessions.

    Args:
        connector: Makes the sessions, and knows when their credential has changed.
        min_size: How many idle ones stay open however long they are idle.
        max_size: How many there may be.
        timeout: Seconds to wait for one when all are taken; 0 is no wait.
        name: What its metrics call it.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        min_size: int,
        max_size: int,
        timeout: float,
        name: str = "postgres",
    ) -> None:
        self.name = name
        self.min_size = min_size
        self.max_size = max_size
        self.timeout = timeout
        self._connector = connector
        #: Records how long connections are made, waited for and used.
        self.telemetry = Telemetry({}, "")
        self._closed = False
        self._reset()
        on_fork(self._forget_after_fork)

    def _reset(self) -> None:
        self._lock = OwnedLock()
        self._places = _Places(self.min_size, self.max_size)
        if self._closed:
            self._places.close()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._pinned: set[Session] = set()
        #: The credential's generation that the sessions are of; None before the first of them.
        self._generation: int | None = None
        self._last_failure: ClientError | None = None
        self._counts = dict.fromkeys(("checkouts", "connects", "connect_failures", "exhausted"), 0)

    @property
    def target(self) -> Target:
        """Server and role of the newest session, for messages."""
        return self._connector.target

    def checkout(self, owner: Owner | None = None) -> Session:
        """Take a session.

        Args:
            owner: Who takes it; the caller when None.

        Raises:
            PostgresConnectionError: All are taken, and none came back in time; it says by whom.
                Or a new one could not be connected.
            PostgresError: The pool is closed.
        """
        self._notice_rotation()
        started = time.monotonic()
        session, deadline = None, started + self.timeout
        while session is None:
            place = self._take(deadline)
            session, place.session = place.session, None
            if session is None:
                began = time.monotonic()
                session = self._connect_in(place)
                if is_metered():
                    self.telemetry.measure("create_time", time.monotonic() - began, self.name)
        taken_at = time.monotonic()
        place.holder = Holder(owner or calling_owner(), taken_at, *calling_place())
        session.place = place
        with self._lock:
            self._counts["checkouts"] += 1
        if taken_at - started > _SLOW_CHECKOUT:
            _log.warning(
                "%.1f s passed until a connection to %s was free; the others are held by: %s",
                taken_at - started,
                self.target.description,
                describe_holders(one for one in self._places.holders() if one is not place.holder),
            )
        if self.telemetry.has_recorded and is_metered():
            self.telemetry.measure("wait_time", taken_at - started, self.name)
        return session

    def is_busy(self) -> bool:
        """Whether a caller would have to wait for a session."""
        return self._places.is_busy()

    def connect_aside(self) -> Session:
        """Connect a session outside the pool; the caller closes it.

        Raises:
            PostgresConnectionError: It could not be connected.
        """
        return self._connector.connect()

    def pin(self, session: Session) -> None:
        """Keep *session* for a holder that gives it back also when it is dropped itself.

        Else the collector could close the connection before it ends the block that uses it.
        """
        self._pinned.add(session)

    def unpin(self, session: Session) -> None:
        """Let *session* go with its holder, who is about to give it back."""
        self._pinned.discard(session)

    def give_back(self, session: Session) -> None:
        """Return a session; one that is not fit for the next borrower is closed."""
        self.unpin(session)
        place, session.place = session.place, None
        if not isinstance(place, _Place):
            return
        place.session = session
        if self.telemetry.has_recorded and is_metered() and place.holder is not None:
            took = time.monotonic() - place.holder.since
            self.telemetry.measure("use_time", took, self.name)
        place.holder = None
        # A forked child may come back with a session of its parent's pool.
        if session.reusable and place.home() is self._places:
            self._places.put(place)
        else:
            place.close()
        self._places.run_due()

    def retire(self, session: Session) -> None:
        """Close a session that was taken, and free its place."""
        session.close()
        self.give_back(session)

    def drain(self) -> None:
        """Let no session that is open now be used again; those in use go when they return."""
        self._places.drain()

    def learn_from(self, error: psycopg.Error) -> None:
        """Replace sessions where a statement's error concerns all of them."""
        if is_read_only(error):
            # A fail-over has left us on a server that takes no writes.
            self.drain()
        elif is_role_gone(error):
            self._connector.source.suspect_revoked()
        elif error.sqlstate == REFUSED and self._connector.identity_key is not None:
            # A block cannot run again from here; the next one shall have the new key.
            self._connector.identity_key.expect_another()

    def add(self, session: Session) -> None:
        """Put a session that was connected elsewhere into the pool as an idle one."""
        self._generation = self._connector.source.generation()
        self._sessions.add(session)
        self._count("connects")
        self._places.add(session)

    def readings(self) -> list[Reading]:
        """Return what its metrics are, and those of its credential."""
        source = self._connector.source
        credential = credential_readings(
            source.life(), source.rotations, {"db.client.connection.pool.name": self.name}
        )
        return [*pool_readings(self.name, self.stats(), self.min_size), *credential]

    def close(self) -> None:
        """Close all idle sessions, and the others when they return."""
        self._closed = True
        self._places.close()

    def stats(self) -> dict[str, int]:
        """Return how many sessions there are, and what has happened to them."""
        return {**self._places.counts(), **self._counts}

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _notice_rotation(self) -> None:
        """Let the sessions of a credential that has been replaced go: at once, or on return."""
        # Outside the lock: a lease that is due is renewed here.
        generation = self._connector.source.generation()
        if generation != self._generation:
            with self._lock:
                known = self._generation
                # Another thread may know of a later one already.
                self._generation = generation if known is None else max(known, generation)
            if known is not None and generation > known:
                self.drain()

    def _take(self, deadline: float) -> _Place:
        """Take a place, with a session that is alive or none yet."""
        while True:
            place = self._places.take_idle()
            if place is None:
                place, why = self._take_or_why(max(0.0, deadline - time.monotonic()))
            if place is None:
                raise self._exhausted(why) from self._failure_of_late()
            if place.session is None:
                return place
            if place.is_over_age:
                place.close()
            elif place.session.is_stale():
                self._places.stale += 1
                place.close()
                # A restart leaves none alive: look at all of them now, and not one by one later.
                self._places.sweep()
            else:
                return place

    def _take_or_why(self, timeout: float) -> tuple[_Place | None, str]:
        # The errors end here: their frames hold places, which would not be free as long as
        # somebody keeps what we raise.
        try:
            return self._places.take(timeout), ""
        except TooManyRequests:
            return None, "this thread holds them all, and waiting would not help"
        except PoolTimeout:
            return None, f"none came back within pool_timeout={self.timeout:.1f} s"
        except PoolClosed:
            pass
        raise PostgresError(
            f"the PostgreSQL client for {self.target.description} is closed: make a new one"
        )

    def _connect_in(self, place: _Place) -> Session | None:
        """Connect; return None when the server takes no more, and there are others to wait for."""
        tries = 0
        while True:
            try:
                session = self._connector.connect()
                break
            except BaseException as error:
                tries += 1
                self._count("connect_failures")
                full = isinstance(error, PostgresConnectionError) and (
                    error.reason == "exhausted"
                    or (error.sqlstate == _POOLER_REFUSAL and len(self._places.alive()) > 1)
                )
                if isinstance(error, ClientError):
                    # A copy without the frames, which hold what the caller had in hand.
                    self._last_failure = fresh_copy(error)
                others = full and self._places.settle_for_others()
                # Our own last session may be closing on the server at this moment.
                if others or not full or tries > _FULL_TRIES:
                    place.close()
                if others:
                    return None
                if not full or tries > _FULL_TRIES:
                    raise
            time.sleep(_FULL_PAUSE)
        place.was_connected(session.born)
        self._sessions.add(session)
        self._count("connects")
        self._last_failure = None
        return session

    def _failure_of_late(self) -> ClientError | None:
        # A copy for each caller: an exception belongs to one thread.
        failure = self._last_failure
        return None if failure is None else fresh_copy(failure)

    def _exhausted(self, why: str) -> PostgresConnectionError:
        self._count("exhausted")
        holders = describe_holders(self._places.holders())
        waiting = self._places.counts()["waiting"]
        return PostgresConnectionError(
            f"the pool for {self.target.description} is exhausted: {why}. "
            f"pool_size={self.max_size}, {waiting} more waiting, held by: "
            f"{holders or 'threads still connecting'}. Shorten these blocks, or raise pool_size",
            reason="exhausted",
        )

    def _forget_after_fork(self) -> None:
        # Closing them here would end the parent's sessions on the server; psycopg itself
        # leaves a connection of another process alone, as long as nobody closes it.
        _inherited.append((self._places, list(self._sessions)))
        self._reset()


def _is_not_ours(record: logging.LogRecord) -> bool:
    return _NAME not in (record.args or ())


# psycopg_pool would write a line for each call where a program logs at INFO.
logging.getLogger("psycopg.pool").addFilter(_is_not_ours)

_inherited: list[object] = []


# The folder of the package, and the library's module: their lines are not the caller's.
_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
_CONTEXTLIB = contextmanager.__code__.co_filename


class Holder(NamedTuple):
    """Who has held a session since when, and the code and the instruction that took it."""

    owner: Owner
    since: float
    code: CodeType
    instruction: int

    @property
    def place(self) -> str:
        """File and line of that instruction."""
        line = next(
            (line for start, end, line in self.code.co_lines() if start <= self.instruction < end),
            None,
        )
        return f"{self.code.co_filename}:{line or self.code.co_firstlineno}"


def calling_place() -> tuple[CodeType, int]:
    """Return the code and the instruction of the caller outside this package.

    Not the line, which costs more to find than all else here, and is asked for by few.
    """
    frame = sys._getframe(2)  # noqa: SLF001 - the documented way to a caller without its cost
    while _is_between(frame.f_code.co_filename) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


@lru_cache(maxsize=1024)
def _is_between(file: str) -> bool:
    """Whether *file* is this package's or ``contextlib``'s."""
    return file.startswith(_PACKAGE) or file == _CONTEXTLIB


def describe_holders(holders: Iterable[Holder]) -> str:
    """Name them, the oldest first."""
    now = time.monotonic()
    return "; ".join(
        f"{one.owner} for {now - one.since:.2f} s at {one.place}"
        for one in sorted(holders, key=lambda holder: holder.since)
    )
