"""redact(): no password is left, and the rest of the text is."""

from __future__ import annotations

import copy
import pickle
import re
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients._shared.secrecy import Masked, redact


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


SECRETS = st.text(min_size=1)
#: What people take for passwords: words of messages among them.
WORDS = st.sampled_from(
    (
        *("on", "a", "to", "host", "server", "password", "connection", "root", "Refused"),
        *("FATAL", "5432", "0", "127", ":", "=", "@", "-", "no", "is", "the", "running"),
    )
)
MESSAGES = st.sampled_from(
    [
        "connection to server on socket failed: Connection refused",
        "Is the server running on that host and accepting TCP/IP connections?",
        "FATAL:  password authentication failed for user root (SQLSTATE 28P01) - no retry = @home",
        "connection to 127.0.0.1:5432 timed out after 5.0 s",
    ]
)


@given(secret=WORDS, message=MESSAGES)
def test_a_secret_that_is_a_word_of_the_message_is_not_told_by_masks(
    secret: str, message: str
) -> None:
    """The text is the same for each such secret: nobody learns from it which one it was."""
    assert redact(message, secret) == message


@given(secret=st.text(max_size=7), message=MESSAGES)
def test_no_short_secret_is_masked_inside_a_word(secret: str, message: str) -> None:
    """A mask beside a letter would tell what is missing in the word."""
    assert not re.search(r"\w\*\*\*|\*\*\*\w", redact(message, secret))


@given(secret=SECRETS | WORDS, message=MESSAGES, quotes=st.sampled_from(['""', "''", "»«", "„“"]))
def test_every_secret_is_masked_in_quotes(secret: str, message: str, quotes: str) -> None:
    """Servers and libraries quote the values that they refuse."""
    text = f"{message} {quotes[0]}{secret}{quotes[1]}: refused"

    assert redact(text, secret).endswith(f" {quotes[0]}***{quotes[1]}: refused")


@given(secret=SECRETS | WORDS, message=MESSAGES)
def test_every_secret_is_masked_in_a_url(secret: str, message: str) -> None:
    """As it is, and percent-encoded."""
    for form in (secret, quote(secret, safe="")):
        shown = redact(f"{message} at postgresql://user:{form}@db/name", secret)

        assert shown in {
            f"{message} at postgresql://{credentials}@db/name"
            for credentials in ("***", "user:***")
        }


@given(
    secret=st.text("abcdefgh", min_size=6) | st.from_regex(r"[a-z]\d[a-zA-Z]{2,9}", fullmatch=True)
)
def test_a_secret_that_is_no_word_of_a_message_is_masked_as_a_token(secret: str) -> None:
    """Wherever it stands by itself, and in whichever sentence."""
    shown = redact(f"the token {secret} was refused; {secret}, no other", secret)

    assert shown == "the token *** was refused; ***, no other"


@given(
    secret=st.text(min_size=8).filter(
        lambda one: re.search(r"[^\W\d]", one) and re.search(r"\d", one)
    ),
    before=st.text(),
    after=st.text(),
)
def test_no_long_secret_survives_anywhere(secret: str, before: str, after: str) -> None:
    """Whatever surrounds it, and whatever it is made of."""
    shown = redact(before + secret + after, secret)

    assert secret not in shown.replace("***", "")


def test_a_masked_secret_shows_itself_only_where_it_is_revealed() -> None:
    """Not in a text, nor in a container's; it compares and hashes as its secret does."""
    secret = Masked("s3cret")

    assert (str(secret), repr([secret]), f"{secret}") == ("***", "[***]", "***")
    assert (secret == Masked("s3cret"), secret == Masked("other")) == (True, False)
    assert {secret: 1}[Masked("s3cret")] == 1
    assert (secret == "s3cret", secret.reveal()) == (False, "s3cret")
    assert redact("the token s3cret", secret) == "the token ***"
    for copier in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="pickled or copied") as caught:
            copier(secret)
        assert "s3cret" not in str(caught.value)
