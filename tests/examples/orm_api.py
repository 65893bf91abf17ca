"""SQLAlchemy models, FastAPI's endpoints and Alembic's migrations on one PostgresClient.

The application's role is bound by row-level security and owns nothing; migrations run as the
owner, through an engine of the administrator's connections.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID  # noqa: TC003 - SQLAlchemy and FastAPI read the annotations

from alembic import command
from alembic.config import Config
from fastapi import APIRouter, Depends, FastAPI, Header, Request
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from clients.identity import user_context
from clients.sqlalchemy_adapter import create_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from clients.postgres_client import PostgresClient

__all__ = ["Base", "Memo", "make_app", "migrate"]


class Base(DeclarativeBase):
    """What the models are collected in."""


class Memo(Base):
    """A memo of one user."""

    __tablename__ = "memos"
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    user_id: Mapped[UUID] = mapped_column(index=True)
    text: Mapped[str]


def migrate(postgres: PostgresClient, revision: str = "head") -> None:
    """Bring the schema to a revision, as the administrator.

    Args:
        postgres: A client whose ``admin_url`` is the owner's.
        revision: Which one; ``"base"`` undoes all.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with create_engine(postgres, admin=True).begin() as connection:
        config.attributes["connection"] = connection
        move = command.downgrade if revision == "base" else command.upgrade
        move(config, revision)


router = APIRouter()


def session(request: Request, x_user: Annotated[UUID, Header()]) -> Iterator[Session]:
    """Open a session of the request's user; a real application verifies a token here."""
    info = {"identity": {"user_id": x_user}}
    with user_context(x_user), Session(request.app.state.engine, info=info) as made:
        yield made


@router.post("/memos/{text}")
def add(text: str, db: Annotated[Session, Depends(session)]) -> None:
    """Store a memo."""
    db.add(Memo(user_id=db.info["identity"]["user_id"], text=text))
    db.commit()


@router.get("/memos")
def read(db: Annotated[Session, Depends(session)]) -> list[str]:
    """Return the user's memos: the policy selects them."""
    return list(db.scalars(select(Memo.text).order_by(Memo.text)))


def make_app(engine: Engine) -> FastAPI:
    """Return the application.

    Args:
        engine: ``create_engine(postgres)``.
    """
    app = FastAPI()
    app.state.engine = engine
    app.include_router(router)
    return app
