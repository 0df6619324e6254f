"""Whatever a client may send: bytes of any kind, and messages whose every field is at some extreme."""

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from mas.wire.gen.mas.v1 import account_pb2, lock_pb2, node_pb2, transaction_pb2

METHODS = [
    method
    for module in (account_pb2, lock_pb2, node_pb2, transaction_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]

_TEXTS = st.sampled_from(
    [
        "",
        "alice",
        "bob",
        "@external",
        " a",
        "USD",
        "é",
        "e\u0301",
        "\0",
        "\u202e",
        "x" * 129,
        "y" * 5_000,
    ]
) | st.text(max_size=70)
_BYTES = st.sampled_from(
    [b"", b"i" * 16, b"i" * 15, b"\x93\x00\x00\x90", b"\x91" * 5_000]
) | st.binary(max_size=64)
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return messages(field.message_type)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _BYTES if field.type == FieldDescriptor.TYPE_BYTES else _TEXTS
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    least, most = _RANGES[field.cpp_type]
    likely = st.sampled_from([least, 0, 1, 2, 9, 1_001, most // 2 + 1, most - 1, most])
    return likely | st.integers(least, most)


def messages(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Messages of this type, any field there or not."""
    kind = GetMessageClass(descriptor)
    fields = {
        field.name: st.lists(_values(field), max_size=4) if field.is_repeated else _values(field)
        for field in descriptor.fields
    }
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: kind(**given))


def requests(descriptor: Descriptor) -> st.SearchStrategy[bytes]:
    """What may come as such a message: one, one that is damaged, or anything at all."""
    whole = messages(descriptor).map(lambda message: message.SerializeToString())
    damaged = st.builds(_damage, whole, st.integers(0, 200), st.integers(0, 255))
    return whole | damaged | st.binary(max_size=200)


def _damage(data: bytes, place: int, byte: int) -> bytes:
    place %= len(data) + 1
    return data[:place] + bytes((byte,)) + data[place + 1 :]
