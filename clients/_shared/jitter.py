"""Random parts of a pause or a life, so that many processes do not act at the same moment."""

from __future__ import annotations

import random

__all__ = ["between"]


def between(minimum: float, maximum: float) -> float:
    """Return a random number from *minimum* to *maximum*; it keeps no secret."""
    return random.uniform(minimum, maximum)  # noqa: S311 - as said
