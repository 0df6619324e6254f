"""The async client library: `async with Client(address, token=..., ca=...) as client`."""

from mas.client.client import Client
from mas.client.profile import Profile
from mas.client.receipt import NewAccount, Payment, Receipt

__all__ = ["Client", "NewAccount", "Payment", "Profile", "Receipt"]
