"""Find secrets in what error reporters collect of a failure.

They keep the local variables of every frame, the attributes of every exception and the whole chain
of causes. The walker goes over all of it, one level into containers and attributes, and says where
a secret shows. Tests use secrets that are like nothing else (``SENTINEL``).
"""

from __future__ import annotations

import pickle
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from clients._shared.secrecy import Masked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType

__all__ = ["SENTINEL", "SoftTimeLimit", "leaks_at_steps", "leaks_in", "leaks_of"]

#: A password that stands nowhere else, without a character that needs escaping.
SENTINEL = "Zz9sentinelQq7"

_TESTS = str(Path(__file__).parent)
_CLIENTS = str(Path(__file__).parents[1] / "clients")
# Frames of the test itself have to know the secret.
_NOT_WALKED = (_TESTS, "/_pytest/", "/pluggy/")
_MOST_ITEMS = 200


class SoftTimeLimit(Exception):  # noqa: N818 - named as task queues name theirs
    """What a worker's signal handler raises wherever its thread is."""


def leaks_of(call: Callable[[], object], *secrets: str) -> list[str]:
    """Run *call*, which has to fail, and return where any of *secrets* shows.

    Args:
        call: What fails, with any exception.
        secrets: Texts that must not show; their percent-encoded forms are found, too.
    """
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is looked through
        return leaks_in(error, *secrets)
    raise AssertionError("the call did not fail")


def leaks_in(error: BaseException, *secrets: str) -> list[str]:
    """Return where any of *secrets* shows in *error*, its chain, and the frames that it keeps.

    Args:
        error: The exception; its traceback is walked as well, but for the frames of tests.
        secrets: Texts that must not show.
    """
    forms = {form for one in secrets for form in (one, quote(one, safe=""), quote_plus(one))}
    return [
        place
        for exception in _chain(error)
        for place, text in _texts_of(exception)
        if any(form in text for form in forms)
    ]


def leaks_at_steps(
    call: Callable[[], object], *secrets: str, first: int = 1, stride: int = 1
) -> list[str]:
    """Interrupt *call* at its steps in ``clients``, and return where any of *secrets* shows.

    Args:
        call: What is interrupted: it is run again for each step, until it is over before that.
        secrets: Texts that must not show.
        first: The first step that is interrupted: a line, a call or a return.
        stride: How many steps lie between two interrupts.
    """
    found: list[str] = []
    step, done = first, False
    while not done:
        trace = _RaiseAtStep(step)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - as above
            sys.settrace(before)
            found += leaks_in(error, *secrets)
        finally:
            sys.settrace(before)
        done = trace.left > 0
        step += stride
    assert step > first + stride, "the call has no steps in clients"
    return sorted(set(found))


class _RaiseAtStep:
    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self, frame: FrameType, *_: object) -> _RaiseAtStep | None:
        if not frame.f_code.co_filename.startswith(_CLIENTS):
            return None
        self.left -= 1
        if self.left == 0:
            sys.settrace(None)
            raise SoftTimeLimit
        return self


def _chain(error: BaseException) -> list[BaseException]:
    """Return *error* and whatever it came from, suppressed or not."""
    found: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or any(one is known for known in found):
            continue
        found.append(one)
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
    return found


def _texts_of(error: BaseException) -> Iterator[tuple[str, str]]:
    name = type(error).__name__
    yield f"str({name})", str(error)
    yield f"the traceback of {name}", "".join(traceback.format_exception(error))
    with suppress(Exception):  # not every exception of a driver can be pickled
        yield f"the pickle of {name}", pickle.dumps(error).decode("latin-1")
    for attribute in dir(error):
        if not attribute.startswith("__") or attribute == "__notes__":
            value = _attribute(error, attribute)
            if not callable(value):
                yield from _texts_in(f"{name}.{attribute}", value)
    yield from _texts_in(f"{name}.args", error.args)
    for frame, line in _frames(error.__traceback__):
        code = frame.f_code
        if not any(part in code.co_filename for part in _NOT_WALKED):
            where = f"{'/'.join(Path(code.co_filename).parts[-3:])}:{line} {code.co_name}()"
            for variable, value in list(frame.f_locals.items()):
                yield from _texts_in(f"{where}: {variable}", value)


def _frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _texts_in(where: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield *value* as text, and what is one level in it."""
    yield where, _text(value)
    if isinstance(value, Masked | str | bytes | bytearray | type):
        return
    if isinstance(value, Mapping):
        for key, item in _some(value.items()):
            yield f"{where}[{type(key).__name__}]", _text(key)
            yield f"{where}[{key!r}]", _text(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in _some(value):
            yield f"{where}[...]", _text(item)
    for attribute in _instance_attributes(value):
        yield f"{where}.{attribute}", _text(_attribute(value, attribute))


def _some(items: Any) -> list[Any]:
    try:
        return list(islice(items, _MOST_ITEMS))
    except RuntimeError:  # it changed meanwhile, in another thread
        return []


def _instance_attributes(value: object) -> list[str]:
    names = list(getattr(value, "__dict__", {})) if not callable(value) else []
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in {"__weakref__", "__dict__"}]


def _attribute(value: object, name: str) -> object:
    try:
        return getattr(value, name)
    except Exception:  # noqa: BLE001 - a property of a half-made object
        return None


def _text(value: object) -> str:
    try:
        if isinstance(value, memoryview | bytearray):
            value = bytes(value)
        # A repr doubles backslashes and quotes; the text itself may be what leaks.
        return f"{value}{value!r}" if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001 - a repr that fails shows nothing
        return ""
