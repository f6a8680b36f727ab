"""Ollama's files: manifests/<host>/<namespace>/<model>/<tag>, blobs/sha256-<hex>."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fakes.ollama import gguf
from fakes.ollama.names import Name, is_digest

MODEL_LAYER = "application/vnd.ollama.image.model"
PRUNE_AGE_SECONDS = 3600


@dataclass(frozen=True)
class Layer:
    """A file of a model."""

    kind: str
    digest: str
    size: int

    @classmethod
    def of(cls, value: dict[str, Any]) -> "Layer":
        """Read an entry of a manifest."""
        return cls(str(value["mediaType"]), str(value["digest"]), int(value["size"]))


@dataclass(frozen=True)
class Model:
    """A model on disk, by its manifest."""

    name: Name
    raw: bytes
    modified: datetime
    config: Layer
    layers: tuple[Layer, ...]
    blobs: Path

    @property
    def digest(self) -> str:
        """What /api/tags shows: the hash of the manifest."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def files(self) -> tuple[Layer, ...]:
        """Layers and configuration."""
        return (*self.layers, self.config)

    @property
    def size(self) -> int:
        """All files together; a model made for tests may claim to be larger than it is."""
        claimed = self.facts.get("fake.size_bytes", 0)
        return int(claimed) or sum(layer.size for layer in self.files)

    @property
    def weights(self) -> str:
        """The digest of the weights."""
        return next((layer.digest for layer in self.layers if layer.kind == MODEL_LAYER), "")

    def _text(self, suffix: str) -> str:
        for layer in self.layers:
            if layer.kind.endswith(f".{suffix}"):
                return (self.blobs / layer.digest.replace(":", "-")).read_text()
        return ""

    @cached_property
    def facts(self) -> dict[str, gguf.Value]:
        """The values in the head of the weights."""
        try:
            return gguf.read(self.blobs / self.weights.replace(":", "-"))
        except (OSError, ValueError):
            return {}

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """The JSON of the configuration's blob."""
        try:
            value = json.loads((self.blobs / self.config.digest.replace(":", "-")).read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def template(self) -> str:
        """How a chat becomes a prompt."""
        return self._text("template")

    @property
    def license(self) -> str:
        """The licence's text."""
        return self._text("license")

    @property
    def parameters(self) -> dict[str, Any]:
        """Options that came with the model."""
        text = self._text("params")
        return dict(json.loads(text)) if text else {}

    @property
    def capabilities(self) -> list[str]:
        """What it can do."""
        if any(key.endswith(".pooling_type") for key in self.facts):
            return ["embedding"]
        found = ["completion"]
        found += ["vision"] if any(key.endswith(".vision.block_count") for key in self.facts) else []
        found += ["tools"] if ".Tools" in self.template else []
        return found + (["insert"] if ".Suffix" in self.template else [])

    def details(self) -> dict[str, Any]:
        """The `details` of lists."""
        told = self.configuration
        return {
            "parent_model": "", "format": told.get("model_format", ""), "family": told.get("model_family", ""),
            "families": told.get("model_families"), "parameter_size": told.get("model_type", ""),
            "quantization_level": told.get("file_type", ""),
        }  # fmt: skip


class Store:
    """The models directory."""

    def __init__(self, root: Path) -> None:
        self.manifests, self.blobs = root / "manifests", root / "blobs"
        self._seen: dict[Path, tuple[int, Model]] = {}

    def create(self) -> None:
        """Make the directories."""
        self.manifests.mkdir(parents=True, exist_ok=True)
        self.blobs.mkdir(parents=True, exist_ok=True)

    def blob(self, digest: str) -> Path:
        """Return a blob's place."""
        return self.blobs / digest.lower().replace(":", "-")

    def names(self) -> Iterator[tuple[Name, Path]]:
        """Yield every manifest's name and place."""
        for path in sorted(self.manifests.glob("*/*/*/*")):
            if path.is_file():
                yield Name(*path.relative_to(self.manifests).parts), path

    def models(self) -> list[Model]:
        """Return all models whose manifest can be read, the newest first."""
        found = []
        for name, path in self.names():
            try:
                found.append(self._model(name, path))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return sorted(found, key=lambda model: model.modified, reverse=True)

    def _model(self, name: Name, path: Path) -> Model:
        info = path.stat()
        stamp = hash((info.st_mtime_ns, info.st_ino, info.st_size))
        if path not in self._seen or self._seen[path][0] != stamp:
            raw = path.read_bytes()
            value = json.loads(raw)
            modified = datetime.fromtimestamp(info.st_mtime, UTC)
            layers = tuple(Layer.of(layer) for layer in value["layers"])
            self._seen[path] = stamp, Model(name, raw, modified, Layer.of(value["config"]), layers, self.blobs)
        return self._seen[path][1]

    def find(self, text: str) -> Model | None:
        """Return the model of a name, whatever the name's case."""
        key = Name.parse(text).key
        return next((model for model in self.models() if model.name.key == key), None)

    def existing(self, name: Name) -> Name:
        """Return the spelling in which the name is there already, or the name itself."""
        return next((found for found, _ in self.names() if found.key == name.key), name)

    def write(self, name: Name, raw: bytes) -> None:
        """Write a manifest; like the real one's, not atomically."""
        path = self.manifests / name.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)

    def delete(self, model: Model) -> None:
        """Remove a model, and its blobs that no other has."""
        (self.manifests / model.name.path).unlink()
        self._remove_empty_directories()
        self.drop({layer.digest for layer in model.files})

    def drop(self, digests: set[str]) -> None:
        """Remove these blobs unless a manifest names them."""
        for digest in digests - self._named():
            self.blob(digest).unlink(missing_ok=True)

    def _named(self) -> set[str]:
        return {layer.digest for model in self.models() for layer in model.files}

    def _remove_empty_directories(self) -> None:
        for directory, _, _ in sorted(os.walk(self.manifests), reverse=True):
            if Path(directory) != self.manifests and not os.listdir(directory):  # noqa: PTH208
                Path(directory).rmdir()

    def corrupt(self) -> bool:
        """Tell whether a manifest cannot be read."""
        return len(self.models()) < len(list(self.names()))

    def prune(self) -> list[str]:
        """Remove blobs that no manifest names and names that are none, if older than an hour; return what went.

        Nothing is removed while a manifest cannot be read.
        """
        if self.corrupt():
            return []
        named = {digest.replace(":", "-") for digest in self._named()}
        gone = []
        for path in sorted(self.blobs.iterdir()):
            old = time.time() - path.lstat().st_mtime >= PRUNE_AGE_SECONDS
            if path.is_file() and old and (path.name not in named or not is_digest(path.name)):
                path.unlink()
                gone.append(path.name)
        self._remove_empty_directories()
        return gone


def damage_blob(models: Path, digest: str) -> None:
    """Change one byte in the middle of a blob, keeping its size, times and name."""
    path = Store(models).blob(digest)
    info = path.stat()
    with path.open("r+b") as file:
        file.seek(info.st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
