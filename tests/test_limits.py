"""What comes from outside has a bound, and a refusal says which field, what it was and what is expected."""

import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mas import limits
from mas.errors import InvalidRequest
from mas.limits import (
    check_account_number,
    check_amount,
    check_idempotency_key,
    check_message_size,
    check_name,
    check_node_address,
    check_node_host,
    check_node_id,
    check_node_roles,
    check_node_store,
    check_reference,
    check_timeout,
    shorten,
)


@pytest.mark.parametrize("number", ["a", "alice", "DE89 3704 0044", "Nguyễn-01", "x" * 64, "a@b"])
def test_account_numbers_that_are_fine(number: str) -> None:
    check_account_number(number)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("", "1 to 64 characters"),
        ("x" * 65, "1 to 64 characters"),
        ("@external", '"@"'),
        (" a", "blanks"),
        ("a ", "blanks"),
        (" ", "blanks"),
        ("a\n", "printable"),
        ("a\tb", "printable"),
        ("a\x00b", "printable"),
        ("a\x7f", "printable"),
        ("a\u200bb", "printable"),
        ("a\u00a0b", "printable"),
        ("a\u202eb", "printable"),
        ("a\ud800", "printable"),
    ],
)
def test_account_numbers_that_are_not(number: str, expected: str) -> None:
    with pytest.raises(InvalidRequest, match=expected) as refusal:
        check_account_number(number, "payee")
    message = str(refusal.value)
    assert message.startswith("payee ")
    assert message.isprintable()
    assert len(message) < 200


TEXTS: list[Callable[[Any], None]] = [
    check_account_number,
    check_idempotency_key,
    check_reference,
    lambda value: check_name(value, "keys"),
]
"""What checks a text that people read, compare and type again."""


