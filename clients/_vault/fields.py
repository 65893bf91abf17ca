"""The fields of a secret, each checked where it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._shared.authority import port_of
from .._shared.secrecy import Masked
from .._shared.validation import boolean_in
from ..errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SecretFields"]


class SecretFields:
    """A secret that a failing frame can hold as a local variable without showing it.

    Args:
        secret: The fields.
        path: Where they come from, for messages.
    """

    __slots__ = ("_get", "_names", "_path")

    def __init__(self, secret: dict[str, Any], path: str) -> None:
        # Error reporters also go through the attributes of what a frame holds.
        def get(name: str) -> Any:
            return secret.get(name)

        self._get = get
        self._names = frozenset(name for name, value in secret.items() if value is not None)
        self._path = path

    def text(self, name: str) -> str:
        """Return a field that must be there.

        Raises:
            VaultError: It is missing, empty or no text.
        """
        if self._get(name) is None:
            raise self.error(name, "is missing")
        return str(self.optional_text(name))

    def optional_text(self, name: str) -> str | None:
        """Return a field, or None where the secret has none.

        Raises:
            VaultError: It is empty or no text.
        """
        if self._get(name) is None:
            return None
        if not isinstance(self._get(name), str):
            raise self.error(name, f"is a {type(self._get(name)).__name__} and no text")
        if not self._get(name).strip():
            raise self.error(name, "is empty")
        return str(self._get(name))

    def port(self, name: str, *, default: str) -> str:
        """Return a port, which people store as a number or as text.

        Raises:
            VaultError: It is no port.
        """
        if self._get(name) is None:
            return default
        port = port_of(
            self._get(name).strip() if isinstance(self._get(name), str) else self._get(name)
        )
        if port is None:
            raise self.error(name, "is no port")
        return str(port)

    def url(self, name: str) -> Masked | None:
        """Return a field that holds a URL, or None; a line end of the file it came from goes.

        Raises:
            VaultError: It is empty or no text.
        """
        if self._get(name) is None:
            return None
        self.optional_text(name)
        return Masked(self._get(name).strip())

    def part(self, names: Iterable[str]) -> Masked | None:
        """Return the one field that *names* stand for, as text, or None.

        Raises:
            VaultError: It is empty or no text and no number, or two of the names contradict each
                other.
        """
        first: str | None = None
        for name in (one for one in names if self._get(one) is not None):
            if isinstance(self._get(name), bool) or not isinstance(self._get(name), str | int):
                raise self.error(name, f"is a {type(self._get(name)).__name__} and no text")
            if not str(self._get(name)).strip():
                raise self.error(name, "is empty")
            if any("\ud800" <= char <= "\udfff" for char in str(self._get(name))):
                raise self.error(name, "has half of a surrogate pair, which is no character")
            if str(self._get(name)).endswith(("\r", "\n")):
                raise self.error(name, "ends in a line end")
            if first is not None and str(self._get(name)) != str(self._get(first)):
                raise self.error(name, f"contradicts the field {first!r}")
            first = first or name
        return None if first is None else Masked(str(self._get(first)))

    def option(self, name: str) -> Masked:
        """Return a field that is an option: text, a number, or yes or no.

        Raises:
            VaultError: It is something else, or empty.
        """
        if isinstance(self._get(name), bool):
            return Masked(str(int(self._get(name))))
        return self.part((name,)) or Masked("")

    def switch(self, names: Iterable[str]) -> bool | None:
        """Return whether the one field that *names* stand for says yes; None when it is not there.

        It may be a boolean, a number or a word; an empty one counts as missing.

        Raises:
            VaultError: It says neither yes nor no, or two of the names contradict each other.
        """
        first: str | None = None
        answer: bool | None = None
        for name in (one for one in names if self._get(one) is not None):
            word = str(self._get(name)).strip()
            if word.lower() in {"", "none"}:
                continue
            said = boolean_in(word)
            if said is None:
                raise self.error(name, "is neither true nor false")
            if first is not None and said != answer:
                raise self.error(name, f"contradicts the field {first!r}")
            first, answer = first or name, said
        return answer

    def names(self) -> frozenset[str]:
        """Return the names of the fields that hold something."""
        return self._names

    def error(self, name: str, problem: str) -> VaultError:
        """Return the error that names the secret and the field."""
        return VaultError(
            f"the secret {self._path!r} is unusable: its field {name!r} {problem}; write it with "
            "`vault kv patch`",
            reason="field",
        )
