"""A table whose rows are each user's own.

Row-level security is a part of the migration: a table is never there without it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_USER = "(SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid)"


def upgrade() -> None:
    """Make the table, its policy and its grants."""
    op.create_table(
        "memos",
        sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.func.gen_random_uuid()),
        sa.Column("user_id", sa.Uuid, nullable=False, index=True),
        sa.Column("text", sa.String, nullable=False),
    )
    op.execute("ALTER TABLE memos ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY own ON memos USING (user_id = {_USER}) WITH CHECK (user_id = {_USER})"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON memos TO crm_user")


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("memos")
