"""Keep secrets out of text that people read."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus

__all__ = ["redact"]

_MASK = "***"
# Credentials in any URL, also one that a driver built from its parts. Greedy up to the last @
# before white space: an unescaped @ or / in a password must not end the match early.
_URL_CREDENTIALS = re.compile(r"(?<=://)[^\s\"'<>]*@")
_DSN_PASSWORD = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)


def redact(text: object, *secrets: str | None) -> str:
    """Return *text* without passwords.

    Args:
        text: A message, or an exception.
        secrets: Values that must not show; each is masked also in its percent-encoded forms.

    Returns:
        The text, with ``***`` for each secret and for the credentials of each URL.
    """
    result = str(text)
    for secret in secrets:
        if secret:
            # The longest form first: a shorter one could be a part of it.
            for form in sorted({secret, quote(secret, safe=""), quote_plus(secret)}, key=len)[::-1]:
                result = result.replace(form, _MASK)
    result = _URL_CREDENTIALS.sub(f"{_MASK}@", result)
    return _DSN_PASSWORD.sub(rf"\g<1>{_MASK}", result)
