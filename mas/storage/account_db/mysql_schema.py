"""The AccountDB's tables in MySQL and MariaDB, how they came about, and what people may read of them.

    mas_schema         the version of the tables, and the cluster and node that they are of
    bucket             a bucket's own row, with its applied index, its writer, and what its rows add up to
    account_row        an `Account`, as JSON
    payment_row        a `Record` with an outcome, as JSON, in the order in which flushes bring them
    undecided_row      a `Record` without one, which may still change
    leg_row  claim_row  incarnation_row
    chunk_row          postings, as JSON: see `rows.py`

A key is compared byte by byte; a collation would hold "a" and "a " for one. `account`, `payment` and `posting` are views.

Payments arrive at random keys, and a tree in their order would cost a page each. So their rows are appended, and only an
index is in the order of the keys, a new one for every million payments of a bucket: the one that grows fits in memory.
"""

from mas.ledger.instructions import Body, Code
from mas.ledger.rows import Account, Posting, Record

_PARTITIONS = 64
_PAYMENTS_PER_PARTITION = 1_000_000
_POSTING_FIELDS = Posting.__struct_fields__
_KEY = "VARBINARY(700) NOT NULL"
"""InnoDB's indexes take 767 bytes in any row format."""


def _field(row: type[Account] | type[Record] | type[Body], name: str, inside: str = "$") -> str:
    return f"JSON_VALUE(data, '{inside}[{row.__struct_fields__.index(name)}]')"


def _fields(row: type[Account] | type[Record], *names: str) -> str:
    return ", ".join(f"{_field(row, name)} AS {name}" for name in names)


_BODY = f"$[{Record.__struct_fields__.index('body')}]"
_OUTCOME = " ".join(f"WHEN {code.value} THEN '{code.name}'" for code in Code)
_LINE = ", ".join(
    f"{name} {'BIGINT' if name in ('sequence', 'amount', 'balance', 'time_us') else 'TEXT'} PATH '$[0][{place}]'"
    for place, name in enumerate(_POSTING_FIELDS)
)

_TABLES = (
    """CREATE TABLE bucket (
        bucket INT UNSIGNED NOT NULL PRIMARY KEY, applied BIGINT UNSIGNED NOT NULL, writer VARBINARY(64) NOT NULL,
        payments_end BIGINT UNSIGNED NOT NULL, head LONGBLOB NOT NULL)""",
    *(
        f"CREATE TABLE {name} (bucket INT UNSIGNED NOT NULL, {key} {kind}, data LONG{data} NOT NULL, PRIMARY KEY (bucket, {key}))"
        for name, key, kind, data in (
            ("account_row", "number", _KEY, "TEXT"),
            ("undecided_row", "payment_id", "BINARY(16) NOT NULL", "TEXT"),
            ("leg_row", "xid", _KEY, "BLOB"),
            ("claim_row", "number", _KEY, "BLOB"),
            ("incarnation_row", "incarnation", _KEY, "BLOB"),
            ("chunk_row", "chunk", "BIGINT UNSIGNED NOT NULL", "TEXT"),
        )
    ),
    f"""CREATE TABLE payment_row (
        bucket INT UNSIGNED NOT NULL, place BIGINT UNSIGNED NOT NULL, payment_id BINARY(16) NOT NULL,
        data LONGTEXT NOT NULL, PRIMARY KEY (bucket, place), KEY (bucket, payment_id))
        PARTITION BY RANGE (place) ({
        ", ".join(
            f"PARTITION p{number} VALUES LESS THAN ({number * _PAYMENTS_PER_PARTITION})"
            for number in range(1, _PARTITIONS)
        )
    }, PARTITION rest VALUES LESS THAN MAXVALUE)""",
)
_VIEWS = (
    f"""CREATE VIEW account AS SELECT bucket, CONVERT(number USING utf8mb4) AS number, {
        _fields(
            Account,
            *("id", "currency", "balance", "debits_pending", "credits_pending", "overdraft_limit"),
            *("frozen", "closed", "version", "sequence"),
        )
    } FROM account_row""",
    f"""CREATE VIEW payment AS SELECT bucket, LOWER(HEX(payment_id)) AS payment_id,
        CASE {_field(Record, "outcome")} {_OUTCOME} END AS outcome, {_field(Body, "currency", _BODY)} AS currency,
        JSON_EXTRACT(data, '{_BODY}[{Body.__struct_fields__.index("legs")}]') AS legs,
        {_field(Body, "reference", _BODY)} AS reference, {_fields(Record, "time_us", "attempt", "detail")}
        FROM payment_row""",
    f"""CREATE VIEW posting AS SELECT bucket, line.account, line.sequence,
        LOWER(HEX(FROM_BASE64(line.payment_id))) AS payment_id, line.amount, line.balance, line.time_us,
        line.counterparty, line.reference FROM chunk_row,
        JSON_TABLE(chunk_row.data, '$[*]' COLUMNS ({_LINE})) AS line""",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = ((*_TABLES, *_VIEWS),)
"""What makes the tables of version 1, what makes those of version 2 of them, and so on."""

ROWS = (
    *("account_row", "payment_row", "undecided_row", "leg_row", "claim_row", "incarnation_row"),
    "chunk_row",
)
"""The tables that hold a bucket's rows beside its own."""
