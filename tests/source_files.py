"""The project's own source files, for tests that read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["ROOT", "found", "is_of_the_clients", "module_name"]

ROOT = Path(__file__).parents[1]


def found(*patterns: str) -> list[Path]:
    """Return the files that match, in order; fail when a pattern matches none.

    A test that loops over no files would pass without testing anything.
    """
    files: set[Path] = set()
    for pattern in patterns:
        matches = {path for path in ROOT.glob(pattern) if path.is_file()}
        assert matches, f"nothing matches {pattern!r}: have files been moved?"
        files |= matches
    return sorted(files)


def is_of_the_clients(frame: FrameType) -> bool:
    """Return True for a frame whose code stands in ``clients/``, in whichever folder."""
    return Path(frame.f_code.co_filename).is_relative_to(ROOT / "clients")


def module_name(path: Path) -> str:
    """Return the dotted name of the module in *path*."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
