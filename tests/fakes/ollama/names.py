"""Names of models and digests, by Ollama's rules."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

REGISTRY, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Name:
    """`[scheme://][[host/]namespace/]model[:tag]`. Case is kept; an existing name is found whatever its case."""

    host: str
    namespace: str
    model: str
    tag: str
    scheme: str = "https"

    @classmethod
    def parse(cls, text: str) -> "Name":
        """Return the name with its defaults; it may be invalid."""
        scheme, found, rest = text.partition("://")
        if not found:
            scheme, rest = "https", text
        rest, _, last = rest.rpartition("/")
        model, _, tag = last.partition(":")
        host, _, namespace = rest.rpartition("/")
        return cls(host or REGISTRY, namespace or NAMESPACE, model, tag or TAG, scheme)

    @property
    def valid(self) -> bool:
        """Whether every part may be one."""
        return bool(
            _HOST.fullmatch(self.host)
            and _NAMESPACE.fullmatch(self.namespace)
            and _PART.fullmatch(self.model)
            and _PART.fullmatch(self.tag)
        )

    @property
    def path(self) -> PurePosixPath:
        """The manifest's place below `manifests`."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    @property
    def key(self) -> str:
        """What two spellings of one name have in common."""
        return str(self.path).lower()

    @property
    def repository(self) -> str:
        """The name in a registry's URL."""
        return f"{self.namespace}/{self.model}"

    def __str__(self) -> str:
        """The shortest form that lists show."""
        short = f"{self.model}:{self.tag}"
        if self.host.lower() != REGISTRY:
            return f"{self.host}/{self.namespace}/{short}"
        return short if self.namespace.lower() == NAMESPACE else f"{self.namespace}/{short}"


def is_digest(text: str) -> bool:
    """Tell whether the text is a digest as blobs have it."""
    return bool(_DIGEST.fullmatch(text))
