"""The key that identities are signed with: what is taken, when it is called for, what shows."""

from __future__ import annotations

import hmac
import threading
from typing import TYPE_CHECKING, Any

import pytest

from clients._postgres import identity_key
from clients._postgres.identity_key import IdentityKey, Signatures, identity_key_of
from clients._postgres.prepared import OwnStatement
from clients._shared.rotating_url import is_past_cache
from clients.errors import ClientError, PostgresConfigurationError, VaultError
from clients.postgres_client import PostgresClient
from tests.secret_walker import leaks_in

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = bytes(range(32))
NAME, VALUE = b"app.user", b"ann"


class Clock:
    """Both clocks of the module, which a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        """Return the time."""
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the module sees."""
    clock = Clock()
    monkeypatch.setattr(identity_key, "time", clock)
    return clock


def test_a_signature_is_an_hmac_of_process_expiry_name_and_value(clock: Clock) -> None:
    """What is set reads expiry, HMAC-SHA-256 and value, as the server's function takes it."""
    [signed] = Signatures(IdentityKey(KEY), 258).of([NAME], [VALUE])
    expiry, tag, value = signed[:16], signed[16:80], signed[80:]
    message = b"\x00\x00\x01\x02" + expiry + NAME + b":" + VALUE
    assert (tag.decode(), value) == (hmac.new(KEY, message, "sha256").hexdigest(), VALUE)
    assert int(expiry, 16) == (clock.now + 300 - 946_684_800) * 1_000_000


def test_behind_a_pooler_a_signature_is_for_any_process_and_good_for_less_long() -> None:
    """The process is not known there: the expiry binds alone, and is a minute away."""
    [bound] = Signatures(IdentityKey(KEY), 7).of([NAME], [VALUE])
    [unbound] = Signatures(IdentityKey(KEY), None).of([NAME], [VALUE])
    apart = int(bound[:16], 16) - int(unbound[:16], 16)
    assert round(apart / 1_000_000) == 240
    message = bytes(4) + unbound[:16] + NAME + b":" + VALUE
    assert unbound[16:80].decode() == hmac.new(KEY, message, "sha256").hexdigest()


def context(value: bytes) -> OwnStatement:
    """Return a context statement whose one value is signed."""
    return OwnStatement(b"SELECT", (b"30000", value, b"mark"), signed=(NAME,))


def test_a_signature_is_kept_for_half_its_life(clock: Clock) -> None:
    """A call with the same value signs nothing; long before it expires there is another."""
    signatures = Signatures(IdentityKey(KEY), 7)
    first = signatures.signed(context(VALUE))
    assert first.params == (b"30000", *signatures.sent, b"mark")
    clock.now += 149
    assert signatures.signed(context(VALUE)) is first
    assert signatures.signed(context(b"bob")).params != first.params
    clock.now += 2
    assert signatures.signed(context(VALUE)).params != first.params
    assert signatures.sent[0].endswith(VALUE)


def test_no_kept_signature_outlives_its_key(clock: Clock) -> None:
    """What was signed with the key before is not sent again."""
    keys = [KEY]
    signatures = Signatures(IdentityKey(lambda: keys[0]), 7)
    first = signatures.signed(context(VALUE))
    keys[0] = bytes(32)
    assert signatures.renew()
    assert signatures.signed(context(VALUE)).params != first.params
    second = signatures.signed(context(VALUE))
    keys[0] = bytes(range(1, 33))
    clock.now += 31
    assert signatures.signed(context(VALUE)).params != second.params


def test_no_value_gets_no_signature() -> None:
    """An optional value that is absent stays empty."""
    signatures = Signatures(IdentityKey(KEY), 7)
    assert signatures.of([NAME, b"app.tenant"], [VALUE, b""])[1] == b""


def test_a_session_keeps_few_signatures() -> None:
    """A session that serves everybody does not grow by a signature for each."""
    signatures = Signatures(IdentityKey(KEY), 7)
    for number in range(500):
        signatures.signed(context(b"%d" % number))
    assert len(signatures._kept) < 100


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (b"short", "5 bytes"),
        (bytes(65), "65 bytes"),
        ("zz" * 32, "hexadecimal"),
        (7, "is int"),
        (lambda: b"short", "5 bytes"),
        (lambda: None, "is NoneType"),
        (lambda: 1 / 0, "failed with ZeroDivisionError"),
    ],
)
def test_what_is_no_key_is_refused_before_anything_is_opened(given: Any, words: str) -> None:
    """A wrong key is a setting that cannot work, and shows nowhere."""
    with pytest.raises(PostgresConfigurationError, match=words) as caught:
        PostgresClient("postgresql://nobody@127.0.0.1:1/none", identity_key=given)
    assert caught.value.__cause__ is None


