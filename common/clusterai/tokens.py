"""Join tokens: what a machine or a person needs to enrol, as one line of text."""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field

from clusterai.errors import ClusterAIError, Status

_ID_CHARACTERS, _SECRET_BYTES = 8, 16
_TEXT = re.compile(r"cai1\.([a-z2-7]{52})\.([a-z2-7]{8})\.([a-z2-7]{26})")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


class BadToken(ClusterAIError):
    code, status = "bad-token", Status.USAGE
    message = "this is not a join token: {reason}"
    hint = "copy the whole line that `clusteractl token create` printed; it begins with cai1."


@dataclass(frozen=True)
class JoinToken:
    """The fingerprint of the cluster's CA (SHA-256 of its SPKI), the token's id, and its 128-bit secret."""

    ca_sha256: bytes
    token_id: str
    secret: str = field(repr=False)

    def __str__(self) -> str:
        return f"cai1.{base32(self.ca_sha256)}.{self.token_id}.{self.secret}"

    @classmethod
    def new(cls, ca_sha256: bytes) -> "JoinToken":
        """Make a token with a random id and secret."""
        return cls(ca_sha256, random_id(), random_secret())

    @classmethod
    def parse(cls, text: str) -> "JoinToken":
        """Return the token of its text, blanks around it ignored; raise BadToken, which never repeats the text."""
        text = text.strip()
        match = _TEXT.fullmatch(text)
        if match is None:
            raise BadToken(reason=_what_is_wrong(text))
        fingerprint, token_id, secret = match.groups()
        return cls(base64.b32decode(fingerprint.upper() + "===="), token_id, secret)


def secret_hash(secret: str) -> bytes:
    """What the server stores of a secret. It has 128 random bits, so one SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).digest()


def random_id() -> str:
    """Return a new id of a secret: it names it in lists and logs."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARACTERS))


def random_secret() -> str:
    """Return 128 random bits in base32."""
    return base32(secrets.token_bytes(_SECRET_BYTES))


def base32(data: bytes) -> str:
    """Return the bytes in base32, lower case, without padding."""
    return base64.b32encode(data).decode().rstrip("=").lower()


def _what_is_wrong(text: str) -> str:
    if not text:
        return "it is empty"
    if not text.startswith("cai1."):
        return "it does not begin with cai1."
    return f"it has {len(text)} characters; a token has 93 in four parts of a-z and 2-7"
