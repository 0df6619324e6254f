"""What an operator may set, and how it is read from a TOML file.

Every default stands once, in its struct; a file names only what differs. A key that isn't here is refused
by name, so that a misspelt one is never silently the default. Relative paths start where the program does.
"""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from mas.addresses import bare_host, is_loopback, join_address, split_address
from mas.decoding import convert, parse_toml
from mas.errors import ConfigError
from mas.limits import BUCKET_ID_MAX, CLUSTER_ID_CHARACTERS_MAX, NODE_ID_MAX, shorten


class Role(StrEnum):
    """What runs on a node."""

    ALL = "all"
    TM = "tm"
    TC = "tc"
    GLS = "gls"
    RM = "rm"

    @property
    def runs_buckets(self) -> bool:
        """Whether it has a resource manager."""
        return self in (Role.ALL, Role.RM)

    @property
    def runs_coordinator(self) -> bool:
        """Whether it has a coordinator, with the public API."""
        return self in (Role.ALL, Role.TM, Role.TC)

    @property
    def runs_locks(self) -> bool:
        """Whether it serves locks to clients, and may be where the lock service is at work."""
        return self in (Role.ALL, Role.TM, Role.GLS)


NodeId = Annotated[int, msgspec.Meta(ge=1, le=NODE_ID_MAX)]
ClusterId = Annotated[str, msgspec.Meta(min_length=1, max_length=CLUSTER_ID_CHARACTERS_MAX)]
BucketId = Annotated[int, msgspec.Meta(ge=1, le=BUCKET_ID_MAX)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which node this is. `[node]`"""

    id: NodeId = 1
    """Unique in the cluster, and never used again once its node is gone."""
    cluster_id: ClusterId = "mas"
    """Nodes of different clusters refuse each other."""
    role: Role = Role.ALL
    """What runs here: `tm` is coordinator and lock service, `tc` and `gls` one of the two, `rm` the buckets."""
    host: str = ""
    """A label of the machine: two replicas of a bucket are never placed on one. Empty: not known."""
    data_dir: str = "data"
    """Everything that this node stores."""
    secret_file: str = ""
    """The cluster's secret, the same on every node. Empty: `cluster.secret` in `data_dir`, made at the first start."""
    address: str = ""
    """Where other nodes find this one's peer transport, "host:port". Empty: `listen.host` and `listen.peer`."""
    join: str = ""
    """A resource manager that joins a cluster there is already: "host:port" of a NodeService. Peers and buckets come from there."""
    hold: tuple[BucketId, ...] = ()
    """With `join`: the buckets to hold a replica of."""


class ListenConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where this node listens; port 0 takes a free one. `[listen]`"""

    host: str = "127.0.0.1"
    """The address of every port below: of IPv4 or IPv6, or a name; "0.0.0.0" and "::" are all of this machine's."""
    api: Port = 9008
    """The public API of a coordinator (TC)."""
    gls: Port = 9009
    """The lock service."""
    node_service: Port = 8008
    """The coordinator's NodeService, for operators."""
    rm: Port = 50041
    """The resource manager's TransactionService, for tools."""
    peer: Port = 12379
    """The peer transport: Raft, and what coordinators and buckets tell each other."""


class PeerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the cluster, this one included. `[[peers]]`"""

    id: NodeId
    """Its `node.id`."""
    address: str
    """Its peer transport, "host:port"."""
    roles: tuple[Role, ...] = (Role.ALL,)
    """What runs there."""


class BucketConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket at the cluster's creation; later changes are the cluster's own state. `[[buckets]]`"""

    id: BucketId
    """From 1 to the number of buckets, without gaps."""
    voters: tuple[NodeId, ...]
    """The nodes that hold its first replicas."""


class RaftConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The pace of consensus. `[raft]`"""

    tick_ms: Count = 100
    """One tick of every group's clock, in milliseconds."""
    heartbeat_tick: Count = 1
    """Ticks between a leader's heartbeats."""
    election_tick: Count = 10
    """Ticks without a leader before a follower stands for election; up to twice that, by chance."""


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Certificates. `[tls]`"""

    enabled: bool = True
    """Off only where nothing but this machine can reach the ports."""
    directory: str = ""
    """Holds ca.crt, node-ID.crt and node-ID.key, as `mas certs` makes them. Empty, for a node that is alone: `tls` in
    `data_dir`, with a CA and a certificate made at the first start."""
    ca_file: str = ""
    """Instead of the directory: who signs the certificates of nodes and clients."""
    cert_file: str = ""
    """Instead of the directory: this node's certificate, with the URI urn:mas:node:ID among its alternative names."""
    key_file: str = ""
    """Instead of the directory: this node's private key."""
    mutual: bool = True
    """Nodes know each other by the cluster's secret, and by certificates, each for one node id, over TLS 1.3; where this is
    off, by the secret alone, and what they say is encrypted and authenticated by AES-256-GCM, with keys of each connection's
    own."""


class JwtConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How clients prove who they are. `[jwt]`"""

    algorithm: Literal["HS256", "RS256", "ES256", "EdDSA"] = "HS256"
    """The only one that is accepted."""
    secret_file: str = ""
    """HS256: the key that signs and verifies. Empty: `jwt.secret` in `data_dir`, made at the first start."""
    public_key_file: str = ""
    """Otherwise: the PEM file that verifies."""
    issuer: str = "mas"
    """The `iss` that a token must have."""
    audience: str = "mas"
    """The `aud` that a token must have."""


class ShareConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What one account may hold of a process at a time by its own token; what is above waits for its own turn, or is
    RESOURCE_EXHAUSTED. `[shares.account]`"""

    calls: Count = 256
    """Calls under way."""
    streams: Count = 16
    """Streams open."""
    receiving: Count = 16
    """Calls whose request is on its way in: each may need 4 MiB. More wait."""
    payments: Count = 256
    """Payments begun whose results the caller hasn't been sent. More wait, and these are what others' payments may wait
    behind in a bucket."""
    statements: Count = 1
    """Statements, and checks of buckets, being read. More wait."""
    refusals_a_day: Count = 10_000
    """Payments refused or cancelled: each leaves a record for ever. They are earned back evenly over a day."""


class OperatorShareConfig(ShareConfig, frozen=True, kw_only=True):
    """The same for each operator, gateway and auditor, and for whoever shows the cluster's secret. `[shares.operator]`"""

    calls: Count = 1_024
    """Calls under way: a front end makes those of many people."""
    payments: Count = 8_192
    """Payments begun whose results it hasn't been sent."""
    statements: Count = 16
    """Statements, and checks of buckets, being read."""
    refusals_a_day: Count = 10_000_000
    """Payments refused or cancelled."""


class StrangerShareConfig(ShareConfig, frozen=True, kw_only=True):
    """The same for each address that shows no token; it can ask for nothing but the server's health and the names of its
    methods. `[shares.stranger]`"""

    calls: Count = 16
    """Calls under way."""
    streams: Count = 8
    """Streams open, watches of the server's health among them."""
    receiving: Count = 4
    """Calls whose request is on its way in."""


class SharesConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a process that serves clients is whose. `[shares]`"""

    strangers: Count = 64
    """Calls and streams of all addresses without a token together."""
    stranger_seconds: Seconds = 30.0
    """How long a call or a stream without a token may last: a watch of the server's health is begun again."""
    stranger: StrangerShareConfig = StrangerShareConfig()
    account: ShareConfig = ShareConfig()
    operator: OperatorShareConfig = OperatorShareConfig()


class StorageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the accounts is kept in memory, and what the stores leave to each other. `[storage]`"""

    database: str = "mas"
    """The name of this node's database."""
    account_db: str = "embedded"
    """Where a resource manager keeps its accounts: `embedded` in `data_dir`, or a MySQL or MariaDB, with a database there
    that is this node's alone, "mysql://user:password@host:port/name"; over TLS with `?ssl_ca=FILE`, its CA."""
    account_db_connections: Count = 8
    """Connections to that database, at most."""
    tm_store: str = "embedded"
    """Where a manager keeps its hints and its clients' locks: `embedded` in `data_dir`, or a Redis that several managers may
    share, "redis://user:password@host:port/number", with "rediss" over TLS and `?ssl_ca=FILE` for its CA."""
    tm_store_connections: Count = 4
    """Connections to that Redis, at most."""
    cache_accounts: Count = 100_000
    """Accounts that a bucket keeps in memory."""
    log_reserve_mb: Annotated[int, msgspec.Meta(ge=0)] = 256
    """MiB of the disk that are the Raft log's alone: where less is left, flushes and snapshots wait, and new payments are
    refused, so that the log, which can't wait, never meets a full disk first."""
    log_write_seconds: Seconds = 20.0
    """A write of the Raft log that hasn't returned for so long ends the process, as one that has failed: the disk hangs."""
    log_margin_entries: Annotated[int, msgspec.Meta(ge=0)] = 10_000
    """Entries that the log keeps behind what the AccountDB has, so that a follower that was away needs no snapshot."""
    log_margin_seconds: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """Seconds of entries that it keeps likewise."""
    flush_backlog_rows_max: Count = 200_000
    """Unflushed rows above which a bucket refuses new work, RESOURCE_EXHAUSTED."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an operator may set."""

    locking: Literal["escrow", "exclusive"] = "escrow"
    """`exclusive` has payments of one account wait for each other; `escrow` lets the ledger's reservations do it."""
    lock_timeout_seconds: Seconds = 10.0
    """The lease of a lock, and the age at which a prepared leg's bucket asks for its outcome (rule 11, the resolver)."""
    read_patience_seconds: Seconds = 0.25
    """How long a payment under way may keep a linearizable read waiting, before its try is ended (rule 30, linearizable
    reads).
    """
    node: NodeConfig = NodeConfig()
    listen: ListenConfig = ListenConfig()
    peers: tuple[PeerConfig, ...] = ()
    """All nodes; empty: this one is alone."""
    buckets: tuple[BucketConfig, ...] = (
        BucketConfig(id=1, voters=(1,)),
        BucketConfig(id=2, voters=(1,)),
    )
    raft: RaftConfig = RaftConfig()
    tls: TlsConfig = TlsConfig()
    jwt: JwtConfig = JwtConfig()
    storage: StorageConfig = StorageConfig()
    shares: SharesConfig = SharesConfig()

    def __post_init__(self) -> None:
        """Refuse what no single field can see is wrong.

        Raises:
            ConfigError: naming the field, what it is and what is expected.
        """
        if self.raft.election_tick <= self.raft.heartbeat_tick:
            raise ConfigError(
                f"raft.election_tick is {self.raft.election_tick}: expected more than "
                f"raft.heartbeat_tick, {self.raft.heartbeat_tick}"
            )
        if self.node.join:
            self._check_join()
        else:
            if self.node.hold:
                raise ConfigError(
                    f"node.hold is {list(self.node.hold)} without node.join: the buckets of a cluster's first nodes are "
                    "those that [[buckets]] say"
                )
            self._check_peers()
            self._check_buckets()
        files = (self.tls.ca_file, self.tls.cert_file, self.tls.key_file)
        if any(files) and (self.tls.directory or not all(files)):
            raise ConfigError(
                "tls: expected `directory`, or all of ca_file, cert_file and key_file"
            )
        if self.jwt.algorithm != "HS256" and not self.jwt.public_key_file:
            raise ConfigError(f"jwt.public_key_file is empty: {self.jwt.algorithm} needs one")

    def address(self) -> str:
        """Return where other nodes find this one's peer transport."""
        return self.node.address or join_address(self.listen.host, self.listen.peer)

    def host(self) -> str:
        """Return the name or IP address by which other nodes are told to find this one."""
        return bare_host(self._told_address().rpartition(":")[0])

    def _told_address(self) -> str:
        own = (peer.address for peer in self.peers if peer.id == self.node.id)
        return next(own, self.address())

    def node_ids(self) -> tuple[int, ...]:
        """Every node of the cluster."""
        return tuple(peer.id for peer in self.peers) or (self.node.id,)

    def lock_node(self) -> int:
        """The node where the cluster's one lock service is at work: the first whose roles include it.

        Raises:
            ConfigError: there is none.
        """
        if not self.peers:
            return self.node.id
        for peer in sorted(self.peers, key=lambda peer: peer.id):
            if any(role.runs_locks for role in peer.roles):
                return peer.id
        raise ConfigError(
            "no node among the peers runs the lock service: expected one with the role gls, tm or all"
        )

    def remarks(self) -> list[str]:
        """List what is allowed, and worth a warning at the start."""
        even = [
            f"bucket {bucket.id} has {len(bucket.voters)} voters: an even number survives "
            "no more failures than one less"
            for bucket in self.buckets
            if len(bucket.voters) % 2 == 0
        ]
        if is_loopback(self.listen.host) and not is_loopback(self.host()):
            even.append(
                f"listen.host is {self.listen.host}, and the others are to find this node at {self._told_address()}: "
                "they can't, name an address of this machine in listen.host"
            )
        return even

    def _check_join(self) -> None:
        if self.node.role is not Role.RM:
            raise ConfigError(
                f'node.join is set, and node.role is {self.node.role.value!r}: expected "rm", the one that can join a running cluster'
            )
        if self.peers:
            raise ConfigError("node.join is set, and so are peers: expected one of the two")
        _check_address("node.join", self.node.join)
        _check_address("node.address", self.address())

    def _check_peers(self) -> None:
        ids = self.node_ids()
        _refuse_twice("peers", ids)
        if self.node.id not in ids:
            raise ConfigError(f"node.id is {self.node.id}: expected one of the peers {list(ids)}")
        for peer in self.peers:
            _check_address(f"the address of peer {peer.id}", peer.address)

    def _check_buckets(self) -> None:
        ids = [bucket.id for bucket in self.buckets]
        if sorted(ids) != list(range(1, len(ids) + 1)) or not ids:
            raise ConfigError(f"buckets have the ids {ids}: expected 1, 2, 3 ... without gaps")
        for bucket in self.buckets:
            _refuse_twice(f"voters of bucket {bucket.id}", bucket.voters)
            unknown = [voter for voter in bucket.voters if voter not in self.node_ids()]
            if unknown or not bucket.voters:
                raise ConfigError(
                    f"bucket {bucket.id} has the voters {list(bucket.voters)}: "
                    f"expected some of the nodes {list(self.node_ids())}"
                )


def load_config(path: Path) -> Config:
    """The configuration in a TOML file.

    Raises:
        ConfigError: the file can't be read, or something in it is wrong.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} can't be read: {error}") from error
    try:
        return parse_config(text)
    except ConfigError as error:
        raise ConfigError(f"configuration {path}: {error}") from error


def parse_config(text: str) -> Config:
    """The configuration in a TOML text.

    Raises:
        ConfigError: no TOML, an unknown key, or a value that isn't allowed.
    """
    tree = parse_toml(text, ConfigError)
    _check_tree(Config, tree, "")
    return convert_config(tree)


def convert_config(tree: dict[str, Any]) -> Config:
    """The configuration in a tree of tables.

    Raises:
        ConfigError: a value isn't allowed.
    """
    return convert(tree, Config, ConfigError)


_ID_DIGITS_MAX = len(str(NODE_ID_MAX))


def parse_ids(what: str, text: str) -> list[int]:
    """The ids in a text like "1,2,3".

    Raises:
        ConfigError: it isn't one.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= _ID_DIGITS_MAX for part in parts):
        raise ConfigError(f"{what} is {shorten(text)}: expected ids like 1,2,3")
    return [int(part) for part in parts]


def format_config(config: Config) -> str:
    """The TOML text that reads back as this configuration."""
    tree: dict[str, Any] = msgspec.to_builtins(config)
    tables = {name: value for name, value in tree.items() if isinstance(value, dict)}
    lists = {name: value for name, value in tree.items() if isinstance(value, list | tuple)}
    lines = _format_pairs({k: v for k, v in tree.items() if k not in tables and k not in lists})
    for name, table in tables.items():
        lines += _format_table(name, table)
    for name, items in lists.items():
        for item in items:
            lines += ["", f"[[{name}]]", *_format_pairs(item)]
    return "\n".join(lines) + "\n"


def _format_table(name: str, table: dict[str, Any]) -> list[str]:
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    pairs = {key: value for key, value in table.items() if key not in inner}
    lines = ["", f"[{name}]", *_format_pairs(pairs)]
    for key, value in inner.items():
        lines += _format_table(f"{name}.{key}", value)
    return lines


def _format_pairs(table: dict[str, Any]) -> list[str]:
    # JSON's strings, numbers, booleans and flat lists are TOML's too.
    return [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in table.items()]


def _check_tree(struct: type[msgspec.Struct], tree: dict[str, Any], path: str) -> None:
    """Refuse unknown keys and words, naming the known ones, which msgspec's messages don't."""
    hints = get_type_hints(struct)
    for key, value in tree.items():
        if key not in hints:
            place = f"[{path}]" if path else "the top level"
            raise ConfigError(f"unknown key {key!r} in {place}: known are {', '.join(hints)}")
        name = f"{path}.{key}" if path else key
        kind = get_args(hints[key])[0] if get_origin(hints[key]) is tuple else hints[key]
        words = _words(kind)
        for item in value if isinstance(value, list) else [value]:
            if words and item not in words:
                raise ConfigError(f"{name} is {item!r}: expected one of {', '.join(words)}")
            if (
                isinstance(item, dict)
                and isinstance(kind, type)
                and issubclass(kind, msgspec.Struct)
            ):
                _check_tree(kind, item, name)


def _words(kind: Any) -> tuple[str, ...]:  # noqa: ANN401 - a type
    """All that a setting may be, where those are words."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return tuple(kind)
    return ()


def _check_address(what: str, address: str) -> None:
    try:
        split_address(address)
    except ValueError as error:
        raise ConfigError(f"{what} is {address!r}: expected {error}") from None


def _refuse_twice(what: str, ids: Iterable[int]) -> None:
    seen: list[int] = []
    for node_id in ids:
        if node_id in seen:
            raise ConfigError(f"{what} name node {node_id} twice")
        seen.append(node_id)
