"""What an instruction has to look like before a rule reads it (rule 16, admission).

A coordinator sends what it likes, and what is in the log is applied by every replica: so a field that a digest, the filter or
the database would choke on, or that no rule would miss where it is wrong, is looked at here, the same way everywhere. What
is wrong is named, and the instruction is FAILED; nothing of it has been done.

Types are the decoder's business. What a rule judges anyway isn't looked at here: an account that isn't there, an amount
that there is no room for. So only what names a new account is looked at to the last character. Which characters can
be printed depends on Python's release, and the edge judges that; here those are refused that a database could take for
the end of a text.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from mas.ids import COUNTER_MAX, INCARNATION_BYTES, PAYMENT_ID_BYTES, XID_BYTES
from mas.ledger.instructions import (
    EXTERNAL,
    Abort,
    Batch,
    CloseIncarnation,
    Commit,
    Decide,
    Genesis,
    Kind,
    Legs,
    Mark,
    Prepare,
    QueryRecord,
    RecordRefusal,
    RegisterNode,
    Resolve,
    RetireNode,
    SetAccount,
    TakeEpoch,
    Token,
    Unmark,
    payer,
)
from mas.limits import (
    ACCOUNT_NUMBER_CHARACTERS_MAX,
    BALANCE_MAX,
    BUCKET_ID_MAX,
    CLUSTER_ID_CHARACTERS_MAX,
    REFERENCE_CHARACTERS_MAX,
)

BEYOND_ALL = COUNTER_MAX + 1
"""The low-water mark of an incarnation that is closed: the greatest that there is."""
TIME_MAX = (1 << 63) - 1
"""Microseconds since the epoch."""

_ATTEMPT_MAX = 1 << 32
_TOKEN_PART_MAX = (1 << 63) - 1
_DETAIL_CHARACTERS_MAX = 1_000

_find_control = re.compile(r"[\x00-\x1f\x7f]").search
_CREATION = Kind.CREATION


def wrong_in_batch(batch: Batch) -> str:
    """The field of a batch that isn't what it has to be, empty if all are."""
    if batch.incarnation and len(batch.incarnation) != INCARNATION_BYTES:
        return "incarnation"
    if not 0 <= batch.low_water <= BEYOND_ALL:
        return "low_water"
    return ""


def wrong_field(instruction: object, buckets: int) -> str:
    """The field of an instruction that isn't what it has to be, empty if all are.

    `buckets` is how many the cluster was created with; 0 where this bucket's first entry hasn't said so yet.
    """
    return _LOOKS[type(instruction)](instruction, buckets or BUCKET_ID_MAX)


def _in_prepare(prepare: Prepare, buckets: int) -> str:
    if not 1 <= prepare.anchor <= buckets:
        return "anchor"
    if not _are_within(prepare.participants, 1, buckets):
        return "participants"
    if len(prepare.reference) > REFERENCE_CHARACTERS_MAX:
        return "reference"
    if prepare.tokens and (wrong := _in_tokens(prepare.tokens, len(prepare.legs))):
        return wrong
    if prepare.kind is _CREATION and (wrong := _in_creation(prepare.legs, prepare.overdraft_limit)):
        return wrong
    return _in_attempt(prepare)


def _in_decide(decide: Decide, buckets: int) -> str:
    body, own = decide.body, decide.own
    if not _are_within(own, 0, len(body.legs) - 1) or (len(own) > 1 and len(set(own)) < len(own)):
        return "own"
    if decide.participants and not _are_within(decide.participants, 1, buckets):
        return "participants"
    if len(body.reference) > REFERENCE_CHARACTERS_MAX:
        return "reference"
    if decide.tokens and (wrong := _in_tokens(decide.tokens, len(own))):
        return wrong
    if body.kind is _CREATION:
        if not 1 <= decide.account_bucket <= buckets:
            return "account_bucket"
        if wrong := _in_creation(body.legs, body.overdraft_limit):
            return wrong
    return _in_attempt(decide)


def _in_record_refusal(record_refusal: RecordRefusal, _: int) -> str:
    if len(record_refusal.payment_id) != PAYMENT_ID_BYTES:
        return "payment_id"
    if not _is_number(record_refusal.payer):
        return "payer"
    if not 0 <= record_refusal.attempt <= _ATTEMPT_MAX:
        return "attempt"
    if len(record_refusal.detail) > _DETAIL_CHARACTERS_MAX:
        return "detail"
    if record_refusal.body is None:
        return ""
    if record_refusal.kind is _CREATION and len(record_refusal.body.legs) != 1:
        return "body"
    return "" if payer(record_refusal.body) == record_refusal.payer else "payer"


