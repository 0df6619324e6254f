"""What a bucket's rows add up to: kept up to date by what each write set changes, and counted anew to check that."""

from collections.abc import Collection, Iterable, Mapping
from typing import Self

import msgspec

from mas.ledger.instructions import EXTERNAL, Code
from mas.ledger.rows import Account, Posting, Record

_EXTERNAL_PREFIX = EXTERNAL + "/"


class Totals(msgspec.Struct):
    """A bucket's sums and counts as of an applied index. Amounts in minor units."""

    applied: int = 0
    balances: dict[str, int] = {}
    """By currency, of all accounts but @external."""
    external: dict[str, int] = {}
    """By currency, of the bucket's @external accounts."""
    accounts: int = 0
    """@external apart."""
    records: int = 0
    """Records with the outcome COMMITTED."""
    postings: int = 0

    def copy(self) -> Self:
        """A copy to go on from."""
        return type(self)(
            self.applied,
            dict(self.balances),
            dict(self.external),
            self.accounts,
            self.records,
            self.postings,
        )

    def add_account(self, account: Account, balance: int) -> None:
        """Count an account's row, with this much of its balance: the rest is added by its postings."""
        if not account.number.startswith(_EXTERNAL_PREFIX):
            self.accounts += 1
        self._add_balance(account, balance)

    def add_records(self, records: Iterable[Record]) -> None:
        """Count records' rows. A COMMITTED record is written once."""
        self.records += sum(record.outcome is Code.COMMITTED for record in records)

    def add_postings(self, postings: Collection[Posting], accounts: Mapping[str, Account]) -> None:
        """Count postings, and what they change: nothing else changes a balance. `accounts` has those posted to."""
        for posting in postings:
            account = accounts[posting.account]
            into = self.external if account.number[0] == EXTERNAL[0] else self.balances
            into[account.currency] = into.get(account.currency, 0) + posting.amount
        self.postings += len(postings)

    def _add_balance(self, account: Account, amount: int) -> None:
        into = self.external if account.number.startswith(_EXTERNAL_PREFIX) else self.balances
        into[account.currency] = into.get(account.currency, 0) + amount
