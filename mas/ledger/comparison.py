"""What differs between two bodies under one key, in the words of a request (rule 6, decide)."""

from mas.ledger.instructions import Body


def differing_fields(first: Body, second: Body) -> str:
    """The names of the fields that differ, comma-separated."""
    names = [
        name
        for name, mine, other in (
            ("kind", first.kind, second.kind),
            ("currency", first.currency, second.currency),
            ("reference", first.reference, second.reference),
            ("overdraft_limit", first.overdraft_limit, second.overdraft_limit),
        )
        if mine != other
    ]
    if first.legs != second.legs:
        names.extend(_differing_legs(first, second))
    return ", ".join(names)


def _differing_legs(first: Body, second: Body) -> list[str]:
    """A payment of two legs is spoken of as payer, payee and amount; any other as its legs."""
    mine, other = _parties(first), _parties(second)
    if mine is None or other is None:
        return ["legs"]
    names = ("payer", "payee", "amount")
    return [n for n, a, b in zip(names, mine, other, strict=True) if a != b] or ["legs"]


def _parties(body: Body) -> tuple[str, str, int] | None:
    """(payer, payee, amount) of a body that has one of each; a creation pays its own account."""
    match body.legs:
        case ((number, amount),):
            return number, number, amount
        case ((debtor, debit), (creditor, credit)) if debit < 0 < credit:
            return debtor, creditor, credit
        case ((creditor, credit), (debtor, debit)) if debit < 0 < credit:
            return debtor, creditor, credit
        case _:
            return None
