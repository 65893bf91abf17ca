"""What ``execute()`` returns: rows with their count, as dicts or as the caller's own type."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypeVar, cast

from psycopg.rows import dict_row

from .._shared.validation import shown
from ..errors import PostgresConfigurationError, PostgresError, RowCountError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = [
    "PLAIN_SHAPE",
    "Expectation",
    "Rows",
    "Shape",
    "duplicate_columns",
    "row_maker",
    "unique_dict_row",
]

T = TypeVar("T")

#: How many rows a statement has to return or change: a number, a range, or what accepts a number.
Expectation: TypeAlias = int | range | Callable[[int], bool]

#: How many statements are known to fit a type, and how long the text of one may be.
_MOST_KNOWN = 1000
_LONGEST_KNOWN = 10_000


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


def duplicate_columns(names: list[str]) -> str:
    """Say which columns have one name; empty when there are none."""
    if len(set(names)) == len(names):
        return ""
    twice = sorted({name for name in names if names.count(name) > 1})
    return (
        f"two columns of one name ({', '.join(twice)}), and a dict would lose one: name them apart "
        "with AS"
    )


class Shape:
    """What one call wants its rows to be, and how many.

    Args:
        row_type: The type of the rows; None: dicts.
        expect: How many rows have to be returned or changed; None: any number.
        query: The statement.
        fitting: Statements whose columns are known to fit a type; shared by the client's calls.
        in_block: Whether it runs in an open block, which commits later or never.

    Raises:
        PostgresConfigurationError: An argument is unusable.
    """

    def __init__(
        self,
        row_type: type | None,
        expect: Expectation | None,
        query: object,
        fitting: set[tuple[object, type]],
        *,
        in_block: bool = False,
    ) -> None:
        if row_type is not None:
            _check_row_type(row_type)
        if expect is not None and (
            isinstance(expect, bool) or not (isinstance(expect, int | range) or callable(expect))
        ):
            raise PostgresConfigurationError(
                f"expect is {shown(expect)}: it must be a number of rows, a range of them, or a "
                "callable that takes the number"
            )
        self._row_type = row_type
        self._expect = expect
        self._fitting = fitting
        self._key = (
            (query, row_type)
            if row_type is not None and isinstance(query, str) and len(query) <= _LONGEST_KNOWN
            else None
        )
        #: Whether the rows are made before the COMMIT, which costs a round trip: always for an
        #: expected number, and for a type until its columns have fitted once.
        self.is_checked_first = (
            in_block
            or expect is not None
            or (row_type is not None and (self._key is None or self._key not in fitting))
        )

    def maker(self, names: Sequence[str], method: str) -> Callable[[Sequence[Any]], Any]:
        """Return what makes one row from its values.

        Args:
            names: The columns of the result, in their order.
            method: The public method's name, for messages.

        Raises:
            PostgresError: They do not fit the type of the rows.
        """
        if self._row_type is None:
            return _dicts(names)
        try:
            make: Callable[[Sequence[Any]], Any] = row_maker(self._row_type, tuple(names))
        except PostgresError as error:
            raise self.unreadable(f"the rows of {method}() were not made: {error}") from None
        if self._key is not None and self._key not in self._fitting:
            if len(self._fitting) >= _MOST_KNOWN:
                self._fitting.clear()
            self._fitting.add(self._key)
        return make

    def check_count(self, actual: int, method: str) -> None:
        """Refuse a number of rows that is not the expected one.

        Args:
            actual: How many rows the statement returned or changed.
            method: The public method's name, for the message.

        Raises:
            RowCountError: It is another number.
        """
        expect = self._expect
        if expect is None:
            return
        if isinstance(expect, int):
            met, wanted = actual == expect, str(expect)
        elif isinstance(expect, range):
            met, wanted = actual in expect, f"one of {expect!r}"
        else:
            met = bool(expect(actual))
            wanted = f"what {getattr(expect, '__name__', 'expect')}() accepts"
        if not met:
            raise RowCountError(
                f"{method}() returned or changed {actual} rows, and {wanted} was expected: nothing "
                "was committed. Under row-level security, the rows of others cannot be changed and "
                "are not counted",
                # Not a callable: an error can be pickled.
                expected=expect if isinstance(expect, int | range) else wanted,
                actual=actual,
            )

    def unreadable(self, message: str) -> PostgresError:
        """Return the error for rows that cannot be made, and say what became of the statement.

        Args:
            message: Why they cannot.
        """
        # Columns or values have changed: the next call is checked before its COMMIT again.
        if self._key is not None:
            self._fitting.discard(self._key)
        if self.is_checked_first:
            return PostgresError(f"{message}. Nothing was committed")
        # Committed in the same round trip that brought the rows.
        return PostgresError(
            f"{message}. The statement itself was committed: do not repeat a change",
            maybe_applied=True,
        )


#: Dicts, as many as there are.
PLAIN_SHAPE = Shape(None, None, None, set())


def unique_dict_row(cursor: Any) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """Make dicts of rows, as psycopg's ``dict_row`` does, but never one that has lost a column.

    Args:
        cursor: psycopg's cursor.
    """
    if (result := cursor.pgresult) is not None and result.nfields > 1:
        names = [result.fname(n) for n in range(result.nfields)]
        if len(set(names)) < len(names):
            duplicates = duplicate_columns([column.name for column in cursor.description])

            def refuse(_: Sequence[Any]) -> NoReturn:
                raise PostgresError(
                    f"the statement returned {duplicates}, or use another row_factory"
                )

            return refuse
    return dict_row(cursor)


@lru_cache(maxsize=512)
def row_maker(row_type: type[T], names: tuple[str, ...]) -> Callable[[Sequence[Any]], T]:
    """Return what makes rows of *row_type* from columns called *names*.

    Args:
        row_type: A dataclass, a NamedTuple, a TypedDict, a pydantic model, or a class whose
            constructor takes the columns as keyword arguments.
        names: The columns of the result, in their order.

    Raises:
        PostgresError: A column is missing, or one too many.
    """
    if _is_typed_dict(row_type):
        _check_columns(row_type, names, *_keys(row_type))
        return cast("Callable[[Sequence[Any]], T]", _dicts(names))
    if fields := _pydantic_names(row_type):
        known, required, takes_more = fields
        _check_columns(row_type, names, names if takes_more else known, required)
        # Documented by pydantic as the way in for a mapping of names to values.
        validate = row_type.model_validate  # type: ignore[attr-defined]  # it is a pydantic model
        as_dict = _dicts(names)
        return lambda values: validate(as_dict(values))
    parameters = inspect.signature(row_type).parameters.values()
    takes_more = any(one.kind is one.VAR_KEYWORD for one in parameters)
    named = [one for one in parameters if one.kind in _NAMED]
    _check_columns(
        row_type,
        names,
        names if takes_more else [one.name for one in named],
        [one.name for one in named if one.default is one.empty],
    )
    positions = [one.name for one in named if one.kind is not one.KEYWORD_ONLY]
    if list(names) == positions[: len(names)]:
        return lambda values: row_type(*values)
    as_dict = _dicts(names)
    return lambda values: row_type(**as_dict(values))


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


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


def _is_typed_dict(row_type: type) -> bool:
    # Not typing.is_typeddict(): typing_extensions has a TypedDict of its own.
    return issubclass(row_type, dict) and hasattr(row_type, "__required_keys__")


def _keys(row_type: Any) -> tuple[set[str], set[str]]:
    """Return the keys that a TypedDict knows, and those that it requires."""
    required, optional = set(row_type.__required_keys__), set(row_type.__optional_keys__)
    try:
        annotations = row_type.__annotations__
    except NameError:
        # Python 3.14 evaluates them now, and has seen their qualifiers before.
        return required | optional, required
    for name, annotation in annotations.items():
        # What is text has hidden its qualifier; it is not evaluated, since it may name what is
        # imported for type checkers alone.
        found = _QUALIFIER.search(getattr(annotation, "__forward_arg__", ""))
        if found is not None:
            (required.add if found[1] == "Required" else required.discard)(name)
    return required | optional | set(annotations), required


_QUALIFIER = re.compile(r"\b(Required|NotRequired)\[")


def _check_row_type(row_type: Any) -> None:
    """Refuse what cannot be made from columns.

    Raises:
        PostgresConfigurationError: It cannot.
    """
    if isinstance(row_type, type) and _takes_columns(row_type):
        return
    raise PostgresConfigurationError(
        f"row_type is {shown(row_type)}: it must be a dataclass, a NamedTuple, a TypedDict, a "
        "pydantic model, or a class that takes the columns as keyword arguments"
    )


@lru_cache(maxsize=512)
def _takes_columns(row_type: type) -> bool:
    if _is_typed_dict(row_type):
        return True
    try:
        inspect.signature(row_type)
    except (TypeError, ValueError):
        return False
    return row_type.__module__ != "builtins"


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
