"""What the tests of the edges stand on: a certificate, a coordinator of paper, and a real server over TLS."""

import asyncio
import datetime as dt
import ipaddress
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mas.api import AccountServicer, ApiServer, Authenticator, Role, ServerTls, Shares, TokenIssuer
from mas.api.server import CONNECTIONS_MAX, Service
from mas.config import SharesConfig
from mas.ledger.instructions import AccountState, Answer, Code, Kind, Reason, SetAccount
from mas.rpc.messages import AccountView, BucketView, PostingView, ReadLevel
from mas.runtime import SystemClock, SystemDice
from mas.transaction.outcome import PaymentRequest, PaymentResult, Status, payment_id_of

SECRET = b"a secret of at least thirty-two bytes"
START_US = 1_800_000_000_000_000


class HandClock:
    """A clock that the test moves."""

    def __init__(self, now_us: int = START_US) -> None:
        self.now = now_us

    def monotonic(self) -> float:
        return self.now / 1e6

    def now_us(self) -> int:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += int(seconds * 1e6)


Decision = Callable[[PaymentRequest], PaymentResult | None]


def commit(request: PaymentRequest) -> PaymentResult:
    return PaymentResult(
        Status.COMMITTED, payment_id_of(request), time_us=START_US, account_bucket=1
    )


class FakeCoordinator:
    """Answers on a later turn with what `decide` says; None leaves the caller waiting until `settle`."""

    def __init__(self, decide: Decision = commit) -> None:
        self.decide = decide
        self.queries = self
        self.reads = FakeReads(self)
        self.batches: list[list[PaymentRequest]] = []
        self.callers: list[str] = []
        """Whose each batch is."""
        self.waiting: list[tuple[PaymentRequest, int, Callable[[int, PaymentResult], None]]] = []
        self.overloaded: Exception | None = None
        self.accounts: dict[str, AccountView] = {}
        self.postings: dict[str, list[PostingView]] = {}
        self.records: dict[tuple[bytes, Kind, str], PaymentResult] = {}
        self.changes: list[SetAccount] = []
        self.answer = Answer(
            Code.DONE, state=AccountState(frozen=False, closed=False, overdraft_limit=0)
        )
        self.levels: list[ReadLevel] = []
        self.arrived = asyncio.Event()

    @property
    def requests(self) -> list[PaymentRequest]:
        return [request for batch in self.batches for request in batch]

    def submit(
        self,
        caller: str,
        requests: Sequence[PaymentRequest],
        on_result: Callable[[int, PaymentResult], None],
    ) -> None:
        if self.overloaded is not None:
            raise self.overloaded
        self.callers.append(caller)
        self.batches.append(list(requests))
        self.arrived.set()
        asyncio.get_running_loop().call_soon(self._answer, list(requests), on_result)

    def _answer(
        self, requests: list[PaymentRequest], on_result: Callable[[int, PaymentResult], None]
    ) -> None:
        for position, request in enumerate(requests):
            result = self.decide(request)
            if result is None:
                self.waiting.append((request, position, on_result))
            else:
                on_result(position, result)

    def settle(self, decide: Decision = commit) -> None:
        waiting, self.waiting = self.waiting, []
        for request, position, on_result in waiting:
            result = decide(request)
            assert result is not None
            on_result(position, result)

    async def read_accounts(
        self, numbers: Sequence[str], level: ReadLevel, timeout: float
    ) -> list[AccountView | None]:
        self.levels.append(level)
        return [self.accounts.get(number) for number in numbers]

    async def read_payment(
        self, payment_id: bytes, kind: Kind, payer: str, timeout: float
    ) -> PaymentResult | None:
        return self.records.get((payment_id, kind, payer))

    async def cancel(
        self, payment_id: bytes, kind: Kind, payer: str, timeout: float
    ) -> PaymentResult:
        cancelled = PaymentResult(Status.REFUSED, payment_id, Reason.CANCELLED)
        return self.records.setdefault((payment_id, kind, payer), cancelled)

    async def read_postings(
        self, number: str, before: int, limit: int, timeout: float
    ) -> list[PostingView] | None:
        postings = self.postings.get(number)
        if postings is None:
            return None
        return [each for each in postings if not before or each.sequence < before][:limit]

    async def read_bucket(self, bucket: int, replica: int, timeout: float) -> BucketView:
        return BucketView(0, bucket, replica, 2, 9, 9, 8, 1, {"USD": 5}, {"USD": -5}, 0, 1, 2, "ab")

    async def set_account(self, change: SetAccount, timeout: float) -> Answer:
        self.changes.append(change)
        return self.answer

    def replicas(self) -> dict[int, list[int]]:
        return {2: [1, 3], 1: [1, 2]}


class FakeReads:
    """The reads of a `FakeCoordinator`."""

    def __init__(self, coordinator: FakeCoordinator) -> None:
        self._coordinator = coordinator

    async def accounts(
        self, numbers: Sequence[str], level: ReadLevel, timeout: float
    ) -> list[AccountView | None]:
        return await self._coordinator.read_accounts(numbers, level, timeout)

    async def postings(
        self, number: str, before: int, limit: int, timeout: float
    ) -> list[PostingView] | None:
        return await self._coordinator.read_postings(number, before, limit, timeout)

    async def bucket(self, bucket: int, replica: int, timeout: float) -> BucketView:
        return await self._coordinator.read_bucket(bucket, replica, timeout)


def account(number: str, balance: int = 0, currency: str = "USD") -> AccountView:
    return AccountView(number, "1-1-1", currency, balance, 0, 0, False, False, 1, 1, 1)


@cache
def certificate() -> tuple[bytes, bytes]:
    """A self-signed certificate for 127.0.0.1 and localhost, and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mas tests")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def server_tls() -> ServerTls:
    return ServerTls(*certificate())


class Edge:
    """A running AccountService, and what is needed to talk to it."""

    def __init__(
        self,
        coordinator: FakeCoordinator,
        clock: HandClock,
        port: int = 0,
        shares: SharesConfig | None = None,
    ) -> None:
        self.coordinator = coordinator
        self.clock = clock
        self.issuer = TokenIssuer(SECRET, clock=clock)
        self.authenticator = Authenticator(SECRET, clock)
        self.shares = Shares(shares or SharesConfig(), clock)
        self.service = AccountServicer(
            coordinator, coordinator, self.authenticator, self.issuer, self.shares, SystemDice()
        )
        self.server = ApiServer("127.0.0.1", port, [self.service], server_tls(), self.shares, clock)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def token(self, subject: str = "operator:root", role: Role | None = None) -> str:
        return self.issuer.issue(subject, role)

    def channel(self) -> grpc.aio.Channel:
        return secure_channel(self.address)


def secure_channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(certificate()[0]))


def api_server(
    *services: Service, shares: SharesConfig | None = None, connections: int = CONNECTIONS_MAX
) -> ApiServer:
    """A server of these services on a free port."""
    clock = SystemClock()
    counted = Shares(shares or SharesConfig(), clock)
    return ApiServer(
        "127.0.0.1", 0, services, server_tls(), counted, clock, connections=connections
    )


@asynccontextmanager
async def serving(
    coordinator: FakeCoordinator | None = None,
    port: int = 0,
    shares: SharesConfig | None = None,
) -> AsyncIterator[Edge]:
    edge = Edge(coordinator or FakeCoordinator(), HandClock(), port, shares)
    await edge.server.start()
    try:
        yield edge
    finally:
        await edge.server.stop(0)