@pytest.mark.parametrize("check", TEXTS)
@pytest.mark.parametrize(
    ("text", "named"),
    [
        # One name in two spellings: composed, and as some keyboards and file systems write it.
        ("cafe\u0301", "U+00E9 LATIN SMALL LETTER E WITH ACUTE as its character 4"),
        ("\u212bngstr\u00f6m", "U+00C5 LATIN CAPITAL LETTER A WITH RING ABOVE as its character 1"),
        ("\u1112\u1161\u11ab", "U+D55C HANGUL SYLLABLE HAN as its character 1"),
        ("a\u0301\u0323", "U+1EA1 LATIN SMALL LETTER A WITH DOT BELOW as its character 1"),
        # Nothing to be seen.
        ("alice\u200b", "not U+200B ZERO WIDTH SPACE"),
        ("al\u00adice", "not U+00AD SOFT HYPHEN"),
        ("alice\ufe0f", "not U+FE0F VARIATION SELECTOR-16"),
        ("alice\U000e0101", "not U+E0101 VARIATION SELECTOR-18"),
        ("al\u034fice", "not U+034F COMBINING GRAPHEME JOINER"),
        ("alice\u3164", "not U+3164 HANGUL FILLER"),
        ("alice\u2800", "not U+2800 BRAILLE PATTERN BLANK"),
        ("alice\u202e", "not U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("alice\ufeff", "not U+FEFF ZERO WIDTH NO-BREAK SPACE"),
        ("alice\n", "not U+000A"),
        ("alice\ud800", "not U+D800"),
    ],
)
def test_users_6_one_name_has_one_spelling(
    check: Callable[[Any], None], text: str, named: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check(text)
    assert str(refusal.value).endswith(named) or f"{named}:" in str(refusal.value)


@pytest.mark.parametrize("check", TEXTS)
@given(text=st.text(max_size=70))
def test_a_text_that_passes_is_composed_and_seen(check: Callable[[Any], None], text: str) -> None:
    try:
        check(text)
    except InvalidRequest:
        return
    assert unicodedata.is_normalized("NFC", text)
    assert text.isprintable()


@pytest.mark.parametrize("check", [*TEXTS, check_amount, check_timeout])
@pytest.mark.parametrize(
    "value", [None, b"alice", ["alice"], {}, object(), float("nan"), 1j, True, -(10**400)]
)
def test_a_check_refuses_whatever_it_is_given(check: Callable[[Any], None], value: object) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check(value)
    assert len(str(refusal.value)) < 200


def test_how_long_one_may_wait() -> None:
    for seconds in (0, 0.5, limits.TIMEOUT_SECONDS_MAX):
        check_timeout(seconds)
    for seconds in (-0.1, float("inf"), limits.TIMEOUT_SECONDS_MAX + 1):
        with pytest.raises(InvalidRequest, match="timeout"):
            check_timeout(seconds)


@pytest.mark.parametrize(
    ("check", "least", "most"),
    [(check_idempotency_key, 1, 128), (check_reference, 0, 140)],
)
def test_texts_have_a_length(check: Callable[[str], None], least: int, most: int) -> None:
    check("k" * least)
    check("k" * most)
    with pytest.raises(InvalidRequest, match=f"{least} to {most} characters"):
        check("k" * (most + 1))
    with pytest.raises(InvalidRequest, match="printable"):
        check("line\nline")


def test_an_empty_key_is_no_key() -> None:
    with pytest.raises(InvalidRequest, match="idempotency_key ''"):
        check_idempotency_key("")


def test_amounts_are_positive_and_in_range() -> None:
    check_amount(1)
    check_amount(limits.AMOUNT_MAX)
    check_amount(0, zero_allowed=True)
    for amount in (0, -1, limits.AMOUNT_MAX + 1):
        with pytest.raises(InvalidRequest, match=f"amount {amount} "):
            check_amount(amount)
    with pytest.raises(InvalidRequest):
        check_amount(-1, zero_allowed=True)


def test_messages_have_a_size() -> None:
    check_message_size(limits.MESSAGE_BYTES_MAX)
    with pytest.raises(InvalidRequest, match="bytes"):
        check_message_size(limits.MESSAGE_BYTES_MAX + 1)


def test_sums_fit_a_signed_64_bit_integer() -> None:
    # A balance at its greatest, with every leg of a payment on top, before the ledger refuses it.
    assert limits.BALANCE_MAX + limits.LEGS_PER_PAYMENT_MAX * limits.AMOUNT_MAX < 2**63


def test_a_turn_and_a_message_fit_a_frame() -> None:
    assert limits.TURN_BYTES_MAX <= limits.MESSAGE_BYTES_MAX <= limits.FRAME_BYTES_MAX


@given(st.text())
def test_a_shown_value_is_short_and_printable(value: str) -> None:
    assert shorten(value).isprintable()
    assert len(shorten("x" * 40 + value)) < 80


@pytest.mark.parametrize(
    ("check", "value", "says"),
    [
        (check_node_id, 0, "node 0 is not allowed: expected from 1 to 4294967295"),
        (check_node_id, 2**32, "from 1 to 4294967295"),
        (check_node_address, "", "1 to 261 characters"),
        (check_node_address, "h" * 260 + ":1", "1 to 261 characters"),
        (check_node_address, "mas4", "address 'mas4' is not allowed: expected \"host:port\""),
        (check_node_address, ":1", '"host:port"'),
        (check_node_address, "mas4:", '"host:port"'),
        (check_node_address, "mas4:0", '"host:port"'),
        (check_node_address, "mas4:65536", '"host:port"'),
        (check_node_address, "mas 4:1", '"host:port"'),
        (check_node_address, "mas4:1\n", "printable"),
        (check_node_address, "mas4:\u0661", "ASCII"),
        (check_node_roles, (), "roles 0 is not allowed: expected 1 to 8 of them"),
        (check_node_roles, ("rm",) * 9, "1 to 8 of them"),
        (check_node_roles, ("rm", ""), "1 to 16 characters"),
        (check_node_roles, ("r" * 17,), "1 to 16 characters"),
        (check_node_roles, ("é",), "ASCII"),
        (check_node_host, "h" * 65, "0 to 64 characters"),
        (check_node_host, "a\x00", "printable"),
        (check_node_host, "é", "ASCII"),
        (check_node_store, b"s" * 15, "'15 bytes' is not allowed: expected 16 bytes, or none"),
        (check_node_store, b"s" * 17, "16 bytes, or none"),
    ],
)
def test_what_a_node_may_not_say_of_itself(
    check: Callable[[object], None], value: object, says: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check(value)
    assert says in str(refusal.value)


def test_what_a_node_may_say_of_itself() -> None:
    for node in (1, 2**32 - 1):
        check_node_id(node)
    for address in ("a:1", "[::1]:65535", "h" * 255 + ":65535"):
        check_node_address(address)
    check_node_roles(("r" * 16,) * 8)
    for host in ("", "rack 1", "h" * 64):
        check_node_host(host)
    for store in (b"", b"s" * 16):
        check_node_store(store)
