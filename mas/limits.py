"""Every bound that MAS keeps, and the checks of what comes from outside.

A limit is named once, here, with its unit last. A check raises `InvalidRequest` saying which field, what
it was, and what is expected, whatever it is given. What an operator may tune is in `mas.config`.

Names, keys and references are texts that people read, compare and type again, so one text has one spelling and
nothing in it that nobody sees: Unicode's composed form (NFC), and no character that isn't printed. Characters of
different scripts that look alike are different characters.
"""

import unicodedata

from mas.addresses import split_address
from mas.errors import InvalidRequest

# --- What a request may say ---------------------------------------------------------------------

ACCOUNT_NUMBER_CHARACTERS_MAX = 64
IDEMPOTENCY_KEY_CHARACTERS_MAX = 128
REFERENCE_CHARACTERS_MAX = 140
"""As long as the remittance information of ISO 20022."""

NAME_CHARACTERS_MAX = 64
"""Of an operator, or a key space."""

AMOUNT_MAX = 10**15
"""Minor units, of one leg: ten thousand milliards of dollars."""
BALANCE_MAX = 2**60
"""Minor units, either way: a signed 64-bit integer has room for a balance and what is reserved."""
LEGS_PER_PAYMENT_MAX = 64
SEQUENCE_MAX = 2**63 - 1
"""Of an account's postings: what a database keeps as an integer."""
PAGE_ITEMS_MAX = 1_000
"""Postings or accounts in one reply."""
TIMEOUT_SECONDS_MAX = 7 * 24 * 3600.0
"""That a client keeps trying."""

# --- What a node may say of itself --------------------------------------------------------------

BUCKET_ID_MAX = 2**16
CLUSTER_ID_CHARACTERS_MAX = 255
COUNTER_MAX = 2**62
"""Terms, indexes and all else that is counted between nodes: databases hold signed 64-bit integers."""
TERM_REACH = 2**32
"""How far a peer's term may be ahead of one's own: two elections a second, for seventy years."""
NODES_MAX = 1_000
"""In the cluster's register, retired ones among them: an id is used once for all time."""
NODE_ID_MAX = 2**32 - 1
NODE_ADDRESS_CHARACTERS_MAX = 261
"""As long as a host's name may be (255), a colon, and a port."""
NODE_ROLES_MAX = 8
NODE_ROLE_CHARACTERS_MAX = 16
NODE_HOST_CHARACTERS_MAX = 64
NODE_STORE_BYTES = 16

# --- What travels -------------------------------------------------------------------------------

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Of a gRPC message, both ways."""
PAYMENTS_PER_BATCH_MAX = 8_192
"""In one message of a stream of payments."""
STRANGER_REQUEST_BYTES_MAX = 4_096
"""Of a request without a token: the name of a service."""
REQUEST_FIELDS_MAX = PAYMENTS_PER_BATCH_MAX + 8
"""Of the outermost message of a request, each item of a list one: decoded they take far more room than on the way."""
FRAME_BYTES_MAX = 8 * 1024 * 1024
"""Of a frame between nodes: a full turn to a peer, with room for all groups' heartbeats."""
QUESTION_SECONDS_MAX = 1.0
"""That one replica has to answer a read, before whoever asks gives it up and asks another."""
SNAPSHOT_CHUNK_BYTES = 256 * 1024

# --- What one turn may do (rule 38) -------------------------------------------------------------

TURN_INSTRUCTIONS_MAX = 1_000
TURN_BYTES_MAX = 256 * 1024
TURN_SECONDS_MAX = 0.010
UNDECIDED_PER_ACCOUNT_MAX = 1_000
"""Payments under way on one account, about which is asked before money is refused; beyond, the attempt ends at once."""
MARKS_PER_ACCOUNT_MAX = 1_024
"""Locks' marks; one more is in conflict."""

# --- What may wait ------------------------------------------------------------------------------

