"""The pool: connections made in the caller's thread, handed on in order, never waited for twice.

It has no threads of its own, so a failure comes out where it happened and with its own words,
no back-off stands between a server that is back and the next call, and nothing is left running.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clients._postgres_errors import is_read_only, is_role_gone
from clients.errors import ClientError, PostgresConnectionError, PostgresError

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from clients._credentials import UrlSource
    from clients._postgres_flight import Session

__all__ = ["Pool"]

_MAX_LIFETIME = 3600.0
_MAX_IDLE = 600.0
# Connections made together shall not expire together.
_LIFETIME_JITTER = 0.1
_PACKAGE = str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class _Holder:
    thread_id: int
    since: float
    place: str

    def describe(self, names: dict[int | None, str], now: float) -> str:
        thread = names.get(self.thread_id, f"ended thread {self.thread_id}")
        return f"{thread} for {now - self.since:.2f} s at {self.place}"


class _Waiter:
    """A caller in the queue; it is given a session, or the right to connect one."""

    __slots__ = ("granted", "session")

    def __init__(self) -> None:
        self.granted = threading.Event()
        self.session: Session | None = None


class Pool:
    """Keeps up to *max_size* sessions.

    Args:
        connect: Makes a session.
        source: Tells when the credential has changed.
        name: For messages.
        min_size: How many idle ones stay open however long they are idle.
        max_size: How many there may be.
        timeout: Seconds to wait for one when all are taken.
    """

    def __init__(
        self,
        connect: Callable[[], Session],
        source: UrlSource,
        *,
        name: str,
        min_size: int,
        max_size: int,
        timeout: float,
    ) -> None:
        self.name = name
        self.min_size = min_size
        self.max_size = max_size
        self.timeout = timeout
        self._connect = connect
        self._source = source
        self._closed = False
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        # The most recently used last: it is taken first, and the others may grow old and go.
        self._idle: deque[tuple[Session, float]] = deque()
        self._holders: dict[Session, _Holder] = {}
        self._waiters: deque[_Waiter] = deque()
        self._open = 0
        self._drained_at = 0.0
        #: The credential's generation that the sessions are of; None before the first of them.
        self._generation: int | None = None
        self._last_failure: ClientError | None = None
        self._counts = dict.fromkeys(
            ("checkouts", "connects", "connect_failures", "stale", "retired", "exhausted"), 0
        )

    def checkout(self) -> Session:
        """Take a session.

        Raises:
            PostgresConnectionError: All are taken, and none came back in time; it says by whom.
                Or a new one could not be connected.
            PostgresError: The pool is closed.
        """
        self._notice_rotation()
        session = self._take()
        holder = _Holder(threading.get_ident(), time.monotonic(), _calling_place())
        with self._lock:
            self._holders[session] = holder
            self._counts["checkouts"] += 1
        return session

    def give_back(self, session: Session) -> None:
        """Return a session; one that is not fit for the next borrower is closed."""
        with self._lock:
            self._holders.pop(session, None)
            fit = not self._closed and session.reusable and not self._is_over_age(session)
            if fit:
                self._keep(session)
            else:
                self._free_slot()
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
            sessions = [session for session, _ in self._idle]
            self._idle.clear()
            for _ in sessions:
                self._free_slot()
        for session in sessions:
            session.close()

    def learn_from(self, error: psycopg.Error) -> None:
        """Draw the conclusions for all sessions from a statement's error."""
        if is_read_only(error):
            # A fail-over has left us on a server that takes no writes.
            self.drain()
        elif is_role_gone(error):
            self._source.doubt()

    def add(self, session: Session) -> None:
        """Put a session that was connected elsewhere into the pool as an idle one."""
        self._generation = self._source.generation()
        with self._lock:
            self._open += 1
            self._counts["connects"] += 1
            self._keep(session)

    def close(self) -> None:
        """Close all idle sessions, and the others when they return."""
        with self._lock:
            self._closed = True
            sessions = [session for session, _ in self._idle]
            self._idle.clear()
            self._open -= len(sessions)
            for waiter in self._waiters:
                waiter.granted.set()
            self._waiters.clear()
        for session in sessions:
            session.close()

    def stats(self) -> dict[str, int]:
        """Return how many sessions there are, and what has happened to them."""
        with self._lock:
            return {
                "max_size": self.max_size,
                "size": self._open,
                "idle": len(self._idle),
                "in_use": len(self._holders),
                "waiting": len(self._waiters),
                **self._counts,
            }

    def _notice_rotation(self) -> None:
        """Let the sessions of a credential that has been replaced go: at once, or on return."""
        # Outside the lock: a lease that is due is renewed here.
        generation = self._source.generation()
        if generation != self._generation:
            with self._lock:
                changed = self._generation is not None and generation != self._generation
                self._generation = generation
            if changed:
                self.drain()

    def _take(self) -> Session:
        while True:
            session, waiter = self._take_or_queue()
            if waiter is not None:
                session = self._wait(waiter)
            if session is None:
                return self._connect_into_slot()
            if self._is_over_age(session):
                self._discard(session)
            elif session.is_stale():
                with self._lock:
                    self._counts["stale"] += 1
                self._discard(session)
                # A restart leaves none alive: look at all of them now, and not one by one later.
                self._sweep()
            else:
                return session

    def _take_or_queue(self) -> tuple[Session | None, _Waiter | None]:
        with self._lock:
            self._check_open()
            if self._idle:
                return self._idle.pop()[0], None
            if self._open < self.max_size:
                self._open += 1
                return None, None
            me = threading.get_ident()
            if len(self._holders) == self._open and all(
                holder.thread_id == me for holder in self._holders.values()
            ):
                raise self._exhausted("this thread holds them all, and waiting would not help")
            waiter = _Waiter()
            self._waiters.append(waiter)
            return None, waiter

    def _wait(self, waiter: _Waiter) -> Session | None:
        """Wait for the grant; return its session, or None for the right to connect one."""
        try:
            granted = waiter.granted.wait(self.timeout)
        except BaseException:
            with self._lock:
                self._withdraw(waiter)
            raise
        with self._lock:
            if not granted and not waiter.granted.is_set():
                self._waiters.remove(waiter)
                raise self._exhausted(f"none came back within pool_timeout={self.timeout:.1f} s")
            if self._closed and waiter.session is not None:
                waiter.session.close()
            self._check_open()
        return waiter.session

    def _withdraw(self, waiter: _Waiter) -> None:
        if not waiter.granted.is_set():
            self._waiters.remove(waiter)
        elif waiter.session is not None:
            self._keep(waiter.session)
        else:
            self._free_slot()

    def _connect_into_slot(self) -> Session:
        try:
            session = self._connect()
        except BaseException as error:
            with self._lock:
                self._counts["connect_failures"] += 1
                if isinstance(error, ClientError):
                    self._last_failure = error
                self._free_slot()
            raise
        with self._lock:
            self._counts["connects"] += 1
            self._last_failure = None
        return session

    def _discard(self, session: Session) -> None:
        session.close()
        with self._lock:
            self._free_slot()
            self._counts["retired"] += 1

    def _sweep(self) -> None:
        with self._lock:
            stale = [entry for entry in self._idle if entry[0].is_stale()]
            for entry in stale:
                self._idle.remove(entry)
                self._free_slot()
            self._counts["stale"] += len(stale)
        for session, _ in stale:
            session.close()

    def _keep(self, session: Session) -> None:
        if self._waiters:
            waiter = self._waiters.popleft()
            waiter.session = session
            waiter.granted.set()
        else:
            self._idle.append((session, time.monotonic()))

    def _free_slot(self) -> None:
        if self._waiters:
            self._waiters.popleft().granted.set()
        else:
            self._open -= 1

    def _pop_surplus(self) -> Session | None:
        if self._open > self.min_size and self._idle:
            session, since = self._idle[0]
            if time.monotonic() - since > _MAX_IDLE:
                self._idle.popleft()
                self._open -= 1
                return session
        return None

    def _is_over_age(self, session: Session) -> bool:
        if session.born <= self._drained_at:
            return True
        limit = _MAX_LIFETIME * (1 - _LIFETIME_JITTER * random.random())  # noqa: S311 - no secret
        return time.monotonic() - session.born > limit

    def _check_open(self) -> None:
        if self._closed:
            raise PostgresError(f"the PostgreSQL client for {self.name} is closed: make a new one")

    def _exhausted(self, why: str) -> PostgresConnectionError:
        self._counts["exhausted"] += 1
        now = time.monotonic()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        oldest_first = sorted(self._holders.values(), key=lambda holder: holder.since)
        holders = "; ".join(holder.describe(names, now) for holder in oldest_first)
        error = PostgresConnectionError(
            f"the pool for {self.name} is exhausted: {why}. pool_size={self.max_size}, "
            f"{len(self._waiters)} more waiting, held by: {holders or 'threads still connecting'}. "
            "Shorten these blocks, or raise pool_size"
        )
        error.__cause__ = self._last_failure
        return error

    def _forget_after_fork(self) -> None:
        # Closing them here would say good-bye to the server in the parent's name; psycopg itself
        # leaves a connection of another process alone, as long as nobody closes it.
        _inherited.append((list(self._idle), list(self._holders)))
        self._reset()


def _calling_place() -> str:
    frame = sys._getframe(2)  # noqa: SLF001 - the documented way to a caller without its cost
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(_PACKAGE) or "contextlib" in frame.f_code.co_filename
    ):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_inherited: list[object] = []


def _forget_all_after_fork() -> None:
    for pool in list(_pools):
        pool._forget_after_fork()  # noqa: SLF001 - this module's own


os.register_at_fork(after_in_child=_forget_all_after_fork)
