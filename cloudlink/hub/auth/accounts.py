"""ServiceAccounts' bearer tokens: JWTs that the hub signs, as Kubernetes' TokenRequest API gives them out.

A token is good for one account with one uid, and ends with it: a new account of the same name is somebody else. One
that is bound to a Pod, Secret or Node ends with that, too.
"""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudlink.hub.auth.authenticate import Unauthorized
from cloudlink.hub.auth.users import User, account_groups, account_name, account_of, authenticated
from cloudlink.hub.store import Store
from cloudlink.kube.accounts import ServiceAccount
from edged.errors import PermanentError

ISSUER = "https://kubernetes.default.svc.cluster.local"
ALGORITHM = "ES256"
BOUND_TO = ("Pod", "Secret", "Node")
LEEWAY = 10.0  # seconds that the clocks of two hubs may be apart
REMEMBERED = 2000  # tokens whose signature was found good; checking one anew costs 0.1 ms

_CLAIMS = "kubernetes.io"
_EXTRA = "authentication.kubernetes.io/"


class Accounts:
    """Gives tokens out and knows them again.

    :param key: EC P-256 private key, PEM.
    :param now: wall clock, seconds.
    """

    def __init__(self, store: Store, key: bytes, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now
        try:
            private = serialization.load_pem_private_key(key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            raise PermanentError(f"the service accounts' key is not an unencrypted PEM private key: {e}") from e
        if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
            raise PermanentError("the service accounts' key is not EC P-256")
        self._private, self._public = private, private.public_key()
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def token(
        self,
        account: ServiceAccount,
        audiences: Sequence[str],
        seconds: int,
        bound: tuple[str, str, str] | None = None,
    ) -> tuple[str, float]:
        """A token and when it ends.

        :param audiences: who is to accept it; none = this hub.
        :param bound: kind, name and uid of the object that it ends with.
        """
        now, meta = self._now(), account.metadata
        private: dict[str, Any] = {
            "namespace": meta.namespace,
            "serviceaccount": {"name": meta.name, "uid": meta.uid},
        }
        if bound is not None:
            private[bound[0].lower()] = {"name": bound[1], "uid": bound[2]}
        claims = {
            "iss": ISSUER,
            "sub": account_name(meta.namespace, meta.name),
            "aud": list(audiences) or [ISSUER],
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now) + seconds,
            "jti": str(uuid.uuid4()),
            _CLAIMS: private,
        }
        return jwt.encode(claims, self._private, ALGORITHM), float(int(now) + seconds)

    def user_of(self, token: str) -> User | None:
        """See authenticate.TokenReader; for this hub's own audience."""
        return self.review(token, (ISSUER,))

    def review(self, token: str, audiences: Sequence[str]) -> User | None:
        """Who shows this token to one of these audiences; None for what is no JWT at all."""
        if token.count(".") != 2:
            return None
        claims = self._known.get(token) or self._read(token)
        self._check_times(claims)
        if not set(audiences) & set(_listed(claims.get("aud"))):
            raise Unauthorized("this service account's token is meant for another audience")
        return self._user(claims)

    def audiences_of(self, token: str) -> list[str]:
        """What a token that was reviewed a moment ago says that it is for."""
        return _listed((self._known.get(token) or {}).get("aud"))

    def _read(self, token: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._public,
                algorithms=[ALGORITHM],
                options={  # times and audience are asked anew each time, by our own clock
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": False,
                    "require": ["exp", "sub"],
                },
                issuer=ISSUER,
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as e:
            raise Unauthorized(f"this hub gave out no such service account's token ({type(e).__name__})") from None
        self._known[token] = claims
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return claims

    def _check_times(self, claims: dict[str, Any]) -> None:
        now = self._now()
        if not isinstance(claims.get("exp"), int | float) or claims["exp"] <= now:
            raise Unauthorized("this service account's token has expired; `kubectl create token` makes a new one")
        if isinstance(begin := claims.get("nbf"), int | float) and begin > now + LEEWAY:
            raise Unauthorized("this service account's token isn't good yet: this hub's clock is behind")

    def _user(self, claims: dict[str, Any]) -> User:
        whose = account_of(str(claims["sub"]))
        private = claims.get(_CLAIMS)
        if whose is None or not isinstance(private, dict):
            raise Unauthorized("this token is no service account's")
        namespace, name = whose
        account = self._store.get("ServiceAccount", namespace, name)
        told = private.get("serviceaccount")
        uid = told.get("uid") if isinstance(told, dict) else None
        if account is None or account.metadata.uid != uid or account.metadata.deletion_timestamp:
            raise Unauthorized(f"service account {namespace}/{name} is gone, and its tokens with it")
        extra: dict[str, tuple[str, ...]] = {}
        if jti := claims.get("jti"):
            extra[f"{_EXTRA}credential-id"] = (f"JTI={jti}",)
        for kind in BOUND_TO:
            ref = private.get(kind.lower())
            if not isinstance(ref, dict):
                continue
            there = self._store.get(kind, None if kind == "Node" else namespace, str(ref.get("name")))
            if there is None or there.metadata.uid != ref.get("uid"):
                raise Unauthorized(f"{kind.lower()} {ref.get('name')} is gone, and this token with it")
            if kind != "Secret":
                extra[f"{_EXTRA}{kind.lower()}-name"] = (there.metadata.name,)
                extra[f"{_EXTRA}{kind.lower()}-uid"] = (there.metadata.uid,)
        return authenticated(account_name(namespace, name), account_groups(namespace), str(uid), extra)


def _listed(audience: object) -> list[str]:
    """`aud` may be one text or a list (RFC 7519)."""
    if isinstance(audience, str):
        return [audience]
    return [a for a in audience if isinstance(a, str)] if isinstance(audience, list) else []
