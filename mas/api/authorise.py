"""What a principal may do; who it is has been settled by `mas.api.auth`."""

from mas.api.tokens import Principal, Role
from mas.errors import PermissionDenied
from mas.ledger.instructions import EXTERNAL
from mas.limits import shorten

_OPERATORS = (Role.OPERATOR, Role.GATEWAY)
_READERS = (Role.AUDITOR, *_OPERATORS)


def check_may_operate(principal: Principal, what: str) -> None:
    """Only operators do `what`.

    Raises:
        PermissionDenied: any other.
    """
    if principal.role not in _OPERATORS:
        raise PermissionDenied(f"{_name(principal)} may not {what}: this takes an operator's token")


def check_may_pay(principal: Principal, payer: str, payee: str) -> None:
    """An account pays from itself, a gateway from all; only operators move money in or out.

    Raises:
        PermissionDenied: any other.
    """
    if EXTERNAL in (payer, payee):
        check_may_operate(principal, "deposit or withdraw")
    elif principal.account != payer and principal.role is not Role.GATEWAY:
        raise PermissionDenied(
            f"{_name(principal)} may not pay from account {shorten(payer)}: "
            "this takes that account's own token, or a gateway's"
        )


def check_may_end(principal: Principal, payer: str) -> None:
    """Let only the payer and operators cancel a payment.

    Raises:
        PermissionDenied: any other.
    """
    if principal.account != payer:
        check_may_operate(principal, f"cancel payments of account {shorten(payer)}")


def check_may_read(principal: Principal, number: str) -> None:
    """An account reads itself, auditors and operators read all.

    Raises:
        PermissionDenied: any other.
    """
    if principal.account != number:
        check_may_read_all(principal, f"account {shorten(number)}")


def check_may_read_all(principal: Principal, what: str) -> None:
    """Only auditors and operators read `what`.

    Raises:
        PermissionDenied: any other.
    """
    if principal.role not in _READERS:
        raise PermissionDenied(
            f"{_name(principal)} may not read {what}: "
            "this takes that account's own token, or an operator's"
        )


def _name(principal: Principal) -> str:
    return f"the token of {shorten(principal.subject)} ({principal.role.value})"
