"""Keep secrets out of text that people read."""

from __future__ import annotations

import hmac
import inspect
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, quote_plus

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Masked", "MaskedCallable", "MaskedEnvironment", "redact"]

_MASK = "***"
# Credentials in any URL, also one that a driver built from its parts. Greedy up to the last @
# before white space: an unescaped @ or / in a password must not end the match early.
_URL_CREDENTIALS = re.compile(r"(?<=://)[^\s\"'<>]*@")
_DSN_PASSWORD = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)
# English, German, French and the straight quotes of programs.
_OPENING = "'\"`\u00bb\u00ab\u201e\u201c\u2018\u201a\u2039\u203a\u201d"
_CLOSING = "'\"`\u00ab\u00bb\u201c\u201d\u2019\u2018\u203a\u2039"
#: A secret that is shorter, or letters or digits alone and shorter than the second number, may be
#: a word of the text by chance: to mask that word would tell the secret.
_SHORT, _SHORT_WORD = 4, 6
#: One that is longer, and no word, does not stand in another word by chance.
_LONG = 8
_WORD = re.compile(r"[^\W\d_]+|\d+|[\W_]+")
#: Longer words that servers, drivers and this SDK write, and that people take for passwords.
_TEXT = """
accepting access account address administrator allowed already anonymous another answer attempt
authenticate authentication available because before between broken cannot certificate changed
character characters client clients closed cluster command connect connected connecting connection
connections could credential credentials database default defined denied directory disabled
enabled environment exceeded exhausted existing expected expired failed failure handshake header
hostname implemented incorrect initialized integer invalid invalidated letter letters listening
loading localhost longer manager master memory message method missing mounted namespace network
nodename nothing number object operation option options packet parameter passphrase password
passwords permission permissions permitted pooler portal postgres postgresql primary private
privilege privileges process protocol provided provider public readonly received redis refused
rejected remote replica request requests required reserved resource response retries revoked
rotated running sealed seconds secret secrets security server servername servers service session
sessions setting settings shutdown shutting socket starting statement status string supplied
supported system temporary terminated terminating testing timeout transaction transport unable
unavailable unexpected unexpectedly unknown unreachable unsupported upstream username usernames
valkey vault version warning without
"""
_ORDINARY = frozenset(_TEXT.split())


def redact(text: object, *secrets: str | Masked | None) -> str:
    """Return *text* without passwords.

    A secret is masked where one can stand: in the user part of a URL, behind ``password=``, in
    quotes, and as a whole token. It is not masked where a short or simple one is a word of the
    text, or a part of one, by chance: the masks would tell the secret.

    Args:
        text: A message, or an exception.
        secrets: Values that must not show; each is masked also in its percent-encoded forms.

    Returns:
        The text, with ``***`` for each secret and for the credentials of each URL.
    """
    result = str(text)
    for secret in sorted(map(_revealed, secrets), key=len, reverse=True):
        if secret:
            result = _without(secret, result)
    result = _URL_CREDENTIALS.sub(f"{_MASK}@", result)
    return _DSN_PASSWORD.sub(rf"\g<1>{_MASK}", result)


def _revealed(secret: str | Masked | None) -> str:
    return secret.reveal() if isinstance(secret, Masked) else secret or ""


def _without(secret: str, text: str) -> str:
    # The longest form first: a shorter one could be a part of it.
    forms = {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
    if not any(form in text for form in forms):
        return text  # a pattern as long as a JWT of many groups takes seconds to compile
    any_form = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    places = [
        rf"(?<=[{re.escape(_OPENING)}])(?:{any_form})(?=[{re.escape(_CLOSING)}])",
        rf"(?<=[:/])(?:{any_form})(?=@)",
    ]
    word = _WORD.fullmatch(secret) is not None
    if len(secret) >= (_SHORT_WORD if word else _SHORT) and secret.lower() not in _ORDINARY:
        token = rf"(?<![\w-])(?:{any_form})(?![\w-])"
        places.append(f"(?:{any_form})" if len(secret) >= _LONG and not word else token)
    return re.sub("|".join(places), _MASK, text)


class Masked:
    """A secret that shows itself only where ``reveal()`` is called.

    It shows ``***`` in a text, a log or the local variables of a frame, and cannot be pickled.
    Two of them are equal when their secrets are.

    Args:
        value: The secret.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return _MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masked):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")

    def reveal(self) -> str:
        """Return the secret."""
        return self._value


class MaskedCallable:
    """A callable of the user's that shows its name alone.

    The repr of a ``functools.partial`` has the arguments in it, and one of them may be a secret.
    Two are equal when their callables are.

    Args:
        function: The callable.
    """

    __slots__ = ("_reveal",)

    def __init__(self, function: Callable[..., Any]) -> None:
        # In a closure: error reporters go through attributes.
        def reveal() -> Callable[..., Any]:
            return function

        self._reveal = reveal

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._reveal()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        try:
            return inspect.signature(self._reveal())
        except (TypeError, ValueError):
            raise AttributeError("__signature__") from None

    def __repr__(self) -> str:
        function: Any = self._reveal()
        while isinstance(function, partial):
            function = function.func
        named = function if hasattr(function, "__qualname__") else type(function)
        return f"<callable {named.__module__}.{named.__qualname__}>"

    def __eq__(self, other: object) -> bool:
        theirs = other._reveal() if isinstance(other, MaskedCallable) else other
        return bool(self._reveal() == theirs)

    def __hash__(self) -> int:
        return hash(self._reveal())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a callable that may hold a secret cannot be pickled or copied")


if TYPE_CHECKING:
    _Environment = Mapping[str, str]
else:  # error reporters go through every mapping that a frame holds
    _Environment = object


class MaskedEnvironment(_Environment):
    """Variables that do not show in a frame's locals.

    Args:
        environ: The variables.

    Raises:
        ConfigurationError: They are no mapping.
    """

    __slots__ = ("_get", "_names")

    def __init__(self, environ: Mapping[str, str]) -> None:
        if not isinstance(environ, Mapping | MaskedEnvironment):
            raise ConfigurationError(
                f"environ is {type(environ).__name__}: pass a mapping of names to texts"
            )

        # A method of the variables would show them in its own repr.
        def get(name: str) -> str | None:
            return environ.get(name)

        self._get = get
        self._names = tuple(environ)

    def __getitem__(self, name: str) -> str:
        value = self._get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a variable, or *default*."""
        value = self._get(name)
        return default if value is None else value

    def __repr__(self) -> str:
        return "***"
