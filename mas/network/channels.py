"""What the frames between nodes are for, and how every gRPC port of MAS is set."""

from enum import IntEnum

from mas import limits


class Channel(IntEnum):
    """Which room of the receiving node a frame is for."""

    RAFT = 1
    REQUEST = 2
    """Requests to a resource manager (`mas.transaction.messages.Request`)."""
    REPLY = 3
    """Their replies, back to whoever asked."""
    SNAPSHOT = 4
    LOCKS = 5


GrpcOptions = list[tuple[str, int]]

_KEEPALIVE_MS = 20_000
_KEEPALIVE_TIMEOUT_MS = 10_000
_PING_INTERVAL_MIN_MS = 5_000


def grpc_channel_options() -> GrpcOptions:
    """The options of a client's channel: how large a message may be, and how a dead server is noticed."""
    return [
        ("grpc.max_send_message_length", limits.MESSAGE_BYTES_MAX),
        ("grpc.max_receive_message_length", limits.MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # A quiet stream goes on being pinged.
        ("grpc.http2.max_pings_without_data", 0),
    ]


def grpc_server_options(*, share_port: bool = False) -> GrpcOptions:
    """The options of a server. With `share_port` several processes may listen on one port.

    gRPC's own default shares it: an occupied port would be taken silently.
    """
    return [
        *grpc_channel_options(),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_MIN_MS),
        ("grpc.so_reuseport", int(share_port)),
    ]
