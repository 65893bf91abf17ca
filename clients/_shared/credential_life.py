"""How long a credential lives, and what is called for the next one."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

__all__ = ["Credential", "CredentialLife"]


@dataclass(frozen=True, slots=True)
class CredentialLife:
    """How old a credential is and how long it still works; never the credential itself.

    Args:
        age: Seconds since it was issued; where nobody tells that, since this client took it up.
        remaining: Seconds until it ends; None when it has no known end.
    """

    age: float
    remaining: float | None = None

    @classmethod
    def between(cls, issued_at: float, ends_at: float) -> CredentialLife:
        """Return the life, now, of what ends at *ends_at*, both on the monotonic clock.

        Args:
            issued_at: When it was issued.
            ends_at: When it ends; infinity when it has no known end.
        """
        now = time.monotonic()
        return cls(now - issued_at, None if math.isinf(ends_at) else max(0.0, ends_at - now))


class Credential(ABC):
    """A callable that gives a URL whose credential ends by itself, and gets the next one."""

    #: How often it has been replaced.
    rotations = 0

    @abstractmethod
    def __call__(self, *, use_cache: bool = True) -> str:
        """Return the URL; with ``use_cache=False`` because the server refused the last one."""

    @abstractmethod
    def generation(self) -> int:
        """Renew or replace the credential where its age demands it, and return its number."""

    @abstractmethod
    def suspect_revoked(self) -> None:
        """Note that the server behaves as if the credential were gone."""

    @abstractmethod
    def life(self) -> CredentialLife:
        """Return how old it is, and how long it still works."""
