"""A gRPC server on one port: TLS, health, reflection, limits, and an end that leaves nobody without an answer."""

from collections.abc import Sequence
from typing import Protocol

import grpc
import msgspec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mas.addresses import join_address
from mas.api.door import Door, Known
from mas.api.shares import Shares
from mas.errors import ConfigError
from mas.limits import MESSAGE_BYTES_MAX
from mas.runtime import Clock

CONCURRENT_CALLS_MAX = 4_096
"""Of all callers: far above what one may hold (`mas.api.shares`)."""
CONCURRENT_STREAMS_PER_CONNECTION_MAX = 1_024

CONNECTIONS_MAX = 1_024

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    # With gRPC's default a port that is in use is shared silently.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_concurrent_streams", CONCURRENT_STREAMS_PER_CONNECTION_MAX),
    # Notice clients that have gone without a word, and let them ask likewise.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Hang up on callers that never get to HTTP/2 (gRPC gives them two minutes), and on those that ask nothing: a
    # client dials again by itself. gRPC can't count connections by address; see `connections` for all of them.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 60_000),
)


class ServerTls(msgspec.Struct, frozen=True):
    """What a server shows, in PEM."""

    certificate: bytes
    """Its own, then those between it and the root."""
    private_key: bytes
    client_ca: bytes = b""
    """Set: clients show a certificate too, signed by this one."""


class Service(Known, Protocol):
    """What a server serves."""

    public: bool
    """It is for clients: anybody may ask which methods there are."""

    def register(self, server: grpc.aio.Server) -> None:
        """Serve on this server."""

    def drain(self) -> None:
        """Begin nothing more."""


class ApiServer:
    """Serves some services on one address. `tls` None is plaintext, for a loopback alone.

    `shares` may be those of other servers of the same process too.
    """

    def __init__(
        self,
        host: str,
        port: int,
        services: Sequence[Service],
        tls: ServerTls | None,
        shares: Shares,
        clock: Clock,
        *,
        connections: int = CONNECTIONS_MAX,
    ) -> None:
        """`connections`: at a time; gRPC hangs up on whoever comes beyond."""
        self._host = host
        self._port = port
        self._services = services
        self._tls = tls
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # unknown to the published types
        self._server = grpc.aio.server(
            interceptors=[Door(services, shares, clock)],
            options=(*SERVER_OPTIONS, ("grpc.max_allowed_incoming_connections", connections)),
            maximum_concurrent_rpcs=CONCURRENT_CALLS_MAX,
        )
        for service in services:
            service.register(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if all(service.public for service in services):
            names = [service.name for service in services]
            reflection.enable_server_reflection(
                (*names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
            )

    @property
    def port(self) -> int:
        """The port that it listens on; after `start`, never 0."""
        return self._port

    async def start(self) -> None:
        """Listen, and say so to health checks.

        Raises:
            ConfigError: the port is in use, or the address or a certificate can't be used.
        """
        self._port = self._bind()
        await self._server.start()
        for name in ("", *(service.name for service in self._services)):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls; those under way have this long to end. Idempotent."""
        await self._health.enter_graceful_shutdown()
        for service in self._services:
            service.drain()
        await self._server.stop(grace_seconds)

    def _bind(self) -> int:
        address = join_address(self._host, self._port)
        try:
            if self._tls is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, _credentials(self._tls))
        except RuntimeError as error:
            raise ConfigError(
                f"can't listen on {address} ({', '.join(s.name for s in self._services)}): "
                "the port is in use by another program, or the address or certificate is wrong; "
                "stop that program, or choose another port in [listen]"
            ) from error


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.private_key, tls.certificate)],
        root_certificates=tls.client_ca or None,
        require_client_auth=bool(tls.client_ca),
    )
