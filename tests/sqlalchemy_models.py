"""Models over the project's schema, for the tests of the SQLAlchemy adapter."""

from __future__ import annotations

from uuid import UUID  # noqa: TC003 - SQLAlchemy reads the annotations

from sqlalchemy import func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Base", "Contact"]


class Base(DeclarativeBase):
    """What the models are collected in."""


class Contact(Base):
    """A row of ``contacts``."""

    __tablename__ = "contacts"
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    user_id: Mapped[UUID]
    name: Mapped[str]
