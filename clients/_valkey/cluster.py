"""A cluster: each command goes to the server that holds its keys' slot.

A redirection means that nothing was executed, so the command goes on to the right server. A
lost reply is never followed by a second try.

Source: https://valkey.io/topics/cluster-spec/.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from .._shared.fork import on_fork
from .._shared.interrupts import is_interrupt
from .._shared.locks import OwnedLock
from .errors import PoolExhausted, ReplyLost, UnexpectedReply
from .links import call_on, request
from .pool import Batch, Request, ServerPool
from .reply_shapes import pong
from .silence import ServerSilent
from .url import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .commands import Command
    from .connections import ConnectionFactory
    from .silence import Place

__all__ = ["ClusterNodes"]

T = TypeVar("T")

_REDIRECTIONS = 8
#: Seconds between two tries of a command whose keys are parted by a move of their slot.
_TRY_AGAIN_PAUSE = 0.05


class ClusterNodes:
    """A link to all primaries of a cluster.

    Args:
        factory: Makes the connections; ``max_connections`` holds for each server.
    """

    def __init__(self, factory: ConnectionFactory) -> None:
        self._factory = factory
        self._pools: dict[Address, ServerPool] = {}
        self._owners: dict[int, Address] = {}
        self._suspects: set[Address] = set()
        self._closed = False
        self._begin()
        on_fork(self._begin)

    def _begin(self) -> None:
        self._stale = True
        self._lock = OwnedLock()

    def call(self, command: Command[Any], *, impatient: bool = False) -> Any:
        """Send one command to the server that holds its keys."""
        slot = _slot(command)
        failed: Address | None = None
        importing: Address | None = None
        limits = self._factory.limits
        patience = 0.0 if impatient or command.is_divisible else limits.socket_timeout
        tries, waited = 0, 0.0
        while tries < _REDIRECTIONS:
            tries += 1
            address = importing or self._owner(slot, impatient=impatient)
            call = call_on if importing is None else _ask
            importing = None
            try:
                return call(self._pool(address), command, impatient=impatient)
            except MovedError as moved:
                self._learn(moved, address)
            except AskError as ask:
                # For this once: the slot is still the other server's.
                importing = Address(ask.host or address.host, ask.port)
            except TryAgainError:
                # Some of its keys have moved and some not, or none is there: until all have.
                if waited >= patience:
                    raise
                time.sleep(_TRY_AGAIN_PAUSE)
                tries, waited = 0, waited + _TRY_AGAIN_PAUSE
            except (ClusterDownError, ReplyLost):
                # A server that is cut off from the others would go on naming itself the owner.
                self._suspect(address)
                raise
            except (ResponseError, PoolExhausted):
                raise
            except (RedisError, OSError):
                # Nothing was sent: a new owner may be there already.
                self._suspect(address)
                if address == failed:
                    raise
                failed = address
        raise ClusterDownError(
            f"slot {slot} was still moving after {_REDIRECTIONS} tries", status_code="CLUSTERDOWN"
        )

    def call_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Send several commands, in one write to each server that holds some of their keys.

        All servers have theirs before the first reply is read.
        """
        groups: dict[Address, list[int]] = {}
        for number, slot in enumerate(map(_slot, commands)):
            groups.setdefault(self._owner(slot), []).append(number)
        # In one order for all threads: nobody waits for a place while another waits for his.
        addresses = sorted(groups)
        batches = [
            Batch(self._pool(one), [request(commands[n]) for n in groups[one]]) for one in addresses
        ]
        try:
            replies: list[Any] = [None] * len(commands)
            for address, batch in zip(addresses, batches, strict=True):
                self._watched(address, batch.send)
            for address, batch in zip(addresses, batches, strict=True):
                answers = self._watched(address, batch.receive)
                for number, reply in zip(groups[address], answers, strict=True):
                    replies[number] = reply
            return [self._settle(c, reply) for c, reply in zip(commands, replies, strict=True)]
        except Exception as error:
            maybe_applied = any(batch.maybe_applied for batch in batches)
            if is_interrupt(error, "redis", "hiredis") or not maybe_applied:
                raise
            # Other servers may have executed their parts.
            cause = error.error if isinstance(error, ReplyLost) else error
            raise ReplyLost(cause, sent=True, maybe_applied=True) from error
        finally:
            for batch in batches:
                batch.drop()

    def groups(self, names: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Return *names* by slot, which is what one command can take."""
        found: dict[int, list[str]] = {}
        for name in names:
            found.setdefault(key_slot(name.encode()), []).append(name)
        return [tuple(group) for group in found.values()]

    def ping(self) -> None:
        """Check that every primary answers, and that all slots are served."""
        self._stale = True
        self._owner(0)
        missing = REDIS_CLUSTER_HASH_SLOTS - len(self._owners)
        if missing:
            raise ClusterDownError(
                f"{missing} slots are served by nobody", status_code="CLUSTERDOWN"
            )
        for address in sorted(set(self._owners.values())):
            self._watched(address, partial(self._pool(address).call, ("PING",), pong))

    def peer(self, command: Command[Any]) -> Place:
        """Return where *command* goes."""
        return self._owners.get(_slot(command), "")

    def stats(self) -> dict[str, int]:
        """Return the numbers of all pools together."""
        total: Counter[str] = Counter()
        for pool in list(self._pools.values()):
            total.update(pool.stats())
        return dict(total)

    def close(self) -> None:
        """Close every connection."""
        self._closed = True
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.close()

    def _settle(self, command: Command[Any], answer: Any) -> Any:
        if not isinstance(answer, AskError | TryAgainError):
            return answer
        # A redirection was not executed, so it is the first time.
        try:
            return self.call(command)
        except ResponseError as error:
            return error

    def _owner(self, slot: int, *, impatient: bool = False) -> Address:
        if self._stale:
            try:
                # Who holds it may be waiting for a silent server.
                if self._lock.acquire(blocking=not impatient) and self._stale:
                    self._refresh(impatient=impatient)
            except (RedisError, OSError):
                # Who does not wait takes the owner that was known last: it may well answer.
                if not impatient or slot not in self._owners:
                    raise
            finally:
                try:
                    self._lock.release()
                except RuntimeError:
                    pass  # it was not acquired
        owner = self._owners.get(slot)
        if owner is None:
            self._stale = True
            raise ClusterDownError(f"slot {slot} is served by nobody", status_code="CLUSTERDOWN")
        return owner

    def _learn(self, moved: MovedError, asked: Address) -> None:
        self._owners[moved.slot_id] = Address(moved.host or asked.host, moved.port)
        self._stale = True

    def _watched(self, address: Address, step: Callable[[], T]) -> T:
        try:
            return step()
        except PoolExhausted:
            raise
        except (RedisError, OSError, ReplyLost):
            self._suspect(address)
            raise

    def _suspect(self, address: Address) -> None:
        self._suspects.add(address)
        self._stale = True

    def _refresh(self, *, impatient: bool) -> None:
        known = dict.fromkeys([*self._owners.values(), *self._factory.resolve().addresses])
        known |= dict.fromkeys(list(self._pools))
        # A server that failed comes last.
        candidates = sorted(known, key=lambda address: address in self._suspects)
        failure: Exception | None = None
        best: dict[int, Address] | None = None
        patience = 0.0 if impatient else self._factory.limits.connect_timeout
        for address in self._factory.silent.in_turn(candidates, patience):
            try:
                table = self._make_pool(address).call(
                    ("CLUSTER", "SLOTS"), _table, impatient=impatient
                )
            except ResponseError:
                # Not a cluster, or no permission: other nodes answer the same.
                raise
            except ReplyLost as lost:
                failure = lost.error
            except (RedisError, OSError) as error:
                failure = error
            else:
                owners = _owners(table, address)
                if best is None or len(owners) > len(best):
                    best = owners
                if len(owners) == REDIS_CLUSTER_HASH_SLOTS:
                    self._suspects.discard(address)
                    break
                # A node that has left the cluster knows no slots: try the others, too.
            self._suspects.add(address)
        if best is None:
            raise failure or ServerSilent("no server of the cluster answers")
        self._owners = best
        self._stale = False

    def _pool(self, address: Address) -> ServerPool:
        pool = self._pools.get(address)
        if pool is not None:
            return pool
        with self._lock:
            return self._make_pool(address)

    def _make_pool(self, address: Address) -> ServerPool:
        pool = self._pools.get(address)
        if pool is None:
            factory = self._factory
            pool = self._pools[address] = ServerPool(
                lambda **_: factory.make(address),
                factory.limits,
                factory.source.generation,
                factory.silent,
                telemetry=factory.telemetry,
            )
            if self._closed:
                pool.close()
        return pool


def _ask(pool: ServerPool, command: Command[Any], *, impatient: bool = False) -> Any:
    """Send *command* to the server that its slot is moving to."""
    requests = [Request(("ASKING",)), request(command)]
    _, reply = pool.call_many(requests, impatient=impatient)
    if isinstance(reply, Exception):
        raise reply
    return reply


def _slot(command: Command[Any]) -> int:
    slots = {key_slot(key.encode()) for key in command.keys}
    if len(slots) > 1:
        raise ClusterCrossSlotError(
            "the keys lie in different slots of the cluster", status_code="CROSSSLOT"
        )
    # Any server answers a command without keys.
    return slots.pop() if slots else 0


def _table(reply: Any) -> list[Any]:
    """Take what CLUSTER SLOTS answers: from, to, and the servers, the primary first."""
    if type(reply) is list:
        with suppress(TypeError, ValueError, IndexError):
            return [(int(row[0]), int(row[1]), row[2][0], int(row[2][1])) for row in reply]
    raise UnexpectedReply("the slots of a cluster", reply)


def _owners(table: list[Any], asked: Address) -> dict[int, Address]:
    owners: dict[int, Address] = {}
    for start, end, host, port in table:
        # A server that does not know its own address leaves it out.
        address = Address(asked.host if host in {None, "", "?"} else host, port)
        owners |= dict.fromkeys(range(start, end + 1), address)
    return owners