def test_hexadecimal_text_is_taken_as_bytes() -> None:
    """A secret holds text: the hexadecimal digits of a key are the key."""
    made = [Signatures(IdentityKey(one), 7) for one in (KEY, KEY.hex(), bytearray(KEY))]
    assert len({one.of([NAME], [VALUE])[0][80:] for one in made}) == 1
    assert len({IdentityKey(one).current().mark for one in (KEY, KEY.hex())}) == 1


def test_a_callable_is_called_every_half_a_minute(clock: Clock) -> None:
    """A new key is in use soon; in between the callable costs nothing."""
    keys, calls = [KEY], list[None]()

    def give() -> bytes:
        calls.append(None)
        return keys[0]

    key = IdentityKey(give)
    first = key.current()
    clock.now += 29
    keys[0] = bytes(32)
    assert key.current() is first
    clock.now += 2
    assert key.current().number == 2
    assert len(calls) == 2


def test_after_a_refusal_the_callable_is_called_past_the_cache(clock: Clock) -> None:
    """The next key is read where it is kept, and only once a second when it stays the same."""
    keys, calls = [KEY], list[tuple[bool, bool]]()

    def give(*, use_cache: bool = True) -> bytes:
        calls.append((use_cache, is_past_cache()))
        return keys[0]

    key = IdentityKey(give)
    number = key.current().number
    assert not key.renew(number)
    assert not key.renew(number)
    assert calls == [(True, False), (False, True)]
    clock.now += 2
    keys[0] = bytes(32)
    assert key.renew(number)
    assert key.renew(number), "another thread has renewed it"
    assert len(calls) == 3


def test_refusals_that_sql_raises_call_the_callable_once_a_second(clock: Clock) -> None:
    """SQL can raise the same error with every statement: that is no load on where the key is."""
    calls = list[None]()

    def give() -> bytes:
        calls.append(None)
        return KEY

    key = IdentityKey(give)
    for _ in range(50):
        key.current()
        key.expect_another()
    assert len(calls) == 1
    clock.now += 2
    for _ in range(50):
        key.current()
        key.expect_another()
    assert len(calls) == 2


@pytest.mark.parametrize("seconds", [600.0, -600.0])
def test_a_clock_that_was_set_or_a_machine_that_slept_signs_anew(
    clock: Clock, seconds: float
) -> None:
    """The monotonic clock does not show it, and the server judges by the other one."""
    clock.monotonic = lambda: 7.0  # type: ignore[method-assign]
    signatures = Signatures(IdentityKey(KEY), 7)
    context = OwnStatement(b"", (b"0", VALUE), signed=(NAME,))
    first = signatures.signed(context)
    assert signatures.signed(context) is first
    clock.now += seconds
    assert signatures.signed(context) != first


def test_what_is_signed_while_the_key_changes_is_not_kept(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread renews the key in the middle of a signature: the next one has the new key."""
    keys = [KEY]
    key = IdentityKey(lambda: keys[0])
    signatures, signed = Signatures(key, 7), Signatures._signed

    def sign_late(own: Signatures, *given: Any) -> bytes:
        keys[0] = bytes(32)
        clock.now += 2
        assert key.renew(1)
        return signed(own, *given)

    context = OwnStatement(b"", (b"0", VALUE), signed=(NAME,))
    with monkeypatch.context() as patch:
        patch.setattr(Signatures, "_signed", sign_late)
        old = signatures.signed(context)
    assert signatures.signed(context) != old
    assert signatures.key_number == key.current().number


@pytest.mark.parametrize("failure", [VaultError("sealed"), RuntimeError(KEY.hex())])
def test_while_the_callable_fails_the_key_stays(clock: Clock, failure: Exception) -> None:
    """A Vault that is away for a while costs no call; nor does what it raised show."""
    failures: list[Exception] = []

    def give() -> bytes:
        if failures:
            raise failures[0]
        return KEY

    key = IdentityKey(give)
    first = key.current()
    failures.append(failure)
    clock.now += 60
    assert key.current() is first
    assert not key.renew(first.number)
    with pytest.raises(ClientError) as caught:
        IdentityKey(give).current()
    assert KEY.hex() not in str(caught.value)


def test_one_thread_calls_for_all() -> None:
    """Threads that find no key wait for the one that calls."""
    calls, gate = list[None](), threading.Event()

    def give() -> bytes:
        calls.append(None)
        gate.wait(20)
        return KEY

    key = IdentityKey(give)
    threads = [threading.Thread(target=key.current) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


@pytest.mark.parametrize(
    "given", [KEY.hex(), KEY.hex, KEY.hex()[:40]], ids=["text", "callable", "too short"]
)
def test_the_key_shows_nowhere(given: str | Callable[[], str]) -> None:
    """Not in an error, nor in the variables of the frames, nor in what holds the key."""
    key = identity_key_of(given)
    assert KEY.hex()[:40] not in repr(key)
    assert KEY.hex()[:40] not in repr(vars(key))
    with pytest.raises(ClientError) as caught:
        PostgresClient("postgresql://nobody@127.0.0.1:1/none", identity_key=given)
    assert leaks_in(caught.value, KEY.hex()[:40]) == []
