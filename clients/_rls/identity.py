"""The settings that tell whose the rows are, and the users that policies are tried with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    """

    owner: Person
    others: tuple[Person, ...]
    kinds: frozenset[str]
    declared: bool = True
    partial: tuple[Person, ...] = field(default=())


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


_SAMPLES = {"uuid": _uuids, "int": _ints, "text": _texts}


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
    found = [_universe(settings, kind, texts, declared=True) for kind in open_kinds]
    # Where no column is of the setting's type, others' ids are of another one: told as a risk.
    if any(s.kind == "uuid" for s in settings) and "uuid" not in types:
        for kind, held in (("text", TEXT_TYPES), ("int", INTEGER_TYPES)):
            if types & held:
                loose = [IdentitySetting(s.name, s.setting, kind) for s in settings]
                found.append(_universe(loose, kind, texts, declared=False))
    return found


def _universe(
    settings: list[IdentitySetting], open_kind: str, texts: list[str], *, declared: bool
) -> Universe:
    people: list[list[tuple[str, frozenset[str]]]] = []
    kinds = set()
    for i, setting in enumerate(settings):
        kind = setting.kind or open_kind
        if kind == "claims" or (setting.kind is None and _reads_json(setting.setting, texts)):
            keys = _claims(texts, open_kind)
            kinds |= set(keys.values())
            people.append([_claim(keys, i, n) for n in range(6)])
        else:
            kinds.add(kind)
            people.append([(t, frozenset((t,))) for t in _SAMPLES[kind](i)])
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
            person([1 if i == n else 0 for i in range(len(settings))]) for n in range(len(settings))
        )
    others = tuple(person([n] * len(settings)) for n in range(1, count))
    return Universe(person([0] * len(settings)), others, frozenset(kinds), declared, partial)


def _reads_json(setting: str, texts: list[str]) -> bool:
    return (
        "json" in setting
        or "claims" in setting
        or any(
            re.search(re.escape(setting) + r"'.{0,80}::jsonb?", text, re.DOTALL) for text in texts
        )
    )


_CLAIM = re.compile(r"->>?\s*'(\w+)'(?:::text)?\)*(?:::(\w+))?")


def _claims(texts: list[str], kind: str) -> dict[str, str]:
    """Return the claims that are read, and of which kind each is."""
    keys = {"sub": kind}
    for text in texts:
        for key, cast in _CLAIM.findall(text):
            if re.search(r"sub$|id$|tenant|org|account|user|owner|mail|team", key):
                keys[key] = (
                    "int" if "int" in cast else "uuid" if cast == "uuid" else keys.get(key, kind)
                )
    return keys


def _claim(keys: dict[str, str], i: int, n: int) -> tuple[str, frozenset[str]]:
    values: dict[str, Any] = {"role": "authenticated"}
    tokens = set()
    for key, kind in keys.items():
        samples = _SAMPLES[kind](i)
        token = samples[n] if n < len(samples) else samples[1]
        values[key] = int(token) if kind == "int" else token
        tokens.add(token)
    return json.dumps(values), frozenset(tokens)
