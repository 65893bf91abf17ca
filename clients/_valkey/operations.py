"""The operations on keys, each one command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .many import read_many

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .runner import Runner

__all__ = ["KeyOperations"]


class KeyOperations:
    """What ``ValkeyClient`` does with keys.

    Args:
        runner: Sends the commands.
    """

    def __init__(self, runner: Runner) -> None:
        #: What the parts of this package send their commands through.
        self.runner = runner
        self._run = runner.run
        self._commands = runner.commands

    def get(self, key: str, expire_seconds: int | None = None) -> str | None:
        """Get a value.

        Args:
            key: The key.
            expire_seconds: Let the key live that long from now on (sliding expiry).

        Returns:
            The value; None when there is none, and never for a failure.

        Raises:
            ValkeyError: The call failed, or the value is not text.
        """
        return self._run(self._commands.get(key, expire_seconds))

    def set(
        self,
        key: str,
        value: str,
        expire_seconds: int | None = None,
        *,
        only_if_absent: bool = False,
    ) -> bool:
        """Set a value.

        Args:
            key: The key.
            value: The text.
            expire_seconds: Let it live that long; None for no expiry.
            only_if_absent: Leave a value that is there as it is.

        Returns:
            True when it was set; False when *only_if_absent* found a value.

        Raises:
            ValkeyError: The call failed.
        """
        return self._run(
            self._commands.set(key, value, expire_seconds, only_if_absent=only_if_absent)
        )

    def delete(self, key: str) -> bool:
        """Delete a key.

        Args:
            key: The key.

        Returns:
            Whether it was there.

        Raises:
            ValkeyError: The call failed.
        """
        return self._run(self._commands.delete(key))

    def incr(self, key: str, amount: int = 1, expire_seconds: int | None = None) -> int:
        """Add to a counter, which starts at 0, in one atomic step.

        Args:
            key: The counter.
            amount: What to add; may be negative.
            expire_seconds: The window's length. It starts with the first increment, and again
                for a counter that is found without expiry; later increments do not extend it.

        Returns:
            The new value.

        Raises:
            ValkeyError: The call failed. With ``maybe_applied`` set it may have counted, once.
        """
        return self._run(self._commands.incr(key, amount, expire_seconds))

    def expire(self, key: str, seconds: int) -> bool:
        """Set the expiry of a key.

        Args:
            key: The key.
            seconds: Seconds from now, at least 1.

        Returns:
            Whether the key is there.

        Raises:
            ValkeyError: The call failed.
        """
        return self._run(self._commands.expire(key, seconds))

    def ttl(self, key: str) -> int:
        """Return the seconds that a key has left.

        Args:
            key: The key.

        Returns:
            Seconds; -1 when it does not expire, -2 when it is not there.

        Raises:
            ValkeyError: The call failed.
        """
        return self._run(self._commands.ttl(key))

    def exists(self, key: str) -> bool:
        """Return whether a key is there.

        Args:
            key: The key.

        Raises:
            ValkeyError: The call failed.
        """
        return self._run(self._commands.exists(key))

    def get_json(self, key: str, expire_seconds: int | None = None) -> Any:
        """Get a value that ``set_json`` stored.

        Args:
            key: The key.
            expire_seconds: Let the key live that long from now on (sliding expiry).

        Returns:
            The value; None when there is none.

        Raises:
            ValkeyError: The call failed, or the value is not JSON.
        """
        return self._run(self._commands.get_json(key, expire_seconds))

    def set_json(
        self,
        key: str,
        value: Any,
        expire_seconds: int | None = None,
        *,
        only_if_absent: bool = False,
    ) -> bool:
        """Store a value as JSON.

        Args:
            key: The key.
            value: Anything that JSON can express, or that the client's ``json_default`` makes
                so. JSON has lists and no tuples, and dict keys are text: two keys that become
                the same, such as ``1`` and ``"1"``, are refused, and so are NaN and Infinity.
            expire_seconds: Let it live that long; None for no expiry.
            only_if_absent: Leave a value that is there as it is.

        Returns:
            True when it was set; False when *only_if_absent* found a value.

        Raises:
            ValkeyError: The call failed, or the value is not JSON; then nothing was written.
        """
        return self._run(
            self._commands.set_json(key, value, expire_seconds, only_if_absent=only_if_absent)
        )

    def get_many(self, keys: Iterable[str]) -> dict[str, str | None]:
        """Get several values in one round trip, and from a single server in one step.

        Args:
            keys: The keys; in a cluster they may lie on any servers, which are read together.

        Returns:
            For each key its value, or None.

        Raises:
            ValkeyError: The call failed.
        """
        return read_many(self.runner, keys)

    def set_many(self, values: Mapping[str, str], expire_seconds: int | None = None) -> None:
        """Set several values in one atomic step.

        Args:
            values: The keys and their texts; in a cluster the keys share a hash tag. While their
                slot moves, the call waits for the end of the move, at most ``socket_timeout``.
            expire_seconds: Let them live that long; None for no expiry.

        Raises:
            ValkeyError: The call failed.
        """
        command = self._commands.set_many(values, expire_seconds)
        if command.keys:
            self._run(command)

    def delete_many(self, keys: Iterable[str]) -> int:
        """Delete several keys in one step.

        Args:
            keys: The keys; in a cluster they share a hash tag. While their slot moves, the call
                waits for the end of the move, at most ``socket_timeout``.

        Returns:
            How many were there.

        Raises:
            ValkeyError: The call failed.
        """
        command = self._commands.delete_many(keys)
        return self._run(command) if command.keys else 0
