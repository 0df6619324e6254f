"""Money as people write it, and as MAS counts it: an `int` of the currency's smallest unit.

No float is ever money. "12.50" USD is 1250, "12.500" KWD is 12500, "12" JPY is 12.
"""

import re

from mas.errors import InvalidRequest
from mas.limits import AMOUNT_MAX, check_amount, shorten

DEFAULT_CURRENCY = "USD"

# ISO 4217 as of 2026-01-01: every currency that has a minor unit. A copy, and not a library at run time: accounts hold
# minor units, so a code that ISO withdraws, or gives another scale, must stay here as it is. A test compares it with
# the package `iso4217` and tells when there are new codes.
_CODES_BY_SCALE = {
    0: """
        BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF
    """,
    2: """
        AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CNY
        COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS
        INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR
        MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP
        STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG
    """,
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

SCALES = {code: scale for scale, codes in _CODES_BY_SCALE.items() for code in codes.split()}
"""Digits after the point, by ISO 4217."""

_DIGITS_MAX = len(str(AMOUNT_MAX))
_AMOUNT = re.compile(rf"(?P<whole>[0-9]{{1,{_DIGITS_MAX}}})(\.(?P<part>[0-9]+))?")


def check_currency(currency: object, field: str = "currency") -> None:
    """A currency that MAS knows.

    Raises:
        InvalidRequest: it isn't in `SCALES`.
    """
    if not isinstance(currency, str) or currency not in SCALES:
        raise InvalidRequest(
            f"{field} {shorten(currency)} is not known: expected a code of ISO 4217 in capitals, such as EUR"
        )


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
