"""How many fields a protobuf message has, counted without decoding it.

A message of four million bytes may hold two million empty ones, each of which costs a hundred bytes once it is decoded.
"""

_LENGTH_DELIMITED = 2
_FIXED_BYTES = {1: 8, 5: 4}


def has_more_fields(data: bytes, most: int) -> bool:
    """Tell whether the outermost message has more than `most` fields. False of what is no message: decoding says why."""
    if len(data) <= 2 * most:
        return False  # a field has two bytes or more
    try:
        return _count(data, most) > most
    except IndexError:
        return False


def _count(data: bytes, most: int) -> int:
    count = position = 0
    end = len(data)
    while position < end and count <= most:
        count += 1
        kind = data[position] & 7
        position = _after_varint(data, position)
        if kind == _LENGTH_DELIMITED:
            start = position
            position = _after_varint(data, start)
            position += _varint(data, start, position)
        elif kind == 0:
            position = _after_varint(data, position)
        else:
            # What is in a group (kinds 3 and 4) counts as if it were outside.
            position += _FIXED_BYTES.get(kind, 0)
    return count


def _after_varint(data: bytes, position: int) -> int:
    while data[position] & 0x80:
        position += 1
    return position + 1


def _varint(data: bytes, start: int, stop: int) -> int:
    value = 0
    for shift, byte in enumerate(data[start:stop]):
        value |= (byte & 0x7F) << 7 * shift
    return value
