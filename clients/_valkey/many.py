"""Several values in one batch: MGET, and in a cluster one for each slot.

MGET answers nothing where a key is absent, and also where it holds another type. So EXISTS goes
with it: where it counts more keys than there are values, each missing one is read again alone. So
are the keys of a slot that is moving to another server of a cluster, which may have some of them.

Source: https://valkey.io/commands/mget/.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from redis.exceptions import TryAgainError

from .commands import Command
from .errors import server_code
from .reply_shapes import integer, text_or_none, texts_or_none

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .runner import Runner

__all__ = ["read_many"]


def read_many(runner: Runner, keys: Iterable[str]) -> dict[str, str | None]:
    """Return the value of each of *keys*, or None.

    Raises:
        ValkeyError: The call failed, or a key holds another type.
    """
    prefix = runner.commands.prefix
    names = runner.commands.names(keys)
    if not names:
        return {}
    found: dict[str, str | None] = {}
    unsure: list[str] = []
    what = _get_many(names).label
    groups = runner.link.groups(names)
    commands = [make(group) for group in groups for make in (_get_many, _count)]
    replies = runner.run_many(commands, what)
    for group, command, values, count in zip(
        groups, commands[::2], replies[::2], replies[1::2], strict=True
    ):
        if any(isinstance(one, TryAgainError) for one in (values, count)):
            unsure += group
            continue
        found |= zip(group, runner.checked(values, command), strict=True)
        missing = [name for name in group if found[name] is None]
        # Who may MGET and not EXISTS is told of an absent key.
        may_count = not isinstance(count, Exception) or server_code(count) != "NOPERM"
        if may_count and runner.checked(count, command) > len(group) - len(missing):
            unsure += missing
    if unsure:
        singles = [_get(name) for name in unsure]
        for single, value in zip(singles, runner.run_many(singles, what), strict=True):
            found[single.keys[0]] = runner.checked(value, single)
    return {name.removeprefix(prefix): found[name] for name in names}


def _get_many(names: tuple[str, ...]) -> Command[list[str | None]]:
    shape = partial(texts_or_none, count=len(names))
    return Command(("MGET", *names), names, shape, writes=False, is_divisible=True)


def _count(names: tuple[str, ...]) -> Command[int]:
    return Command(("EXISTS", *names), names, integer, writes=False, is_divisible=True)


def _get(name: str) -> Command[str | None]:
    return Command(("GET", name), (name,), text_or_none, writes=False)
