"""Why a request goes where it goes: the order of docs/inference.md, with the gateway's counts and without."""

from clusterai.v1.model_pb2 import FIT_GPU, FIT_MAIN_MEMORY, FIT_TIGHT, FIT_UNABLE, Fit
from clusterai.v1.types_pb2 import OllamaModel
from clusteraid.models.explain import explain, refusal
from clusteraid.models.ports import ClusterModel, Copy, PeerLoad

NAME = "llama3.2:3b"


def copy(node_id: str, fit: Fit = FIT_GPU, *, loaded: bool = False, reason: str = "") -> Copy:
    return Copy(node_id, True, loaded, not reason, FIT_UNABLE if reason else fit, reason)


def known(*copies: Copy, name: str = NAME) -> ClusterModel:
    return ClusterModel(name, b"d" * 32, OllamaModel(model=name), copies, managed=False)


def order(loads: dict[str, PeerLoad] | None, *copies: Copy) -> list[str]:
    return [step.node_id for step in explain(NAME, [known(*copies)], loads, 2).steps]


def test_loaded_comes_first_then_fewest_in_flight_then_fit_then_name() -> None:
    copies = (copy("e"), copy("d", loaded=True), copy("c", FIT_TIGHT), copy("b", FIT_MAIN_MEMORY), copy("a"))
    assert order(None, *copies) == ["d", "a", "e", "b", "c"]
    assert order({"a": PeerLoad(1), "d": PeerLoad(9)}, *copies) == ["d", "e", "b", "c", "a"]


def test_a_node_that_fails_comes_after_those_that_do_not_and_before_those_that_may_not() -> None:
    copies = (copy("a", loaded=True), copy("b"), copy("c", reason="c is draining"))
    found = explain(NAME, [known(*copies)], {"a": PeerLoad(0, failing=True)}, 2)
    assert [(step.node_id, step.usable) for step in found.steps] == [("b", True), ("a", False), ("c", False)]
    assert found.steps[1].reason.startswith("it does not answer the gateway now")
    assert found.steps[2].reason == "c is draining"
    assert found.answer == ""


def test_each_step_has_its_reason() -> None:
    found = explain(NAME, [known(copy("a", loaded=True), copy("b", FIT_MAIN_MEMORY), copy("c", FIT_TIGHT))], {}, 2)
    assert [step.reason for step in found.steps] == [
        "would get the request: has it loaded, 0 of 2 slots in use, fits on its GPU",
        "would have to load it first, 0 of 2 slots in use, runs in main memory",
        "would have to load it first, 0 of 2 slots in use, others have to be unloaded for it",
    ]
    assert [step.in_flight for step in found.steps] == [0, 0, 0]
    assert explain(NAME, [known(copy("a"))], None, 2).steps[0].in_flight is None


def test_when_nobody_can_the_clients_answer_says_why() -> None:
    model = known(copy("a", reason="a is offline"), copy("b", reason="it is being fetched"))
    assert explain(NAME, [model], None, 2).answer == refusal(model)
    assert refusal(model) == f"no node can serve {NAME} now: a: a is offline; b: it is being fetched"
    assert refusal(known()) == f"no node can serve {NAME} now: no node has it"


def test_an_unknown_name_has_its_neighbours() -> None:
    found = explain("llama3.2:1b", [known(), known(name="llama3.1:8b"), known(name="bge-m3:567m")], None, 2)
    assert found.answer == "there is no model llama3.2:1b in this cluster"
    assert found.closest == (NAME, "llama3.1:8b")
