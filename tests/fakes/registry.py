"""A test double of the public registry of models, and models to put into it: made-up weights with right digests.

`python3 -m fakes.registry HOST:PORT NAME=BYTES…` runs it as a program.
"""

import asyncio
import hashlib
import json
import random
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from fakes.http import Cut, HttpFault, HttpServer, Reply, Request
from fakes.ollama import gguf
from fakes.ollama.names import Name
from fakes.ollama.store import Store

_PIECE = 1 << 16
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_TEMPLATE = "{{ if .System }}<|system|>{{ .System }}{{ end }}{{ if .Tools }}{{ .Tools }}{{ end }}{{ .Prompt }}"


@dataclass(frozen=True)
class MadeModel:
    """A model: its manifest, and its blobs by digest."""

    name: str
    manifest: bytes
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        """What /api/tags shows for it."""
        return hashlib.sha256(self.manifest).hexdigest()

    @property
    def weights(self) -> str:
        """The digest of the weights."""
        return str(json.loads(self.manifest)["layers"][0]["digest"])

    @property
    def size(self) -> int:
        """All files together."""
        return sum(map(len, self.blobs.values()))

    def install(self, models: Path) -> None:
        """Put it into a models directory, as if it had been pulled."""
        store = Store(models)
        store.create()
        for digest, data in self.blobs.items():
            store.blob(digest).write_bytes(data)
        store.write(Name.parse(self.name), self.manifest)


def make_model(
    name: str = "llama3.2:3b",
    size_bytes: int = 200_000,
    seed: int = 1,
    *,
    architecture: str = "llama",
    layers: int = 28,
    heads: int = 24,
    kv_heads: int = 8,
    embedding: int = 3072,
    context: int = 131_072,
    key_length: int = 0,
    parameters: str = "3.2B",
    quantization: str = "Q4_K_M",
    embeds: bool = False,
    claimed_bytes: int = 0,
    options: dict[str, Any] | None = None,
) -> MadeModel:
    """Make a model whose weights are `size_bytes` of noise behind a true head; the same for the same arguments.

    `claimed_bytes`: what the double says is its size. `embeds`: it makes embeddings and does not chat.
    """
    facts: dict[str, gguf.Value] = {
        "general.architecture": architecture, "general.basename": Name.parse(name).model, "general.seed": seed,
        f"{architecture}.block_count": layers, f"{architecture}.attention.head_count": heads,
        f"{architecture}.attention.head_count_kv": kv_heads, f"{architecture}.embedding_length": embedding,
        f"{architecture}.context_length": context,
    }  # fmt: skip
    if key_length:
        facts |= {f"{architecture}.attention.{each}_length": key_length for each in ("key", "value")}
    if embeds:
        facts[f"{architecture}.pooling_type"] = 1
    if claimed_bytes:
        facts["fake.size_bytes"] = claimed_bytes
    head = gguf.header(facts)
    noise = random.Random(f"{name} {seed}").randbytes(max(0, size_bytes - len(head)))
    kinds = {"model": head + noise, "template": _TEMPLATE.encode(), "license": b"A licence for tests.\n"}
    if options:
        kinds["params"] = json.dumps(options).encode()
    return _assembled(name, kinds, architecture, parameters, quantization)


def _assembled(name: str, kinds: dict[str, bytes], family: str, parameters: str, quantization: str) -> MadeModel:
    digests = {kind: f"sha256:{hashlib.sha256(data).hexdigest()}" for kind, data in kinds.items()}
    config = json.dumps({
        "model_format": "gguf", "model_family": family, "model_families": [family], "model_type": parameters,
        "file_type": quantization, "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": list(digests.values())},
    }).encode()  # fmt: skip
    config_digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    kind = "application/vnd.docker.container.image.v1+json"
    manifest = {
        "schemaVersion": 2, "mediaType": _MANIFEST,
        "config": {"mediaType": kind, "digest": config_digest, "size": len(config)},
        "layers": [
            {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digests[kind], "size": len(data)}
            for kind, data in kinds.items()
        ],
    }  # fmt: skip
    blobs = {digests[kind]: data for kind, data in kinds.items()} | {config_digest: config}
    return MadeModel(name, json.dumps(manifest).encode(), blobs)


