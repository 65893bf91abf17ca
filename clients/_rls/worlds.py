"""Rows, lookup tables and settings to try policies with: a small domain for each column."""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .identity import Universe

__all__ = [
    "KEYS",
    "Domain",
    "crowd",
    "domain",
    "sample",
    "tokens_of",
]

#: What rows of several tables may have in common, such as a team's id. Only the first of each
#: occurs in the rows that a policy is tried with; lookup tables hold both.
KEYS: Final = {
    "uuid": ("cccccccc-0000-4000-8000-0000000000c1", "cccccccc-0000-4000-8000-0000000000c2"),
    "int": ("101", "102"),
    "text": ("key one", "key two"),
}

_TEXT: Final = {"text", "character varying", "character", "name", "citext"}
_NUMBER: Final = {"smallint", "integer", "bigint", "numeric", "real", "double precision"}
_LIMITS: Final = {"smallint": 2**15, "integer": 2**31}
_TIME: Final = {"date", "timestamp without time zone", "timestamp with time zone"}
_CROWD: Final = 600
# Types that hold no ids, with values that differ.
_OTHER_TYPES: Final = {
    "bytea": ["\\x00"],
    "interval": ["1 second", "100 years"],
    "time without time zone": ["00:00", "23:59"],
    "time with time zone": ["00:00+00", "23:59+00"],
    "inet": ["127.0.0.1", "203.0.113.9"],
    "cidr": ["127.0.0.0/8", "203.0.113.0/24"],
    "tsvector": ["", "word"],
    "daterange": ["empty", "(,)"],
    "tsrange": ["empty", "(,)"],
    "tstzrange": ["empty", "(,)"],
}
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Domain:
    """The values of one column that are tried.

    Args:
        values: All of them, as JSON.
        typical: Those that a row has when nobody does anything about it.
        known: Whether values of this type could be made up.
    """

    values: list[Any]
    typical: list[Any]
    known: bool = True


def _numbers(column: dict[str, Any], constants: list[str]) -> list[Any]:
    limit = _LIMITS.get(column["base"], 2**63)
    found: dict[Any, None] = {}
    for text in constants:
        if re.fullmatch(r"-?\d{1,18}", text):
            for near in (int(text), int(text) + 1, int(text) - 1):
                found[near] = None
        elif re.fullmatch(r"-?\d+\.\d+", text) and "int" not in column["base"]:
            found[float(text)] = None
    return [number for number in found if -limit <= number < limit]


def _texts(constants: list[str]) -> list[str]:
    found: dict[str, None] = {}
    for text in constants:
        found[text] = None
        if "%" in text or "_" in text:
            found[text.replace("%", "").replace("_", "a")] = None
    return list(found)


def _ids(base: str, universe: Universe, *, both_keys: bool) -> list[Any]:
    """Return the ids that a column of this type may hold: the owner's, another's, and keys."""
    kinds = (
        {"uuid"} if base == "uuid"
        else {"int"} if base in _NUMBER
        else {"uuid", "int", "text"} if base in _TEXT
        else {"bytes"} if base == "bytea"
        else set()
    )  # fmt: skip
    found: dict[Any, None] = {}
    for person in (universe.owner, universe.others[0]):
        for token in sorted(person.names):
            if _kind(token) not in kinds:
                continue
            if base not in _LIMITS or abs(int(token)) < _LIMITS[base]:
                found[int(token) if base in _NUMBER else token] = None
    keys = ["uuid"] if base == "uuid" else ["int"] if base in _NUMBER else ["text"]
    for kind in keys if kinds else []:
        for key in KEYS[kind] if both_keys else KEYS[kind][:1]:
            found[int(key) if base in _NUMBER else key] = None
    return list(found)


def _kind(token: str) -> str:
    if _UUID.fullmatch(token):
        return "uuid"
    if token.startswith("\\x"):
        return "bytes"
    return "int" if re.fullmatch(r"-?\d+", token) else "text"


def domain(  # noqa: C901 - one branch for each kind of type
    column: dict[str, Any],
    constants: list[str],
    universe: Universe,
    *,
    default: str | None = None,
    roles: Sequence[str] = (),
    lookup: bool = False,
) -> Domain:
    """Return the values of a column that are tried.

    Args:
        column: The catalogue's facts of it.
        constants: The constants that occur in the expressions.
        universe: Whose ids occur.
        default: The expression of its default.
        roles: The names of the current role, where the expressions mention it.
        lookup: Whether the column is one of a lookup table.
    """
    base, element = column["base"], column["element"]
    ids = _ids(base, universe, both_keys=lookup)
    fresh: list[Any] = []
    special: list[Any] = []
    known = True
    if base == "boolean":
        special = [True, False]
    elif base == "uuid":
        special = [text for text in constants if _UUID.fullmatch(text)]
    elif base in _NUMBER:
        special = _numbers(column, constants)
        fresh = [0, 4242]
    elif base in _TEXT:
        special = _texts(constants)
        fresh = ["something else"]
        special += list(roles)
    elif base in _TIME:
        special = [text for text in constants if re.match(r"\d{4}-\d\d-\d\d", text)]
        fresh = ["2001-01-01", "2101-01-01"]
    elif column["labels"]:
        special = list(column["labels"])
    elif base in ("json", "jsonb"):
        special = _objects(constants, universe)
        fresh = [{}]
    elif element:
        inner = domain(
            {**column, "base": element, "element": None, "required": True}, constants, universe
        )
        special = [[value] for value in inner.values]
        fresh = [[]]
        known = inner.known
    elif base in _OTHER_TYPES:
        fresh = list(_OTHER_TYPES[base])
        if base == "bytea":
            special = [text for text in constants if re.fullmatch(r"\\x([0-9a-f]{2})+", text)]
    else:
        known = False
    values = [*fresh, *ids, *special] if base in _TEXT else [*ids, *fresh, *special]
    if lookup and base in (_TEXT | _NUMBER):
        values = [*ids, *special, *fresh[:1]] if special else ids
    nothing = [] if column["required"] else [None]
    values = _unique([*nothing, *values]) or [None]
    typical = _typical(column, default, values, constants, [*fresh, *ids], roles)
    return Domain(values, typical, known)


