"""What is wanted, in memory as in the store, whoever stops waiting; and how far a pull is."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusterai.v1.types_pb2 import PULL_STATE_FAILED, PULL_STATE_PULLING
from clusteraid.models.desires import DesiredModels
from clusteraid.models.inventory import Wanted
from clusteraid.models.observe import Observed
from clusteraid.models.progress import Progress, progress_of
from clusteraid.models.specs import Origin, Supply
from clusteraid.registry import Link
from clusteraid.store import Store, StoreUnavailable
from clusteraid.store_models import ModelStore
from support.ollama_status import digest, model, node, ollama, pull

NAME = "llama3.2:3b"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ModelStore]:
    async with Store.open(tmp_path / "db") as opened:
        yield ModelStore(opened)


@pytest.fixture
async def desired(store: ModelStore) -> DesiredModels:
    return DesiredModels(store, clock=lambda: 7.0)


async def reread(store: ModelStore, desired: DesiredModels) -> dict[str, Wanted]:
    """Return what a new daemon would read, which has to be what this one has in memory."""
    fresh = DesiredModels(store)
    await fresh.load()
    assert dict(fresh.all) == dict(desired.all)
    return dict(fresh.all)


async def test_wishes_add_up_and_are_kept(store: ModelStore, desired: DesiredModels) -> None:
    await desired.place(NAME, ["a"], "ann", limit=5, chosen=1)
    await desired.place(NAME, ["b", "c"], "bob")
    await desired.fix(NAME, digest("one"))
    assert await reread(store, desired) == {NAME: Wanted(NAME, digest("one"), frozenset("abc"))}
    (record,), _ = await store.load()
    assert (record.created_by, record.created_at) == ("ann", 7.0)


async def test_a_removal_stands_until_it_is_done_and_then_nothing_is_left(
    store: ModelStore, desired: DesiredModels
) -> None:
    await desired.place(NAME, ["a", "b", "c"], "ann")
    await desired.fix(NAME, digest("one"))
    await desired.unplace(NAME, ["a"], ["b"])
    assert (await reread(store, desired))[NAME] == Wanted(NAME, digest("one"), frozenset("c"), frozenset("a"))
    await desired.unplace(NAME, ["c"])
    assert (await reread(store, desired))[NAME] == Wanted(NAME, b"", frozenset(), frozenset("ac"))
    await desired.gone([(NAME, "a"), (NAME, "c")])
    assert await reread(store, desired) == {}


async def test_what_is_wanted_again_is_not_removed(store: ModelStore, desired: DesiredModels) -> None:
    await desired.unplace(NAME, ["a"])
    await desired.place(NAME, ["a"], "ann")
    await desired.gone([(NAME, "a")])  # a report from before
    assert (await reread(store, desired))[NAME] == Wanted(NAME, b"", frozenset("a"))


async def test_a_node_that_is_no_more_takes_its_wishes_along(store: ModelStore, desired: DesiredModels) -> None:
    await desired.place(NAME, ["a", "b"], "ann", chosen=2)
    await desired.place("only:a", ["a"], "ann")
    await desired.unplace("other:b", ["a", "b"])
    lost = await desired.forget_node("a", lambda wanted, node_id: frozenset())
    assert {wanted.name for wanted, _ in lost} == {NAME, "only:a"}
    assert await reread(store, desired) == {
        NAME: Wanted(NAME, b"", frozenset("b"), chosen_count=2),
        "other:b": Wanted("other:b", b"", absent=frozenset("b")),
    }


async def test_who_takes_the_place_of_a_node_is_in_the_same_change(store: ModelStore, desired: DesiredModels) -> None:
    await desired.place(NAME, ["a"], "ann", limit=5, chosen=1)
    await desired.fix(NAME, digest("one"))
    before = desired.find(NAME)
    assert await desired.forget_node("a", lambda wanted, node_id: frozenset("b")) == ((before, frozenset("b")),)
    expected = Wanted(NAME, digest("one"), frozenset("b"), limit_bytes_per_second=5, chosen_count=1)
    assert await reread(store, desired) == {NAME: expected}


async def test_a_node_whose_place_cannot_be_written_is_asked_for_again(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as opened:
        store = ModelStore(opened)
        desired = DesiredModels(store)
        await desired.place(NAME, ["a"], "ann", chosen=1)
        await opened.write(lambda db: db.execute("PRAGMA query_only = ON") and None)
        with pytest.raises(StoreUnavailable):
            await desired.forget_node("a", lambda wanted, node_id: frozenset("b"))
        assert desired.find(NAME).present == frozenset("a"), "it is still known whose place is to be taken"
        await opened.read(lambda db: db.execute("PRAGMA query_only = OFF") and None)
        await desired.forget_node("a", lambda wanted, node_id: frozenset("b"))
        assert (await reread(store, desired))[NAME].present == frozenset("b")


async def test_a_caller_that_goes_away_leaves_memory_and_store_the_same(
    store: ModelStore, desired: DesiredModels
) -> None:
    for number in range(20):
        placing = asyncio.create_task(desired.place(f"m{number}:latest", ["a"], "ann"))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        placing.cancel()
        await asyncio.gather(placing, return_exceptions=True)
    await reread(store, desired)


async def test_changes_at_once_end_up_in_one_order(store: ModelStore, desired: DesiredModels) -> None:
    await asyncio.gather(
        *(desired.place(NAME, [f"n{number}"], "ann") for number in range(20)),
        *(desired.unplace(NAME, [f"n{number}"]) for number in range(0, 20, 2)),
    )
    assert len((await reread(store, desired))[NAME].absent) == 10


# ---- progress ------------------------------------------------------------------------------------------------------


def progress(*nodes: Observed, supplied: Supply | None = None, stale: bool = False, wanted: str = "ab") -> Progress:
    known = {one.node_id: one for one in nodes}
    before = {one.node_id: one.pulls.get(NAME) for one in nodes} if stale else {}
    desire = Wanted(NAME, digest("one"), frozenset(wanted))
    return progress_of(NAME, ["a", "b"], known, desire, supplied or Supply(None, {}), before)


HAS, EMPTY = node("a", ollama(model())), node("b", ollama())
FAILED = node("b", ollama(pulls=[pull(state=PULL_STATE_FAILED, reason="disk full")]))


def test_a_pull_is_done_when_every_chosen_node_has_it() -> None:
    assert not progress(HAS, EMPTY).done
    found = progress(HAS, node("b", ollama(model())))
    assert (found.done, found.message) == (True, f"{NAME} is on a, b")
    assert not progress(HAS, node("b", ollama(model(content="two")))).done  # another content is not it


def test_a_failure_ends_it_unless_it_is_of_an_earlier_attempt() -> None:
    found = progress(HAS, FAILED)
    assert (found.done, found.message) == (True, f"1 of 2 nodes have {NAME}; b: disk full")
    assert not progress(HAS, FAILED, stale=True).done
    assert not progress(node("a", ollama()), FAILED).done  # the other one goes on


def test_a_node_that_is_off_is_waited_for_and_the_message_says_so() -> None:
    found = progress(HAS, node("b", ollama(), link=Link.SILENT))
    assert (found.done, found.message) == (False, f"1 of 2 nodes have {NAME}; b is offline: its session broke off")


def test_what_was_removed_meanwhile_ends_it_too() -> None:
    assert progress(HAS).message.endswith("b: it was removed from the cluster")
    assert progress(HAS, EMPTY, wanted="a").message.endswith("b: somebody removed the model from it")


def test_the_server_is_shown_while_it_fetches_for_the_others() -> None:
    going = node("srv", ollama(pulls=[pull(state=PULL_STATE_PULLING, completed_bytes=5)]))
    found = progress(HAS, EMPTY, going, supplied=Supply("srv", {NAME: Origin.WAIT}))
    assert [one.node_id for one in found.nodes] == ["srv", "a", "b"]
    assert found.nodes[0].pull is not None
    assert found.nodes[0].pull.completed_bytes == 5
    assert found.message == f"1 of 2 nodes have {NAME}; the server fetches it first"
