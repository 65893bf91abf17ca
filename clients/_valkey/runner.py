"""What every part of the client sends its commands through, and where failures become ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from .._shared.interrupts import forget_locals, is_interrupt
from .._shared.telemetry import (
    Reading,
    Telemetry,
    credential_readings,
    is_enabled,
    pool_readings,
)
from ..errors import ClientError, ValkeyConnectionError, ValkeyError
from .cluster import ClusterNodes
from .connections import ConnectionFactory
from .errors import valkey_error
from .hash_tags import checked_cluster_prefix
from .links import Link, SentinelPrimary, SingleServer
from .reply_shapes import identity
from .settings import check_tls_files
from .unavailable import Outage
from .url import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._shared.rotating_url import UrlSource
    from .commands import Command, CommandSet
    from .settings import Limits
    from .url import ValkeyTarget

__all__ = ["Runner"]

T = TypeVar("T")

_DRIVERS = ("redis", "hiredis")
_DEFAULT_PORT = 6379


class Runner:
    """Sends commands to one server, to the primary behind sentinels, or to a cluster.

    Args:
        source: Gives the URL.
        limits: The time-outs, and the size of the pool.
        commands: Builds commands, for the callers that send some.

    Raises:
        ValkeyConfigurationError: The URL, or a file that it names, cannot be used, or the prefix of
            *commands* cannot be used with a cluster.
    """

    def __init__(self, source: UrlSource, limits: Limits, commands: CommandSet) -> None:
        self.commands = commands
        self.limits = limits
        self.factory = ConnectionFactory(source, limits)
        try:
            self.target = self.factory.resolve()
            check_tls_files(self.target)
            if self.target.kind == "cluster":
                checked_cluster_prefix(commands.prefix)
        except BaseException as error:
            if isinstance(error, ClientError) or is_interrupt(error, *_DRIVERS):
                raise
            raise ValkeyError(
                f"the callable connection_url failed with {type(error).__name__}"
            ) from error
        self._closed = False
        self.outage = Outage(self.target.where)
        self._telemetry = Telemetry(_attributes(self.target), "")
        self.factory.telemetry = self._telemetry
        self.link = self._open_link()
        self._telemetry.observe(self._readings)

    def _readings(self) -> list[Reading]:
        source = self.factory.source
        return [
            *pool_readings("valkey", self.link.stats()),
            *credential_readings(source.life(), source.rotations),
        ]

    def _open_link(self) -> Link:
        if self.target.kind == "cluster":
            return ClusterNodes(self.factory)
        if self.target.kind == "sentinel":
            return SentinelPrimary(self.factory)
        return SingleServer(self.factory)

    def probe(self) -> None:
        """Make the first connection.

        Raises:
            ValkeyConnectionError: There is no working one.
        """
        try:
            self.link.ping()
        except BaseException as error:
            ours = self.ours(error, f"connecting to Valkey at {self.target.where}")
            if ours is None:
                raise
            refusal = ValkeyConnectionError(
                str(ours), code=ours.code, reason=ours.reason or "refused"
            )
            raise refusal from ours.__cause__  # see valkey_error
        self.factory.patient = True

    def ping(self) -> None:
        """Check that every server that takes writes answers, also where all connections are busy.

        Raises:
            ValkeyError: One is not, or refuses us.
        """
        if not is_enabled():
            self._ping()
            return
        with self._telemetry.call("PING"):
            self._ping()

    def _ping(self) -> None:
        self.refuse_when_closed()
        numbers = self.link.stats()
        if not 0 < numbers["max_size"] <= numbers["in_use"]:
            try:
                return self._ping_over(self.link)
            except ValkeyConnectionError as error:
                if error.reason != "exhausted":
                    raise
        # A busy pool says nothing of the server.
        aside = self._open_link()
        try:
            self._ping_over(aside)
        finally:
            aside.close()

    def _ping_over(self, link: Link) -> None:
        try:
            link.ping()
        except BaseException as error:
            ours = self.ours(error, f"PING on {self.target.where}")
            if ours is None:
                raise
            raise ours from ours.__cause__

    def run(self, command: Command[T], *, impatient: bool = False) -> T:
        """Send *command*, and return what its reply means.

        Args:
            command: What to send.
            impatient: Fail immediately where the server is known to be silent.

        Raises:
            ValkeyError: It failed; the message names its keys.
        """
        if not is_enabled():
            return self._run(command, impatient=impatient)
        with self._telemetry.call(command.name, attributes=command.telemetry) as call:
            try:
                return self._run(command, impatient=impatient)
            finally:
                if call is not None and isinstance(place := self.link.peer(command), Address):
                    call.note("network.peer.address", place.host)
                    call.note("network.peer.port", place.port)

    def _run(self, command: Command[T], *, impatient: bool) -> T:
        if self._closed:
            self.refuse_when_closed()
        try:
            reply = self.link.call(command, impatient=impatient)
            return reply if command.convert is identity else command.convert(reply)
        except BaseException as error:
            ours = self.ours(error, f"{command.label} on {self.target.where}")
            if ours is None:
                raise
            raise ours from ours.__cause__

    def run_many(self, commands: Sequence[Command[Any]], what: str | None = None) -> list[Any]:
        """Send *commands* in one write to each server, and return their replies.

        Args:
            commands: At least one.
            what: What messages call them.

        Returns:
            For each what its shape made of the reply, or the error that the server answered with.

        Raises:
            ValkeyError: Not every reply came.
        """
        if not is_enabled():
            return self._run_many(commands, what)
        size = {"db.operation.batch.size": len(commands)} if len(commands) > 1 else {}
        with self._telemetry.call("PIPELINE", attributes=size):
            return self._run_many(commands, what)

    def _run_many(self, commands: Sequence[Command[Any]], what: str | None) -> list[Any]:
        self.refuse_when_closed()
        try:
            return self.link.call_many(commands)
        except BaseException as error:
            what = what or f"pipeline of {len(commands)} commands from {commands[0].label}"
            ours = self.ours(error, f"{what} on {self.target.where}")
            if ours is None:
                raise
            raise ours from ours.__cause__

    def checked(self, reply: Any, command: Command[Any]) -> Any:
        """Return the *reply* to *command* out of ``run_many``, unless it is an error.

        Raises:
            ValkeyError: It is one.
        """
        if isinstance(reply, Exception):
            ours = self.explain(reply, command)
            raise ours from ours.__cause__
        return reply

    def explain(self, refusal: Exception, command: Command[Any]) -> ValkeyError:
        """Return our error for a reply that is one."""
        return self._mapped(refusal, f"{command.label} on {self.target.where}")

    def ours(self, error: BaseException, what: str) -> ValkeyError | None:
        """Return our error for a failure; None for what is to pass as it is.

        Args:
            error: What was raised. The frames that it has left lose their local variables.
            what: What was tried, on which key and where.
        """
        forget_locals(error)
        if isinstance(error, ClientError) or is_interrupt(error, *_DRIVERS):
            return None
        assert isinstance(error, Exception)  # noqa: S101 - see is_interrupt
        return self._mapped(error, what)

    def refuse_when_closed(self) -> None:
        """Raise when the client is closed.

        Raises:
            ValkeyError: It is.
        """
        if self._closed:
            raise ValkeyError(
                f"the Valkey client for {self.target.where} is closed: make a new one"
            )

    def close(self) -> None:
        """Close every connection; more than once does no harm."""
        self._closed = True
        self.link.close()
        self.factory.silent.clear()

    def _mapped(self, error: Exception, what: str) -> ValkeyError:
        return valkey_error(error, what, limits=self.limits, secrets=self.target.secrets)


def _attributes(target: ValkeyTarget) -> dict[str, str | int]:
    """Return what every span and measurement says of the server."""
    # Valkey's own name is proposed to the convention, and not accepted yet.
    known: dict[str, str | int] = {"db.system.name": "redis", "db.namespace": str(target.db)}
    if target.path is not None:
        return {**known, "server.address": target.path}
    if target.addresses:
        first = target.addresses[0]
        known["server.address"] = first.host
        if first.port != _DEFAULT_PORT:
            known["server.port"] = first.port
    return known
