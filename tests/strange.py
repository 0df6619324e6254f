"""Values of any of our types that are well formed and make no sense: what a peer with a fault might send."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

NUMBERS = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 2**31, 2**53, 2**62, 2**63 - 1, 2**64 - 1])


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Trees of builtins that decode as this type."""
    return _values(inspect.type_info(kind))


def _values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    plain = _PLAIN.get(type(kind))
    return plain(kind) if plain is not None else _made(kind)


def _numbers(kind: Any) -> st.SearchStrategy[int]:
    least = -(2**63) if kind.ge is None else kind.ge
    most = 2**64 - 1 if kind.le is None else kind.le
    return NUMBERS.filter(lambda number: least <= number <= most) | st.just(most)


def _seconds(kind: Any) -> st.SearchStrategy[float]:
    return st.floats() if kind.ge is None else st.sampled_from([0.0, 1e-9, 60.0])


_PLAIN: dict[type, Callable[[Any], st.SearchStrategy[Any]]] = {
    inspect.IntType: _numbers,
    inspect.FloatType: _seconds,
    inspect.StrType: lambda _: st.sampled_from(
        ["", "alice", "@external", "x" * 300, "\u202e", "a:b/../c"]
    ),
    inspect.BytesType: lambda _: st.sampled_from([b"", b"x", bytes(16), bytes(32), b"\xc1" * 64]),
    inspect.BoolType: lambda _: st.booleans(),
    inspect.NoneType: lambda _: st.none(),
    inspect.RawType: lambda _: st.sampled_from([0, [], [b"", 0, []], "x"]),
    inspect.EnumType: lambda kind: st.sampled_from([each.value for each in kind.cls]),
    inspect.LiteralType: lambda kind: st.sampled_from(kind.values),
}


def _made(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Of other types."""
    match kind:
        case inspect.UnionType(types=types):
            return st.one_of([_values(each) for each in types])
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return st.lists(_values(item), max_size=4)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(_values, items)).map(list)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_values(key), _values(value), max_size=3)
        case inspect.StructType(array_like=True, fields=fields, tag=tag):
            row = st.tuples(*(_values(each.type) for each in fields)).map(list)
            return row if tag is None else row.map(lambda values: [tag, *values])
        case inspect.StructType(fields=fields):
            return st.fixed_dictionaries({each.encode_name: _values(each.type) for each in fields})
        case _:
            raise NotImplementedError(f"no strange values of {kind}")
