"""Who is calling: tokens of clients, and the cluster's secret of nodes and tools.

A token is verified once and remembered until it expires. The algorithm is ours, never the token's: a token that says
"none", or HS256 where a public key verifies, is refused.
"""

import hmac
from collections.abc import Iterable, Sequence
from typing import Any

import jwt

from mas.api.tokens import (
    DEFAULT_AUDIENCE,
    DEFAULT_ISSUER,
    Principal,
    Role,
    account_of,
    check_secret,
    key_space_of,
)
from mas.errors import InvalidRequest, Unauthenticated
from mas.runtime import Clock

TOKENS_REMEMBERED_MAX = 10_000
TOKEN_CHARACTERS_MAX = 4_096
CLOCK_SKEW_SECONDS = 60
"""How far another machine's clock, by which a token was issued, may be ahead of ours."""
AUTHORIZATION_KEY = "authorization"
CLUSTER_SECRET_KEY = "mas-cluster-secret"  # noqa: S105 - the name of a metadata key

Metadata = Iterable[tuple[str, str | bytes]] | None

_OPTIONS: Any = {
    "require": ["exp", "iss", "aud", "sub"],
    "enforce_minimum_key_length": True,
    # Time is our clock's, and `exp` is looked at for every message, not only here.
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


class Authenticator:
    """Knows a principal by its token.

    `key` is the secret of HS256, or the public key in PEM of another algorithm.

    Raises:
        ConfigError: the secret is too short.
    """

    def __init__(
        self,
        key: bytes,
        clock: Clock,
        algorithm: str = "HS256",
        issuer: str = DEFAULT_ISSUER,
        audience: str = DEFAULT_AUDIENCE,
    ) -> None:
        if algorithm == "HS256":
            check_secret(key)
        self._key = key
        self._clock = clock
        self._algorithms: Sequence[str] = (algorithm,)
        self._issuer = issuer
        self._audience = audience
        self._known: dict[str, Principal] = {}

    def authenticate(self, metadata: Metadata) -> Principal:
        """Verify the token in this metadata, and return who sent it.

        Raises:
            Unauthenticated: no token, or one that is wrong or has expired.
        """
        token = _bare_token(_find(metadata, AUTHORIZATION_KEY))
        principal = self._known.get(token)
        if principal is None:
            principal = self._verify(token)
            self.check_expiry(principal)
            self._remember(token, principal)
        else:
            self.check_expiry(principal)
        return principal

    def accepts(self, token: str) -> bool:
        """Tell whether this token would let its bearer in now."""
        try:
            self.authenticate(((AUTHORIZATION_KEY, token),))
        except Unauthenticated:
            return False
        return True

    def check_expiry(self, principal: Principal) -> None:
        """A stream asks this again for each of its messages.

        Raises:
            Unauthenticated: the token has expired meanwhile.
        """
        if self._clock.now_us() >= principal.expires_us:
            raise Unauthenticated("the token has expired: get a new one from an operator")

    def _remember(self, token: str, principal: Principal) -> None:
        if len(self._known) >= TOKENS_REMEMBERED_MAX:
            del self._known[next(iter(self._known))]
        self._known[token] = principal

    def _verify(self, token: str) -> Principal:
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=self._algorithms,
                options=_OPTIONS,
                issuer=self._issuer,
                audience=self._audience,
            )
            self._check_begun(claims)
            return _principal_in(claims)
        # PyJWT's own errors; what a hostile header or claim brings to light in its depths; ours.
        except (jwt.PyJWTError, TypeError, ValueError, OverflowError, InvalidRequest) as error:
            raise Unauthenticated(
                f"the token is not accepted ({error}): expected one that this cluster has issued"
            ) from error

    def _check_begun(self, claims: dict[str, Any]) -> None:
        latest = self._clock.now_us() + CLOCK_SKEW_SECONDS * 1_000_000
        for name in ("iat", "nbf"):
            if name in claims and _time_in(claims, name) > latest:
                raise InvalidRequest(f"{name} is in the future")


def _time_in(claims: dict[str, Any], name: str) -> int:
    """A claim's seconds, which may have fractions (RFC 7519, section 2), in microseconds."""
    seconds = claims[name]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidRequest(f"{name} is not a number of seconds")
    return int(seconds * 1_000_000)


def _principal_in(claims: dict[str, Any]) -> Principal:
    subject = claims["sub"]
    role = Role(str(claims.get("role")))
    return Principal(
        subject,
        role,
        account_of(subject, role),
        _time_in(claims, "exp"),
        key_space_of(subject, role, claims.get("keys", "")),
    )


def _find(metadata: Metadata, name: str) -> str:
    for key, value in metadata or ():
        if key == name and isinstance(value, str):
            return value
    return ""


def _bare_token(value: str) -> str:
    scheme, _, rest = value.partition(" ")
    token = (rest if scheme.lower() == "bearer" else value).strip()
    if not token:
        raise Unauthenticated(
            f"the metadata `{AUTHORIZATION_KEY}` holds no token: expected one, bare or after Bearer"
        )
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise Unauthenticated(
            f"the token has {len(token)} characters: expected at most {TOKEN_CHARACTERS_MAX}"
        )
    return token


class ClusterSecret:
    """Keeps everybody out who doesn't know the cluster's secret."""

    def __init__(self, secret: bytes) -> None:
        assert secret, "an empty secret would let everybody in"
        self._secret = secret

    def check(self, metadata: Metadata) -> None:
        """Let whoever knows it pass.

        Raises:
            Unauthenticated: no secret, or another one.
        """
        offered = _find(metadata, CLUSTER_SECRET_KEY).encode()
        if not hmac.compare_digest(offered, self._secret):
            raise Unauthenticated(
                f"this service is for the cluster itself: expected its secret in the metadata "
                f"`{CLUSTER_SECRET_KEY}`"
            )
