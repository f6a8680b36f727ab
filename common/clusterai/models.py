"""Names of models, as Ollama reads them, and the names that gateway and gates have in their certificates."""

import re
from dataclasses import dataclass

from clusterai.errors import ClusterAIError, Status

GATEWAY_NAME, MIRROR_NAME = "gateway.clusterai", "mirror.clusterai"
_REGISTRY, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_HOST = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,348}(:[0-9]{1,5})?")
_PART = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}")


class BadModelName(ClusterAIError):
    code, status = "bad-model-name", Status.USAGE
    message = "{name!r} is no name of a model: {reason}"
    hint = "names look like llama3.2, llama3.2:3b, user/model:tag or host/user/model:tag"


def gate_name(node_id: str) -> str:
    """Return the DNS name in the certificate of a node's gate."""
    return f"{node_id}.gate.clusterai"


@dataclass(frozen=True)
class ModelName:
    """A model's full name. Case has no meaning: file systems and Ollama differ on it, so ours is lower.

    Source: ollama's types/model/name.go; 80 characters for each part, 350 for a host.
    """

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Return the full name of `[[host/]namespace/]model[:tag]`; raise BadModelName."""
        parts = text.lower().split("/")
        last, _, tag = parts[-1].partition(":")
        if len(parts) > 3:
            raise BadModelName(name=text[:80], reason="it has more than three parts")
        if ":" in parts[-1] and not tag:
            raise BadModelName(name=text[:80], reason="its tag is empty")
        namespace = parts[-2] if len(parts) > 1 else _NAMESPACE
        host = parts[0] if len(parts) > 2 else _REGISTRY
        name = cls(host, namespace, last, tag or _TAG)
        plain = text.isascii()  # `lower` makes a k of the Kelvin sign
        if (
            not plain
            or not _HOST.fullmatch(host)
            or not all(_PART.fullmatch(part) for part in (namespace, last, name.tag))
        ):
            raise BadModelName(name=text[:80], reason="a part is empty, too long, or has other characters")
        return name

    def __str__(self) -> str:
        """The shortest form with its tag: what is the default is left out."""
        short = f"{self.model}:{self.tag}"
        if self.host != _REGISTRY:
            return f"{self.host}/{self.namespace}/{short}"
        return short if self.namespace == _NAMESPACE else f"{self.namespace}/{short}"


def normalised(text: str) -> str:
    """Return the one way in which this cluster writes the model's name; raise BadModelName."""
    return str(ModelName.parse(text))
