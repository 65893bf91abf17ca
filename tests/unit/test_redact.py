"""redact(): no password is left, and the rest of the text is."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients._shared.secrecy import redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nothing here", "nothing here"),
        ("postgresql://u:p@h:5432/d is down", "postgresql://***@h:5432/d is down"),
        ("redis://:p@h/0", "redis://***@h/0"),
        ("https://token@h/x", "https://***@h/x"),
        ("postgresql://u:p@x@h/d", "postgresql://***@h/d"),
        ("postgresql://u:p/x@h/d", "postgresql://***@h/d"),
        ("two: a://u:p@h b://v:q@i", "two: a://***@h b://***@i"),
        ("at 'postgresql://u:p@h/d'", "at 'postgresql://***@h/d'"),
        ("http://h:8200/v1 has no credentials", "http://h:8200/v1 has no credentials"),
        ("host=h password=p user=u", "host=h password=*** user=u"),
        ("PASSWORD = 'p q' user=u", "PASSWORD = *** user=u"),
        (r"password='it\'s p' user=u", "password=*** user=u"),
    ],
)
def test_credentials_of_urls_and_connection_strings(text: str, expected: str) -> None:
    """Whatever the driver quotes, the place stays readable and the credentials do not."""
    assert redact(text) == expected


def test_an_exception_is_taken_as_its_text() -> None:
    """What is shown of an error is its message."""
    assert redact(ValueError("no route to a://u:p@h")) == "no route to a://***@h"


def test_a_known_secret_is_masked_in_each_of_its_forms() -> None:
    """As it is, and percent-encoded either way."""
    secret = "a/b c@d"
    text = f"{secret} | {quote(secret, safe='')} | {quote_plus(secret)}"

    assert redact(text, secret) == "*** | *** | ***"


def test_no_secret_and_an_empty_one_change_nothing() -> None:
    """An absent password must not mask the whole text."""
    assert redact("text", None, "") == "text"


@given(secret=st.text(min_size=3), before=st.text(), after=st.text())
def test_no_secret_survives(secret: str, before: str, after: str) -> None:
    """Whatever surrounds it, and whatever it is made of."""
    shown = redact(before + secret + after, secret)

    assert secret not in shown.replace("***", "")
