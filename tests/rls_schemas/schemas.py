"""Small schemas, one for each way to leak that is known and its safe twins, in two files of SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["LEAKY", "SAFE", "Schema"]

_SETTING: Final = "current_setting('app.current_user_id', true)"
_ME: Final = f"(SELECT NULLIF({_SETTING}, '')::uuid)"
_PROTECTED: Final = """
CREATE INDEX ON {table} ({column});
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT {rights} ON {table} TO app_user;
"""
_ALL: Final = "SELECT, INSERT, UPDATE, DELETE"
_DOCS: Final = (
    "SET ROLE app_owner; CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "
    "user_id uuid NOT NULL, title text NOT NULL);"
    + _PROTECTED.format(table="docs", column="user_id", rights=_ALL)
)
#: What the files abbreviate. The longer names come first.
_SHORT: Final = {
    ":sound_docs": f"{_DOCS} CREATE POLICY p ON docs USING (user_id = {_ME}); RESET ROLE;",
    ":team_docs": "CREATE TABLE team_docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "
    "team_id int NOT NULL, title text NOT NULL);"
    + _PROTECTED.format(table="team_docs", column="team_id", rights=_ALL),
    ":members": "SET ROLE app_owner; CREATE TABLE members (team_id int NOT NULL, "
    "user_id uuid NOT NULL, role text NOT NULL DEFAULT 'member', PRIMARY KEY (team_id, user_id));"
    + _PROTECTED.format(table="members", column="user_id", rights="SELECT")
    + f"CREATE POLICY own ON members FOR SELECT USING (user_id = {_ME});",
    ":docs": _DOCS,
    ":setting": _SETTING,
    ":mine": f"user_id = {_ME}",
    ":me": _ME,
    ":id": f"NULLIF({_SETTING}, '')::uuid",
}


@dataclass(frozen=True)
class Schema:
    """One schema.

    Args:
        name: What it is about.
        setting: The setting that names the user.
        sql: What makes it, run as superuser.
    """

    name: str
    setting: str
    sql: str


def _read(kind: str) -> list[Schema]:
    text = (Path(__file__).parent / f"{kind}.sql").read_text()
    found = []
    for part in re.split(r"^---- ", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        name, _, setting = head.partition(" ")
        for short, whole in _SHORT.items():
            body = re.sub(rf"{short}\b", whole.replace("\\", r"\\"), body)
        found.append(Schema(name, setting or "app.current_user_id", body))
    return found


LEAKY: Final = _read("leaky")
SAFE: Final = _read("safe")
