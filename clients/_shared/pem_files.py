"""Files with certificates and keys, looked at before the TLS library meets them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["is_readable", "needs_password"]


def is_readable(path: str) -> bool:
    """Return whether *path* is a file that this process may read."""
    try:
        if not Path(path).is_file():  # to open a pipe would wait for its writer
            return False
        Path(path).open("rb").close()
    except OSError:
        return False
    return True


def needs_password(path: str) -> bool:
    """Return whether a key in the file has a password.

    The TLS library would ask for it at the terminal, and wait.
    """
    return b"ENCRYPTED" in Path(path).read_bytes()
