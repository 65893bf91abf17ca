"""The settings that tell whose the rows are, and the users that policies are tried with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from .constants import json_paths, literals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "DEFAULT_SETTING",
    "INTEGER_TYPES",
    "TEXT_TYPES",
    "IdentitySetting",
    "Person",
    "Universe",
    "parse_identity",
    "universes",
]

DEFAULT_SETTING = "app.current_user_id"

TEXT_TYPES = {"text", "character varying"}
INTEGER_TYPES = {"smallint", "integer", "bigint"}
_Samples: TypeAlias = "Callable[[int], list[str]]"
_KINDS = {UUID: "uuid", int: "int", str: "text", dict: "claims"}


@dataclass(frozen=True, slots=True)
class IdentitySetting:
    """One value of an identity, and the setting that policies read it from.

    Args:
        name: What the client calls it.
        setting: The setting's name.
        kind: ``"uuid"``, ``"int"``, ``"text"``, ``"claims"`` (JSON), or None where nobody said.
    """

    name: str
    setting: str
    kind: str | None


def parse_identity(identity: str | Mapping[str, Any] | None) -> list[IdentitySetting]:
    """Return the settings of an identity.

    Args:
        identity: A setting's name, or for each name an `RlsSetting` (anything with ``setting`` and
            ``type``) or a setting's name; None for the default.
    """
    if identity is None or identity == DEFAULT_SETTING:
        return [IdentitySetting("user_id", DEFAULT_SETTING, "uuid")]
    if isinstance(identity, str):
        return [IdentitySetting(identity.rsplit(".", 1)[-1], identity, None)]
    found = []
    for name, value in identity.items():
        setting = getattr(value, "setting", None) or getattr(value, "name", None) or str(value)
        kind = _KINDS.get(getattr(value, "type", None))  # type: ignore[arg-type]
        found.append(IdentitySetting(name, str(setting), kind))
    return found


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody: the value of each setting, and how their rows name them.

    Args:
        settings: The text of each setting.
        tokens: For each setting, what rows may hold to name this person.
    """

    settings: dict[str, str]
    tokens: dict[str, frozenset[str]]

    @property
    def names(self) -> frozenset[str]:
        """Everything by which a row names this person."""
        return frozenset().union(*self.tokens.values())


@dataclass(frozen=True, slots=True)
class Universe:
    """One way to fill in the settings: of which kind each of them is.

    Args:
        owner: Whose rows are not to be seen.
        others: Who tries to see them. They differ from the owner in one thing each: an id that
            is smaller, greater, begins or ends alike, or is equal but for its case.
        kinds: The kinds of ids that occur.
        declared: Whether these are the kinds that the client was given.
        partial: For each setting somebody who differs from the owner in that one alone.
        claiming: The first of the others, with claims that users write themselves.
    """

    owner: Person
    others: tuple[Person, ...]
    kinds: frozenset[str]
    declared: bool = True
    partial: tuple[Person, ...] = field(default=())
    claiming: tuple[Person, ...] = field(default=())


def _uuids(i: int) -> list[str]:
    return [
        f"7a7a7a7a-1111-4111-8111-a1a1a1a1a1{i:x}1",
        f"00000000-0000-4000-8000-0000000000{i:x}b",
        f"ffffffff-ffff-4fff-8fff-ffffffffff{i:x}b",
        f"7a7a7a7a-1111-4111-8111-a1a1a1a1a1{i:x}2",
        f"8a7a7a7a-1111-4111-8111-a1a1a1a1a1{i:x}1",
    ]


def _ints(i: int) -> list[str]:
    owner = 7001 + 1000 * i
    return [str(n) for n in (owner, 11 + i, 30001 + i, owner + 1, owner + 10000, -owner)]


