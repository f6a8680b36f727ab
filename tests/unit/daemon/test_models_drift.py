"""Where the cluster is not as it shall be, and what happened on a node between two reports."""

from clusterai.v1.model_pb2 import (
    DRIFT_KIND_CONTEXT,
    DRIFT_KIND_DIGEST,
    DRIFT_KIND_MISSING,
    DRIFT_KIND_VERSION,
)
from clusterai.v1.types_pb2 import PULL_STATE_FAILED, SERVICE_STATE_FAILED, ModelShape, OllamaSettings
from clusteraid.models.drift import Drift, find_drift
from clusteraid.models.happenings import Happening, happenings
from clusteraid.models.inventory import Desires, Wanted
from clusteraid.models.observe import Observed
from clusteraid.registry import Link
from support.ollama_status import cluster_models, digest, loaded, model, node, ollama, pull

NAME = "llama3.2:3b"
ONE, TWO = digest("one"), digest("two")


def drift(*nodes: Observed, wanted: Wanted | None = None) -> tuple[Drift, ...]:
    desires: Desires = {wanted.name: wanted} if wanted else {}
    return find_drift(nodes, cluster_models(nodes, desires), desires, 8192)


def test_a_cluster_as_it_shall_be_has_no_findings() -> None:
    wanted = Wanted(NAME, ONE, frozenset({"a"}))
    assert drift(node("a", ollama(model(), loaded=[loaded()])), node("b", None), wanted=wanted) == ()


def test_a_copy_with_another_digest_is_named_with_both() -> None:
    wanted = Wanted(NAME, ONE, frozenset({"a"}))
    (found,) = drift(node("a", ollama(model())), node("b", ollama(model(content="two"))), wanted=wanted)
    assert (found.kind, found.model, found.node_id) == (DRIFT_KIND_DIGEST, NAME, "b")
    assert found.message == f"b has {NAME} as {TWO.hex()[:12]}, the cluster's is {ONE.hex()[:12]}"
    assert found.fix == f"`clusteractl model sync {NAME}`"


def test_an_older_ollama_is_compared_as_numbers_with_the_newest() -> None:
    nodes = [node("a", ollama(version="0.9.2")), node("b", ollama(version="0.31.1")), node("c", ollama(version=""))]
    (found,) = drift(*nodes)
    assert (found.kind, found.node_id) == (DRIFT_KIND_VERSION, "a")
    assert found.message == "a runs Ollama 0.9.2, the newest in the cluster is 0.31.1"
    assert found.fix == "update Ollama on a, in the way in which it was installed there"
    assert drift(node("a", ollama(version="0.9.2", state=SERVICE_STATE_FAILED)), *nodes[1:]) == ()


def test_another_context_length_is_found_in_the_settings_and_in_memory() -> None:
    settings = OllamaSettings(context_length=4096)
    short = loaded()
    short.context_length = 4096
    found = drift(node("a", ollama(applied=settings)), node("b", ollama(model(), loaded=[short])))
    assert [(one.kind, one.node_id, one.model) for one in found] == [
        (DRIFT_KIND_CONTEXT, "a", ""), (DRIFT_KIND_CONTEXT, "b", NAME),
    ]
    assert found[0].message == "a was started with 4096 tokens, the cluster's is 8192"
    assert found[1].message == f"b has {NAME} loaded with 4096 tokens in place of 8192"
    assert "sudo systemctl restart ollama` on b" in found[1].fix


def test_a_model_that_was_trained_with_less_is_as_long_as_it_can_be() -> None:
    trained = model(shape=ModelShape(context_length=2048))
    short = loaded()
    short.context_length = 2048
    assert drift(node("a", ollama(trained, loaded=[short]))) == ()


def test_what_is_missing_is_said_with_what_helps() -> None:
    wanted = Wanted(NAME, b"", frozenset({"a", "b", "c"}))
    found = drift(
        node("a", ollama(pulls=[pull(state=PULL_STATE_FAILED, reason="disk full", hint="make room")])),
        node("b", ollama(), link=Link.SILENT),
        node("c", ollama()),
        wanted=wanted,
    )
    assert {one.kind for one in found} == {DRIFT_KIND_MISSING}
    assert [one.fix for one in found] == [
        "make room",
        "on the node: `systemctl status clusterai-agent`, `journalctl -u clusterai-agent`",
        f"it goes on by itself; `clusteractl model pull {NAME} --node c` shows how far it is",
    ]
    assert found[0].message == f"a shall have {NAME} and has not: fetching it failed: disk full"


# ---- events ----------------------------------------------------------------------------------------------------------


def happened(before: Observed | None, after: Observed, *others: Observed, wanted: Wanted) -> tuple[Happening, ...]:
    known = {found.name: found for found in cluster_models((*others, *([before] if before else [])), {})}
    return happenings(before, after, lambda name: wanted if name == NAME else Wanted(name), known.get)


def test_what_came_and_went_is_noted_once() -> None:
    empty, full, wanted = node("a", ollama()), node("a", ollama(model())), Wanted(NAME, b"", frozenset({"a"}))
    assert happened(empty, full, wanted=wanted) == (("model-present", NAME, f"{NAME} is on a"),)
    assert happened(full, full, wanted=wanted) == ()
    assert happened(full, empty, wanted=wanted) == (("model-removed", NAME, f"{NAME} is gone from a"),)
    assert happened(empty, full, wanted=Wanted(NAME)) == ()  # somebody pulled it by hand: no news


def test_after_a_restart_of_either_side_nothing_is_news() -> None:
    full, wanted = node("a", ollama(model())), Wanted(NAME, b"", frozenset({"a"}))
    assert happened(None, full, wanted=wanted) == ()
    down = node("a", ollama(state=SERVICE_STATE_FAILED))
    assert happened(down, full, wanted=wanted) == happened(full, down, wanted=wanted) == ()


def test_a_copy_that_differs_is_news() -> None:
    other = node("b", ollama(model()))
    drifted = happened(node("a", ollama()), node("a", ollama(model(content="two"))), other, wanted=Wanted(NAME))
    assert [kind for kind, _, _ in drifted] == ["model-drift"]
    alone = happened(node("a", ollama(model())), node("a", ollama(model(content="two"))), wanted=Wanted(NAME))
    assert alone == ()  # the only copy was renewed


def test_a_flood_of_changes_is_told_in_short() -> None:
    many = node("a", ollama(*(model(f"m{number}") for number in range(500))))
    found = happenings(many, node("a", ollama()), Wanted, lambda _: None)
    assert len(found) == 21
    assert found[-1] == ("models-changed", "a", "480 more models changed on a")
