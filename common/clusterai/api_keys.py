"""Keys of the inference gateway, as one word: `cak1.<id>.<secret>`."""

import re
from dataclasses import dataclass, field

from clusterai.errors import ClusterAIError, Status
from clusterai.tokens import random_id, random_secret, secret_hash

_TEXT = re.compile(r"cak1\.([a-z2-7]{8})\.([a-z2-7]{26})")


class BadKey(ClusterAIError):
    code, status = "bad-key", Status.USAGE
    message = "this is no key of the gateway"
    hint = "copy the whole line that `clusteractl key create` printed; it begins with cak1."


@dataclass(frozen=True)
class ApiKey:
    """A key's id, which may be shown, and its 128-bit secret."""

    key_id: str
    secret: str = field(repr=False)

    def __str__(self) -> str:
        return f"cak1.{self.key_id}.{self.secret}"

    @classmethod
    def new(cls) -> "ApiKey":
        """Make a key with a random id and secret."""
        return cls(random_id(), random_secret())

    @classmethod
    def parse(cls, text: str) -> "ApiKey":
        """Return the key of its text, blanks around it ignored; raise BadKey, which never repeats the text."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise BadKey
        return cls(*match.groups())

    @property
    def hash(self) -> bytes:
        """What is stored of it: the SHA-256 of the whole key."""
        return secret_hash(str(self))