def _typical(  # noqa: PLR0911, PLR0917 - one line for each way to get a default
    column: dict[str, Any],
    default: str | None,
    values: list[Any],
    constants: list[str],
    fresh: list[Any],
    roles: Sequence[str],
) -> list[Any]:
    if default is not None and not column["generated"]:
        constant = re.fullmatch(r"'((?:[^']|'')*)'(?:::[\w\s\[\]\".]+)?", default)
        if default in ("true", "false"):
            return [default == "true"]
        if constant:
            text = constant[1].replace("''", "'")
            same = [value for value in values if _equals(value, text)]
            return same or ([[]] if text == "{}" else [text])
        if re.fullmatch(r"\(?-?\d+\)?(?:::\w+)?", default):
            return [int(re.sub(r"[()]|::\w+", "", default))]
        if re.search(r"\b(current_user|session_user|user|current_role)\b", default.lower()):
            return list(roles)
        return fresh
    if column["base"] == "boolean":
        return [False] if column["required"] else [None, False]
    if not column["required"]:
        return [None]
    if column["element"] or column["base"] in ("json", "jsonb"):
        return [value for value in fresh if isinstance(value, (list, dict)) and not value]
    return [value for value in values if value is not None and str(value) not in constants]


def _equals(value: Any, text: str) -> bool:
    if isinstance(value, list):
        return not value and text == "{}"
    if isinstance(value, dict):
        return json.dumps(value) == text
    return value is not None and str(value) == text


def _objects(constants: list[str], universe: Universe) -> list[Any]:
    names = [text for text in constants if re.fullmatch(r"\w{1,40}", text)][:4]
    found: list[Any] = []
    for path in [text for text in constants if re.fullmatch(r"\{\w+(,\w+)+\}", text)][:3]:
        for person in (universe.owner, universe.others[0]):
            for token in sorted(person.names):
                inner: Any = token
                for key in reversed(path[1:-1].split(",")):
                    inner = {key: inner}
                found.append(inner)
    for name in names:
        for person in (universe.owner, universe.others[0]):
            found += [{name: token} for token in sorted(person.names)]
        found += [{name: True}, {name: [min(universe.others[0].names)]}]
        found += [{name: other} for other in names if other != name]
    return found


@functools.cache
def crowd(kind: str) -> tuple[Any, ...]:
    """Return ids of many users.

    Args:
        kind: ``"uuid"``, ``"int"``, ``"text"`` or ``"mail"``.
    """
    chance = random.Random(kind)  # noqa: S311 - the same ids each time, and no secret
    if kind == "int":
        return tuple(chance.sample(range(100_000, 1_000_000), _CROWD))
    ids = [str(UUID(int=chance.getrandbits(128), version=4)) for _ in range(_CROWD)]
    return tuple(ids if kind == "uuid" else [f"user {n[:8]}" for n in ids])


def _unique(values: Iterable[Any]) -> list[Any]:
    seen: dict[str, Any] = {}
    for value in values:
        seen.setdefault(json.dumps(value, sort_keys=True), value)
    return list(seen.values())


def sample(domains: dict[str, list[Any]], most: int) -> tuple[list[dict[str, Any]], bool]:
    """Return rows of all combinations, and whether there were more than *most* of them."""
    names = list(domains)
    size = 1
    for name in names:
        size *= len(domains[name])
    if size <= most:
        combined = itertools.product(*domains.values())
        return [dict(zip(names, values, strict=True)) for values in combined], False
    chosen: dict[str, dict[str, Any]] = {}
    first = {name: domains[name][0] for name in names}
    for one, two in itertools.combinations(names, 2):
        for a, b in itertools.product(domains[one], domains[two]):
            row = {**first, one: a, two: b}
            chosen.setdefault(json.dumps(row, sort_keys=True), row)
    chance = random.Random(most)  # noqa: S311 - the same rows each time, and no secret
    while len(chosen) < most:
        row = {name: chance.choice(domains[name]) for name in names}
        chosen.setdefault(json.dumps(row, sort_keys=True), row)
    return list(chosen.values())[:most], True


def tokens_of(row: dict[str, Any]) -> set[str]:
    """Return the values that stand in a row, in arrays and JSON too, but for truth values."""
    found: set[str] = set()
    waiting: list[Any] = list(row.values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
        elif value is not None and not isinstance(value, bool):
            found.add(str(value))
    return found
