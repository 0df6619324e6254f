"""The gRPC edge: who is calling, whether they may, what they want; everything else is done below."""

from mas.api.accounts import AccountServicer
from mas.api.auth import Authenticator, ClusterSecret
from mas.api.locks import LockServicer
from mas.api.node import NodeServicer
from mas.api.ports import NodeView
from mas.api.server import ApiServer, ServerTls
from mas.api.shares import Shares
from mas.api.tokens import Role, TokenIssuer
from mas.api.transactions import TransactionServicer

__all__ = [
    "AccountServicer",
    "ApiServer",
    "Authenticator",
    "ClusterSecret",
    "LockServicer",
    "NodeServicer",
    "NodeView",
    "Role",
    "ServerTls",
    "Shares",
    "TokenIssuer",
    "TransactionServicer",
]