@dataclass
class Trouble:
    """What the registry does wrong. `cuts`, `stalls`: how many answers with weights end, or stand still, half way."""

    bytes_per_second: int = 0
    cuts: int = 0
    stalls: int = 0
    corrupt: set[str] = field(default_factory=set)
    no_location: bool = False
    status: int = 0
    hold: asyncio.Event | None = None  # weights are sent only once it is set


class FakeRegistry:
    """Serves models by the rules that Ollama's puller needs: `async with FakeRegistry([make_model()]) as registry`.

    `requests` has method, path and range of each request.
    """

    def __init__(self, models: Iterable[MadeModel] = (), host: str = "127.0.0.1", port: int = 0) -> None:
        self.trouble = Trouble()
        self.requests: list[tuple[str, str, str]] = []
        self.busiest = 0
        self._active = 0
        self._manifests: dict[str, bytes] = {}
        self._blobs: dict[str, bytes] = {}
        self._http = HttpServer(self._handle, host, port)
        for model in models:
            self.add(model)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.__aexit__(*error)

    @property
    def url(self) -> str:
        """Its address, for FAKE_OLLAMA_REGISTRY."""
        return f"http://{self._http.authority}"

    @property
    def authority(self) -> str:
        """Host and port, for a name such as `http://HOST:PORT/library/llama3.2:3b`."""
        return self._http.authority

    def add(self, model: MadeModel) -> None:
        """Offer a model; a name that is there already gets the new one."""
        name = Name.parse(model.name)
        self._manifests[f"/v2/{name.repository}/manifests/{name.tag}"] = model.manifest
        self._blobs |= model.blobs

    async def _handle(self, request: Request, reply: Reply) -> None:
        wanted = request.headers.get("range", "")
        self.requests.append((request.method, request.path, wanted))
        if self.trouble.status:
            raise HttpFault(self.trouble.status, {"errors": [{"code": "UNAVAILABLE"}]})
        if request.path in self._manifests:
            await reply.whole(200, self._manifests[request.path], _MANIFEST)
            return
        digest = request.path.rpartition("/")[2]
        if digest not in self._blobs:
            raise HttpFault(404, {"errors": [{"code": "MANIFEST_UNKNOWN"}]})
        if request.path.startswith("/data/"):
            await self._data(digest, wanted, request, reply)
        elif request.method == "HEAD" or self.trouble.no_location:
            await reply.start(200, "application/octet-stream", length=len(self._blobs[digest]))
            await reply.send(self._blobs[digest])
        else:
            await reply.whole(307, b"", "text/plain", {"Location": f"/data/{digest}"})

    async def _data(self, digest: str, wanted: str, request: Request, reply: Reply) -> None:
        data = self._blobs[digest]
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
        start, stop = (int(match[1]), int(match[2]) + 1) if match else (0, len(data))
        if start >= len(data):
            raise HttpFault(416, "")
        stop = min(stop, len(data))
        headers = {"Location": f"/data/{digest}", "Accept-Ranges": "bytes"}
        if match:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        await reply.start(206 if match else 200, "application/octet-stream", headers, stop - start)
        if match:
            self._active += 1
            self.busiest = max(self.busiest, self._active)
            try:
                await self._send(digest, data[start:stop], reply)
            finally:
                self._active -= 1

    async def _send(self, digest: str, data: bytes, reply: Reply) -> None:
        trouble = self.trouble
        if trouble.hold:
            await trouble.hold.wait()
        if digest in trouble.corrupt:
            data = bytes([data[0] ^ 0xFF]) + data[1:]
        if trouble.cuts or trouble.stalls:
            await reply.send(data[: len(data) // 2])
            if trouble.cuts:
                trouble.cuts -= 1
                raise Cut
            trouble.stalls -= 1
            await asyncio.Event().wait()
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            await reply.send(piece)
            if trouble.bytes_per_second:
                await asyncio.sleep(len(piece) / trouble.bytes_per_second)


async def _serve(address: str, wanted: list[str]) -> None:
    host, _, port = address.rpartition(":")
    pairs = [text.rpartition("=") for text in wanted]
    async with FakeRegistry([make_model(name, int(size)) for name, _, size in pairs], host, int(port)) as registry:
        print(f"Listening on {registry.url}, a test double of a registry", file=sys.stderr, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python3 -m fakes.registry HOST:PORT NAME=BYTES...")
    asyncio.run(_serve(sys.argv[1], sys.argv[2:]))
