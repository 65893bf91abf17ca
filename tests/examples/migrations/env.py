"""What Alembic runs: migrations on the connection that it is given."""

from __future__ import annotations

from alembic import context

from tests.examples.orm_api import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # The caller's transaction, which is the client's.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