def _in_commit(commit: Commit, _: int) -> str:
    if len(commit.xid) != XID_BYTES:
        return "xid"
    return "" if 0 <= commit.time_us <= TIME_MAX else "time"


def _in_abort(abort: Abort, _: int) -> str:
    return "" if len(abort.xid) == XID_BYTES else "xid"


def _in_resolve(resolve: Resolve, _: int) -> str:
    return _in_attempt(resolve)


def _in_query_record(query_record: QueryRecord, _: int) -> str:
    if len(query_record.payment_id) != PAYMENT_ID_BYTES:
        return "payment_id"
    return "payer" if query_record.payer and not _is_number(query_record.payer) else ""


def _in_mark(instruction: Mark | Unmark, _: int) -> str:
    return _in_account(instruction.account) or _in_token(instruction.token)


def _in_set_account(set_account: SetAccount, _: int) -> str:
    if (
        set_account.overdraft_limit is not None
        and not 0 <= set_account.overdraft_limit <= BALANCE_MAX
    ):
        return "overdraft_limit"
    if set_account.change_id and len(set_account.change_id) != PAYMENT_ID_BYTES:
        return "change_id"
    return _in_account(set_account.account) or _in_token(set_account.token)


def _in_close_incarnation(close_incarnation: CloseIncarnation, _: int) -> str:
    return "" if len(close_incarnation.incarnation) == INCARNATION_BYTES else "incarnation"


def _in_genesis(genesis: Genesis, _: int) -> str:
    if not 1 <= len(genesis.cluster) <= CLUSTER_ID_CHARACTERS_MAX:
        return "cluster"
    if not 1 <= genesis.buckets <= BUCKET_ID_MAX:
        return "buckets"
    return "" if 1 <= genesis.bucket <= genesis.buckets else "bucket"


def _nothing(_: object, __: int) -> str:
    """Their rules look at every field."""
    return ""


def _in_attempt(instruction: Prepare | Decide | Resolve) -> str:
    if len(instruction.xid) != XID_BYTES:
        return "xid"
    if len(instruction.payment_id) != PAYMENT_ID_BYTES:
        return "payment_id"
    return "" if 1 <= instruction.attempt <= _ATTEMPT_MAX else "attempt"


def _in_creation(legs: Legs, overdraft_limit: int) -> str:
    if len(legs) != 1:
        return "legs"
    number, opening = legs[0]
    if number == EXTERNAL or not _is_number(number) or opening < 0:
        return "legs"
    return "" if 0 <= overdraft_limit <= BALANCE_MAX else "overdraft_limit"


def _in_tokens(tokens: tuple[Token | None, ...], legs: int) -> str:
    return "tokens" if len(tokens) != legs or any(map(_in_token, tokens)) else ""


def _in_token(token: Token | None) -> str:
    if token is None:
        return ""
    are_small = 0 <= token.epoch <= _TOKEN_PART_MAX and 0 <= token.counter <= _TOKEN_PART_MAX
    return "" if are_small else "token"


def _in_account(number: str) -> str:
    """`@external` has no properties, and no lock keeps it."""
    return "account" if number == EXTERNAL or not _is_number(number) else ""


def _is_number(number: str) -> bool:
    if not 1 <= len(number) <= ACCOUNT_NUMBER_CHARACTERS_MAX:
        return False
    if number[0] == "@":
        return number == EXTERNAL
    # Of ASCII every release of Python says the same.
    return number.isprintable() if number.isascii() else _find_control(number) is None


def _are_within(values: tuple[int, ...], least: int, greatest: int) -> bool:
    for value in values:  # noqa: SIM110 - twice as fast as a generator, and every payment passes here
        if not least <= value <= greatest:
            return False
    return True


def is_currency(currency: str) -> bool:
    """Tell whether `@external` may have an account in it (rule 17, external account)."""
    return len(currency) == 3 and currency.isascii() and currency.isalpha() and currency.isupper()


# `Any`, since the type of an instruction says which of them it goes to.
_LOOKS: Mapping[type, Callable[[Any, int], str]] = {
    Prepare: _in_prepare,
    Decide: _in_decide,
    RecordRefusal: _in_record_refusal,
    Commit: _in_commit,
    Abort: _in_abort,
    Resolve: _in_resolve,
    QueryRecord: _in_query_record,
    Mark: _in_mark,
    Unmark: _in_mark,
    SetAccount: _in_set_account,
    CloseIncarnation: _in_close_incarnation,
    Genesis: _in_genesis,
    TakeEpoch: _nothing,
    RegisterNode: _nothing,
    RetireNode: _nothing,
}
