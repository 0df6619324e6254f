"""The async client library: `async with Client(address, token=..., ca=...) as client`.

Whatever a method takes, returns or raises is exported here, so that a program needs no other import. Operators of the
machines find a client of the node service in `mas.client.operator`.
"""

from mas.client.client import Client
from mas.client.profile import Profile
from mas.client.receipt import NewAccount, Payment, Receipt
from mas.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    MasError,
    NetworkError,
    NotFound,
    NotSupported,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    RequestFailed,
    Unauthenticated,
    Unavailable,
)
from mas.ledger.instructions import AccountState, Kind, Reason
from mas.rpc.messages import AccountView, BucketView, PostingView, ReadLevel
from mas.runtime import Clock, Dice
from mas.transaction.outcome import Status

__all__ = [
    "AccountState",
    "AccountView",
    "BucketView",
    "Client",
    "Clock",
    "ConfigError",
    "DeadlineExceeded",
    "Dice",
    "InvalidRequest",
    "Kind",
    "MasError",
    "NetworkError",
    "NewAccount",
    "NotFound",
    "NotSupported",
    "OutcomeUnknown",
    "Overloaded",
    "Payment",
    "PermissionDenied",
    "PostingView",
    "Profile",
    "ReadLevel",
    "Reason",
    "Receipt",
    "RequestFailed",
    "Status",
    "Unauthenticated",
    "Unavailable",
]
