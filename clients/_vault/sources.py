"""Where a credential's text comes from: an argument, a file, or a callable.

A file may be replaced while it is read: a text that cannot be whole is read again, a few times.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Any

from .._shared.secrecy import Masked
from ..errors import ClientError, VaultConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "LARGEST_CREDENTIAL",
    "call_for_text",
    "checked_jwt",
    "checked_path",
    "checked_text",
    "claims_of",
    "read_text",
]

#: Bytes. No credential is larger: a JWT with many groups has some kilobytes. Vault itself takes
#: requests of 32 MiB, https://openbao.org/docs/configuration/listener/tcp/ (max_request_size), and
#: headers of 1 MiB.
LARGEST_CREDENTIAL = 64 * 1024
_READS = 5
_PAUSE = 0.02
#: RFC 7515, section 7.1: three parts of base64url.
_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


def checked_text(name: str, given: Masked, *, reason: str = "setting") -> Masked:
    """Return the text without white space around it.

    Args:
        name: What it is, for messages.
        given: The text.
        reason: The reason of the error.

    Raises:
        VaultConfigurationError: It is empty or too large, or no HTTP header could carry it.
    """
    if not isinstance(given.reveal(), str):
        raise VaultConfigurationError(f"{name} is no text: pass it as str", reason=reason)
    if len(given.reveal()) > LARGEST_CREDENTIAL:
        raise VaultConfigurationError(
            f"{name} has {len(given.reveal())} characters, and at most {LARGEST_CREDENTIAL} are "
            "sent: pass the credential alone",
            reason=reason,
        )
    stripped = Masked(given.reveal().strip())
    if not stripped.reveal():
        raise VaultConfigurationError(f"{name} is empty: write it again", reason=reason)
    # The HTTP library would print an unfit header value, that is the token, in its error.
    if not all("!" <= char <= "~" for char in stripped.reveal()):
        raise VaultConfigurationError(
            f"{name} has a blank, control or non-ASCII character inside: copy it again",
            reason=reason,
        )
    return stripped


def checked_jwt(name: str, text: Masked) -> Masked:
    """Return the text, which has the form of a JWT.

    Raises:
        VaultConfigurationError: It has not.
    """
    if _JWT.fullmatch(text.reveal()):
        return text
    raise VaultConfigurationError(
        f"{name} is no JWT, which has three parts with dots between them: pass the token that "
        "the identity provider issued",
        reason="no_jwt",
    )


def claims_of(jwt: Masked) -> dict[str, Any]:
    """Return what a JWT says of itself, unverified; empty where it cannot be read."""
    try:
        claims = json.loads(base64.urlsafe_b64decode(jwt.reveal().split(".")[1] + "=="))
    except (binascii.Error, IndexError, RecursionError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def checked_path(name: str, path: object) -> str:
    """Return the path as text.

    Raises:
        VaultConfigurationError: It is no path.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if isinstance(text, str) and text.strip() and "\0" not in text:
        return text
    raise VaultConfigurationError(
        f"{name} is not a path: pass the path of a file", reason="setting"
    )


def read_text(
    name: str, path: str, *, missing: str = "check the path, and whether its writer runs"
) -> Masked:
    """Return what a file holds.

    Args:
        name: What it holds, for messages.
        path: The file.
        missing: What helps when there is no such file.

    Raises:
        VaultConfigurationError: It is missing, unreadable, empty, or holds something else;
            ``reason`` says which.
    """
    for _ in range(_READS - 1):
        try:
            return _read_once(name, path, missing)
        except _UnsettledFileError:
            time.sleep(_PAUSE)
    try:
        return _read_once(name, path, missing)
    except _UnsettledFileError as error:
        failure = VaultConfigurationError(str(error), reason=error.reason)
    raise failure


def call_for_text(name: str, produce: Callable[[], str]) -> Masked:
    """Return what a callable returns.

    Raises:
        VaultConfigurationError: It raised, or returned something else than such a text.
        ClientError: It raised that.
    """
    try:
        given = Masked(produce())
    except ClientError:
        raise
    except Exception as error:  # noqa: BLE001 - the caller's own code
        # Not its text: it may hold the credential.
        failure = f"{name}: the callable raised {type(error).__name__}: call it yourself to see why"
    else:
        return checked_text(f"{name}, which the callable returned,", given, reason="callable")
    raise VaultConfigurationError(failure, reason="callable")


class _UnsettledFileError(VaultConfigurationError):
    """A file that may be whole in a moment."""


def _read_once(name: str, path: str, missing: str) -> Masked:
    where = f"{name} in the file {path!r}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _UnsettledFileError(
            f"{where}: there is no such file; {missing}", reason="file_missing"
        ) from None
    except OSError as error:
        raise VaultConfigurationError(
            f"{where}: the file cannot be read: {error.strerror}", reason="file_unreadable"
        ) from None
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):  # to read a pipe would wait for its writer
            raise VaultConfigurationError(f"{where}: it is no file", reason="file_unreadable")
        text = Masked(os.read(descriptor, LARGEST_CREDENTIAL + 1).decode("latin-1"))
        after = os.fstat(descriptor)
    except OSError as error:
        raise VaultConfigurationError(
            f"{where}: the file cannot be read: {error.strerror}", reason="file_unreadable"
        ) from None
    finally:
        os.close(descriptor)
    if len(text.reveal()) > LARGEST_CREDENTIAL:
        raise VaultConfigurationError(
            f"{where}: it is larger than {LARGEST_CREDENTIAL} bytes; name the file that holds "
            f"{name} alone",
            reason="file_content",
        )
    if len(text.reveal()) != after.st_size or before.st_mtime_ns != after.st_mtime_ns:
        raise _UnsettledFileError(
            f"{where}: the file changes while it is read; write a new one and rename it",
            reason="file_changing",
        )
    if not text.reveal().strip():
        raise _UnsettledFileError(
            f"{where}: the file is empty; see whether its writer runs", reason="file_empty"
        )
    return checked_text(where, text, reason="file_content")
