"""Which failures mean that Valkey is unavailable, and one log line for each outage."""

from __future__ import annotations

import logging
import time

from ..errors import ClientError, ConfigurationError, ValkeyConnectionError, ValkeyError

__all__ = ["Outage", "is_unavailable"]

_log = logging.getLogger("clients.valkey")

#: What a server answers that cannot do its work now, whatever the command.
_CODES = frozenset(
    {
        *("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM"),
        *("READONLY", "TRYAGAIN"),
    }
)
#: Seconds without a failure after which an outage is over: one server of a cluster may be away
#: while the others answer.
_QUIET = 5.0


def is_unavailable(error: ClientError) -> bool:
    """Return whether Valkey cannot be used now, and not that the call is wrong."""
    if isinstance(error, ConfigurationError):
        return False
    if isinstance(error, ValkeyError):
        return isinstance(error, ValkeyConnectionError) or error.code in _CODES
    return True  # Vault has no URL for us


class Outage:
    """Logs when calls begin to be answered without Valkey, and when that ends.

    Args:
        where: Which server.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._told = False
        self._last_failure = 0.0

    def failed(self, error: ClientError) -> None:
        """Note that a call is answered without Valkey because of *error*."""
        self._last_failure = time.monotonic()
        if not self._told:
            self._told = True
            _log.warning(
                "rate limits and cached values are answered without Valkey for now, as their "
                "on_unavailable says: %s",
                error,
            )

    def answered(self) -> None:
        """Note that Valkey has answered a call."""
        if self._told and time.monotonic() - self._last_failure > _QUIET:
            self._told = False
            _log.warning("Valkey at %s answers again", self._where)