def _texts(i: int) -> list[str]:
    owner = ("Ann", "Eve", "Ida", "Kim")[i % 4] + "x" * (i // 4)
    return [
        owner,
        "Bob" + "x" * i,
        "zed" + "x" * i,
        owner.lower(),
        owner + " ",
        owner + "b",
        owner[:-1],
        "%",
        owner[0] + "_" + owner[2:],
        owner[::-1],
    ]


def _mails(i: int) -> list[str]:
    owner = ("ann", "eve", "ida", "kim")[i % 4] + "x" * (i // 4)
    return [
        f"{owner}@one.example",
        f"bob{i}@two.example",
        f"bob{i}@one.example",
        f"{owner}@two.example",
        f"{owner.title()}@One.example",
        f"{owner}+more@one.example",
        f"{owner[0]}.{owner[1:]}@one.example",
        f"{owner}@one.example.org",
    ]


_SAMPLES: dict[str, _Samples] = {
    "uuid": _uuids,
    "int": _ints,
    "text": _texts,
    "mail": _mails,
}

# What takes several numbers, or several texts, for one. Doubles tell integers apart up to 2^53,
# reals up to 2^24: https://www.postgresql.org/docs/18/datatype-numeric.html
_CAST = r'(?:::\s*|\bas\s+)(?:pg_catalog\.)?"?'
_ROUNDS = re.compile(
    rf"{_CAST}(?:double precision|real|float\d?|money)\b|"
    r"\b(?:float[48]|money|sqrt|cbrt|ln|log|log10|exp|power|to_char|round|trunc|ceil|ceiling|floor|"
    r'width_bucket)"?\s*\('
)
_SINGLE = re.compile(r"\b(?:real|float4)\b")
_CUTS = re.compile(
    rf"{_CAST}(?:character|varchar|bpchar|char|name)\b|"
    r'\b(?:left|right|substr|substring|lpad|rpad|overlay|format|to_char|regexp\w*)"?\s*\('
)
_SPLITS = re.compile(
    r'\b(?:split_part|string_to_array|strpos|position|substr|substring|regexp\w*)"?\s*\('
)
_MAX_WIDTH = 200
_NAME_WIDTH = 63


def _wide(base: int) -> _Samples:
    """Return the ids of whom a floating-point number takes one for another."""
    return lambda i: [str(n) for n in (base + 4 * i, 11 + i, base + 4 * i + 1)]


def _long(width: int) -> _Samples:
    """Return ids that are alike in their first characters, and in their last."""

    def samples(i: int) -> list[str]:
        middle = "ab"[i % 2] * width
        return [f"x{middle}x", f"Bob{i}", f"x{middle}y", f"y{middle}x"]

    return samples


def _parted(separator: str) -> _Samples:
    """Return ids of two parts, of which one is the same."""
    return lambda i: [
        f"ann{i}{separator}one",
        f"bob{i}{separator}two",
        f"ann{i}{separator}two",
        f"bob{i}{separator}one",
    ]


def _colliding(texts: list[str], types: frozenset[str]) -> Iterator[dict[str, _Samples]]:
    """Yield samples, by kind, that the casts and functions in the texts may take for one.

    Args:
        texts: The expressions, and the sources of functions.
        types: The types of the columns that the policies read.
    """
    everything = " ".join(texts).lower()
    floats = types & {"double precision", "real"}
    if floats or _ROUNDS.search(everything):
        if types - {"smallint", "integer", "boolean", "uuid"}:
            yield {"int": _wide(2**53)}
        if "integer" in types and ("real" in types or _SINGLE.search(everything)):
            yield {"int": _wide(2**24)}
    if _CUTS.search(everything) or types & {"name", "character"}:
        numbers = [int(text) for text in literals(texts) if re.fullmatch(r"\d{1,3}", text)]
        widths = [n for n in numbers if 0 < n <= _MAX_WIDTH]
        if "name" in types or re.search(rf"{_CAST}name\b", everything):
            widths.append(_NAME_WIDTH)
        for width in sorted({min(widths), max(widths)} if widths else ()):
            yield {"text": _long(width)}
    if _SPLITS.search(everything):
        for separator in [t for t in literals(texts) if re.fullmatch(r"[^\w\s%@]", t)][:2]:
            yield {"text": _parted(separator)}


def universes(
    settings: list[IdentitySetting], texts: list[str], types: frozenset[str]
) -> list[Universe]:
    """Return the ways to fill in the settings that the texts of policies allow.

    Args:
        settings: The client's settings.
        texts: The expressions, and the sources of functions.
        types: The types of the columns that the policies read.
    """
    open_kinds = ["uuid", "int", "text"] if any(s.kind is None for s in settings) else ["uuid"]
    found = [_universe(settings, kind, texts, types=types) for kind in open_kinds]
    if any(s.kind in ("text", None) for s in settings) and any(
        re.search("@|mail", text.lower()) for text in texts
    ):
        mails = [replace(s, kind="mail") if s.kind in ("text", None) else s for s in settings]
        found.append(_universe(mails, "text", texts, types=types))
    for samples in _colliding(texts, types):
        (kind,) = samples
        if any(s.kind in (kind, None, "claims") for s in settings):
            found.append(_universe(settings, kind, texts, types=types, samples=samples))
    # Where no column is of the setting's type, others' ids are of another one: told as a risk.
    if any(s.kind == "uuid" for s in settings) and "uuid" not in types:
        for kind, held in (("text", TEXT_TYPES), ("int", INTEGER_TYPES)):
            if types & held:
                loose = [IdentitySetting(s.name, s.setting, kind) for s in settings]
                found.append(_universe(loose, kind, texts, types=types, declared=False))
    return found


def _universe(
    settings: list[IdentitySetting],
    open_kind: str,
    texts: list[str],
    *,
    types: frozenset[str],
    declared: bool = True,
    samples: Mapping[str, _Samples] = MappingProxyType({}),
) -> Universe:
    # The first other is told apart by anything; the second may be the one who is not.
    alone = 2 if samples else 1
    samples = {**_SAMPLES, **samples}
    claims: dict[str, dict[tuple[str, ...], str]] = {}
    people: list[list[tuple[str, frozenset[str]]]] = []
    kinds = set()
    for i, setting in enumerate(settings):
        kind = setting.kind or open_kind
        if kind == "claims" or (setting.kind is None and _reads_json(setting.setting, texts)):
            keys = claims[setting.setting] = _claims(texts, open_kind)
            kinds |= set(keys.values())
            people.append([_claim(keys, i, n, samples) for n in range(6)])
        else:
            kinds.add(kind)
            people.append([(t, _names(t, types)) for t in samples[kind](i)])
    count = max(len(samples) for samples in people)

    def person(numbers: list[int]) -> Person:
        chosen = [s[n % len(s) if n < len(s) else 1] for s, n in zip(people, numbers, strict=True)]
        names = [s.setting for s in settings]
        return Person(
            {name: value for name, (value, _) in zip(names, chosen, strict=True)},
            {name: tokens for name, (_, tokens) in zip(names, chosen, strict=True)},
        )

    partial: tuple[Person, ...] = ()
    if len(settings) > 1:
        partial = tuple(
            person([alone if i == n else 0 for i in range(len(settings))])
            for n in range(len(settings))
        )
    others = tuple(person([n] * len(settings)) for n in range(1, count))
    owner = person([0] * len(settings))
    claiming = tuple(_claiming(others[0], owner, list(claims), texts))
    return Universe(owner, others, frozenset(kinds), declared, partial, claiming)


def _names(token: str, types: frozenset[str]) -> frozenset[str]:
    """Return how columns of the given types hold an id."""
    if "bytea" in types and re.fullmatch(r"[0-9a-f-]{36}", token):
        return frozenset((token, "\\x" + token.replace("-", "")))
    return frozenset((token,))


def _claiming(
    person: Person, owner: Person, settings: list[str], texts: list[str]
) -> Iterator[Person]:
    """Yield a person with each value that the texts compare claims of their own with."""
    paths = {p for p, _ in _claim_paths(texts) if len(p) > 1 and p[0] in _WRITTEN_BY_USERS}
    keys = {key for path in paths for key in path}
    words = [word for word in literals(texts) if re.fullmatch(r"[\w. -]{1,40}", word)]
    values = [*sorted(owner.names), *(w for w in words if w not in keys), "admin", "true"]
    for setting in settings:
        for path in sorted(paths):
            for value in dict.fromkeys(values[:_MAX_CLAIMED]):
                claims = json.loads(person.settings[setting])
                _put(claims, path, value)
                changed = {**person.settings, setting: json.dumps(claims)}
                yield Person(changed, person.tokens)


def _reads_json(setting: str, texts: list[str]) -> bool:
    return (
        "json" in setting
        or "claims" in setting
        or any(
            re.search(re.escape(setting) + r"'.{0,80}::jsonb?", text, re.DOTALL) for text in texts
        )
    )


# https://supabase.com/docs/guides/auth/users: a user may write these with an API of their own.
_WRITTEN_BY_USERS = {"user_metadata", "raw_user_meta_data"}
_MAX_CLAIMED = 12


def _claims(texts: list[str], kind: str) -> dict[tuple[str, ...], str]:
    """Return the claims that are read and name somebody, each with its kind."""
    keys: dict[tuple[str, ...], str] = {("sub",): kind}
    for path, cast in _claim_paths(texts):
        if path[0] not in _WRITTEN_BY_USERS and re.search(
            r"sub$|id$|tenant|org|account|user|owner|mail|team", path[-1]
        ):
            keys[path] = (
                "int" if "int" in cast else "uuid" if cast == "uuid" else keys.get(path, kind)
            )
    return keys


def _claim_paths(texts: list[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    for text in texts:
        yield from json_paths(text)


def _put(claims: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        if not isinstance(claims.get(key), dict):
            claims[key] = {}
        claims = claims[key]
    claims[path[-1]] = value


def _claim(
    keys: dict[tuple[str, ...], str], i: int, n: int, known: Mapping[str, _Samples]
) -> tuple[str, frozenset[str]]:
    values: dict[str, Any] = {"role": "authenticated"}
    tokens = set()
    for key, kind in keys.items():
        samples = known[kind](i)
        token = samples[n] if n < len(samples) else samples[1]
        _put(values, key, int(token) if kind == "int" else token)
        tokens.add(token)
    return json.dumps(values), frozenset(tokens)
