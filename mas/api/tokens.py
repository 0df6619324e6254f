"""Who a token speaks for, and how tokens are made.

A token's subject is "account:NUMBER" or "operator:NAME", its role says what that one may do:

    account     pays from its own account, and reads it
    auditor     reads everything
    operator    also opens, freezes and closes accounts, deposits and withdraws
    gateway     also pays from any account, for its owner: a payment front end, a load program

It says too which idempotency keys are its bearer's, its *key space* (rule 1, payment ids). An account's own token has
the account's, so that an owner can't use up the keys by which others will charge that account. All others share the
cluster's, so that two operators, or two machines with tokens of their own, never pay a key twice; the claim "keys"
names another one.
"""

from enum import StrEnum

import jwt
import msgspec

from mas.errors import ConfigError, InvalidRequest
from mas.files import SECRET_BYTES_MIN
from mas.limits import check_account_number, check_name, shorten
from mas.runtime import Clock, SystemClock

DEFAULT_ISSUER = "mas"
DEFAULT_AUDIENCE = "mas"
TOKEN_LIFETIME_SECONDS = 90 * 24 * 3600

_ACCOUNT_PREFIX = "account:"
_OPERATOR_PREFIX = "operator:"
_KEYS_PREFIX = "keys:"
CLUSTER_KEY_SPACE = "cluster"
"""Where a token names no other. No other begins so: theirs begin with a prefix."""


class Role(StrEnum):
    """What a token's bearer may do."""

    ACCOUNT = "account"
    AUDITOR = "auditor"
    OPERATOR = "operator"
    GATEWAY = "gateway"


class Principal(msgspec.Struct, frozen=True):
    """Who is calling."""

    subject: str
    """The same for a renewed token."""
    role: Role
    account: str
    """The account's number, empty for operators."""
    expires_us: int
    """Microseconds since the epoch."""
    key_space: str
    """Whose idempotency keys it uses (rule 1)."""


def account_subject(number: str) -> str:
    """The subject of an account's token."""
    return _ACCOUNT_PREFIX + number


def operator_subject(name: str) -> str:
    """The subject of an operator's token, whatever its role."""
    return _OPERATOR_PREFIX + name


def account_of(subject: str, role: Role) -> str:
    """The account that a subject with this role speaks for, empty for an operator.

    Raises:
        InvalidRequest: subject and role don't belong together.
    """
    prefix = _ACCOUNT_PREFIX if role is Role.ACCOUNT else _OPERATOR_PREFIX
    name = subject.removeprefix(prefix)
    if name in ("", subject):
        raise InvalidRequest(
            f'subject {subject!r} can\'t have the role {role.value}: expected "{prefix}..."'
        )
    return name if role is Role.ACCOUNT else ""


def key_space_of(subject: str, role: Role, keys: str = "") -> str:
    """The key space of a subject with this role, whose token names the space `keys`, or none.

    Raises:
        InvalidRequest: an account's token names one, or it is no name.
    """
    if role is Role.ACCOUNT:
        if keys != "":
            raise InvalidRequest(f"keys {shorten(keys)} is not allowed: an account has its own")
        return subject
    if keys == "":
        return CLUSTER_KEY_SPACE
    check_name(keys, "keys")
    return _KEYS_PREFIX + keys


class TokenIssuer:
    """Makes tokens that an `Authenticator` with the same secret accepts. HS256.

    Raises:
        ConfigError: the secret is too short.
    """

    def __init__(
        self,
        secret: bytes,
        issuer: str = DEFAULT_ISSUER,
        audience: str = DEFAULT_AUDIENCE,
        clock: Clock | None = None,
    ) -> None:
        check_secret(secret)
        self._secret = secret
        self._issuer = issuer
        self._audience = audience
        self._clock = clock or SystemClock()

    def issue(
        self,
        subject: str,
        role: Role | None = None,
        lifetime_seconds: int = TOKEN_LIFETIME_SECONDS,
        keys: str = "",
    ) -> str:
        """A token for this subject; without a role, an account's or an operator's by its subject.

        `keys` names a key space other than the cluster's, for whoever isn't an account.

        Raises:
            InvalidRequest: subject, role and key space don't belong together, or a name is none.
        """
        if role is None:
            role = Role.ACCOUNT if subject.startswith(_ACCOUNT_PREFIX) else Role.OPERATOR
        number = account_of(subject, role)
        if number:
            check_account_number(number, "account")
        else:
            check_name(subject.removeprefix(_OPERATOR_PREFIX), "operator")
        key_space_of(subject, role, keys)
        now = self._clock.now_us() // 1_000_000
        claims: dict[str, str | int] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "role": role.value,
            "iat": now,
            "exp": now + lifetime_seconds,
        }
        if keys:
            claims["keys"] = keys
        return jwt.encode(claims, self._secret, algorithm="HS256")


def check_secret(secret: bytes) -> None:
    """Refuse a key for signing tokens that is easy to guess.

    Raises:
        ConfigError: it is too short.
    """
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigError(
            f"the tokens' secret has {len(secret)} bytes: expected {SECRET_BYTES_MIN} or more"
        )
