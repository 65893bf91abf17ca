"""What ``execute()`` returns: rows with their count, as dicts or as the caller's own type."""

from __future__ import annotations

import dataclasses
import inspect
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    TypeAlias,
    TypeVar,
    cast,
    get_type_hints,
    is_typeddict,
)

from ..errors import PostgresConfigurationError, PostgresError, RowCountError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

__all__ = ["Expectation", "RowMaker", "Rows", "check_count", "row_maker"]

T = TypeVar("T")

#: How many rows a statement has to return or change: a number, a range, or what accepts a number.
Expectation: TypeAlias = "int | range | Callable[[int], bool]"


class Rows(list[T], Generic[T]):
    """The rows of one statement: a list, and how many rows the statement returned or changed.

    Args:
        rows: The rows; none for a statement without rows.
        rowcount: The number that the server reported: rows returned, inserted, updated or deleted;
            -1 for a statement that has none, such as ``CREATE TABLE``.
    """

    __slots__ = ("rowcount",)

    def __init__(self, rows: Sequence[T] = (), rowcount: int = -1) -> None:
        super().__init__(rows)
        self.rowcount = rowcount

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (list(self), self.rowcount)


class RowMaker(Generic[T]):
    """Makes rows of one type from columns of given names.

    Args:
        make: Makes one row from its values, in the order of the columns.
        can_fail: Whether *make* may refuse a value, as a class that validates does.
    """

    __slots__ = ("can_fail", "make")

    def __init__(self, make: Callable[[Sequence[Any]], T], *, can_fail: bool) -> None:
        self.make = make
        self.can_fail = can_fail


def row_maker(row_type: type[T], names: Sequence[str]) -> RowMaker[T]:
    """Return what makes rows of *row_type* from columns called *names*.

    Args:
        row_type: A dataclass, a NamedTuple, a TypedDict, a pydantic model, or a class whose
            constructor takes the columns as keyword arguments.
        names: The columns of the result, in their order.

    Raises:
        PostgresError: A column is missing, or one too many.
        PostgresConfigurationError: *row_type* is no such type.
    """
    if is_typeddict(row_type):
        # Not __required_keys__: annotations that are text hide NotRequired from it.
        every = get_type_hints(row_type)
        _check_columns(row_type, names, every, getattr(row_type, "__required_keys__", every))
        return RowMaker(cast("Callable[[Sequence[Any]], T]", _dicts(names)), can_fail=False)
    if fields := _pydantic_names(row_type):
        known, required, takes_more = fields
        _check_columns(row_type, names, names if takes_more else known, required)
        # Documented by pydantic as the way in for a mapping of names to values.
        validate = row_type.model_validate  # type: ignore[attr-defined]  # it is a pydantic model
        as_dict = _dicts(names)
        return RowMaker(lambda values: validate(as_dict(values)), can_fail=True)
    parameters = _parameters(row_type)
    takes_more = any(one.kind is one.VAR_KEYWORD for one in parameters)
    named = [one for one in parameters if one.kind in _NAMED]
    _check_columns(
        row_type,
        names,
        names if takes_more else [one.name for one in named],
        [one.name for one in named if one.default is one.empty],
    )
    plain = dataclasses.is_dataclass(row_type) or issubclass(row_type, tuple)
    can_fail = not plain or hasattr(row_type, "__post_init__")
    positions = [one.name for one in named if one.kind is not one.KEYWORD_ONLY]
    if list(names) == positions[: len(names)]:
        return RowMaker(lambda values: row_type(*values), can_fail=can_fail)
    as_dict = _dicts(names)
    return RowMaker(lambda values: row_type(**as_dict(values)), can_fail=can_fail)


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_count(expect: Expectation, actual: int, method: str) -> None:
    """Refuse a number of rows that is not the expected one.

    Args:
        expect: The number, a range of numbers, or a callable that says whether a number will do.
        actual: How many rows the statement returned or changed.
        method: The public method's name, for the message.

    Raises:
        RowCountError: It is another number.
    """
    if isinstance(expect, int):
        met, wanted = actual == expect, str(expect)
    elif isinstance(expect, range):
        met, wanted = actual in expect, f"one of {expect!r}"
    else:
        met, wanted = (
            bool(expect(actual)),
            f"what {getattr(expect, '__name__', 'expect')}() accepts",
        )
    if not met:
        raise RowCountError(
            f"{method}() returned or changed {actual} rows, and {wanted} was expected: nothing was "
            "committed. Under row-level security, rows of others are not there to be changed",
            # Not a callable: an error can be pickled.
            expected=expect if isinstance(expect, int | range) else wanted,
            actual=actual,
        )


def _dicts(names: Sequence[str]) -> Callable[[Sequence[Any]], dict[str, Any]]:
    # Both are of one result, and to compare their lengths for each row costs a quarter.
    return lambda values: dict(zip(names, values))  # noqa: B905 - as said


def _check_columns(
    row_type: type, names: Sequence[str], known: Collection[str], required: Collection[str]
) -> None:
    missing = [one for one in required if one not in names]
    surplus = [one for one in names if one not in known]
    if missing or surplus:
        parts = [
            f"{text} {', '.join(map(repr, found))}"
            for text, found in (("the result lacks", missing), ("the type does not know", surplus))
            if found
        ]
        raise PostgresError(
            f"the columns do not fit {row_type.__qualname__}: {' and '.join(parts)}. Name the "
            "columns in the SELECT or RETURNING list, with AS where they differ"
        )


def _parameters(row_type: Any) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(row_type)
    except (TypeError, ValueError):
        signature = None
    if not isinstance(row_type, type) or signature is None or row_type.__module__ == "builtins":
        raise PostgresConfigurationError(
            f"row_type is {row_type!r}: it must be a dataclass, a NamedTuple, a TypedDict, a "
            "pydantic model, or a class that takes the columns as keyword arguments"
        )
    return list(signature.parameters.values())


def _pydantic_names(row_type: type) -> tuple[set[str], set[str], bool] | None:
    """Return the names that a pydantic model knows and requires, and whether it takes others."""
    fields = getattr(row_type, "model_fields", None)
    if not isinstance(fields, dict) or not hasattr(row_type, "model_validate"):
        return None
    config = getattr(row_type, "model_config", {})
    by_name = bool(config.get("populate_by_name") or config.get("validate_by_name"))
    known: set[str] = set()
    required: set[str] = set()
    for name, one in fields.items():
        if not isinstance(one.validation_alias, str | None):
            # A path into nested data, or one of several names: the model itself has to say.
            return set(), set(), True
        alias = one.alias if one.validation_alias is None else one.validation_alias
        known |= {name} if alias is None else {alias}
        if by_name:
            known.add(name)
        elif one.is_required():
            required.add(alias or name)
    return known, required, config.get("extra") != "forbid" and bool(config.get("extra"))
