"""Rows of a type of one's own, counts that are expected, and what each costs on the wire."""

from __future__ import annotations

import inspect
import pickle
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict
from uuid import UUID, uuid4

import pydantic
import pytest
import typing_extensions

from clients import (
    NoRowsError,
    PostgresClient,
    PostgresConfigurationError,
    PostgresError,
    RlsContextError,
    RowCountError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from decimal import Decimal

    from utils.local_stack import StackEndpoints

ADA = UUID(int=1, version=4)
SELECT = "SELECT name, email FROM contacts ORDER BY name"
INSERT = "INSERT INTO contacts (user_id, name) VALUES (%s, %s)"


@dataclass
class Contact:
    """In the order of the columns."""

    name: str
    email: str | None


@dataclass(kw_only=True)
class Reordered:
    """In another order, by keyword alone, and with a default."""

    email: str | None
    name: str
    kind: str = "person"


class Pair(NamedTuple):
    """A tuple with names."""

    name: str
    email: str | None


class Names(TypedDict):
    """A dict with known keys."""

    name: str
    email: str | None


class OlderNames(typing_extensions.TypedDict):
    """The same, as pydantic wants it of Python before 3.12."""

    name: str
    email: str | None


class Partial(TypedDict):
    """One key may be left out; the type of another is known to type checkers alone."""

    name: str
    email: NotRequired[str | None]
    balance: NotRequired[Decimal]


class PartialAgain(Partial, total=False):
    """Of the keys of its own one is required."""

    id: typing_extensions.Required[UUID]
    phone: str


class Model(pydantic.BaseModel):
    """A model that validates."""

    name: str
    email: str | None = None


class Plain:
    """A class with keyword arguments."""

    def __init__(self, name: str, email: str | None) -> None:
        self.name, self.email = name, email


@pytest.fixture
def db(stack: StackEndpoints) -> Iterator[PostgresClient]:
    """A client whose user has two contacts."""
    with PostgresClient(stack.database_url, 3, admin_url=stack.admin_url) as client:
        client.execute_admin("DELETE FROM contacts")
        client.execute_many(INSERT, [(ADA, "Bo"), (ADA, "Cy")], ADA)
        yield client


@pytest.mark.parametrize("row_type", [Contact, Reordered, Pair, Model, Plain])
def test_rows_become_what_the_caller_names(db: PostgresClient, row_type: Any) -> None:
    """Each kind of type gets its values by name, outside and inside of a block."""
    rows = db.execute(SELECT, (), ADA, row_type=row_type)
    with db.connection(ADA):
        inside = db.execute(SELECT, (), ADA, row_type=row_type)

    assert [(type(row), row.name, row.email) for row in rows] == [
        (row_type, "Bo", None),
        (row_type, "Cy", None),
    ]
    assert [row.name for row in inside] == ["Bo", "Cy"]
    assert (rows.rowcount, inside.rowcount) == (2, 2)


@pytest.mark.parametrize("row_type", [Names, OlderNames])
def test_a_typed_dict_is_a_dict_whose_columns_are_checked(
    db: PostgresClient, row_type: Any
) -> None:
    """Its keys have to be the columns."""
    rows = db.execute(SELECT, (), ADA, row_type=row_type)

    assert rows == [{"name": "Bo", "email": None}, {"name": "Cy", "email": None}]
    with pytest.raises(PostgresError, match="lacks 'email'"):
        db.execute("SELECT name FROM contacts", (), ADA, row_type=row_type)


def test_a_typed_dict_says_which_keys_may_be_missing(db: PostgresClient) -> None:
    """Also where its annotations are text, and name what is not imported."""
    [row] = db.execute("SELECT name FROM contacts LIMIT 1", (), ADA, row_type=Partial)
    query = "SELECT name, email, id FROM contacts LIMIT 1"
    [more] = db.execute(query, (), ADA, row_type=PartialAgain)

    assert row.keys() == {"name"}
    assert more.keys() == {"name", "email", "id"}
    with pytest.raises(PostgresError, match="lacks 'name'"):
        db.execute("SELECT email FROM contacts", (), ADA, row_type=Partial)
    with pytest.raises(PostgresError, match="lacks 'id'"):
        db.execute("SELECT name, '1' AS phone FROM contacts", (), ADA, row_type=PartialAgain)


class _Counted(type):
    reads = 0

    @property
    def __signature__(cls) -> inspect.Signature:
        _Counted.reads += 1
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([inspect.Parameter("name", kind)])


class Counted(metaclass=_Counted):
    """A class that counts how often it is inspected."""

    def __init__(self, name: str) -> None:
        self.name = name


def test_a_type_is_inspected_for_the_first_call_alone(db: PostgresClient) -> None:
    """To read a signature takes longer than to make many rows."""
    query = "SELECT name FROM contacts ORDER BY name"
    first = db.execute(query, (), ADA, row_type=Counted)
    reads = _Counted.reads
    second = db.execute(query, (), ADA, row_type=Counted)

    assert [row.name for row in first] == [row.name for row in second] == ["Bo", "Cy"]
    assert _Counted.reads == reads


@pytest.mark.parametrize(
    ("columns", "words"),
    [("name", "lacks 'email'"), ("name, email, id", "does not know 'id'")],
)
@pytest.mark.parametrize("row_type", [Contact, Pair, Plain, Reordered])
def test_columns_that_do_not_fit_commit_nothing(
    db: PostgresClient, row_type: Any, columns: str, words: str
) -> None:
    """A missing or surplus column of a change is told before the commit."""
    change = f"UPDATE contacts SET email = 'x@y.z' RETURNING {columns}"

    with pytest.raises(PostgresError, match=words) as caught:
        db.execute(change, (), ADA, row_type=row_type)

    assert "Nothing was committed" in str(caught.value)
    assert not caught.value.maybe_applied
    assert db.execute_scalar("SELECT count(email) FROM contacts", (), ADA) == 0


def test_a_value_that_a_model_refuses_is_told_with_what_became_of_the_change(
    db: PostgresClient,
) -> None:
    """The first use is checked before the commit, and later ones travel with it."""
    select = "UPDATE contacts SET email = %s WHERE name = 'Bo' RETURNING name, email"

    class Strict(pydantic.BaseModel):
        name: str
        email: pydantic.constr(max_length=3)  # type: ignore[valid-type]  # as pydantic has it

    with pytest.raises(PostgresError, match="Nothing was committed"):
        db.execute(select, ("long",), ADA, row_type=Strict)
    assert db.execute(select, ("ok",), ADA, row_type=Strict)[0].email == "ok"
    with pytest.raises(PostgresError, match="was committed") as caught:
        db.execute(select, ("long",), ADA, row_type=Strict)

    assert caught.value.maybe_applied
    assert db.execute_scalar("SELECT email FROM contacts WHERE name = 'Bo'", (), ADA) == "long"


def test_columns_that_fit_no_more_are_checked_before_the_commit_again(db: PostgresClient) -> None:
    """The first call that meets them cannot know; the next one does, and a block undoes it."""
    query = (
        "UPDATE contacts SET email = %s RETURNING name, CASE WHEN email = 'x' THEN email END AS e"
    )

    class Short(pydantic.BaseModel):
        name: str
        e: None

    def refused(value: str) -> PostgresError:
        with pytest.raises(PostgresError) as caught:
            db.execute(query, (value,), ADA, row_type=Short)
        return caught.value

    db.execute(query, ("y",), ADA, row_type=Short)
    with db.connection(ADA):
        inside = refused("x")
    db.execute(query, ("y",), ADA, row_type=Short)
    first = refused("x")
    db.execute("UPDATE contacts SET email = 'y'", (), ADA)
    second = refused("x")

    assert (inside.maybe_applied, first.maybe_applied, second.maybe_applied) == (False, True, False)
    assert "Nothing was committed" in str(second)
    assert db.execute("SELECT DISTINCT email FROM contacts", (), ADA) == [{"email": "y"}]


def test_columns_that_do_not_fit_in_a_block_are_not_told_as_committed(db: PostgresClient) -> None:
    """The block goes on without them, whatever the same statement returned before."""
    query = "SELECT * FROM pair"

    with db.connection(ADA) as conn:
        conn.execute("CREATE TEMPORARY TABLE pair AS SELECT 'Bo' AS name, 'b' AS email")
        assert db.execute(query, (), ADA, row_type=Contact) == [Contact("Bo", "b")]
        conn.execute("ALTER TABLE pair ADD COLUMN c int")
        with pytest.raises(PostgresError, match="does not know 'c'") as caught:
            db.execute(query, (), ADA, row_type=Contact)

    assert not caught.value.maybe_applied


@pytest.mark.parametrize(
    "row_type", [int, dict, list, object(), "Contact", len, pytest.param(10**5000, id="huge")]
)
def test_a_type_that_cannot_be_a_row_is_refused_before_anything_is_sent(
    db: PostgresClient, row_type: Any
) -> None:
    """What takes no columns is named."""
    before = db.stats()["checkouts"]

    with pytest.raises(PostgresConfigurationError, match="row_type"):
        db.execute("DELETE FROM contacts", (), ADA, row_type=row_type)

    assert db.stats()["checkouts"] == before


@pytest.mark.parametrize(
    ("expect", "wanted"), [(2, 2), (range(1, 3), range(1, 3)), (lambda n: n == 2, None)]
)
def test_an_expected_count_commits(db: PostgresClient, expect: Any, wanted: object) -> None:
    """A number, a range or a callable that is met changes nothing else."""
    rows = db.execute("UPDATE contacts SET email = 'a@b.c'", (), ADA, expect=expect)

    assert (rows, rows.rowcount) == ([], 2)
    assert db.execute_scalar("SELECT count(email) FROM contacts", (), ADA) == 2
    assert wanted is None or wanted == expect


@pytest.mark.parametrize("expect", [1, range(3, 9), lambda n: n > 2], ids=["int", "range", "call"])
@pytest.mark.parametrize("in_block", [False, True], ids=["alone", "in a block"])
def test_another_count_than_expected_commits_nothing(
    db: PostgresClient, expect: Any, *, in_block: bool
) -> None:
    """The error has both numbers, can be pickled, and the block goes on."""
    block = db.connection(ADA) if in_block else nullcontext()
    with block:
        with pytest.raises(RowCountError, match="changed 2 rows") as caught:
            db.execute("DELETE FROM contacts", (), ADA, expect=expect)
        assert len(db.execute(SELECT, (), ADA)) == 2

    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (copy.actual, copy.expected) == (2, caught.value.expected)
    assert db.execute_scalar("SELECT count(*) FROM contacts", (), ADA) == 2


def test_a_row_of_somebody_else_is_not_changed_and_not_counted(db: PostgresClient) -> None:
    """The answer to the question of who changed 0 rows: expect says it."""
    with pytest.raises(RowCountError, match="changed 0 rows") as caught:
        db.execute("UPDATE contacts SET name = 'mine' WHERE name = 'Bo'", (), uuid4(), expect=1)

    assert (caught.value.expected, caught.value.actual) == (1, 0)


class Unprintable:
    """Has no text, as what is nested too deep."""

    def __repr__(self) -> str:
        raise RecursionError


@pytest.mark.parametrize("expect", [True, 1.0, "1", [1], Unprintable()])
def test_an_expectation_that_is_none_is_refused(db: PostgresClient, expect: Any) -> None:
    """Before anything is sent."""
    with pytest.raises(PostgresConfigurationError, match="expect"):
        db.execute(SELECT, (), ADA, expect=expect)


def test_rows_say_how_many_were_changed(db: PostgresClient) -> None:
    """Of each kind of statement; -1 for one that has no number."""
    counts = [
        db.execute(query, (), ADA).rowcount
        for query in (
            f"INSERT INTO contacts (user_id, name) VALUES ('{ADA}', 'x'), ('{ADA}', 'y')",
            "UPDATE contacts SET email = NULL WHERE name IN ('x', 'y', 'Bo')",
            "DELETE FROM contacts WHERE name = 'none'",
            "SELECT 1 WHERE false",
            "SET LOCAL work_mem = '1MB'",
        )
    ]

    assert counts == [2, 3, 0, 0, -1]
    assert pickle.loads(pickle.dumps(db.execute(SELECT, (), ADA))).rowcount == 4  # noqa: S301 - our own


METHODS: dict[str, Callable[[PostgresClient], Any]] = {
    "execute": lambda db: db.execute("SELECT name FROM contacts", admin=True),
    "execute_one": lambda db: db.execute_one("SELECT name FROM contacts", admin=True),
    "execute_scalar": lambda db: db.execute_scalar("SELECT count(*) FROM contacts", admin=True),
    "execute_many": lambda db: db.execute_many(
        "UPDATE contacts SET email = %s", [("a",)], admin=True
    ),
    "bulk_insert": lambda db: db.bulk_insert(
        "contacts", ("user_id", "name"), [(uuid4(), "z")], admin=True
    ),
    "run_transaction": lambda db: db.run_transaction(
        lambda conn: conn.execute("SELECT 1").fetchall(), admin=True
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_an_administrators_form(db: PostgresClient, method: str) -> None:
    """``admin=True`` sees all rows, and needs no user."""
    assert METHODS[method](db)


def test_an_administrator_has_no_user(db: PostgresClient) -> None:
    """Both at once are refused; so is a stream's."""
    with pytest.raises(RlsContextError, match="admin=True"):
        db.execute(SELECT, (), ADA, admin=True)
    with db.stream(SELECT, admin=True) as rows:
        assert len(list(rows)) == 2


def test_no_row_has_no_first_value(db: PostgresClient) -> None:
    """As before: a scalar of nothing is an error, one row of nothing is None."""
    assert db.execute_one(f"{SELECT} LIMIT 0", (), ADA, row_type=Pair) is None
    with pytest.raises(NoRowsError):
        db.execute_scalar("SELECT 1 WHERE false", (), ADA)
