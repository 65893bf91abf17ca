"""One value of an identity: the setting that policies read, and which values fit."""

from __future__ import annotations

import json
import re
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from .._shared.interrupts import is_interrupt
from .._shared.secrecy import MaskedCallable
from .._shared.validation import is_encodable, shown
from ..errors import PostgresConfigurationError, RlsContextError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RlsSetting", "parse_user_id"]

# https://www.postgresql.org/docs/18/runtime-config-custom.html: a dot, and identifiers around it.
# The server takes letters of other alphabets as well, and compares them by its own rules.
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)+")
_LONGEST_NAME = 63
# Prefixes that the server or its languages keep for themselves.
_RESERVED = re.compile(
    r"(pg_\w*|plpgsql|plperl\w*|pltcl\w*|plpython\w*|information_schema)\.", re.IGNORECASE
)

_TYPES: dict[str, Any] = {"uuid": UUID, "int": int, "str": str, "dict": dict}
_TEXT = re.compile(rf"(?P<name>[^:]+)(:(?P<type>{'|'.join(_TYPES)})(?P<optional>\?)?)?")

#: In bytes. It is sent with each call; a web server's limit for all headers of a request, tokens
#: included, is of this size.
_LONGEST_VALUE = 8192
_BIGINT = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class RlsSetting:
    """A value of the identity that ``PostgresClient(identity={"tenant_id": ...})`` names.

    Args:
        name: The setting that policies read with ``current_setting(name, true)``, such as
            ``"shop.tenant_id"``: with a dot, at most 63 bytes.
        type: ``UUID`` (its text is accepted as well), ``int`` (a bigint), ``str``, or ``dict``,
            which is sent as JSON with sorted keys; any other with *encode*.
        required: Whether a call without this value is refused; when False, an absent value is read
            as ``''``.
        encode: Makes the text that the setting gets of a value. It gets instances of *type*; of
            the four types above no subclass.

    Raises:
        PostgresConfigurationError: An argument is unusable.
    """

    name: str
    type: Any = UUID
    _: KW_ONLY
    required: bool = True
    encode: Callable[[Any], str] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        _check_setting_name(self.name)
        if self.encode is not None and not callable(self.encode):
            raise PostgresConfigurationError(
                f"RlsSetting({self.name!r}): encode must be callable: it makes a str of a value"
            )
        if self.encode is not None:  # it may be bound to the key that signs values
            object.__setattr__(self, "encode", MaskedCallable(self.encode))
        known = [one for one in _ENCODERS if one is self.type]
        if not isinstance(self.type, type) or (not known and self.encode is None):
            raise PostgresConfigurationError(
                f"RlsSetting({self.name!r}): its type must be UUID, int, str or dict, or any other "
                "class with encode="
            )
        if type(self.required) is not bool:
            raise PostgresConfigurationError(
                f"RlsSetting({self.name!r}): required must be True or False"
            )

    @classmethod
    def from_text(cls, text: object) -> RlsSetting:
        """Return the setting that a configuration file or a command line spells.

        Args:
            text: ``name``, ``name:type`` or, when the value may be absent, ``name:type?``, such as
                ``shop.tenant_id:int``; the type is ``uuid``, ``int``, ``str`` or ``dict``.

        Raises:
            PostgresConfigurationError: It is not of this form.
        """
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise PostgresConfigurationError(
                f"{shown(text)} does not spell a setting: it must be like 'shop.tenant_id:int'"
                f", with one of the types {', '.join(_TYPES)}"
            )
        return cls(found["name"], _TYPES[found["type"] or "uuid"], required=not found["optional"])

    @property
    def encoder(self) -> Callable[[str, object], bytes]:
        """What makes the setting's text of a value.

        It takes the value's name in the identity, for messages, and the value; it raises
        RlsContextError for one that does not fit, and does not show it.
        """
        return _ENCODERS[self.type] if self.encode is None else self._encoded

    def _encoded(self, name: str, value: object) -> bytes:
        # As without encode: a subclass of these may show itself in another way than it compares.
        is_one = (
            type(value) is self.type if self.type in _ENCODERS else isinstance(value, self.type)
        )
        if not is_one or (self.type is not bool and isinstance(value, bool)):
            raise _wrong_type(name, value, self.type.__name__)
        failure = ""
        try:
            text = self.encode(value)  # type: ignore[misc]  # only called with one
        except Exception as error:
            # The caller's own code.
            if is_interrupt(error):
                raise
            failure = f"encode failed with {type(error).__name__}"
        else:
            if type(text) is str:
                return _checked_text(name, text)
            failure = f"encode returned {type(text).__name__}, and not str"
        # Outside of the handler: its error may show the value.
        raise RlsContextError(f"{_named(name)}: {failure}")


