"""The pool: connections made in the caller's thread, handed on in order, never waited for twice.

It has no threads of its own, so a failure comes out where it happened and with its own words,
no back-off stands between a server that is back and the next call, and nothing is left running.
That is what psycopg_pool, whose threads connect, cannot be set to; the benchmarks run beside it.

A place is taken by whoever holds its session, and free when that is dropped: an exception that a
signal raises between any two steps loses none. The garbage collector, too, may end a block in the
middle of any method here, in the same thread.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .._shared.locks import OwnedLock
from ..errors import ClientError, PostgresConnectionError, PostgresError
from .errors import is_read_only, is_role_gone
from .owner import Owner, current_owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import psycopg

    from .connector import Connector
    from .session import Session
    from .settings import Target

__all__ = ["Holder", "Pool", "calling_place", "describe_holders"]

T = TypeVar("T", bound="Session | _Right")

_MAX_LIFETIME = 3600.0
_MAX_IDLE = 600.0
# Connections made together shall not expire together.
_LIFETIME_JITTER = 0.1


class _Right:
    """The right to connect a session."""

    __slots__ = ("__weakref__",)


class _Waiter:
    """A caller in the queue; it is given a session, or the right to connect one."""

    __slots__ = ("granted", "share")

    def __init__(self) -> None:
        self.granted = threading.Event()
        self.share: Session | _Right | None = None


class Pool:
    """Keeps up to *max_size* sessions.

    Args:
        connector: Makes the sessions, and knows when their credential has changed.
        min_size: How many idle ones stay open however long they are idle.
        max_size: How many there may be.
        timeout: Seconds to wait for one when all are taken.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        min_size: int,
        max_size: int,
        timeout: float,
    ) -> None:
        self.min_size = min_size
        self.max_size = max_size
        self.timeout = timeout
        self._connector = connector
        self._closed = False
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        self._lock = OwnedLock()
        # Who has a place: sessions and rights to connect one, by their id().
        self._shares: dict[int, weakref.ref[Session | _Right]] = {}
        # The most recently used last: it is taken first, and the others may grow old and go.
        self._idle: deque[tuple[Session, float]] = deque()
        self._holders: dict[int, Holder] = {}
        self._pinned: set[Session] = set()
        self._waiters: deque[_Waiter] = deque()
        self._drained_at = 0.0
        #: The credential's generation that the sessions are of; None before the first of them.
        self._generation: int | None = None
        self._last_failure: ClientError | None = None
        self._counts = dict.fromkeys(
            ("checkouts", "connects", "connect_failures", "stale", "retired", "exhausted"), 0
        )

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
        session = self._take()
        holder = Holder(owner or current_owner(), time.monotonic(), calling_place())
        with self._lock:
            self._holders[id(session)] = holder
            self._counts["checkouts"] += 1
        return session

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
        with self._lock:
            self._holders.pop(id(session), None)
            self.unpin(session)
            fit = not self._closed and session.reusable and not self._is_over_age(session)
            if fit:
                self._keep(session)
            else:
                self._free_place(session)
                self._counts["retired"] += 1
            surplus = self._pop_surplus()
        if not fit:
            session.close()
        if surplus is not None:
            surplus.close()

    def retire(self, session: Session) -> None:
        """Close a session that was taken, and free its place."""
        session.close()
        self.give_back(session)

    def drain(self) -> None:
        """Let no session that is open now be used again; those in use go when they return."""
        with self._lock:
            self._drained_at = time.monotonic()
            idle = self._take_out(lambda _: True)
        for session in idle:
            session.close()

    def learn_from(self, error: psycopg.Error) -> None:
        """Draw the conclusions for all sessions from a statement's error."""
        if is_read_only(error):
            # A fail-over has left us on a server that takes no writes.
            self.drain()
        elif is_role_gone(error):
            self._connector.source.doubt()

    def add(self, session: Session) -> None:
        """Put a session that was connected elsewhere into the pool as an idle one."""
        self._generation = self._connector.source.generation()
        with self._lock:
            self._admit(session)
            self._counts["connects"] += 1
            self._keep(session)

    def close(self) -> None:
        """Close all idle sessions, and the others when they return."""
        with self._lock:
            self._closed = True
            waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            waiter.granted.set()
        self.drain()

    def stats(self) -> dict[str, int]:
        """Return how many sessions there are, and what has happened to them."""
        with self._lock:
            return {
                "max_size": self.max_size,
                "size": len(self._shares),
                "idle": len(self._idle),
                "in_use": len(self._holders),
                "waiting": len(self._waiters),
                **self._counts,
            }

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

    def _take(self) -> Session:
        while True:
            share = self._take_now() or self._queue()
            if isinstance(share, _Right):
                return self._connect_by(share)
            if self._is_over_age(share):
                self._discard(share)
            elif share.is_stale():
                with self._lock:
                    self._counts["stale"] += 1
                self._discard(share)
                # A restart leaves none alive: look at all of them now, and not one by one later.
                self._sweep()
            else:
                return share

    def _take_now(self) -> Session | _Right | None:
        with self._lock:
            self._check_open()
            if self._idle:
                return self._idle.pop()[0]
            if len(self._shares) < self.max_size:
                return self._admit(_Right())
            return None

    def _queue(self) -> Session | _Right:
        waiter = _Waiter()
        with self._lock:
            holders = list(self._holders.values())
            hopeless = all(holder.owner.blocks_caller() for holder in holders)
            if len(holders) == len(self._shares) and hopeless:
                raise self._exhausted("this thread holds them all, and waiting would not help")
            self._waiters.append(waiter)
            # What came back before that has not found us in the queue.
            if (share := self._take_now()) is not None:
                self._withdraw(waiter)
                return share
        return self._wait(waiter)

    def _wait(self, waiter: _Waiter) -> Session | _Right:
        """Wait for the grant: of a session, or of the right to connect one."""
        try:
            waiter.granted.wait(self.timeout)
        except BaseException:
            with self._lock:
                self._withdraw(waiter)
            raise
        with self._lock:
            if not waiter.granted.is_set():
                self._withdraw(waiter)
                raise self._exhausted(f"none came back within pool_timeout={self.timeout:.1f} s")
            if self._closed or waiter.share is None:
                self._withdraw(waiter)
                raise self._closed_error()
            return waiter.share

    def _withdraw(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        elif isinstance(waiter.share, _Right):
            self._free_place(waiter.share)
        elif waiter.share is not None:
            self.give_back(waiter.share)

    def _connect_by(self, right: _Right) -> Session:
        try:
            session = self._connector.connect()
        except BaseException as error:
            with self._lock:
                self._counts["connect_failures"] += 1
                if isinstance(error, ClientError):
                    self._last_failure = error
                self._free_place(right)
            raise
        with self._lock:
            self._admit(session)
            del self._shares[id(right)]
            self._counts["connects"] += 1
            self._last_failure = None
        return session

    def _admit(self, share: T) -> T:
        me, key = weakref.ref(self), id(share)

        def dropped(_: object) -> None:
            if (pool := me()) is not None:
                with pool._lock:  # noqa: SLF001 - its own
                    pool._holders.pop(key, None)  # noqa: SLF001 - likewise
                    pool._free_place(key)  # noqa: SLF001 - likewise

        self._shares[key] = weakref.ref(share, dropped)
        return share

    def _discard(self, session: Session) -> None:
        session.close()
        with self._lock:
            self._free_place(session)
            self._counts["retired"] += 1

    def _sweep(self) -> None:
        with self._lock:
            stale = self._take_out(lambda session: session.is_stale())
            self._counts["stale"] += len(stale)
        for session in stale:
            session.close()

    def _take_out(self, unfit: Callable[[Session], bool]) -> list[Session]:
        idle, self._idle = self._idle, deque()
        gone = [session for session, _ in idle if unfit(session)]
        self._idle.extend(entry for entry in idle if entry[0] not in gone)
        for session in gone:
            self._free_place(session)
        return gone

    def _keep(self, session: Session) -> None:
        if self._waiters:
            self._grant(session)
        else:
            self._idle.append((session, time.monotonic()))

    def _grant(self, share: Session | _Right) -> None:
        waiter = self._waiters.popleft()
        waiter.share = share
        waiter.granted.set()

    def _free_place(self, share: Session | _Right | int) -> None:
        freed = self._shares.pop(share if isinstance(share, int) else id(share), None)
        if freed is not None and self._waiters:
            self._grant(self._admit(_Right()))

    def _pop_surplus(self) -> Session | None:
        if len(self._shares) > self.min_size and self._idle:
            session, since = self._idle[0]
            if time.monotonic() - since > _MAX_IDLE:
                self._idle.popleft()
                self._free_place(session)
                return session
        return None

    def _is_over_age(self, session: Session) -> bool:
        if session.born <= self._drained_at:
            return True
        limit = _MAX_LIFETIME * (1 - _LIFETIME_JITTER * random.random())  # noqa: S311 - no secret
        return time.monotonic() - session.born > limit

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> PostgresError:
        return PostgresError(
            f"the PostgreSQL client for {self.target.description} is closed: make a new one"
        )

    def _exhausted(self, why: str) -> PostgresConnectionError:
        self._counts["exhausted"] += 1
        holders = describe_holders(self._holders.values())
        error = PostgresConnectionError(
            f"the pool for {self.target.description} is exhausted: {why}. "
            f"pool_size={self.max_size}, {len(self._waiters)} more waiting, held by: "
            f"{holders or 'threads still connecting'}. Shorten these blocks, or raise pool_size"
        )
        error.__cause__ = self._last_failure
        return error

    def _forget_after_fork(self) -> None:
        # Closing them here would say good-bye to the server in the parent's name; psycopg itself
        # leaves a connection of another process alone, as long as nobody closes it.
        _inherited.append([ref() for ref in list(self._shares.values())])
        self._reset()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_inherited: list[object] = []


def _forget_all_after_fork() -> None:
    for pool in list(_pools):
        pool._forget_after_fork()  # noqa: SLF001 - this module's own


os.register_at_fork(after_in_child=_forget_all_after_fork)


_PACKAGE = str(Path(__file__).parent)


class Holder(NamedTuple):
    """Who has held a session since when, and the line that took it."""

    owner: Owner
    since: float
    place: str


def calling_place() -> str:
    """Return file and line of the caller outside this package."""
    frame = sys._getframe(2)  # noqa: SLF001 - the documented way to a caller without its cost
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(_PACKAGE) or "contextlib" in frame.f_code.co_filename
    ):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def describe_holders(holders: Iterable[Holder]) -> str:
    """Name them, the oldest first."""
    now = time.monotonic()
    return "; ".join(
        f"{owner} for {now - since:.2f} s at {place}"
        for owner, since, place in sorted(holders, key=lambda holder: holder.since)
    )
