"""Whose rows a transaction sees: a client's identity, what a call gives for it, and its SQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from .._shared.validation import is_encodable, shown
from ..errors import PostgresConfigurationError, RlsContextError
from ..identity import current_identity, get_current_user_id
from .rls_setting import RlsSetting
from .transaction_sql import ContextSql

if TYPE_CHECKING:
    from .prepared import OwnStatement

__all__ = ["DEFAULT_IDENTITY", "RlsContext", "RlsContexts", "UserId"]

#: What the types of a client's identity may let be a user's id; claims go as ``identity=``.
UserId: TypeAlias = UUID | str | int

#: What a client knows that is given no other: the seed's user.
DEFAULT_IDENTITY = {"user_id": RlsSetting("app.current_user_id", UUID)}

_LONGEST_ROLE = 63


class RlsContext:
    """Whose rows a transaction sees; equal to another of the same client for the same identity.

    Args:
        client: What the client's calls are made of.
        values: What its settings get, in their order; None for an administrator.
        timeout_ms: Limits each statement, in milliseconds; None: as the client's settings have it.
    """

    __slots__ = ("_client", "_timeout_ms", "values")

    def __init__(
        self,
        client: RlsContexts,
        values: tuple[bytes, ...] | None,
        timeout_ms: int | None = None,
    ) -> None:
        self._client = client
        self._timeout_ms = timeout_ms
        self.values = values

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RlsContext)
            and self._client is other._client
            and self.values == other.values
        )

    def __hash__(self) -> int:
        return hash(self.values)

    @property
    def is_admin(self) -> bool:
        """Whether it is no user's."""
        return self.values is None

    @property
    def sql(self) -> ContextSql:
        """Makes its statements."""
        return self._client.sql

    @property
    def words(self) -> str:
        """For whom it is, in messages."""
        if self.values is None:
            return "an administrator"
        names = self._client.hidden_names
        return f"one {' and '.join(names)}" if names else f"user {self.values[0].decode()}"

    @property
    def what(self) -> str:
        """What a block of it is called in messages."""
        if self.is_admin:
            return "the block of admin_connection()"
        return f"the block of connection() for {self.words}"

    def other_words(self, open_one: RlsContext) -> str:
        """Say for whom a call of this context is, beside a block of another one."""
        names = self._client.hidden_names
        if not names or self.values is None or open_one.values is None:
            return self.words
        pairs = zip(names, self.values, open_one.values, strict=True)
        return f"another {' and '.join(name for name, mine, its in pairs if mine != its)}"

    def to_prepare(self) -> OwnStatement:
        """Return the statement that gives the transaction of one call its context."""
        return self._client.sql.of_call(self.values, self._timeout_ms)

    def of_block(self, mark: bytes, *, is_kept: bool = False) -> OwnStatement:
        """Return the statement that gives a block's transaction its context, and marks it.

        Args:
            mark: What ``marker`` returned.
            is_kept: As for ``ContextSql.of_block``.
        """
        return self._client.sql.of_block(self.values, mark, self._timeout_ms, is_kept=is_kept)

    def limited(self, timeout_ms: int | None) -> RlsContext:
        """Return the same context with a time-out of one call's own.

        Args:
            timeout_ms: Limits each statement, in milliseconds; None: as it is.
        """
        return self if timeout_ms is None else RlsContext(self._client, self.values, timeout_ms)


