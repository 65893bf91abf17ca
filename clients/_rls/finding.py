"""What ``check_rls()`` and ``prove_isolation()`` return, apart from what finds it.

Users import these names with the client; the rest is imported by who runs the check.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

__all__ = ["SEVERITIES", "Finding", "Leak", "Proof", "Severity"]

Severity = Literal["leak", "risk", "slow", "note"]

#: From the worst to the least.
SEVERITIES: Final[tuple[Severity, ...]] = ("leak", "risk", "slow", "note")


class Finding(NamedTuple):
    """One place where row-level security does not hold, or costs more than it must.

    Args:
        rule: The rule's name, from the table in the docstring of `clients._rls.check`.
        object: The table, policy, view or function, as SQL spells it.
        why: Why it matters; for a policy, the row that proves it.
        fix: SQL that closes it, to be read before it is run by the owner; empty where the finding
            itself says what to do.
        severity: ``"leak"``: one user reads or changes another's rows. ``"risk"``: it leaks under
            a condition that the finding names, or could not be proven safe. ``"slow"``: it costs
            more than it must. ``"note"``: worth knowing.
    """

    rule: str
    object: str
    why: str
    fix: str
    severity: Severity = "leak"

    def __str__(self) -> str:
        text = f"{self.severity}: {self.rule}: {self.object} {self.why}"
        return f"{text}; fix it with: {self.fix}" if self.fix else text


class Leak(NamedTuple):
    """One thing that one user could do with another's rows.

    Args:
        object: The table, view or function.
        what: What could be done.
        statements: SQL that shows it, to be run as the administrator; it ends with ROLLBACK.
    """

    object: str
    what: str
    statements: str

    def __str__(self) -> str:
        return f"{self.object}: {self.what}:\n{self.statements}"


class Proof(NamedTuple):
    """What came of trying.

    Args:
        leaks: What one user could do with another's rows; empty when isolation held.
        tried: The tables, views and functions that were tried.
        untried: Those that could not be, each with the reason.
    """

    leaks: list[Leak]
    tried: list[str]
    untried: dict[str, str]
