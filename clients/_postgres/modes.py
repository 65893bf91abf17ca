"""How a transaction begins: its isolation, whether it may write, and its own time-out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from .._shared.validation import checked_choice, checked_flag, checked_seconds
from ..errors import PostgresConfigurationError, PostgresError
from .settings import LONGEST_STATEMENT
from .transaction_sql import BEGIN

__all__ = ["PLAIN", "Isolation", "Modes", "modes_of"]

#: PostgreSQL's levels; its "read uncommitted" is "read committed".
#: https://www.postgresql.org/docs/18/transaction-iso.html
Isolation: TypeAlias = Literal["read committed", "repeatable read", "serializable"]


@dataclass(frozen=True, slots=True)
class Modes:
    """The modes of one call's transaction; they travel with BEGIN and with the context.

    Args:
        isolation: The level; None: the server's default.
        read_only: Whether it may not write; None: the server's default.
        timeout: Seconds for each of its statements; None: the client's ``statement_timeout``.

    Raises:
        PostgresConfigurationError: One of them is unusable.
    """

    isolation: Isolation | None = None
    read_only: bool | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name."""
        refusal = PostgresConfigurationError
        if self.isolation is not None:
            checked_choice("isolation", self.isolation, get_args(Isolation), refusal)
        checked_flag("read_only", self.read_only, refusal, optional=True)
        if self.timeout is not None:
            checked_seconds("timeout", self.timeout, refusal, maximum=LONGEST_STATEMENT)

    @property
    def begin(self) -> bytes:
        """The statement that opens the transaction."""
        if self.isolation is None and self.read_only is None:
            return BEGIN
        level = b"" if self.isolation is None else b" ISOLATION LEVEL " + self.isolation.encode()
        access = {None: b"", True: b" READ ONLY", False: b" READ WRITE"}[self.read_only]
        return BEGIN + level + access

    @property
    def timeout_ms(self) -> int | None:
        """``timeout`` as PostgreSQL takes it."""
        return None if self.timeout is None else math.ceil(self.timeout * 1000)

    def check_join(self, outer: Modes, what: str) -> None:
        """Refuse to become a part of a transaction that began otherwise.

        Args:
            outer: How it began.
            what: The open block, for the message.

        Raises:
            PostgresError: It would need another transaction.
        """
        for name in ("isolation", "read_only", "timeout"):
            wanted, has = getattr(self, name), getattr(outer, name)
            if wanted is not None and wanted != has:
                raise PostgresError(
                    f"{what} is open, and began with {name}={has!r}: a part of it cannot have "
                    f"{name}={wanted!r}. Name it where the block is opened, or end that block first"
                )


#: A transaction without demands of its own.
PLAIN = Modes()


def modes_of(
    isolation: Isolation | None = None, *, read_only: bool | None, timeout: float | None
) -> Modes:
    """Return the modes of a call's transaction; `PLAIN` when it names none.

    Args:
        isolation: As for `Modes`.
        read_only: As for `Modes`.
        timeout: As for `Modes`.

    Raises:
        PostgresConfigurationError: One of them is unusable.
    """
    if isolation is None and read_only is None and timeout is None:
        return PLAIN
    return Modes(isolation, read_only, timeout)
