"""The life cycle of the three clients: open once, close once, never pickled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NoReturn, Self

__all__ = ["Lifecycle", "allow_close", "keep_open"]


class Lifecycle(ABC):
    """A context manager that closes on exit and refuses to be copied into another process."""

    @abstractmethod
    def close(self) -> None:
        """Release everything; more than once does no harm."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        # A pickle or a copy would carry credentials and share sockets.
        raise TypeError(
            f"{type(self).__name__} holds connections and credentials, and cannot be pickled or "
            "copied: make a new client in the other process"
        )


def keep_open(client: Lifecycle) -> None:
    """Let ``close()``, and the end of a ``with`` block, do nothing until ``allow_close()``."""
    object.__setattr__(client, "close", _stay_open)  # also where the dataclass is frozen


def allow_close(client: Lifecycle) -> None:
    """Let ``close()`` close again."""
    vars(client).pop("close", None)


def _stay_open() -> None:
    """Do nothing: others use this client, and whoever shares it closes it."""
