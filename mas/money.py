"""Money as people write it, and as MAS counts it: an `int` of the currency's smallest unit.

No float is ever money. "12.50" USD is 1250, "12.500" KWD is 12500, "12" JPY is 12.
"""

import re

from mas.errors import InvalidRequest
from mas.limits import AMOUNT_MAX, check_amount, shorten

DEFAULT_CURRENCY = "USD"

SCALES = {
    "CHF": 2,
    "EUR": 2,
    "GBP": 2,
    "JPY": 0,
    "KWD": 3,
    "USD": 2,
    "VND": 0,
}
"""Digits after the point, by ISO 4217."""

_DIGITS_MAX = len(str(AMOUNT_MAX))
_AMOUNT = re.compile(rf"(?P<whole>[0-9]{{1,{_DIGITS_MAX}}})(\.(?P<part>[0-9]+))?")


def check_currency(currency: str, field: str = "currency") -> None:
    """A currency that MAS knows.

    Raises:
        InvalidRequest: it isn't in `SCALES`.
    """
    if currency not in SCALES:
        known = ", ".join(SCALES)
        raise InvalidRequest(f"{field} {shorten(currency)} is not known: expected one of {known}")


def parse_amount(
    text: str,
    currency: str = DEFAULT_CURRENCY,
    field: str = "amount",
    *,
    zero_allowed: bool = False,
) -> int:
    """The minor units of an amount such as "12.50"; nothing is ever rounded.

    Fewer digits after the point than the currency has are fine ("12.5", "12"); more are not, even
    if they are zeros.

    Raises:
        InvalidRequest: not plain digits with at most one point (no sign, exponent, separator or
            NaN), too many digits after the point, out of range, or an unknown currency.
    """
    check_currency(currency)
    scale = SCALES[currency]
    match = _AMOUNT.fullmatch(text)
    part = (match["part"] or "") if match else ""
    if match is None or len(part) > scale:
        raise InvalidRequest(
            f"{field} {shorten(text)} is not an amount of {currency}: "
            f"expected digits like {format_amount(1250, currency)!r}"
        )
    amount = int(match["whole"] + part.ljust(scale, "0"))
    check_amount(amount, field, zero_allowed=zero_allowed)
    return amount


def format_amount(amount: int, currency: str = DEFAULT_CURRENCY) -> str:
    """An amount or balance in minor units, with all digits of its currency: 1250 -> "12.50".

    Raises:
        InvalidRequest: an unknown currency.
    """
    check_currency(currency)
    scale = SCALES[currency]
    sign = "-" if amount < 0 else ""
    digits = str(abs(amount)).rjust(scale + 1, "0")
    if scale == 0:
        return sign + digits
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}"
