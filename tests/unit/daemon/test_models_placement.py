"""Where a model goes: every node is judged with a reason, the same wish has the same answer."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterai.v1.model_pb2 import FIT_GPU, FIT_MAIN_MEMORY, FIT_NONE, FIT_TIGHT, FIT_UNABLE, FIT_UNSPECIFIED
from clusteraid.models.fit import OVERHEAD_BYTES, Memory, Need
from clusteraid.models.placement import Judged, Place, Where, Wish, place
from support.ollama_status import GB

NEED = Need(5 * GB, 4 * GB - OVERHEAD_BYTES)  # 9 GB in memory


def at(name: str, *, gpu: int = 0, main: int = 0, **others: object) -> Place:
    memory = Memory(gpu * GB, gpu * GB, 0, main * GB, 0)
    return Place(**{"node_id": name, "memory": memory, "disk_free": 100 * GB, **others})  # type: ignore[arg-type]


TOWER, RIG, BOX, PI = at("tower", gpu=24), at("rig", gpu=48), at("box", main=32), at("pi", main=6)
ALL = (PI, BOX, TOWER, RIG)


def chosen(found: Sequence[Judged]) -> list[str]:
    return [one.node_id for one in found if one.chosen]


def test_without_a_wish_the_best_fitting_node_is_chosen_and_all_are_judged() -> None:
    found = place(Wish(), NEED, ALL)
    assert [(one.node_id, one.fit) for one in found] == [
        ("rig", FIT_GPU), ("tower", FIT_GPU), ("box", FIT_MAIN_MEMORY), ("pi", FIT_NONE),
    ]
    assert chosen(found) == ["rig"]
    assert found[-1].reason == "needs 9 GB, has 6 GB free"
    assert (found[0].needed, found[0].free, found[0].memory) == (9 * GB, 48 * GB, "gpu")


def test_of_equal_fits_the_one_with_more_free_memory_is_chosen() -> None:
    assert chosen(place(Wish(), NEED, (at("a", gpu=24), at("b", gpu=48)))) == ["b"]


def test_a_node_that_has_it_comes_before_one_with_more_memory() -> None:
    assert chosen(place(Wish(), NEED, (RIG, at("tower", gpu=24, has_it=True)))) == ["tower"]


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Wish(count=2), ["rig", "tower"]),
        (Wish(count=9), ["rig", "tower", "box"]),
        (Wish(Where.GPUS), ["rig", "tower"]),
        (Wish(Where.NAMED, frozenset({"box", "tower"})), ["tower", "box"]),
        (Wish(Where.NAMED, frozenset({"pi"})), []),
    ],
)
def test_each_wish_has_its_nodes(wish: Wish, expected: list[str]) -> None:
    assert chosen(place(wish, NEED, ALL)) == expected


def test_who_is_unable_is_never_chosen_and_says_why() -> None:
    away = at("tower", gpu=24, unable="tower is offline: its heartbeats stopped")
    full = at("rig", gpu=48, disk_free=2 * GB)
    found = {one.node_id: one for one in place(Wish(count=5), NEED, (away, full, BOX))}
    assert [one.node_id for one in found.values() if one.chosen] == ["box"]
    assert (found["tower"].fit, found["tower"].reason) == (FIT_UNABLE, "tower is offline: its heartbeats stopped")
    assert (found["rig"].fit, found["rig"].reason) == (FIT_UNABLE, "needs 5.2 GB on disk, has 2 GB free")


def test_who_is_off_gets_it_when_somebody_names_it_and_never_by_itself() -> None:
    off = at("tower", gpu=24, unable="tower is offline: its heartbeats stopped", later=True, disk_free=1)
    named = Wish(Where.NAMED, frozenset({"tower"}))
    assert chosen(place(named, NEED, (off, BOX))) == ["tower"]
    assert chosen(place(Wish(count=2), NEED, (off, BOX))) == ["box"]
    assert chosen(place(Wish(Where.GPUS), NEED, (off, BOX))) == []
    assert chosen(place(named, None, (off, BOX))) == ["tower"]
    assert chosen(place(named, Need(90 * GB, 0), (off, BOX))) == []  # it would never fit


def test_a_full_disk_does_not_matter_to_who_has_it() -> None:
    assert chosen(place(Wish(), NEED, (at("rig", gpu=48, disk_free=1, has_it=True),))) == ["rig"]


def test_a_disk_that_nobody_can_see_is_tried() -> None:
    assert chosen(place(Wish(), NEED, (at("rig", gpu=48, disk_free=0), BOX))) == ["rig"]
    assert chosen(place(Wish(), NEED, (at("rig", gpu=48, disk_free=1), BOX))) == ["box"]


def test_tight_is_better_than_nothing_only() -> None:
    crowded = Place("rig", Memory(12 * GB, 2 * GB, 10 * GB, 0, 0), disk_free=100 * GB)
    found = place(Wish(count=2), NEED, (crowded, BOX))
    assert [(one.node_id, one.fit) for one in found] == [("box", FIT_MAIN_MEMORY), ("rig", FIT_TIGHT)]
    assert chosen(place(Wish(Where.GPUS), NEED, (crowded, BOX))) == ["rig"]


def test_a_model_of_unknown_size_goes_to_the_largest_gpu() -> None:
    found = place(Wish(), None, (*ALL, at("off", gpu=80, unable="off is drained")))
    assert chosen(found) == ["rig"]
    assert (found[0].fit, found[0].needed) == (FIT_UNSPECIFIED, 0)
    assert [one.node_id for one in found] == ["rig", "tower", "box", "pi", "off"]
    assert chosen(place(Wish(Where.GPUS), None, ALL)) == ["rig", "tower"]


BYTES = st.integers(0, 100 * GB)
PLACES = st.lists(
    st.builds(
        Place, node_id=st.sampled_from("abcdefgh"), unable=st.sampled_from(["", "it is offline"]), disk_free=BYTES,
        later=st.booleans(), has_it=st.booleans(), memory=st.builds(Memory, BYTES, BYTES, BYTES, BYTES, BYTES),
    ),
    unique_by=lambda one: one.node_id,
)
WISHES = st.builds(
    Wish, st.sampled_from(Where), st.frozensets(st.sampled_from("abcdefgh")), st.integers(1, 9)
)
NEEDS = st.none() | st.builds(Need, BYTES, BYTES)


@given(WISHES, NEEDS, PLACES, st.randoms(use_true_random=False))
def test_every_node_is_judged_once_and_the_order_of_the_nodes_changes_nothing(
    wish: Wish, need: Need | None, places: list[Place], random: Random
) -> None:
    found = place(wish, need, places)
    assert sorted(one.node_id for one in found) == sorted(one.node_id for one in places)
    random.shuffle(places)
    assert place(wish, need, places) == found


@given(WISHES, NEEDS, PLACES)
def test_only_able_nodes_are_chosen_and_none_better_is_left_out(
    wish: Wish, need: Need | None, places: list[Place]
) -> None:
    found = place(wish, need, places)
    able = [one for one in found if one.fit not in (FIT_NONE, FIT_UNABLE)]
    picked = [one for one in found if one.chosen]
    assert all(one in able or wish.where is Where.NAMED for one in picked)
    assert all(one.reason for one in found)
    if wish.where is Where.BEST:
        assert len(picked) == min(wish.count, len(able))
        left = [one for one in able if not one.chosen]
        assert not picked or not left or max(one.fit for one in picked) <= min(one.fit for one in left)
    if wish.where is Where.NAMED:
        may = {one.node_id for one in found if one in able or one.later}
        assert {one.node_id for one in picked} == may & wish.node_ids
