"""The AccountDB's tables, and the statements over them, in SQLite's dialect.

A row is one text under its key (see `account_db_rows`). What people and totals read of it are views: `accounts`,
`payments`, and `posting` over the chunks. (Generated columns would read as well; they are computed at every update, and
double its cost: measured.)
"""

import msgspec

from mas.ledger.instructions import Code
from mas.ledger.rows import Account, BucketRow, Posting, Record
from mas.storage.account_db_rows import JUMP, Table

SCHEMA_VERSION = 3


def _columns(row: type[msgspec.Struct], *fields: str) -> str:
    return ", ".join(f"{_field(row, field, 'data')} AS {field}" for field in fields)


def _field(row: type[msgspec.Struct], field: str, of: str) -> str:
    return f"{of} ->> '$[{row.__struct_fields__.index(field)}]'"


_ACCOUNT = _columns(
    Account,
    *(
        "id",
        "currency",
        "balance",
        "debits_pending",
        "credits_pending",
        "overdraft_limit",
        "frozen",
        "closed",
    ),
    *("version", "sequence", "chunk", "chunk64"),
)
_PAYMENT = _columns(
    Record, "outcome", "body", "reason", "attempt", "xid", "time_us", "account_bucket", "detail"
)
_POSTING = ", ".join(
    f"{_field(Posting, field, 'line.value')} AS {name}"
    for field, name in (
        ("account", "number"),
        ("sequence", "sequence"),
        ("payment_id", "payment_id"),
        ("amount", "amount"),
        ("balance", "balance"),
        ("time_us", "time_us"),
        ("counterparty", "counterparty"),
        ("reference", "reference"),
    )
)

CREATE = (
    """
    CREATE TABLE bucket (
        bucket INTEGER PRIMARY KEY, applied INTEGER NOT NULL, term INTEGER NOT NULL, state_hash TEXT NOT NULL,
        version INTEGER NOT NULL, cluster TEXT NOT NULL, buckets INTEGER NOT NULL, epoch INTEGER NOT NULL,
        time_us INTEGER NOT NULL, members BLOB NOT NULL, nodes TEXT NOT NULL, nodes_index INTEGER NOT NULL,
        writer BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE account (
        bucket INTEGER NOT NULL, number TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (bucket, number)
    ) WITHOUT ROWID
    """,
    # With a rowid: an insert at a random key costs half of what it costs in a table ordered by that key (measured).
    """
    CREATE TABLE payment (
        bucket INTEGER NOT NULL, payment_id TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (bucket, payment_id)
    )
    """,
    """
    CREATE TABLE leg (
        bucket INTEGER NOT NULL, xid TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (bucket, xid)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE claim (
        bucket INTEGER NOT NULL, number TEXT NOT NULL, data INTEGER NOT NULL, PRIMARY KEY (bucket, number)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE incarnation (
        bucket INTEGER NOT NULL, incarnation TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (bucket, incarnation)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE chunk (
        bucket INTEGER NOT NULL, chunk INTEGER NOT NULL, postings INTEGER NOT NULL, data TEXT NOT NULL,
        PRIMARY KEY (bucket, chunk)
    )
    """,
    f"CREATE VIEW accounts AS SELECT bucket, number, {_ACCOUNT} FROM account",  # noqa: S608 - our own names
    f"CREATE VIEW payments AS SELECT bucket, payment_id, {_PAYMENT} FROM payment",  # noqa: S608
    f"""
    CREATE VIEW posting AS SELECT chunk.bucket, {_POSTING}
    FROM chunk, json_each(chunk.data) AS page, json_each(page.value, '$[2]') AS line
    """,  # noqa: S608
    "CREATE TABLE identity (schema INTEGER NOT NULL, cluster TEXT NOT NULL, node INTEGER NOT NULL)",
)

KEYS = {
    Table.ACCOUNT: "number",
    Table.PAYMENT: "payment_id",
    Table.LEG: "xid",
    Table.CLAIM: "number",
    Table.INCARNATION: "incarnation",
    Table.CHUNK: "chunk",
}

# -- writing: one statement for many rows, taken apart in the database ----------------------------

UPSERT: dict[Table, str] = {
    table: f"""
    INSERT INTO {table.name.lower()} (bucket, {key}, data) SELECT :bucket, key, value FROM json_each(:rows) WHERE true
    ON CONFLICT (bucket, {key}) DO UPDATE SET data = excluded.data
    """  # noqa: S608 - our own names
    for table, key in KEYS.items()
    if table is not Table.CHUNK
}
INSERT_CHUNK = "INSERT INTO chunk (bucket, chunk, postings, data) VALUES (?, ?, ?, ?)"
INSERT_CHUNKS = """
    INSERT INTO chunk (bucket, chunk, postings, data)
    SELECT :bucket, CAST(part.key AS INTEGER),
           (SELECT sum(json_array_length(page.value, '$[2]')) FROM json_each(part.value) AS page), part.value
    FROM json_each(:rows) AS part
"""
DELETE_LEGS = "DELETE FROM leg WHERE bucket = ? AND xid IN (SELECT value FROM json_each(?))"