MAILBOX_ITEMS_MAX = 65_536
"""Of an actor that serves clients; whoever finds it full is answered at once."""
PEER_QUEUE_BYTES_MAX = 32 * 1024 * 1024
"""Frames that wait for one slow peer; what is over is dropped, and Raft sends it again."""
PEER_BULK_BYTES_MAX = 16 * 1024 * 1024
"""Pieces of snapshots that wait for one slow peer, beside these."""
REQUESTS_IN_FLIGHT_MAX = 32_768
"""Payments that one coordinator carries at a time."""

_SHOWN_CHARACTERS_MAX = 40
_CLIPPED_CHARACTERS_MAX = 300

_UNSEEN = frozenset(
    chr(code)
    for code in (
        # Unicode's Default_Ignorable_Code_Point, as far as `str.isprintable` lets it pass: fillers, joiners, ...
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0),
        # ... and what selects another shape of the character before it.
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
        # Printed as nothing: a Braille cell without dots, a note without a head, a filler of Khitan.
        *(0x2800, 0x1D159, 0x16FE4),
    )
)


def check_account_number(value: object, field: str = "account_number") -> None:
    """An account's number, as a client may choose it.

    Raises:
        InvalidRequest: not a text as the head of this file says, empty, too long, with blanks around it, or
            beginning with "@" (those accounts are the system's).
    """
    number = _check_text(value, field, 1, ACCOUNT_NUMBER_CHARACTERS_MAX)
    if number[0] == "@":
        raise _invalid(field, value, 'no "@" at its beginning: those accounts are the system\'s')
    if number[0] == " " or number[-1] == " ":
        raise _invalid(field, value, "no blanks around it")


def check_idempotency_key(value: object, field: str = "idempotency_key") -> None:
    """A client's name for one payment.

    Raises:
        InvalidRequest: not a text as the head of this file says, empty, or too long.
    """
    _check_text(value, field, 1, IDEMPOTENCY_KEY_CHARACTERS_MAX)


def check_name(value: object, field: str) -> None:
    """The name of an operator, or of a key space.

    Raises:
        InvalidRequest: not a text as the head of this file says, empty, or too long.
    """
    _check_text(value, field, 1, NAME_CHARACTERS_MAX)


def check_reference(value: object, field: str = "reference") -> None:
    """Check what a payer tells the payee; it may be empty.

    Raises:
        InvalidRequest: not a text as the head of this file says, or too long.
    """
    _check_text(value, field, 0, REFERENCE_CHARACTERS_MAX)


def check_amount(value: object, field: str = "amount", *, zero_allowed: bool = False) -> None:
    """An amount in minor units.

    Raises:
        InvalidRequest: no whole number, negative, above `AMOUNT_MAX`, or zero where that isn't allowed.
    """
    least = 0 if zero_allowed else 1
    _check_number(value, field, least, AMOUNT_MAX, " minor units")


def check_timeout(value: object, field: str = "timeout") -> None:
    """Check how long a client tries, in seconds.

    Raises:
        InvalidRequest: no number, negative, or above `TIMEOUT_SECONDS_MAX`.
    """
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 <= value <= TIMEOUT_SECONDS_MAX
    ):
        raise _invalid(field, value, f"from 0 to {TIMEOUT_SECONDS_MAX:.0f} seconds")


def check_sequence(value: object, field: str) -> None:
    """The number of a posting of an account; 0 where none is meant.

    Raises:
        InvalidRequest: negative, or above `SEQUENCE_MAX`.
    """
    _check_number(value, field, 0, SEQUENCE_MAX)


def check_page_items(value: object, field: str = "limit") -> None:
    """Check how many items a reply shall have; 0 where the caller doesn't mind.

    Raises:
        InvalidRequest: negative, or above `PAGE_ITEMS_MAX`.
    """
    _check_number(value, field, 0, PAGE_ITEMS_MAX)


def check_bucket_id(value: object, field: str = "bucket") -> None:
    """A bucket's number.

    Raises:
        InvalidRequest: not from 1 to `BUCKET_ID_MAX`.
    """
    _check_number(value, field, 1, BUCKET_ID_MAX)


def check_node_id(value: object, field: str = "node") -> None:
    """A node's number.

    Raises:
        InvalidRequest: not from 1 to `NODE_ID_MAX`.
    """
    _check_number(value, field, 1, NODE_ID_MAX)


