"""The memory that models need, against numbers worked out by hand, and where that fits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterai.v1.model_pb2 import FIT_GPU, FIT_MAIN_MEMORY, FIT_NONE, FIT_TIGHT, Fit
from clusterai.v1.types_pb2 import GpuSample, ModelShape, Sample
from clusteraid.models.fit import OVERHEAD_BYTES, Memory, Need, Setting, gigabytes, judge_fit, memory_needed, slots
from clusteraid.models.observe import memory_of
from clusteraid.models.placement import Place, judge
from clusteraid.servicers.model_messages import candidates
from support.ollama_status import GB, SETTING, loaded, machine

MIB = 1 << 20


def shape(layers: int, kv_heads: int, key: int, value: int, trained: int) -> ModelShape:
    return ModelShape(
        layer_count=layers, kv_head_count=kv_heads, key_length=key, value_length=value, context_length=trained
    )


# 8192 tokens for each of 2 slots = 16384. Bytes for a token: layers · KV heads · (key + value) · 2.
BY_HAND = [
    # Llama 3.2 3B: 28 · 8 · 256 · 2 = 114,688
    ("3B, grouped queries", 2_019_393_189, shape(28, 8, 128, 128, 131072), "llama", ("completion",), 1_879_048_192),
    # Llama 3.1 8B: 32 · 8 · 256 · 2 = 131,072
    ("8B, grouped queries", 4_920_753_328, shape(32, 8, 128, 128, 131072), "llama", ("completion",), 2_147_483_648),
    # Llama 3.3 70B: 80 · 8 · 256 · 2 = 327,680
    ("70B, grouped queries", 42_520_413_916, shape(80, 8, 128, 128, 131072), "llama", (), 5_368_709_120),
    # Code Llama 7B: 32 · 32 · 256 · 2 = 524,288
    ("7B, a KV head for each head", 3_825_910_662, shape(32, 32, 128, 128, 16384), "llama", (), 8_589_934_592),
    # DeepSeek Coder V2 Lite: 27 · 16 · (192 + 128) · 2 = 276,480
    ("keys and values of other lengths", 8_905_126_121, shape(27, 16, 192, 128, 163840), "x", (), 4_529_848_320),
    # trained with 2048: 2048 · 2 slots = 4096 tokens; 22 · 4 · 128 · 2 = 22,528
    ("trained with less than is configured", 637_700_138, shape(22, 4, 64, 64, 2048), "llama", (), 92_274_688),
    # embeddings have one slot: 2048 · 12 · 12 · 128 · 2
    ("embeddings", 274_302_450, shape(12, 12, 64, 64, 2048), "nomic-bert", ("embedding",), 75_497_472),
    # one slot by family: 8192 · 40 · 8 · 256 · 2
    ("a family with one slot", 7_816_589_186, shape(40, 8, 128, 128, 131072), "mllama", (), 1_342_177_280),
    # nothing known: 16384 · 131,072
    ("no shape", 5 * GB, ModelShape(), "", (), 2_147_483_648),
    ("layers without heads' lengths", 5 * GB, shape(32, 8, 0, 0, 0), "", (), 2_147_483_648),
    # 16384 · 10 · 1 · 256 · 2
    ("no KV heads told", 5 * GB, shape(10, 0, 128, 128, 0), "", (), 83_886_080),
    ("only the keys' length told", 5 * GB, shape(10, 1, 128, 0, 0), "", (), 83_886_080),
    ("only the values' length told", 5 * GB, shape(10, 1, 0, 128, 0), "", (), 83_886_080),
]


@pytest.mark.parametrize(
    ("size", "architecture", "family", "capabilities", "kv_cache"), [case[1:] for case in BY_HAND],
    ids=[case[0] for case in BY_HAND],
)
def test_the_formula_gives_what_was_worked_out_by_hand(
    size: int, architecture: ModelShape, family: str, capabilities: tuple[str, ...], kv_cache: int
) -> None:
    need = memory_needed(size, architecture, SETTING, family=family, capabilities=capabilities)
    assert (need.weights, need.kv_cache, need.overhead) == (size, kv_cache, 768 * MIB)
    assert need.total == size + kv_cache + 805_306_368


def test_a_shape_that_a_node_lies_about_can_still_be_told_on_the_wire() -> None:
    most = (1 << 32) - 1
    need = memory_needed(1 << 46, shape(most, most, most, most, most), SETTING)
    judged = judge(need, Place("tower", memory_of(machine(), ())))
    assert candidates([judged])[0].needed_bytes > 1 << 46


def test_a_model_that_also_chats_has_all_slots() -> None:
    assert slots(SETTING, "qwen3", ("completion", "embedding")) == 2
    assert slots(SETTING, "qwen35moe", ("completion",)) == slots(SETTING, "nemotron_h_moe", ()) == 1


def memory(*, gpu: int = 0, gpu_loaded: int = 0, main: int = 0, main_loaded: int = 0) -> Memory:
    return Memory(gpu, gpu - gpu_loaded, gpu_loaded, main - main_loaded, main_loaded)


def need(total: int) -> Need:
    return Need(total - OVERHEAD_BYTES, 0)


@pytest.mark.parametrize(
    ("needed", "where", "fit", "kind", "reason"),
    [
        (24, memory(gpu=24 * GB), FIT_GPU, "gpu", "fits in the 24 GB of its GPU"),
        (16, memory(gpu=24 * GB, gpu_loaded=4 * GB), FIT_GPU, "gpu", "fits in the 24 GB of its GPU"),
        (17, memory(gpu=24 * GB, gpu_loaded=4 * GB), FIT_TIGHT, "gpu",
         "fits in the 24 GB of its GPU once others are unloaded"),
        (25, memory(gpu=24 * GB, main=10 * GB), FIT_MAIN_MEMORY, "main",
         "fits in GPU and main memory together (34 GB free)"),
        (10, memory(main=10 * GB), FIT_MAIN_MEMORY, "main", "fits in main memory (10 GB free)"),
        (9, memory(main=10 * GB, main_loaded=2 * GB), FIT_TIGHT, "main",
         "fits in its memory once others are unloaded"),
        (9.1, memory(main=6.2 * GB), FIT_NONE, "main", "needs 9.1 GB, has 6.2 GB free"),  # type: ignore[arg-type]
    ],
)
def test_where_it_fits_is_said_in_a_sentence(needed: float, where: Memory, fit: Fit, kind: str, reason: str) -> None:
    found = judge_fit(need(int(needed * GB)), where)
    assert (found.fit, found.memory, found.reason) == (fit, kind, reason)
    assert found.needed == int(needed * GB)


def test_the_gpus_of_a_node_count_together() -> None:
    two = memory_of(machine(gpu=12 * GB, gpus=2), ())
    assert two.gpu_total == two.gpu_free == 24 * GB
    assert judge_fit(need(20 * GB), two).fit == FIT_GPU


def test_what_is_loaded_counts_and_so_does_what_others_use() -> None:
    facts = machine(gpu=24 * GB, memory=20 * GB)
    assert memory_of(facts, [loaded(size=6 * GB, vram=4 * GB)]) == Memory(24 * GB, 20 * GB, 4 * GB, 14 * GB, 2 * GB)
    sample = Sample(memory_available_bytes=3 * GB, gpus=[GpuSample(memory_used_bytes=20 * GB)])
    assert memory_of(facts, [], sample) == Memory(24 * GB, 4 * GB, 0, 3 * GB, 0)
    assert memory_of(facts, [loaded(size=1 << 63, vram=1 << 62)]).gpu_free == 0


SIZES = st.integers(0, 1 << 40)
MEMORIES = st.builds(
    lambda gpu, gpu_loaded, main, main_loaded: memory(
        gpu=gpu + gpu_loaded, gpu_loaded=gpu_loaded, main=main + main_loaded, main_loaded=main_loaded
    ),
    SIZES, SIZES, SIZES, SIZES,
)


@given(SIZES, SIZES, MEMORIES)
def test_who_needs_less_fits_wherever_more_fits(less: int, more: int, where: Memory) -> None:
    less, more = sorted((less, more))
    small, large = judge_fit(Need(less, 0), where), judge_fit(Need(more, 0), where)
    assert small.fit != FIT_NONE or large.fit == FIT_NONE
    assert large.fit != FIT_GPU or small.fit == FIT_GPU


@given(st.integers(512, 1 << 20), st.integers(1, 64), st.integers(0, 1 << 40))
def test_more_context_or_slots_never_need_less(tokens: int, parallel: int, size: int) -> None:
    architecture = shape(32, 8, 128, 128, 131072)
    one = memory_needed(size, architecture, Setting(tokens, parallel)).total
    assert memory_needed(size, architecture, Setting(tokens + 1, parallel)).total >= one
    assert memory_needed(size, architecture, Setting(tokens, parallel + 1)).total > one


def test_sizes_are_written_as_in_the_library() -> None:
    assert [gigabytes(count) for count in (9_100_000_000, 24 * GB, 0)] == ["9.1 GB", "24 GB", "0 GB"]