def _checked_text(name: str, text: str) -> bytes:
    if not text:
        raise RlsContextError(f"{_named(name)} is empty")
    if "\0" in text:
        raise RlsContextError(f"{_named(name)} has a NUL character, which no setting can hold")
    if not is_encodable(text):
        raise RlsContextError(f"{_named(name)} has a lone surrogate: it is not text")
    encoded = text.encode()
    if len(encoded) > _LONGEST_VALUE:
        raise RlsContextError(
            f"{_named(name)} is too long: {len(encoded)} bytes, and at most {_LONGEST_VALUE} can "
            "be set"
        )
    return encoded


def _check_setting_name(name: object) -> None:
    """Refuse a name that no policy can read a value of ours under.

    Raises:
        PostgresConfigurationError: It is unusable.
    """
    if not isinstance(name, str) or not _SETTING.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise PostgresConfigurationError(
            f"{shown(name)} cannot name a setting of an application: the name must have a dot, as "
            "'app.tenant_id' has it, ASCII letters, digits and underscores around it, and at most "
            f"{_LONGEST_NAME} characters"
        )
    if _RESERVED.match(name):
        raise PostgresConfigurationError(
            f"the setting {name!r} is reserved by the server: choose a prefix of your own, such as "
            "'app.'"
        )


def parse_user_id(user_id: object, name: str = "user_id") -> UUID:
    """Return *user_id* as a UUID.

    Args:
        user_id: A UUID, or its text.
        name: The value's name in the identity, for messages.

    Returns:
        The UUID.

    Raises:
        RlsContextError: *user_id* is neither.
    """
    if type(user_id) is UUID:
        return user_id
    if isinstance(user_id, UUID):
        # A subclass may have another text, and the text is what goes into SQL.
        return UUID(int=user_id.int)
    if isinstance(user_id, str):
        try:
            return UUID(user_id)
        except ValueError:
            pass

    text = (
        f". For ids that are other text, construct the client with identity={{{name!r}: "
        "RlsSetting(..., str)}"
        if isinstance(user_id, str)
        else ""
    )
    raise RlsContextError(
        f"{_named(name)} is not a UUID (type {type(user_id).__name__}): "
        f"pass a uuid.UUID or its text{text}"
    ) from None


def _of_uuid(name: str, value: object) -> bytes:
    return str(parse_user_id(value, name)).encode()


def _of_int(name: str, value: object) -> bytes:
    if type(value) is not int:
        # A subclass may show itself in another way than it counts: an enumeration, a bool.
        raise _wrong_type(name, value, "int")
    if value not in _BIGINT:
        raise RlsContextError(f"{_named(name)} is out of the range of a bigint")
    return b"%d" % value


def _of_str(name: str, value: object) -> bytes:
    if type(value) is UUID:
        return str(value).encode()
    if type(value) is not str:
        # A subclass may show itself in another way than it compares.
        raise _wrong_type(name, value, "str")
    return _checked_text(name, value)


def _of_dict(name: str, value: object) -> bytes:
    if type(value) is not dict:
        raise _wrong_type(name, value, "dict")
    if not value:
        raise RlsContextError(f"{_named(name)} is empty")
    problem = ""
    try:
        problem = _json_problem(value)
        text = "" if problem else json.dumps(value, ensure_ascii=False, sort_keys=True)
    except RecursionError:
        problem = "is nested too deeply"
    except ValueError:
        # https://docs.python.org/3/library/stdtypes.html#int-max-str-digits
        problem = "has a number of thousands of digits in it"
    if problem:
        raise RlsContextError(f"{_named(name)} {problem}")
    return _checked_text(name, text)


def _json_problem(value: object) -> str:
    """Say why a value would not be read as what it is; empty when it would."""
    parts: list[object] = []
    if type(value) is dict:
        parts = [*value, *value.values()]
        if not all(type(key) is str for key in value):
            return "has a key in it that is not a str, and that JSON would make one"
    elif type(value) in (list, tuple):
        parts = list(value)  # type: ignore[call-overload]  # it is one
    elif type(value) is str:
        # jsonb would refuse it, in each policy.
        return "has a NUL character in it" if "\0" in value else ""
    elif type(value) is float:
        return "" if value - value == 0 else "has a number in it that JSON does not know"
    elif value is not None and type(value) not in (bool, int):
        return f"has a {type(value).__name__} in it, which JSON does not know"
    return next(filter(None, map(_json_problem, parts)), "")


_ENCODERS: dict[Any, Callable[[str, object], bytes]] = {
    UUID: _of_uuid,
    int: _of_int,
    str: _of_str,
    dict: _of_dict,
}


def _wrong_type(name: str, value: object, expected: str) -> RlsContextError:
    return RlsContextError(
        f"{_named(name)} must be of type {expected}, and is {type(value).__name__}"
    )


def _named(name: str) -> str:
    return "user id" if name == "user_id" else name
