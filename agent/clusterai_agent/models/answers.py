"""Ollama's answers as values. They come from another program, perhaps of another maker: nothing is believed."""

import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from clusterai.models import BadModelName, ModelName, normalised
from clusterai.v1.types_pb2 import LoadedModel, ModelShape, OllamaModel

_DIGEST = re.compile(r"(?:sha256[:-])?([0-9a-fA-F]{64})")
_ENTRY_LIMIT, _TEXT_LIMIT, _CAPABILITY_LIMIT = 5000, 64, 16
_UINT32, _UINT64 = (1 << 32) - 1, (1 << 64) - 1
_NEVER_SECONDS = 10 * 365 * 86400.0  # Ollama writes "never" as a date in centuries
_LAYERS = 4096


class Tags:
    """What `/api/tags` tells: models on the disk by name, copies under the mirror's name, and what is elsewhere."""

    def __init__(self, answer: Any, mirror_host: str) -> None:
        self.models: dict[str, OllamaModel] = {}
        self.mirrored: dict[str, bytes] = {}  # under the name of the mirror: a fetch that is not finished
        self.elsewhere: list[str] = []  # run by somebody else's computers
        self.unusable = 0
        for entry in _entries(answer):
            self._take(entry, mirror_host)

    def _take(self, entry: Mapping[str, Any], mirror_host: str) -> None:
        if entry.get("remote_host") or entry.get("remote_model"):
            self.elsewhere.append(_text(entry.get("name") or entry.get("model")))
            return
        try:
            name = ModelName.parse(str(entry.get("model") or entry.get("name") or ""))
        except BadModelName:
            self.unusable += 1
            return
        digest = digest_of(entry.get("digest"))
        if not digest:
            self.unusable += 1
        elif name.host == mirror_host:
            self.mirrored[str(name)] = digest
        else:
            self.models[str(name)] = _model(str(name), digest, entry)


def _model(name: str, digest: bytes, entry: Mapping[str, Any]) -> OllamaModel:
    details = _table(entry.get("details"))
    return OllamaModel(
        model=name,
        digest=digest,
        size_bytes=_whole(entry.get("size"), _UINT64),
        modified_unix_seconds=max(0.0, moment(entry.get("modified_at"))),
        family=_text(details.get("family")),
        parameter_size=_text(details.get("parameter_size")),
        quantization=_text(details.get("quantization_level")),
        capabilities=_texts(entry.get("capabilities")),
    )


def loaded_of(answer: Any) -> list[LoadedModel]:
    """Return what `/api/ps` tells is in memory."""
    return [loaded for entry in _entries(answer) if (loaded := _loaded(entry)) is not None]


def _loaded(entry: Mapping[str, Any]) -> LoadedModel | None:
    if entry.get("remote_host") or entry.get("remote_model"):
        return None
    try:
        name = normalised(str(entry.get("model") or entry.get("name") or ""))
    except BadModelName:
        return None
    size = _whole(entry.get("size"), _UINT64)
    expires = moment(entry.get("expires_at"))
    return LoadedModel(
        model=name,
        digest=digest_of(entry.get("digest")),
        size_bytes=size,
        vram_bytes=min(_whole(entry.get("size_vram"), _UINT64), size),
        context_length=_whole(entry.get("context_length"), _UINT32),
        expires_unix_seconds=0.0 if expires > time.time() + _NEVER_SECONDS else max(0.0, float(round(expires))),
    )


def version_of(answer: Any) -> str:
    """Return what `/api/version` tells; empty when it tells none."""
    return _text(_table(answer).get("version"))


def capabilities_of(answer: Any) -> list[str]:
    """Return what a model can do, of `/api/show`."""
    return _texts(_table(answer).get("capabilities"))


def shape_of(answer: Any) -> ModelShape:
    """Return what a model's memory is computed from, of `/api/show`; zeros for what it does not tell.

    Source: ollama's fs/ggml: the keys are those of GGUF, after the architecture's name; a length per head that is not
    given is the embedding's divided by the heads; the heads of keys and values may differ by layer, the least counts.
    """
    info = _table(_table(answer).get("model_info"))
    prefix = str(info.get("general.architecture", ""))[:_TEXT_LIMIT]

    def value(key: str) -> Any:
        return info.get(f"{prefix}.{key}")

    heads = _whole(_least(value("attention.head_count"), max), _UINT32)
    per_head = _whole(value("embedding_length"), _UINT32) // heads if heads else 0
    return ModelShape(
        layer_count=_whole(value("block_count"), _LAYERS),
        kv_head_count=_whole(_least(value("attention.head_count_kv"), min), _UINT32) or min(heads, 1),
        key_length=_whole(value("attention.key_length"), _UINT32) or per_head,
        value_length=_whole(value("attention.value_length"), _UINT32) or per_head,
        context_length=_whole(value("context_length"), _UINT32),
    )


def digest_of(value: Any) -> bytes:
    """Return the 32 bytes of a digest; nothing when it is none."""
    match = _DIGEST.fullmatch(value) if isinstance(value, str) else None
    return bytes.fromhex(match[1]) if match else b""


def moment(value: Any) -> float:
    """Return the Unix seconds of a time as Go writes it; 0 when it is none."""
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def progress_of(step: Mapping[str, Any]) -> tuple[str, int, int] | None:
    """Return digest, completed and total bytes of a step of `/api/pull`; None when it is about no file."""
    digest, total = digest_of(step.get("digest")), _whole(step.get("total"), _UINT64)
    if not digest or not total:
        return None
    return digest.hex(), min(_whole(step.get("completed"), _UINT64), total), total


def _entries(answer: Any) -> Iterator[Mapping[str, Any]]:
    models = _table(answer).get("models")
    for entry in models[:_ENTRY_LIMIT] if isinstance(models, list) else []:
        if isinstance(entry, dict):
            yield entry


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    shown = value if isinstance(value, str) else ""
    return "".join(letter for letter in shown[:_TEXT_LIMIT] if letter.isprintable())


def _texts(value: Any) -> list[str]:
    found = [_text(item) for item in value[:_CAPABILITY_LIMIT]] if isinstance(value, list) else []
    return [text for text in found if text]


def _whole(value: Any, most: int) -> int:
    """The number, within what the wire can carry; 0 when it is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        return 0
    return int(value)


def _least(value: Any, choose: Any) -> Any:
    """One number of a list with one for each layer."""
    if not isinstance(value, list):
        return value
    numbers = [item for item in value[:_LAYERS] if isinstance(item, int) and not isinstance(item, bool)]
    return choose(numbers) if numbers else 0