BUCKET_FIELDS = BucketRow.__struct_fields__[1:]
_BUCKET_COLUMNS = ", ".join(BUCKET_FIELDS)
_NEW_BUCKET = ", ".join(f":{field}" for field in BUCKET_FIELDS)
SELECT_BUCKET = f"SELECT {_BUCKET_COLUMNS} FROM bucket WHERE bucket = ?"  # noqa: S608
INSERT_BUCKET = f"""
    INSERT INTO bucket (bucket, {_BUCKET_COLUMNS}, writer) VALUES (:bucket, {_NEW_BUCKET}, :writer)
"""  # noqa: S608
ADVANCE_BUCKET = f"""
    UPDATE bucket SET ({_BUCKET_COLUMNS}) = ({_NEW_BUCKET})
    WHERE bucket = :bucket AND applied = :before AND writer = :writer
"""  # noqa: S608
SELECT_WRITER = "SELECT applied, writer FROM bucket WHERE bucket = ?"
TAKE_BUCKET = "UPDATE bucket SET writer = ? WHERE bucket = ?"

# -- reading: one row for many, or each would cost an interpreter's turn --------------------------

LOAD = """
    SELECT
      (SELECT applied FROM bucket WHERE bucket = :bucket),
      (SELECT group_concat(data) FROM account
       WHERE bucket = :bucket AND number IN (SELECT value FROM json_each(:accounts))),
      (SELECT group_concat(data) FROM payment
       WHERE bucket = :bucket AND payment_id IN (SELECT value FROM json_each(:records))),
      (SELECT json_group_object(number, data) FROM claim
       WHERE bucket = :bucket AND number IN (SELECT value FROM json_each(:claims)))
"""
KEPT = """
    SELECT
      (SELECT group_concat(data) FROM (SELECT data FROM leg WHERE bucket = :bucket ORDER BY xid)),
      (SELECT group_concat(data) FROM (SELECT data FROM incarnation WHERE bucket = :bucket ORDER BY incarnation))
"""
PAYMENT_IDS = """
    SELECT json_group_array(payment_id) FROM (
        SELECT payment_id FROM payment WHERE bucket = ? AND payment_id > ? ORDER BY payment_id LIMIT ?
    )
"""
# Balances are summed in two halves: the sum of two of the greatest has no room in 64 bits.
ACCOUNT_TOTALS = """
    SELECT currency, number LIKE '@external/%', sum(balance >> 32), sum(balance & 0xFFFFFFFF), count(*)
    FROM accounts WHERE bucket = ? GROUP BY 1, 2 ORDER BY 1, 2
"""
OTHER_TOTALS = f"""
    SELECT
      (SELECT applied FROM bucket WHERE bucket = :bucket),
      (SELECT count(*) FROM payments WHERE bucket = :bucket AND outcome = {Code.COMMITTED.value}),
      (SELECT coalesce(sum(postings), 0) FROM chunk WHERE bucket = :bucket)
"""  # noqa: S608

# From the account's last chunk backwards, jumping from 64th to 64th while the page is further back, until the page is
# full. `first` is the least sequence number seen; a chunk holds an account's postings without a gap.
POSTINGS = f"""
    WITH RECURSIVE walk (previous, previous64, first, found, lines) AS (
      SELECT chunk, chunk64, sequence + 1, 0, NULL FROM accounts WHERE bucket = :bucket AND number = :number
      UNION ALL
      SELECT page.value ->> '$[0]', page.value ->> '$[1]', page.value ->> '$[2][0][1]',
             walk.found
               + max(0, min(:last, page.value ->> '$[2][#-1][1]') - (page.value ->> '$[2][0][1]') + 1),
             page.value -> '$[2]'
      FROM walk
      CROSS JOIN chunk
        ON chunk.bucket = :bucket
        AND chunk.chunk = iif(:last <= (walk.first - 1) / {JUMP} * {JUMP}, walk.previous64, walk.previous)
      CROSS JOIN json_each(chunk.data) AS page
        ON page.key = :number
      WHERE walk.found < :limit
    )
    SELECT
      (SELECT applied FROM bucket WHERE bucket = :bucket),
      (SELECT group_concat(lines) FROM walk WHERE found > 0)
"""  # noqa: S608


def _quoted(table: Table) -> str:
    return "'\"' || k || '\"'" if table is Table.CHUNK else "json_quote(k)"


# A page of a table as one JSON object, and its last key.
EXPORT = {
    table: f"""
    SELECT '{{' || group_concat({_quoted(table)} || ':' || data) || '}}', max(k)
    FROM (SELECT {key} AS k, data FROM {table.name.lower()} WHERE bucket = ? AND {key} > ? ORDER BY {key} LIMIT ?)
    """  # noqa: S608
    for table, key in KEYS.items()
}
