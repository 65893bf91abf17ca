"""The constants, paths into JSON and settings that expressions read, found in their text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["json_paths", "literals", "other_settings"]

_LITERAL: Final = re.compile(r"'((?:[^']|'')*)'|(?<![\w.$'])(-?\d+(?:\.\d+)?)(?![\w'])")
_KEY: Final = r"'(\w+)'(?:::text)?"
_STEPS: Final = re.compile(rf"((?:->>?\s*{_KEY}\)*\s*)+)(?:::(\w+))?")
_PATH: Final = re.compile(r"#>>?\s*'\{(\w+(?:\s*,\s*\w+)*)\}'(?:::text\[\])?\)*(?:::(\w+))?")
_SETTING: Final = re.compile(r"current_setting\(\s*'((?:[^']|'')+)'", re.IGNORECASE)


def literals(texts: Iterable[str | None]) -> list[str]:
    """Return the constants that occur in expressions, each once; a path into JSON as an array."""
    found: dict[str, None] = {}
    for text in texts:
        for keys, _ in json_paths(text or ""):
            if len(keys) > 1:
                found["{" + ",".join(keys) + "}"] = None
        for string, number in _LITERAL.findall(text or ""):
            found[string.replace("''", "'") or number] = None
    return list(found)


def json_paths(text: str) -> list[tuple[tuple[str, ...], str]]:
    """Return the paths into JSON that an expression reads, each with what its value is cast to."""
    steps = [(re.findall(r"'(\w+)'", chain), cast) for chain, _, cast in _STEPS.findall(text)]
    paths = [(re.findall(r"\w+", keys), cast) for keys, cast in _PATH.findall(text)]
    return [(tuple(keys), cast) for keys, cast in (*steps, *paths)]


def other_settings(texts: Iterable[str | None], known: Iterable[str]) -> list[str]:
    """Return the settings that are read and are none of the client's."""
    known = {name.lower() for name in known}
    found = (name.replace("''", "'") for text in texts for name in _SETTING.findall(text or ""))
    return list(dict.fromkeys(name for name in found if name.lower() not in known))
