"""What ``check_rls()`` returns, apart from the parser of policies that finds it.

Users import this name with the client; the parser is imported by who runs the check.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Finding"]


class Finding(NamedTuple):
    """One place where row-level security does not hold, or costs more than it must.

    Args:
        rule: The rule's name, from the table in the docstring of `clients._rls.check`.
        object: The table, policy, view or function, as SQL spells it.
        why: Why it matters.
        fix: SQL that mends it, to be read before it is run by the owner.
    """

    rule: str
    object: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.object} {self.why}; mend it with: {self.fix}"
