"""Nobody gets in with a token that this cluster hasn't issued, for as long as it says, for itself."""

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from mas.api import auth
from mas.api.auth import Authenticator, ClusterSecret
from mas.api.tokens import CLUSTER_KEY_SPACE, Role, TokenIssuer
from mas.errors import ConfigError, InvalidRequest, Unauthenticated
from tests.api.edge import SECRET, HandClock

CLOCK = HandClock()
NOW = CLOCK.now_us() // 1_000_000
CLAIMS = {
    "iss": "mas",
    "aud": "mas",
    "sub": "account:alice",
    "role": "account",
    "iat": NOW,
    "exp": NOW + 60,
}


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("user-agent", "x"), ("authorization", token))


def signed(secret: bytes = SECRET, **changes: Any) -> str:
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    return jwt.encode(claims, secret, algorithm="HS256")


def unsigned(algorithm: str) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(CLAIMS)}."


def authenticator(clock: HandClock = CLOCK) -> Authenticator:
    return Authenticator(SECRET, clock)


@pytest.mark.parametrize("form", ["{}", "Bearer {}", "bearer {}"])
def test_a_good_token_bare_or_bearer(form: str) -> None:
    principal = authenticator().authenticate(metadata(form.format(signed())))
    assert principal.subject == "account:alice"
    assert principal.account == "alice"
    assert principal.role is Role.ACCOUNT


@pytest.mark.parametrize(
    "token",
    [
        "",
        "Bearer ",
        "nonsense",
        "a.b.c",
        "x" * 5_000,
        unsigned("none"),
        unsigned("None"),
        unsigned("HS256"),
        signed(b"another secret of thirty-two bytes or more"),
        signed(exp=None),
        signed(exp=NOW),
        signed(exp="soon"),
        signed(exp=True),
        signed(exp=float("inf")),
        signed(exp=float("nan")),
        # Issued, or valid, only in some time (small faults of security): a clock may be a minute ahead.
        signed(iat=NOW + 61),
        signed(iat=NOW + 365 * 24 * 3600),
        signed(iat="yesterday"),
        signed(iat=True),
        signed(nbf=NOW + 61.5),
        signed(nbf="soon"),
        # An account has keys of its own, and whoever else names a key space names it.
        signed(keys="shop"),
        signed(sub="operator:a", role="operator", keys=["shop"]),
        signed(sub="operator:a", role="operator", keys=0),
        signed(sub="operator:a", role="operator", keys="a\nb"),
        signed(sub="operator:a", role="operator", keys="k" * 65),
        signed(aud="others"),
        signed(aud=None),
        signed(iss="others"),
        signed(iss=None),
        signed(sub=None),
        signed(sub="alice"),
        signed(sub="account:"),
        signed(role=None),
        signed(role="god"),
        signed(role="gateway"),
        signed(sub="operator:root"),
        signed(foo="bar")[:-3],
        jwt.encode({"foo": "bar"}, SECRET, algorithm="HS256"),
        jwt.encode(CLAIMS, SECRET + SECRET, algorithm="HS512"),
    ],
)
def test_anything_else_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        authenticator().authenticate(metadata(token))


def test_no_metadata_is_refused() -> None:
    for nothing in (None, ()):
        with pytest.raises(Unauthenticated, match="holds no token"):
            authenticator().authenticate(nothing)


def test_a_public_key_is_never_taken_for_a_shared_secret() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    checker = Authenticator(public, CLOCK, algorithm="EdDSA")
    good = jwt.encode(CLAIMS, key, algorithm="EdDSA")
    assert checker.authenticate(metadata(good)).account == "alice"

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    import hashlib
    import hmac

    head = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(CLAIMS).encode())
    forged = head + b"." + part(hmac.digest(public, head, hashlib.sha256))
    with pytest.raises(Unauthenticated):
        checker.authenticate(metadata(forged.decode()))


def test_users_16_seconds_may_have_fractions() -> None:
    """RFC 7519 calls them numeric dates: an integer or not."""
    clock = HandClock()
    checker = authenticator(clock)
    token = signed(exp=NOW + 0.5, iat=NOW - 0.25, nbf=NOW + 59.5)
    assert checker.authenticate(metadata(token)).expires_us == NOW * 1_000_000 + 500_000
    assert checker.authenticate(metadata(signed(exp=NOW + 600.0))).account == "alice"
    clock.now += 500_000
    with pytest.raises(Unauthenticated, match="expired"):
        checker.authenticate(metadata(token))


