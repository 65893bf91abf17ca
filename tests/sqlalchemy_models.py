"""Models over the project's schema, for the tests of the SQLAlchemy adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Column, Integer, MetaData, Table, Text, Uuid, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, registry

if TYPE_CHECKING:
    from tests.identity_examples import Example

__all__ = ["Base", "Contact", "note_model"]

_TYPES: dict[type, Any] = {UUID: Uuid, int: Integer, str: Text}


class Base(DeclarativeBase):
    """What the models are collected in."""


class Contact(Base):
    """A row of ``contacts``."""

    __tablename__ = "contacts"
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    user_id: Mapped[UUID]
    name: Mapped[str]


def note_model(example: Example) -> Any:
    """Return a model of the notes of *example*."""
    columns = zip(example.columns, example.values(example.identities[0]), strict=True)
    table = Table(
        "notes",
        MetaData(),
        *(Column(name, _TYPES[type(value)], primary_key=True) for name, value in columns),
        Column("writer", Text, primary_key=True),
    )
    model = type("Note", (), {})
    registry().map_imperatively(model, table)
    return model
