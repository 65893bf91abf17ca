"""The reader of SQL expressions: literals, names and comments do not confuse its nesting."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clients._rls.clause import Clause, Column, Scope
from clients._rls.expression import Group, Token, parse, walk

OWNER = Column(
    name="owner", quoted="owner", type="uuid", text=False, relabelled=False, key=False, indexed=True
)
SCOPE = Scope("app.current_user_id", "docs", {"owner": OWNER})


def tokens(text: str) -> list[Token]:
    root = parse(text)
    return [node for nodes, i in walk(root.nodes) if isinstance(node := nodes[i], Token)]


@given(st.text(alphabet="()'\"ab .:=-/*\\E\n$1") | st.text())
def test_any_text_is_read_and_every_token_stands_where_it_says(text: str) -> None:
    """No text is refused, and tokens and groups point at their own place in it."""
    root = parse(text)
    for nodes, index in walk(root.nodes):
        node = nodes[index]
        if isinstance(node, Group):
            assert text[node.start] == "("
        else:
            assert text[node.start : node.end] == node.text


@given(st.text(alphabet="()'ab ORand=.:,docs*", max_size=40))
def test_any_text_can_be_judged(text: str) -> None:
    """An expression of an unknown form is judged without an error, and so is its mend."""
    for expression in (text, f"owner = current_setting('app.current_user_id') {text}"):
        mended = Clause(expression, SCOPE).mended("app.current_user_id")

        assert mended is None or isinstance(mended, str)


def test_parentheses_in_literals_names_and_comments_do_not_nest() -> None:
    """Only SQL's own parentheses make groups."""
    text = """(')' || "a)b" || E'\\')' -- ) not here
        /* nor ( here */ || 'it''s (') = x"""

    assert [token.text for token in tokens(text)] == [
        "')'", "||", '"a)b"', "||", "E'\\')'", "||", "'it''s ('", "=", "x",
    ]  # fmt: skip
    assert len(parse(text).nodes) == 3
    assert tokens("'it''s'")[0].literal == "it's"
    assert tokens('"a""b"')[0].name == 'a"b'


def test_a_mend_keeps_the_other_conditions_word_for_word() -> None:
    """Only the reading of the setting is replaced."""
    call = "current_setting('app.current_user_id'::text, true)"
    clause = Clause(f"((owner = ({call})::uuid) AND (body <> 'OR ('::text))", SCOPE)

    assert clause.mended("app.current_user_id") == (
        f"((owner = (SELECT (NULLIF({call}, ''))::uuid)) AND (body <> 'OR ('::text))"
    )


def test_a_mend_closes_only_the_open_alternative() -> None:
    """What shows rows without a user becomes false; the alternatives beside it stay."""
    call = "current_setting('app.current_user_id'::text, true)"
    mine = f"(owner = ( SELECT (NULLIF({call}, ''::text))::uuid))"
    clause = Clause(f"(({call} IS NULL) OR public OR {mine})", SCOPE)

    assert clause.mended("app.current_user_id") == f"((false) OR public OR {mine})"
