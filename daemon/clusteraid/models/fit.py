"""How much memory a model needs, and whether a node has it. One formula, for placement, routing and the catalogue.

needed = weights + KV cache + overhead

- weights: the model's size on disk, all of which is mapped into memory.
- KV cache: layers · KV heads · (key length + value length) · tokens · 2 bytes (K and V, f16), with
  tokens = min(context length as configured, context length as trained) · parallel slots.
- overhead: 768 MiB for compute buffers and the driver's context.

Source: Ollama's scheduler (server/sched.go and its memory prediction): file size + 2·layers·kv_heads·head_dim·ctx·2,
num_ctx multiplied by the slots, slots forced to 1 for embeddings and some families, +768 MiB of buffers for batches of
1024. While other models are loaded it takes a new one beside them up to 80 % of what is free, otherwise it evicts.
It tries one GPU first and then all of them together: layers are split, so the memory of a node's GPUs counts as a sum.
What does not fit on the GPUs goes to main memory, layer by layer: there GPUs and main memory count together.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from clusterai.v1.model_pb2 import FIT_GPU, FIT_MAIN_MEMORY, FIT_NONE, FIT_TIGHT, Fit
from clusterai.v1.types_pb2 import ModelShape

OVERHEAD_BYTES = 768 << 20
BESIDE_OTHERS = 0.8  # of the free memory, while other models are loaded
MAIN_SHARE = 0.8  # of a machine's main memory: the rest is for the system
_MOST_BYTES = 1 << 60  # of what a shape may come to: nodes may lie, and the wire has 64 bits
_ELEMENT_BYTES = 2  # f16, OLLAMA_KV_CACHE_TYPE's default
_UNKNOWN_BYTES_PER_TOKEN = 128 << 10  # a shape that nobody told: as of Llama 3.1 8B
_ONE_SLOT = re.compile(r"mllama|qwen3vl(moe)?|qwen35(moe)?|qwen3next|lfm2(moe)?|nemotron_h.*")


@dataclass(frozen=True)
class Setting:
    """How every Ollama of the cluster is started: tokens for each slot, and slots for each model."""

    context_length: int
    parallel: int


@dataclass(frozen=True)
class Need:
    """The memory that a model needs, in bytes."""

    weights: int
    kv_cache: int
    overhead: int = OVERHEAD_BYTES

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.overhead


@dataclass(frozen=True)
class Memory:
    """A node's memory in bytes: what is free, and what loaded models hold that could be evicted.

    `gpu_total` 0: no GPUs that Ollama could use.
    """

    gpu_total: int
    gpu_free: int
    gpu_loaded: int
    main_free: int
    main_loaded: int


@dataclass(frozen=True)
class Judgement:
    """Whether and where a model fits. `free` is of the memory it was compared with: "gpu" or "main"."""

    fit: Fit
    needed: int
    free: int
    memory: str
    reason: str


def memory_needed(
    size_bytes: int, shape: ModelShape, setting: Setting, *, family: str = "", capabilities: Collection[str] = ()
) -> Need:
    """Return what a model needs; missing fields of its shape are filled in as the module's formula says."""
    tokens = min(setting.context_length, shape.context_length or setting.context_length)
    kv_cache = tokens * slots(setting, family, capabilities) * _bytes_per_token(shape)
    return Need(size_bytes, min(kv_cache, _MOST_BYTES))


def slots(setting: Setting, family: str, capabilities: Collection[str]) -> int:
    """Return how many requests a loaded model takes at a time: 1 for embeddings and some families."""
    embeds = "embedding" in capabilities and "completion" not in capabilities
    return 1 if embeds or _ONE_SLOT.fullmatch(family) else setting.parallel


def _bytes_per_token(shape: ModelShape) -> int:
    key, value = shape.key_length or shape.value_length, shape.value_length or shape.key_length
    if not shape.layer_count or not key:
        return _UNKNOWN_BYTES_PER_TOKEN
    return shape.layer_count * max(shape.kv_head_count, 1) * (key + value) * _ELEMENT_BYTES


def judge_fit(need: Need, memory: Memory) -> Judgement:
    """Return where the model fits on a node: on its GPUs, else in GPUs and main memory, else by evicting, else not."""
    needed, gpu_free = need.total, memory.gpu_free
    all_free = gpu_free + memory.main_free
    gpu, everything = gigabytes(memory.gpu_total), gigabytes(all_free)
    if memory.gpu_total and needed <= _beside(gpu_free, memory.gpu_loaded):
        return Judgement(FIT_GPU, needed, gpu_free, "gpu", f"fits in the {gpu} of its GPU")
    if memory.gpu_total and needed <= gpu_free + memory.gpu_loaded:
        return Judgement(FIT_TIGHT, needed, gpu_free, "gpu", f"fits in the {gpu} of its GPU once others are unloaded")
    if needed <= _beside(all_free, memory.gpu_loaded + memory.main_loaded):
        where = "GPU and main memory together" if memory.gpu_total else "main memory"
        return Judgement(FIT_MAIN_MEMORY, needed, all_free, "main", f"fits in {where} ({everything} free)")
    if needed <= all_free + memory.gpu_loaded + memory.main_loaded:
        return Judgement(FIT_TIGHT, needed, all_free, "main", "fits in its memory once others are unloaded")
    reason = f"needs {gigabytes(needed)}, has {everything} free"
    return Judgement(FIT_NONE, needed, all_free, "main", reason)


def _beside(free: int, loaded: int) -> int:
    return int(free * BESIDE_OTHERS) if loaded else free


def gigabytes(count: int) -> str:
    """Return bytes as `9.1 GB`, as Ollama's library writes them."""
    return f"{count / 1e9:.1f} GB".replace(".0 GB", " GB")
