"""How a ValkeyClient connects: its time-outs and limits, and the files of a TLS connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._shared.validation import checked_count, checked_file, checked_seconds
from ..errors import ValkeyConfigurationError

if TYPE_CHECKING:
    from .url import ValkeyTarget

__all__ = ["FILE_OPTIONS", "Limits", "check_tls_files"]

FILE_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much.

    Args:
        connect_timeout: Seconds for a TCP connection.
        socket_timeout: Seconds that the server may stay silent.
        max_connections: Connections to one server.
        pool_timeout: Seconds that a call waits for a free connection.
    """

    connect_timeout: float
    socket_timeout: float
    max_connections: int
    pool_timeout: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name."""
        refusal = ValkeyConfigurationError
        checked_seconds("connect_timeout", self.connect_timeout, refusal)
        checked_seconds("socket_timeout", self.socket_timeout, refusal)
        checked_count("max_connections", self.max_connections, refusal, minimum=1)
        checked_seconds("pool_timeout", self.pool_timeout, refusal)


def check_tls_files(target: ValkeyTarget) -> None:
    """Refuse a target whose certificate files cannot be used.

    Raises:
        ValkeyConfigurationError: One is missing or unreadable, which OpenSSL's own error would not
            name, or a key needs a password that the URL does not have.
    """
    options = dict(target.tls_options)
    for name, value in options.items():
        if name in FILE_OPTIONS:
            checked_file(
                f"the Valkey URL's option {name!r}",
                str(value),
                ValkeyConfigurationError,
                may_need_password="ssl_password" in options,
                without="add ssl_password, or store the key without one",
            )
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValkeyConfigurationError(
            "the Valkey URL's option 'ssl_keyfile' needs 'ssl_certfile', the key's certificate"
        )