class RlsContexts:
    """What a client's calls are made of: the names of its identity, and their settings.

    Args:
        identity: The setting of each value, by the value's name; None: the user alone.
        local_role: The role that a user's transactions run under; None: the login's.
        statement_timeout_ms: Limits each statement, in milliseconds; 0 is no limit.
        signs: Whether the values are signed.

    Raises:
        PostgresConfigurationError: An argument is unusable.
    """

    def __init__(
        self,
        identity: Mapping[str, RlsSetting] | None,
        local_role: str | None,
        statement_timeout_ms: int,
        *,
        signs: bool = False,
    ) -> None:
        self.settings = _checked_identity(DEFAULT_IDENTITY if identity is None else identity)
        self.local_role = _checked_role(local_role)
        names = [setting.name for setting in self.settings.values()]
        self.sql = ContextSql(names, self.local_role, statement_timeout_ms, signs=signs)
        #: Without a user: for ``admin_connection()``.
        self.admin = RlsContext(self, None)
        self._user_alone = list(self.settings) == ["user_id"]
        self._items = [
            (name, setting.required, setting.encoder) for name, setting in self.settings.items()
        ]
        # A user's UUID may stand in a message; what other values tell is not known.
        is_shown = self._user_alone and self.settings["user_id"].type is UUID
        #: The names of the values, where these must not be shown.
        self.hidden_names = () if is_shown else tuple(self.settings)

    def of(self, user_id: object, identity: Mapping[str, object] | None) -> RlsContext:
        """Return the context of a call.

        Args:
            user_id: The value of that name; None: as *identity* or the ambient identity has it.
            identity: Values by name; they stand over ambient ones.

        Raises:
            RlsContextError: A value is missing, unknown or unfit; the message has its name alone.
        """
        if identity is None and user_id is not None and self._user_alone:
            # The usual call, without what only others need.
            return RlsContext(self, (self._items[0][2]("user_id", user_id),))
        given = self._given(user_id, identity)
        if len(given) < len(self._items):
            given = self._with_ambient(given)
        values = []
        for name, required, encoder in self._items:
            value = given.get(name)
            if value is not None:
                values.append(encoder(name, value))
            elif required:
                raise self._missing(given)
            else:
                values.append(b"")
        return RlsContext(self, tuple(values))

    def _missing(self, given: dict[str, object]) -> RlsContextError:
        missing = [
            name for name, required, _ in self._items if required and given.get(name) is None
        ]
        # The call's own names are all known: what is not came from the context.
        others = [_named(name) for name in given if name not in self.settings]
        unknown = (
            f". The context has {' and '.join(others)}, which this client does not know"
            if others
            else ""
        )
        return RlsContextError(
            f"no {' and no '.join(missing)}: pass identity={{{missing[0]!r}: ...}}, or enter "
            f"user_context({missing[0]}=...) first. There is no default identity, and no partial "
            f"one{unknown}"
        )

    def _given(self, user_id: object, identity: Mapping[str, object] | None) -> dict[str, object]:
        given: dict[str, object]
        if identity is None:
            given = {}
        elif isinstance(identity, Mapping):
            given = dict(identity)
        else:
            raise RlsContextError(
                f"identity must map names to values, such as {{{next(iter(self.settings))!r}: ...}}"
                f", and is {type(identity).__name__}"
            )
        if user_id is not None:
            if "user_id" in given:
                raise RlsContextError("user_id was given twice: leave it out of identity")
            given["user_id"] = user_id
        if not given.keys() <= self.settings.keys():
            unknown = [_named(name) for name in given if name not in self.settings]
            raise RlsContextError(
                f"this client's identity has no {' and no '.join(unknown)}: it is made of "
                f"{' and '.join(self.settings)}"
            )
        return given

    def _with_ambient(self, given: dict[str, object]) -> dict[str, object]:
        if self._user_alone and self.settings["user_id"].required:
            ambient = current_identity()
            if "user_id" not in ambient:
                if ambient:
                    raise self._missing(dict(ambient))
                # It says what to do in the case of one user, which is most clients'.
                get_current_user_id()
            return {"user_id": ambient["user_id"]}
        return {**current_identity(), **given}


def _checked_identity(identity: object) -> dict[str, RlsSetting]:
    """Return the settings by name.

    Raises:
        PostgresConfigurationError: It is unusable.
    """
    if not isinstance(identity, Mapping) or not identity:
        raise PostgresConfigurationError(
            'identity must map at least one name to its setting, such as {"tenant_id": '
            'RlsSetting("app.tenant_id", int)}'
        )
    names: dict[str, str] = {}
    for name, setting in identity.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise PostgresConfigurationError(
                f"{_named(name)!r} is not a name for a value of the identity: user_context() "
                "takes it as an argument, such as tenant_id"
            )
        if not isinstance(setting, RlsSetting):
            raise PostgresConfigurationError(
                f"identity[{name!r}] must be an RlsSetting, and is {type(setting).__name__}"
            )
        # The server does not tell them apart by case.
        other = names.setdefault(setting.name.lower(), name)
        if other != name:
            raise PostgresConfigurationError(
                f"{other} and {name} have one setting, {setting.name!r}: give each its own"
            )
    return dict(identity)


def _named(name: object) -> str:
    return name[:63] if isinstance(name, str) else shown(name)


def _checked_role(local_role: object) -> str | None:
    """Return the name of a role to run under, or None.

    Raises:
        PostgresConfigurationError: It is no name.
    """
    if local_role is None:
        return None
    if (
        not isinstance(local_role, str)
        or not is_encodable(local_role)
        or not 0 < len(local_role.encode()) <= _LONGEST_ROLE
        or "\0" in local_role
        # Which is how SET ROLE spells the login's own.
        or local_role == "none"
    ):
        raise PostgresConfigurationError(
            "local_role must be the name of a role that the login may take, such as "
            f"'authenticated', of at most {_LONGEST_ROLE} bytes"
        )
    return local_role
