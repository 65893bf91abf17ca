"""Read the functions that check a signed identity as the settings that they return.

What ``sql/optional/signed_identity.sql`` makes returns what a setting holds, if its signature is
right. So a policy that calls one means what it would mean with ``current_setting()``, and is judged
as that; in the SQL that fixes a finding, the functions stand again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .catalogue import Catalogue

__all__ = ["SignedIdentity"]

_SCHEMA, _KEYS = "failfast", "failfast.identity_keys"
_KINDS = ("text", "uuid", "bigint", "integer")
_CALL = re.compile(
    rf"(?:{_SCHEMA}\.)?identity_({'|'.join(_KINDS)})\('((?:[^']|'')*)'(?:::text)?\)", re.IGNORECASE
)
_READ = re.compile(r"current_setting\s*\(\s*'((?:[^']|'')*)'", re.IGNORECASE)
# As the server prints a policy: a name that is put together, and the views that show all settings.
_READ_BY_ANY_NAME = re.compile(
    r"current_setting\((?!'(?:[^']|'')*'(?:::text)?[,)])|\bpg_settings\b|pg_show_all_settings\("
)
# As the server prints what people write; the outer ones first.
_PLAIN = r"current_setting\('{name}'(?:::text)?(?:, (?:true|false))?\)"
_NULLIF = rf"NULLIF\({_PLAIN}, ''(?:::text)?\)"


def _as_setting(match: re.Match[str]) -> str:
    read = f"NULLIF(current_setting('{match[2]}'::text, true), ''::text)"
    return read if match[1] == "text" else f"({read})::{match[1]}"


class SignedIdentity:
    """What of a database reads a signed identity.

    Args:
        catalogue: What the catalogue holds; as read.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        functions = {
            f["oid"]: f for _, f in catalogue.facts.get("function", []) if f["schema"] == _SCHEMA
        }
        checks = [f for f in functions.values() if _is_check(f)]
        #: Whether the functions are there, and are ours.
        self.is_there = len(checks) == len(_KINDS)
        self._tables = dict(catalogue.facts.get("table", []))
        #: The settings that a policy reads signed.
        self.settings = set[str]()
        self.catalogue = self._as_read = catalogue
        if not self.is_there:
            return
        for _, policy in self._policies():
            for text in (policy["using"], policy["check"]):
                self.settings |= {match[2] for match in _CALL.finditer(text or "")}
        facts = {
            kind: [
                (name, _read_plain(details, set(functions)))
                for name, details in found
                if name != _KEYS and not (kind == "function" and details["oid"] in functions)
            ]
            for kind, found in catalogue.facts.items()
        }
        expressions = _read_plain(catalogue.expressions, set(functions))
        #: What is judged: with settings in place of the functions.
        self.catalogue = catalogue._replace(facts=facts, expressions=expressions)

    def findings(self) -> Iterator[Finding]:
        """Yield what takes an identity that nobody has signed, and who may read the key."""
        if not self.is_there:
            return
        keys = self._tables.get(_KEYS)
        # Whoever has TRIGGER reads the next key when it is set.
        if keys is not None and (keys["reachable"] or (keys["usable"] and keys["trigger"])):
            yield Finding(
                "identity-key-granted",
                _KEYS,
                "is granted to this role, and has the key that identities are signed with",
                f"REVOKE ALL ON {_KEYS} FROM {keys['grantees']};",
            )
        for table, policy in self._policies():
            texts = {"USING": policy["using"], "WITH CHECK": policy["check"]}
            if not any(map(self._is_plain, texts.values())):
                continue
            signed = {kind: self.signed(text) for kind, text in texts.items() if text is not None}
            clauses = " ".join(f"{kind} ({text})" for kind, text in signed.items())
            is_fixed = not any(map(self._is_plain, signed.values()))
            yield Finding(
                "identity-not-signed",
                f"policy {policy['quoted']} on {table}",
                "takes an identity that is not signed, where other policies take a signed one: "
                "whoever can run SQL as this role sets another's",
                f"ALTER POLICY {policy['quoted']} ON {table} {clauses};" if is_fixed else "",
            )
        for kind, part in (("function", "source"), ("view", "definition")):
            for name, facts in self._as_read.facts.get(kind, []):
                if facts.get("schema") != _SCHEMA and self._reads_plain(facts[part]):
                    yield Finding(
                        "identity-not-signed",
                        f"{kind} {name}",
                        "reads an identity that is not signed, where policies take a signed one: "
                        "let it call the functions of the schema failfast",
                        "",
                        "risk",
                    )

    def restored(self, finding: Finding) -> Finding:
        """Return a finding whose SQL reads the identity signed."""
        return finding._replace(fix=self.signed(finding.fix)) if self.settings else finding

    def signed(self, text: str) -> str:
        """Return SQL that reads signed what is read signed elsewhere."""
        for name in sorted(self.settings):
            setting = re.escape(name)
            for kind in _KINDS[1:]:
                nullif = _NULLIF.format(name=setting)
                text = re.sub(
                    rf"(?:\({nullif}\)|{nullif})::{kind}",
                    _called(kind, name),
                    text,
                    flags=re.IGNORECASE,
                )
            for pattern in (_NULLIF, _PLAIN):
                text = re.sub(
                    pattern.format(name=setting), _called("text", name), text, flags=re.IGNORECASE
                )
        return text

    def _policies(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, table in self._tables.items():
            for policy in table["policies"]:
                yield name, policy

    def _reads_plain(self, text: str | None) -> bool:
        # The server tells settings apart without case.
        settings = {name.lower() for name in self.settings}
        return any(match[1].lower() in settings for match in _READ.finditer(text or ""))

    def _is_plain(self, text: str | None) -> bool:
        if not self.settings or text is None:
            return False
        return self._reads_plain(text) or _READ_BY_ANY_NAME.search(text) is not None


def _called(kind: str, name: str) -> str:
    return f"{_SCHEMA}.identity_{kind}('{name}'::text)".replace("\\", r"\\")


def _is_check(function: dict[str, Any]) -> bool:
    """Whether it is one of ours, by how it is made."""
    words = ("sha256", "outer_block", "identity_keys", "other_identity", "int4send")
    return (
        function["name"] in {f"identity_{kind}" for kind in _KINDS}
        and bool(function["definer"])
        and bool(function["sqlbody"])
        and not function["owned"]
        and all(word in function["source"] for word in words)
    )


def _read_plain(facts: Any, functions: set[str]) -> Any:
    """Return facts with settings in place of the functions."""
    if isinstance(facts, str):
        return _CALL.sub(_as_setting, facts)
    if isinstance(facts, dict):
        return {
            name: [oid for oid in value if oid not in functions]
            if name == "functions" and isinstance(value, list)
            else _read_plain(value, functions)
            for name, value in facts.items()
        }
    return [_read_plain(one, functions) for one in facts] if isinstance(facts, list) else facts
