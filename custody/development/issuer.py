"""A token issuer for development: a key in a folder, made once, so tokens outlive a restart."""

import json
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ISSUER = "custody-development"
_KEY_ID = "development"
_PRIVATE = 0o600


class NoIssuer(Exception):
    """There is no development issuer in the folder. The message names the cure."""


class DevelopmentIssuer:
    """Signs tokens for ``custody dev``.

    Args:
        key: the signing key.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def open(cls, folder: Path) -> "DevelopmentIssuer":
        """Read the issuer of a folder.

        Raises:
            NoIssuer: ``custody dev`` has not run with this folder yet.
        """
        path = folder / "issuer.pem"
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise NoIssuer(
                f"no development issuer at {path} ({error.strerror}): start custody dev first, or "
                "name its folder with --data"
            ) from None
        except ValueError:
            raise NoIssuer(f"{path} is damaged: remove it and start custody dev again") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise NoIssuer(f"{path} is no Ed25519 key: remove it and start custody dev again")
        return cls(key)

    @classmethod
    def create(cls, folder: Path) -> "DevelopmentIssuer":
        """Read the issuer of a folder, or make both.

        Raises:
            NoIssuer: the folder can't be written to, or the key in it is damaged.
        """
        path = folder / "issuer.pem"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.touch(_PRIVATE)
                path.write_bytes(
                    Ed25519PrivateKey.generate().private_bytes(
                        serialization.Encoding.PEM,
                        serialization.PrivateFormat.PKCS8,
                        serialization.NoEncryption(),
                    )
                )
            issuer = cls.open(folder)
            (folder / "jwks.json").write_text(json.dumps(issuer.jwks()), "utf-8")
        except OSError as error:
            raise NoIssuer(
                f"can't use {folder} ({error.strerror}): name a folder that you may write to: "
                "custody dev --data FOLDER, or make run ARGS='--data FOLDER'"
            ) from None
        return issuer

    def token(self, sub: str, *, audience: str, lifetime: int) -> str:
        """Return an access token.

        Args:
            sub: the user.
            audience: the ``aud`` that the daemon wants.
            lifetime: seconds until it expires.
        """
        now = int(time.time())
        # Whoever asks for a token has logged in by that.
        times = {"iat": now, "auth_time": now, "exp": now + lifetime}
        claims = {"sub": sub, "iss": ISSUER, "aud": audience, **times}
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": _KEY_ID})

    def jwks(self) -> dict[str, object]:
        """Return the document with the public key (RFC 7517)."""
        public = jwt.algorithms.OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [public | {"kid": _KEY_ID, "alg": "EdDSA", "use": "sig"}]}
