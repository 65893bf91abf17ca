"""What the three clients share in life: open once, close once, never pickle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NoReturn, Self

__all__ = ["Lifecycle"]


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
