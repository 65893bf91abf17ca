"""Where a secret lies: the guard that every path passes before a request is made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..errors import VaultConfigurationError

__all__ = [
    "SecretPath",
    "check_mount_point",
    "database_path",
    "folder_path",
    "join_path",
    "secret_path",
    "split_mount",
]

#: What such a text looks like, for messages.
_EXAMPLES = {
    "secret path": "crm/database",
    "folder": "crm",
    "prefix": "crm/api-keys",
    "name": "openweather",
    "mount point": "secret",
    "database role": "crm-app",
}
_LONGEST = 512
#: Characters of an unusable path that a message shows.
_SHOWN = 60
_KNOWN_PATHS = 1024


@dataclass(frozen=True, slots=True)
class SecretPath:
    """A path inside a KV version 2 mount.

    Args:
        mount: The mount point, such as ``secret``.
        path: The path below it, without the ``data/`` of the HTTP API; empty for the mount's root.
    """

    mount: str
    path: str

    def __str__(self) -> str:
        return f"{self.path or '/'!r} in mount {self.mount!r}"


def secret_path(mount: str, path: str) -> SecretPath:
    """Return where the secret *path* lies.

    Args:
        mount: The mount point.
        path: ``crm/database``, or the HTTP API's spelling ``secret/data/crm/database``.

    Raises:
        VaultConfigurationError: *path* is no path; nothing has been sent.
    """
    return _secret_path(mount, _text(path, "secret path"))


def folder_path(mount: str, path: str) -> SecretPath:
    """Return where the folder *path* lies; ``"/"`` is the root of the mount.

    Args:
        mount: The mount point.
        path: ``crm``, or the HTTP API's spelling ``secret/metadata/crm``.

    Raises:
        VaultConfigurationError: *path* is no path; nothing has been sent.
    """
    if path == "/":
        return SecretPath(mount, "")
    return SecretPath(mount, _inside(mount, _checked(path, "folder"), "data", "metadata"))


def join_path(prefix: str, name: str) -> str:
    """Return the path of *name* below *prefix*, each of them checked by itself.

    Raises:
        VaultConfigurationError: One of them is no path.
    """
    return f"{_checked(prefix, 'prefix')}/{_checked(name, 'name')}"


def check_mount_point(mount: str) -> str:
    """Return the mount point without slashes around it.

    Raises:
        VaultConfigurationError: It is no path.
    """
    return _checked(mount, "mount point")


def split_mount(path: str) -> tuple[str | None, str]:
    """Return the mount that ``mount:path`` names, or None, and the path in it.

    For paths of a configuration alone: what a caller's caller gave could name another mount.
    """
    mount, colon, inside = _text(path, "secret path").partition(":")
    return (_checked(mount, "mount point"), inside) if colon else (None, path)


def database_path(role: str) -> str:
    """Return the path of a role of the database secrets engine.

    Args:
        role: ``crm-app`` for ``database/creds/crm-app``, or the path itself, such as
            ``database/static-creds/crm-app``.

    Raises:
        VaultConfigurationError: It is no role and no path of one; nothing has been sent.
    """
    path = _checked(role, "database role")
    if "/" not in path:
        return f"database/creds/{path}"
    if path.split("/")[-2] in {"creds", "static-creds"}:
        return path
    raise VaultConfigurationError(
        f"the database role {path[:60]!r} is not the path of one: pass a name like 'crm-app', or "
        "a path such as 'database/static-creds/crm-app'",
        reason="path",
    )


@lru_cache(maxsize=_KNOWN_PATHS)
def _secret_path(mount: str, path: str) -> SecretPath:
    return SecretPath(mount, _inside(mount, _checked(path, "secret path"), "data"))


def _inside(mount: str, path: str, *kinds: str) -> str:
    for kind in kinds:
        start = f"{mount}/{kind}/"
        if path.startswith(start):
            return path.removeprefix(start)
    return path


def _text(path: object, what: str) -> str:
    if isinstance(path, str):
        return path
    raise VaultConfigurationError(
        f"the {what} is a {type(path).__name__}: it must be text such as {_EXAMPLES[what]!r}",
        reason="path",
    )


def _checked(path: object, what: str) -> str:
    # A dot segment is collapsed on the way to the server: "../../sys/mounts" would leave the
    # mount and read the server's own settings.
    path = _text(path, what)
    bare = path.strip("/")
    segments = bare.split("/")
    if not bare or not bare.strip():
        problem = "is empty"
    elif not bare.isprintable():
        problem = "has a control or invisible character"
    elif not {".", ".."}.isdisjoint(segments):
        problem = "has a '.' or '..' segment"
    elif "" in segments:
        problem = "has an empty segment"
    elif len(bare) > _LONGEST:
        problem = f"is longer than {_LONGEST} characters"
    else:
        return bare
    shown = repr(path[:_SHOWN]) + ("..." if len(path) > _SHOWN else "")
    raise VaultConfigurationError(
        f"the {what} {shown} {problem}: pass a path such as {_EXAMPLES[what]!r}", reason="path"
    )
