"""From where nodes fetch: the server first, then its copy; from the registry where that cannot be."""

from collections.abc import Mapping
from typing import Any

import pytest

from clusterai.v1.types_pb2 import (
    PULL_STATE_FAILED,
    PULL_STATE_PULLING,
    PULL_STATE_WAITING,
    SERVICE_STATE_ABSENT,
    ModelSpec,
)
from clusteraid.config import GatewayConfig, ModelsConfig
from clusteraid.models.inventory import Wanted
from clusteraid.models.observe import Observed
from clusteraid.models.specs import Origin, SpecMaker, server_of, supply
from clusteraid.registry import Link
from support.ollama_status import GB, digest, model, node, ollama, pull

NAME = "llama3.2:3b"
MAKER = SpecMaker(ModelsConfig(), GatewayConfig())
ONE, TWO = digest("one"), digest("two")


def server(*models: Any, link: Link = Link.UP, heard: bool = True, **others: Any) -> Observed:
    return node("srv", ollama(*models, **{"mirror": True, **others}), is_server=True, link=link, heard=heard)


def spec_of(
    of: Observed, *others: Observed, wanted: Wanted, refused: Mapping[str, object] = {}, size: int = 0
) -> ModelSpec | None:
    desires, nodes = {NAME: wanted}, (of, *others)
    made = MAKER.make(of, desires, supply(desires, nodes, refused, lambda _: size))
    return next(iter(made.models), None)


def on(*nodes: str, **others: Any) -> Wanted:
    return Wanted(NAME, present=frozenset(nodes), **others)


def test_every_node_has_the_clusters_settings_and_ports() -> None:
    spec = MAKER.make(node("tower", ollama()), {}, supply({}, (), {}, lambda _: 0))
    assert (spec.settings.context_length, spec.settings.parallel_count, spec.settings.keep_alive) == (8192, 2, "5m")
    assert (spec.gate_port, spec.gateway_name) == (11443, "gateway.clusterai")
    assert (spec.mirror_address, spec.mirror_name) == (":11444", "mirror.clusterai")
    assert not spec.models


def test_without_a_server_of_its_own_each_node_fetches_from_the_registry() -> None:
    assert spec_of(node("tower", ollama()), wanted=on("tower")) == ModelSpec(model=NAME)


def test_the_server_fetches_first_even_what_it_shall_not_keep() -> None:
    assert spec_of(server(), node("tower", ollama()), wanted=on("tower")) == ModelSpec(model=NAME)
    assert spec_of(node("tower", ollama()), server(), wanted=on("tower")) == ModelSpec(model=NAME, waits=True)
    assert spec_of(server(model()), wanted=on("tower")) is None  # it has it: nothing is said of it any more


def test_the_others_fetch_the_servers_copy_by_its_digest() -> None:
    wanted = on("tower", digest=ONE)
    expected = ModelSpec(model=NAME, digest=ONE, from_mirror=True)
    assert spec_of(node("tower", ollama()), server(model()), wanted=wanted) == expected


@pytest.mark.parametrize(
    "away",
    [
        server(mirror=False),
        server(state=SERVICE_STATE_ABSENT),
        server(pulls=[pull(state=PULL_STATE_FAILED)]),
        server(link=Link.SILENT),
        server(model(content="two")),
        server(disk_free_bytes=1),
    ],
    ids=["serves no copies", "no Ollama", "failed", "offline", "another digest", "disk full"],
)
def test_a_server_that_cannot_supply_holds_up_nobody(away: Observed) -> None:
    wanted = on("tower", digest=ONE)
    assert spec_of(node("tower", ollama()), away, wanted=wanted, size=2 * GB) == ModelSpec(model=NAME)


def test_a_server_whose_disk_nobody_can_see_is_waited_for() -> None:
    supplied = spec_of(node("tower", ollama()), server(disk_free_bytes=0), wanted=on("tower"), size=2 * GB)
    assert supplied == ModelSpec(model=NAME, waits=True)


def test_after_a_failure_the_others_go_on_by_themselves() -> None:
    trying = server(pulls=[pull(state=PULL_STATE_PULLING)])
    assert spec_of(node("tower", ollama()), trying, wanted=on("tower"), refused={NAME: True}) == ModelSpec(model=NAME)


def going(**others: Any) -> Any:
    return pull(origin="registry", **{"state": PULL_STATE_PULLING, **others})


def test_what_is_being_fetched_is_not_begun_anew() -> None:
    """An agent stops a fetch of which the spec says anything else than before."""
    wanted = on("tower", digest=ONE)
    assert spec_of(node("tower", ollama(pulls=[going()])), server(model()), wanted=wanted) == ModelSpec(model=NAME)
    assert spec_of(server(pulls=[going()]), wanted=on("tower")) == ModelSpec(model=NAME)
    queued = node("tower", ollama(pulls=[going(state=PULL_STATE_WAITING)]))
    assert spec_of(queued, server(model()), wanted=wanted) == ModelSpec(model=NAME, digest=ONE, from_mirror=True)


def test_models_of_other_registries_are_fetched_from_there_by_each_node() -> None:
    name = "registry.house/team/judge:latest"
    wanted = Wanted(name, present=frozenset({"tower"}))
    assert supply({name: wanted}, [server()], {}, lambda _: 0).origins == {name: Origin.REGISTRY}


def test_a_server_that_was_not_heard_yet_is_waited_for() -> None:
    unheard = node("srv", None, is_server=True, link=Link.BROKEN, heard=False)
    tower = node("tower", ollama())
    assert spec_of(tower, unheard, wanted=on("tower")) == ModelSpec(model=NAME, waits=True)
    known = on("tower", digest=ONE)
    assert spec_of(tower, unheard, wanted=known) == ModelSpec(model=NAME, digest=ONE, from_mirror=True)


def test_a_copy_that_differs_is_told_which_one_it_shall_be() -> None:
    wanted = on("tower", digest=ONE)
    assert spec_of(node("tower", ollama(model(content="two"))), wanted=wanted) == ModelSpec(model=NAME, digest=ONE)


def test_a_removal_comes_before_everything_else() -> None:
    wanted = Wanted(NAME, ONE, frozenset({"tower"}), absent=frozenset({"srv"}))
    assert spec_of(server(model()), wanted=wanted) == ModelSpec(model=NAME, absent=True)
    assert spec_of(node("tower", ollama()), server(model()), wanted=wanted) == ModelSpec(model=NAME)


def test_what_is_wanted_elsewhere_is_left_alone() -> None:
    assert spec_of(node("pi", ollama(model())), wanted=on("tower")) is None


def test_of_several_agents_on_the_server_one_with_ollama_is_its_own() -> None:
    bare, first, second = (node(name, status, is_server=True) for name, status in
                           (("a", None), ("c", ollama()), ("b", ollama())))
    found = server_of([bare, first, second, node("tower", ollama())])
    assert found is not None
    assert found.node_id == "b"
    assert server_of([bare]) is None
    assert supply({NAME: on("x")}, [bare], {}, lambda _: 0).origins == {NAME: Origin.REGISTRY}