def test_users_3_whose_keys_a_bearer_uses() -> None:
    """An account's are its own; all others share the cluster's, unless their token names other ones (rule 1)."""
    checker, issuer = authenticator(), TokenIssuer(SECRET, clock=CLOCK)

    def key_space(*token: Any) -> str:
        return checker.authenticate(metadata(issuer.issue(*token))).key_space

    shared = key_space("operator:ann")
    assert key_space("operator:ben", Role.GATEWAY) == shared == CLUSTER_KEY_SPACE
    assert key_space("operator:ann", Role.AUDITOR) == shared
    shop = key_space("operator:ann", Role.GATEWAY, 60, "shop")
    assert key_space("operator:ben", Role.OPERATOR, 60, "shop") == shop
    alice, named = key_space("account:alice"), key_space("operator:eve", None, 60, "account:alice")
    cluster = key_space("operator:eve", None, 60, CLUSTER_KEY_SPACE)
    assert len({shared, shop, alice, named, cluster}) == 5
    with pytest.raises(InvalidRequest, match="has its own"):
        issuer.issue("account:alice", None, 60, "shop")


@pytest.mark.parametrize("subject", ["operator:a\nb", "operator:cafe\u0301", "account:@external"])
def test_no_token_is_made_for_what_is_no_name(subject: str) -> None:
    with pytest.raises(InvalidRequest):
        TokenIssuer(SECRET, clock=CLOCK).issue(subject)


def test_a_remembered_token_still_expires() -> None:
    clock = HandClock()
    checker = authenticator(clock)
    token = signed()
    principal = checker.authenticate(metadata(token))
    clock.now += 59_999_999
    assert checker.authenticate(metadata(token)) is principal
    clock.now += 1
    with pytest.raises(Unauthenticated, match="expired"):
        checker.authenticate(metadata(token))
    with pytest.raises(Unauthenticated, match="expired"):
        checker.check_expiry(principal)


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "TOKENS_REMEMBERED_MAX", 2)
    checker = authenticator()
    first = signed(sub="account:a0")
    before = checker.authenticate(metadata(first))
    for number in range(1, 5):
        checker.authenticate(metadata(signed(sub=f"account:a{number}")))
    assert len(checker._known) == 2
    assert checker.authenticate(metadata(first)) is not before


def test_no_message_repeats_the_token() -> None:
    token = signed(b"another secret of thirty-two bytes or more")
    with pytest.raises(Unauthenticated) as caught:
        authenticator().authenticate(metadata(token))
    assert token not in str(caught.value)
    assert token.split(".")[2] not in str(caught.value)


def test_what_the_issuer_makes_the_authenticator_takes() -> None:
    issuer = TokenIssuer(SECRET, clock=CLOCK)
    for subject, role in [
        ("account:alice", Role.ACCOUNT),
        ("operator:root", Role.OPERATOR),
        ("operator:bench", Role.GATEWAY),
    ]:
        token = issuer.issue(subject, role)
        assert authenticator().authenticate(metadata(token)).role is role
    assert authenticator().authenticate(metadata(issuer.issue("account:b"))).account == "b"
    with pytest.raises(InvalidRequest):
        issuer.issue("account:alice", Role.OPERATOR)


def test_a_guessable_secret_is_refused() -> None:
    for act in (
        lambda: TokenIssuer(b"short"),
        lambda: Authenticator(b"short", CLOCK),
    ):
        with pytest.raises(ConfigError):
            act()


@pytest.mark.parametrize("offered", ["", "wrong", SECRET.decode() + "x", SECRET.decode()[:-1]])
def test_the_cluster_secret_keeps_others_out(offered: str) -> None:
    gate = ClusterSecret(SECRET)
    gate.check(((auth.CLUSTER_SECRET_KEY, SECRET.decode()),))
    with pytest.raises(Unauthenticated, match="cluster"):
        gate.check(((auth.CLUSTER_SECRET_KEY, offered),))
    with pytest.raises(Unauthenticated):
        gate.check(None)
