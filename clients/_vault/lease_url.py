"""Put the user and the password of a lease into the URL that says where the server is."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from ..errors import VaultConfigurationError
from .settings import Masked

__all__ = ["checked_base", "with_login"]

#: libpq lets these win over what stands before the host.
_LOGIN_OPTIONS = frozenset({"password", "user"})


def checked_base(base_url: object) -> Masked:
    """Return the URL; it may hold a password of its own.

    Raises:
        VaultConfigurationError: It is none.
    """
    if isinstance(base_url, str) and "://" in base_url:
        return Masked(base_url)
    del base_url  # error reporters collect local variables
    raise VaultConfigurationError(
        "the URL that the user and the password go into is no URL: write it as "
        "scheme://host:port/database",
        reason="setting",
    )


def with_login(base: Masked, user: str, secret: Masked) -> str:
    """Return the URL with *user* and *secret* in place of those that it may have."""
    scheme, _, rest = base.reveal().partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path, mark, query = rest[len(authority) :].partition("?")
    if mark and scheme.startswith("postgres"):
        pairs = query.split("&")
        query = "&".join(
            one for one in pairs if unquote(one.partition("=")[0]) not in _LOGIN_OPTIONS
        )
    _, _, hosts = authority.rpartition("@")
    login = f"{quote(user, safe='')}:{quote(secret.reveal(), safe='')}"
    return f"{scheme}://{login}@{hosts}{path}{mark}{query}"