def check_node_address(value: str, field: str = "address") -> None:
    """Check where a node's peer transport listens.

    Raises:
        InvalidRequest: not "host:port", too long, or with characters that aren't printable ASCII.
    """
    _check_ascii(value, field, 1, NODE_ADDRESS_CHARACTERS_MAX)
    try:
        split_address(value)
    except ValueError as error:
        raise _invalid(field, value, str(error)) from None


def check_node_roles(value: tuple[str, ...], field: str = "roles") -> None:
    """Check what runs on a node; which roles there are is `mas.config`'s.

    Raises:
        InvalidRequest: none, too many, or one that is empty, too long, or not printable ASCII.
    """
    if not 1 <= len(value) <= NODE_ROLES_MAX:
        raise _invalid(field, len(value), f"1 to {NODE_ROLES_MAX} of them")
    for role in value:
        _check_ascii(role, field, 1, NODE_ROLE_CHARACTERS_MAX)


def check_node_host(value: str, field: str = "host") -> None:
    """The label of the machine that a node runs on; may be empty.

    Raises:
        InvalidRequest: too long, or with characters that aren't printable ASCII.
    """
    _check_ascii(value, field, 0, NODE_HOST_CHARACTERS_MAX)


def check_node_store(value: bytes, field: str = "store") -> None:
    """Check what a node's data directory drew at its first start; empty where nobody knows it.

    Raises:
        InvalidRequest: of another length.
    """
    if len(value) not in (0, NODE_STORE_BYTES):
        raise _invalid(field, f"{len(value)} bytes", f"{NODE_STORE_BYTES} bytes, or none")


def check_message_size(size: int, field: str = "message") -> None:
    """The bytes of a message from outside.

    Raises:
        InvalidRequest: above `MESSAGE_BYTES_MAX`.
    """
    if size > MESSAGE_BYTES_MAX:
        raise _invalid(field, size, f"at most {MESSAGE_BYTES_MAX} bytes: send several")


def shorten(value: object) -> str:
    """A value as an error message shows it: quoted, nothing unprintable, and never long."""
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS_MAX:
        return f"{value[:_SHOWN_CHARACTERS_MAX]!r}... ({len(value)} characters)"
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, int) and value.bit_length() > 128:
        return f"of {value.bit_length()} bits"
    shown = ascii(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS_MAX else f"{shown[:_SHOWN_CHARACTERS_MAX]}..."


def _check_number(value: object, field: str, least: int, most: int, unit: str = "") -> None:
    if type(value) is not int or not least <= value <= most:
        raise _invalid(field, value, f"from {least} to {most}{unit}")


def clip(text: str) -> str:
    """A text of somebody else's, such as a library's or a peer's error, as a log line may hold it: never long."""
    if len(text) <= _CLIPPED_CHARACTERS_MAX:
        return text
    return f"{text[:_CLIPPED_CHARACTERS_MAX]}... ({len(text)} characters)"


def _check_text(value: object, field: str, least: int, most: int) -> str:
    if not isinstance(value, str):
        raise _invalid(field, value, "a text")
    if not least <= len(value) <= most:
        raise _invalid(field, value, f"{least} to {most} characters")
    if value.isascii() and value.isprintable():
        return value
    for character in value:
        # Not printable: control and format characters, line ends, lone surrogates, and any blank but " ".
        if not character.isprintable() or character in _UNSEEN:
            raise _invalid(field, value, f"printable characters only, not {_named(character)}")
    composed = unicodedata.normalize("NFC", value)
    if composed != value:
        place = next(
            place
            for place, (wanted, given) in enumerate(zip(composed, value, strict=False))
            if wanted != given
        )
        raise _invalid(
            field,
            value,
            f"{_named(composed[place])} as its character {place + 1}: composed, as in Unicode's form NFC",
        )
    return value


def _check_ascii(value: str, field: str, least: int, most: int) -> None:
    """For what the ledger checks: which other characters can be printed depends on Python's release."""
    if not value.isascii():
        raise _invalid(field, value, "ASCII characters only")
    _check_text(value, field, least, most)


def _named(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def _invalid(field: str, value: object, expected: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {shorten(value)} is not allowed: expected {expected}")
