"""Write and read JSON: a value that would not be read as it was written is refused."""

from __future__ import annotations

from functools import partial
from json import JSONDecodeError, JSONDecoder, JSONEncoder
from typing import TYPE_CHECKING, Any, NoReturn

from .._shared.interrupts import is_interrupt
from .._shared.validation import checked_callable
from ..errors import ValkeyConfigurationError, ValkeyError
from .arguments import encodable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["JsonCodec"]


_NOT_OURS = "something other than set_json() wrote it; delete the key or read it with get()"


class _RefusedError(Exception):
    """Why a value is refused."""


class JsonCodec:
    """Writes and reads JSON texts.

    Args:
        default: Returns something that JSON can express for a value that it cannot.

    Raises:
        ValkeyConfigurationError: *default* cannot be called.
    """

    def __init__(self, default: Callable[[Any], Any] | None = None) -> None:
        if default is not None:
            checked_callable(
                "json_default", default, ValkeyConfigurationError, that="returns what JSON knows"
            )
        # Without check_circular a cycle is a RecursionError, and the encoder is faster.
        make = partial(
            JSONEncoder, ensure_ascii=False, check_circular=False, default=_hook(default)
        )
        self._encode = make(allow_nan=False).encode
        self._encode_nan = make(allow_nan=True).encode
        self._decode = JSONDecoder(parse_constant=_refuse_constant).decode
        self._verify = JSONDecoder(object_pairs_hook=_refuse_duplicates).decode

    def dump(self, key: str, value: object) -> str:
        """Return *value* as JSON.

        Raises:
            ValkeyConfigurationError: It is not JSON, NaN and Infinity included, or two keys of a
                dict become one. The message names *key*; nothing was written.
        """
        text, reason = self._encoded(value)
        if reason:
            raise ValkeyConfigurationError(
                f"the value for key {key!r} is not JSON: {reason}; nothing was written"
            )
        return encodable(text, f"the value for key {key!r}")

    def load(self, key: str, text: str) -> Any:
        """Return what the JSON *text* of *key* says.

        Raises:
            ValkeyError: It is not JSON.
        """
        value, reason = self._decoded(text)
        if reason:
            raise ValkeyError(f"the value of key {key!r} {reason}")
        return value

    # What the encoder and the decoder raise carries the value: nothing of ours is raised while it
    # is handled.

    def _encoded(self, value: object) -> tuple[str, str]:
        try:
            text = self._encode(value)
            # The reader's own parser: whatever it cannot read is not written.
            self._verify(text)
        except Exception as error:
            if is_interrupt(error, "json"):
                raise
            return "", self._reason(error, value)
        return text, ""

    def _decoded(self, text: str) -> tuple[Any, str]:
        try:
            return self._decode(text), ""
        except JSONDecodeError as error:
            return None, f"is not JSON at character {error.pos}: {_NOT_OURS}"
        except ValueError:
            return None, f"is not JSON: {_NOT_OURS}"
        except RecursionError:
            return None, "is nested too deeply to be read from here"

    def _reason(self, error: Exception, value: object) -> str:
        if isinstance(error, _RefusedError):
            return str(error)
        if isinstance(error, RecursionError):
            return "it is nested too deeply, or contains itself"
        if isinstance(error, TypeError):
            return "a dict key is not a str, int, float, bool or None"
        if isinstance(error, ValueError):
            try:
                self._encode_nan(value)
            except ValueError:
                return "it holds a number of thousands of digits"
            except Exception as another:
                # There is more that JSON does not know behind the number that came first.
                if is_interrupt(another, "json"):
                    raise
            return "it holds NaN or Infinity"
        return f"the encoder raised {type(error).__name__}"


def _hook(default: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    if default is None:
        return _refuse_type
    return partial(_apply, default)


def _refuse_type(value: object) -> NoReturn:
    raise _RefusedError(
        f"it holds a {type(value).__name__}, which json_default= of the client can convert"
    )


def _apply(default: Callable[[Any], Any], value: object) -> Any:
    try:
        return default(value)
    except RecursionError:
        raise
    except Exception as error:
        if is_interrupt(error):
            raise
        raise _RefusedError(
            f"json_default raised {type(error).__name__} for a {type(value).__name__}"
        ) from error


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _RefusedError("two keys of a dict are the same in JSON, such as 1 and '1'")
    return made


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
