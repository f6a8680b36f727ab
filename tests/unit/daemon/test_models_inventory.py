"""From what nodes tell to the cluster's models: which digest counts, who may serve, and what liars cannot do."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterai.v1.model_pb2 import FIT_GPU, FIT_MAIN_MEMORY, FIT_UNABLE
from clusterai.v1.types_pb2 import (
    PULL_STATE_FAILED,
    PULL_STATE_PULLING,
    SERVICE_STATE_ABSENT,
    SERVICE_STATE_FAILED,
    SERVICE_STATE_STARTING,
    GateStatus,
    LoadedModel,
    ModelShape,
    OllamaModel,
    OllamaStatus,
    PullStatus,
    ServiceState,
)
from clusteraid.models.inventory import Holdings, Wanted
from clusteraid.models.observe import Observed
from clusteraid.models.ports import ClusterModel, Copy
from clusteraid.registry import Desired, Link, Rest
from support.ollama_status import GB, cluster_models, digest, loaded, machine, model, node, ollama, pull

NAME = "llama3.2:3b"


def only(*nodes: Observed, wanted: Wanted | None = None) -> ClusterModel:
    (found,) = cluster_models(nodes, {wanted.name: wanted} if wanted else {})
    return found


def copy_on(found: ClusterModel, node_id: str) -> Copy:
    return next(copy for copy in found.copies if copy.node_id == node_id)


def test_a_model_that_somebody_pulled_by_hand_is_served() -> None:
    found = only(node("tower", ollama(model())))
    assert (found.name, found.digest, found.managed, found.served) == (NAME, digest("one"), False, True)
    assert found.copies == (Copy("tower", True, False, True, FIT_GPU),)
    assert found.info.family == "llama"


@pytest.mark.parametrize(("state", "later"), [(SERVICE_STATE_STARTING, True), (SERVICE_STATE_ABSENT, False)])
def test_an_ollama_that_is_starting_may_be_named_for_a_model(state: ServiceState, later: bool) -> None:
    starting = node("tower", ollama(state=state))
    assert starting.unable
    assert starting.later is later


def test_names_are_written_in_one_way() -> None:
    names = ["Llama3.2:3B", "registry.ollama.ai/library/llama3.2:3b"]
    found = only(*(node(f"n{number}", ollama(model(name))) for number, name in enumerate(names)))
    assert found.name == found.info.model == NAME
    assert [copy.usable for copy in found.copies] == [True, True]


def test_what_is_in_memory_is_known_with_its_share_on_the_gpu() -> None:
    tower = node("tower", ollama(model(), loaded=[loaded()]))
    pi = node("pi", ollama(model(), loaded=[loaded(vram=0)]), facts=machine())
    other = node("other", ollama(model(), loaded=[loaded(content="two")]))
    found = only(tower, pi, other)
    assert copy_on(found, "tower") == Copy("tower", True, True, True, FIT_GPU, vram_bytes=4 * GB)
    assert copy_on(found, "pi") == Copy("pi", True, True, True, FIT_MAIN_MEMORY)
    assert not copy_on(found, "other").loaded


def test_a_model_that_is_too_large_is_used_only_while_it_is_loaded_all_the_same() -> None:
    huge = model(size=40 * GB)
    found = only(node("pi", ollama(huge), facts=machine()))
    assert not found.served
    assert found.copies[0].reason.startswith("it does not fit: needs 4")
    assert only(node("pi", ollama(huge, loaded=[loaded()]), facts=machine())).served


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: node("n", ollama(model()), link=Link.BROKEN), "n is suspect: its session broke off"),
        (lambda: node("n", ollama(model()), link=Link.SILENT), "n is offline: its session broke off"),
        (lambda: node("n", ollama(model()), desired=Desired.DRAINING), "n is draining"),
        (lambda: node("n", ollama(model()), desired=Desired.DRAINED), "n is drained"),
        (lambda: node("n", ollama(model()), rest=Rest.DONE), "n is resting: on battery"),
        (lambda: node("n", ollama(model(), state=SERVICE_STATE_STARTING)), "Ollama is starting"),
        (lambda: node("n", ollama(model(), state=SERVICE_STATE_FAILED, reason="a\nb")), "Ollama is failed: a b"),
        (lambda: node("n", ollama(model(), state=SERVICE_STATE_ABSENT)), "no Ollama there"),
        (lambda: node("n", ollama(model(), gate=GateStatus(state=SERVICE_STATE_FAILED, reason="x"))),
         "the gate is failed: x"),
        (lambda: node("n", ollama(model(), gate=None)), "the gate is unspecified"),
        (lambda: node("n", ollama(model(), state=77)), "Ollama is unknown"),
    ],
)
def test_who_may_not_serve_says_why(made: Callable[[], Observed], reason: str) -> None:
    (copy,) = only(made()).copies
    assert (copy.usable, copy.present, copy.fit, copy.reason) == (False, True, FIT_UNABLE, reason)


def test_the_fixed_digest_counts_whatever_most_nodes_have() -> None:
    nodes = [node(name, ollama(model(content=content))) for name, content in (("a", "two"), ("b", "two"), ("c", "one"))]
    found = only(*nodes, wanted=Wanted(NAME, digest("one"), frozenset({"c"})))
    assert found.digest == found.info.digest == digest("one")
    assert [copy.usable for copy in found.copies] == [False, False, True]
    assert found.copies[0].reason == "its copy has another digest than the cluster's"


def test_without_a_fixed_digest_the_one_with_most_copies_counts_then_the_newest() -> None:
    old, new = model(content="old", modified_unix_seconds=1), model(content="new", modified_unix_seconds=2)
    assert only(node("a", ollama(old)), node("b", ollama(new))).digest == digest("new")
    assert only(node("a", ollama(old)), node("b", ollama(new)), node("c", ollama(old))).digest == digest("old")


def test_a_wanted_copy_that_is_not_there_is_listed_with_the_reason() -> None:
    wanted = Wanted(NAME, present=frozenset({"a", "b", "c", "gone"}))
    going = node("a", ollama(pulls=[pull(state=PULL_STATE_PULLING, completed_bytes=1)]))
    failed = node("b", ollama(pulls=[pull(state=PULL_STATE_FAILED, reason="disk full")]))
    away = node("c", ollama(), link=Link.SILENT)
    found = only(going, failed, away, wanted=wanted)
    assert found.managed
    assert not found.served
    assert [(copy.node_id, copy.present, copy.reason) for copy in found.copies] == [
        ("a", False, "it is being fetched"),
        ("b", False, "fetching it failed: disk full"),
        ("c", False, "c is offline: its session broke off"),
        ("gone", False, "this node is not in the cluster any more"),
    ]


def test_the_progress_of_a_pull_changes_nothing_for_the_gateway() -> None:
    wanted = Wanted(NAME, present=frozenset({"a"}))
    steps = [pull(state=PULL_STATE_PULLING, completed_bytes=count) for count in (1, 2)]
    first, second = (only(node("a", ollama(pulls=[step])), wanted=wanted) for step in steps)
    assert first == second


def test_a_removal_alone_lists_no_model() -> None:
    assert cluster_models([node("a", ollama())], {NAME: Wanted(NAME, absent=frozenset({"a"}))}) == ()


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b/c/d", "x" * 90, "l\x00", "http://127.0.0.1:11445/library/x",
                                  "127.0.0.1:11445/library/x:latest", "localhost:5000/library/x"])
def test_names_that_are_none_are_dropped(name: str) -> None:
    assert cluster_models([node("a", ollama(model(name)))], {}) == ()


@pytest.mark.parametrize("bad", [{"digest": b""}, {"digest": b"x" * 31}, {"size_bytes": 1 << 63}])
def test_models_without_a_real_digest_or_size_are_dropped(bad: dict[str, object]) -> None:
    assert cluster_models([node("a", ollama(model(**bad)))], {}) == ()  # type: ignore[arg-type]


def test_a_node_with_very_many_models_is_heard_to_a_limit() -> None:
    many = [model(f"m{number}") for number in range(5000)]
    assert len(cluster_models([node("a", ollama(*many))], {})) == 512


def test_a_liar_takes_no_model_from_the_others() -> None:
    """One node claims every model in another content, as new as can be: the fixed digest and the majority stand."""
    liar = node("liar", ollama(model(content="bad", modified_unix_seconds=float("inf"))))
    honest = [node("a", ollama(model())), node("b", ollama(model()))]
    assert [copy.node_id for copy in only(liar, *honest).copies if copy.usable] == ["a", "b"]
    fixed = Wanted(NAME, digest("one"), frozenset({"a"}))
    assert [copy.node_id for copy in only(liar, honest[0], wanted=fixed).copies if copy.usable] == ["a"]


NUMBERS = st.integers(0, (1 << 32) - 1)
SIZES = st.integers(0, (1 << 64) - 1)
DIGESTS = st.sampled_from([b"", digest("one"), digest("two")]) | st.binary(max_size=40)
TEXTS = st.sampled_from([NAME, "a", "b:c"]) | st.text(max_size=20)
SHAPES = st.builds(ModelShape, layer_count=NUMBERS, kv_head_count=NUMBERS, key_length=NUMBERS, value_length=NUMBERS,
                   context_length=NUMBERS)
MODELS = st.builds(OllamaModel, model=TEXTS, digest=DIGESTS, size_bytes=SIZES, family=TEXTS, shape=SHAPES,
                   modified_unix_seconds=st.floats(), capabilities=st.lists(TEXTS, max_size=3))
LOADED = st.builds(LoadedModel, model=TEXTS, digest=DIGESTS, size_bytes=SIZES, vram_bytes=SIZES)
STATUSES = st.builds(
    OllamaStatus, state=st.integers(0, 9), models=st.lists(MODELS, max_size=4), loaded=st.lists(LOADED, max_size=3),
    pulls=st.lists(st.builds(PullStatus, model=TEXTS, state=st.integers(0, 9), reason=TEXTS), max_size=3),
    gate=st.builds(GateStatus, state=st.integers(0, 9), reason=TEXTS), reason=TEXTS, version=TEXTS,
)


@given(st.lists(STATUSES, max_size=4), st.sampled_from([b"", digest("one")]))
def test_whatever_nodes_say_the_models_are_sound(statuses: list[OllamaStatus], fixed: bytes) -> None:
    nodes = [node(f"n{number}", status) for number, status in enumerate(statuses)]
    found = cluster_models(nodes, {NAME: Wanted(NAME, fixed, frozenset({"n0"}))})
    assert [entry.name for entry in found] == sorted({entry.name for entry in found})
    for entry in found:
        assert [copy.node_id for copy in entry.copies] == sorted({copy.node_id for copy in entry.copies})
        for copy in entry.copies:
            assert copy.usable <= copy.present
            assert copy.usable == (not copy.reason)
            assert copy.reason.isprintable()
            assert 0 <= copy.vram_bytes < 1 << 63
    assert found == cluster_models(list(reversed(nodes)), {NAME: Wanted(NAME, fixed, frozenset({"n0"}))})


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | STATUSES), max_size=8))
def test_what_changed_step_by_step_is_what_is_there_at_once(steps: list[tuple[str, OllamaStatus | None]]) -> None:
    holdings, wanted, now = Holdings(), Wanted(NAME, present=frozenset("ab")), {}
    known: dict[str, ClusterModel | None] = {}
    for name, status in steps:
        now[name] = node(name, status)
        touched = holdings.put(now[name]) | {NAME}
        known |= {each: holdings.model(each, wanted if each == NAME else None) for each in touched}
    found = tuple(known[name] for name in sorted(known) if known[name] is not None)
    assert not steps or found == cluster_models(now.values(), {NAME: wanted})
    for name in now:
        known |= {each: holdings.model(each, None) for each in holdings.drop(name)}
    assert not [name for name, model in known.items() if model is not None and name != NAME]
    assert not list(holdings.names)
