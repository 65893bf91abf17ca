"""Files with certificates and keys, looked at before the TLS library meets them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["is_readable", "needs_password"]


def is_readable(path: str) -> bool:
    """Return whether *path* is a file that this process may read."""
    try:
        with Path(path).open("rb"):
            return Path(path).is_file()
    except (OSError, ValueError):  # not there, not ours to read, or no path at all
        return False


def needs_password(path: str) -> bool:
    """Return whether a key in the file has a password.

    The TLS library would ask for it at the terminal, and wait.
    """
    return b"ENCRYPTED" in Path(path).read_bytes()
