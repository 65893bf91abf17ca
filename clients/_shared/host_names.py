"""Host names, looked at before the resolver meets them."""

from __future__ import annotations

__all__ = ["can_be_looked_up"]


def can_be_looked_up(host: str) -> bool:
    """Return False when a part of *host* is empty or has more than 63 characters.

    The resolver's own error is a UnicodeError that would come out of a connect.
    """
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True
