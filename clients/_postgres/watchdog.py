"""Tell a server that works in silence from an answer that will never come.

``statement_timeout`` ends a slow statement on the server, but a network that swallows the answer
leaves libpq waiting for ever, and TCP sees nothing wrong as long as something acknowledges.
Silence alone proves nothing: a block may raise its own ``statement_timeout``, and a batch of a
thousand rows is a thousand statements. So after the limit the server is asked, over a connection
of its own, whether that session is still at work.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import psycopg
from psycopg.adapt import AdaptersMap

from .poller import new_poller

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn

    from .poller import Poller
    from .prepared import PreparedStatements

__all__ = ["SilenceError", "SilenceWatch", "WatchedConnection", "activity_query"]

T = TypeVar("T")

# How often a credential is checked while a statement runs.
_ATTENTION_MS = 100
# The answer may have come in the meantime.
_LAST_LOOK_MS = 200


class SilenceError(psycopg.OperationalError):
    """No byte came, and the server does not work on the statement: its answer is lost."""


class _Silence:
    """How long nothing has come; waits are counted, too, as a program's clock may stand still."""

    __slots__ = ("_began", "_waits")

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._waits = 0

    def lasts(self) -> float:
        """Count another wait, and return the seconds."""
        self._waits += 1
        return max(time.monotonic() - self._began, self._waits * _ATTENTION_MS / 1000)


class SilenceWatch:
    """Decides when a silent connection is given up.

    Args:
        limit: Seconds without a byte after which the server is queried.
        is_working: Returns whether the session with that process id is at work.
        attend: Renews the credential where its age demands it: a long statement or block is no
            checkout, and its session may end with its user.
    """

    def __init__(
        self,
        limit: float,
        is_working: Callable[[int], bool],
        attend: Callable[[], object] = lambda: None,
    ) -> None:
        self.limit = limit
        self.attend = attend
        self._is_working = is_working

    def check(self, pgconn: PGconn) -> None:
        """Return when it is worth to go on waiting.

        Raises:
            SilenceError: It is not; the caller closes the connection.
        """
        if self._is_working(pgconn.backend_pid):
            return
        if not new_poller(pgconn.socket).poll(_LAST_LOOK_MS):
            raise SilenceError(
                f"no answer within {self.limit:.1f} s, and the server is not at work on one: the "
                "network or the server is stuck"
            )

    def wait(self, poller: Poller, pgconn: PGconn) -> int:
        """Wait for the socket in *poller*, and return its events.

        Raises:
            SilenceError: It is not worth to go on; the caller closes the connection.
        """
        if ready := poller.poll(_ATTENTION_MS):
            return ready[0][1]
        heard = _Silence()
        while True:
            heard = self._in_silence(heard, pgconn)
            if ready := poller.poll(_ATTENTION_MS):
                return ready[0][1]

    def over(self, generator: PQGen[T], pgconn: PGconn) -> PQGen[T]:
        """Run psycopg's *generator*, and check whenever it has waited for too long."""
        try:
            waits_for = next(generator)
            heard = _Silence()
            while True:
                ready = yield waits_for
                heard = _Silence() if ready else self._in_silence(heard, pgconn)
                waits_for = generator.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result

    def _in_silence(self, heard: _Silence, pgconn: PGconn) -> _Silence:
        """Do what is due while nothing comes, and return since when it is waited for."""
        self.attend()
        if heard.lasts() <= self.limit:
            return heard
        self.check(pgconn)
        return _Silence()


class WatchedConnection(psycopg.Connection[dict[str, object]]):
    """A psycopg connection on which a statement of a block cannot hang for ever."""

    watch: SilenceWatch | None = None
    #: What its session has prepared; whatever psycopg sends takes the unnamed statement's place.
    prepared: PreparedStatements | None = None

    def begin_with(self, adapters: AdaptersMap) -> None:
        """Know the types of *adapters*, and those that are registered on this connection later.

        Args:
            adapters: Registered types; they are copied, as ``connect(context=)`` does it.
        """
        self._adapters = AdaptersMap(adapters)

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Consume *gen*, as psycopg does, and give up when the answer is lost."""
        if self.prepared is not None:
            self.prepared.unnamed_guard = None
        if self.watch is None:
            return super().wait(gen, interval, timeout)
        self.watch.attend()
        try:
            return super().wait(self.watch.over(gen, self.pgconn), interval, timeout)
        except SilenceError:
            self.close()
            raise


def activity_query(backend_pid: int) -> bytes:
    """Return the query for who answers, and whether *backend_pid* is at work.

    A server that waits for the client to read or to write is as stuck as we are.
    https://www.postgresql.org/docs/18/monitoring-stats.html#MONITORING-PG-STAT-ACTIVITY-VIEW
    """
    return (
        b"SELECT pg_catalog.pg_backend_pid(), EXISTS (SELECT FROM pg_catalog.pg_stat_activity"
        b" WHERE pid = %d AND state = 'active' AND wait_event_type IS DISTINCT FROM 'Client')"
        % backend_pid
    )
