"""The store on real files: what is committed stays, what cannot be used is refused with the way back."""

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from clusterai.ids import ClusterId, NodeId
from clusteraid.migrations import MIGRATIONS
from clusteraid.ports import CertificateRecord, Enrolment, EnrolmentOutcome, Role, TokenRecord
from clusteraid.store import Store, StoreDamaged, StoreInUse, StoreTooNew, StoreUnavailable, StoreUnreadable
from clusteraid.store_access import AccessStore
from clusteraid.store_nodes import EVENTS_KEPT, EventRecord, NodeStore

CLUSTER = ClusterId("c1")


def token(token_id: str = "t1", use_limit: int = 1) -> TokenRecord:
    return TokenRecord(token_id, b"hash", Role.NODE, "", 100, 1000, use_limit, "ann")


def enrolment(name: str = "pi4", serial: str = "1", token_id: str = "t1", **others: object) -> Enrolment:
    record = CertificateRecord(serial, f"spiffe://c1/node/{name}", 5000)
    return Enrolment(name, Role.NODE, record, 200, token_id=token_id, **others)  # type: ignore[arg-type]


async def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as store:
        access = AccessStore(store, CLUSTER)
        await access.create_token(token())
        assert await access.enroll(enrolment(facts=b"")) is EnrolmentOutcome.DONE
    async with Store.open(tmp_path / "db") as store:
        (node,) = await NodeStore(store, CLUSTER).list_nodes()
        assert (node.node_id, node.certificate_not_after, node.admitted_by) == ("pi4", 5000, "ann")
        found = await AccessStore(store, CLUSTER).find_token("t1")
        assert found is not None
        assert found.use_count == 1


async def test_a_token_of_one_use_admits_one_of_many_at_once(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as store:
        access = AccessStore(store, CLUSTER)
        await access.create_token(token())
        outcomes = await asyncio.gather(*(access.enroll(enrolment(f"n{n}", str(n))) for n in range(20)))
        assert sorted(outcome.name for outcome in outcomes) == ["DONE"] + ["TOKEN_SPENT"] * 19
        assert len(await NodeStore(store, CLUSTER).list_nodes()) == 1


async def test_a_taken_name_costs_the_token_nothing(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as store:
        access = AccessStore(store, CLUSTER)
        await access.create_token(token(use_limit=2))
        await access.enroll(enrolment())
        assert await access.enroll(enrolment(serial="2")) is EnrolmentOutcome.NAME_TAKEN
        found = await access.find_token("t1")
        assert found is not None
        assert found.use_count == 1


async def test_taking_a_name_over_revokes_what_it_had_and_keeps_it_drained(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as store:
        access, nodes = AccessStore(store, CLUSTER), NodeStore(store, CLUSTER)
        await access.create_token(token(use_limit=2))
        await access.enroll(enrolment())
        await nodes.set_desired(NodeId("pi4"), "drained")
        assert await access.enroll(enrolment(serial="2", replace=True)) is EnrolmentOutcome.DONE
        assert await access.revoked_serials(300) == {"1"}
        assert (await nodes.list_nodes())[0].desired == "drained"


async def test_a_removed_node_and_its_certificates_are_gone_together(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as store:
        access, nodes = AccessStore(store, CLUSTER), NodeStore(store, CLUSTER)
        await access.create_token(token())
        await access.enroll(enrolment())
        await nodes.remove_node(NodeId("pi4"))
        assert await nodes.list_nodes() == ()
        assert await access.revoked_serials(300) == {"1"}
        assert await access.revoked_serials(6000) == frozenset()


async def test_eras_grow_with_every_start_even_when_the_clock_goes_back(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as store:
        nodes = NodeStore(store, CLUSTER)
        await store.write(lambda db: db.execute("INSERT INTO meta VALUES ('era', 9000000000)") and None)
        assert await nodes.begin_era() == 9000000001
        assert await nodes.begin_era() == 9000000002


async def test_the_oldest_events_give_way(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as store:
        nodes = NodeStore(store, CLUSTER)
        await nodes.save_events([EventRecord(n, n, "k", "s", "m") for n in range(1, EVENTS_KEPT + 11)])
        kept = await nodes.load_events()
        assert (len(kept), kept[0].sequence, kept[-1].sequence) == (EVENTS_KEPT, 11, EVENTS_KEPT + 10)


async def test_many_writes_at_once_share_commits(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as store:
        nodes = NodeStore(store, CLUSTER)
        before = (tmp_path / "db-wal").stat().st_size
        await asyncio.gather(*(nodes.save_events([EventRecord(n, n, "k", "s", "m")]) for n in range(1, 201)))
        pages = ((tmp_path / "db-wal").stat().st_size - before) / 4120
        assert pages < 100
        assert len(await nodes.load_events()) == 200


async def test_a_failing_transaction_undoes_only_itself(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as store:
        access = AccessStore(store, CLUSTER)
        results = await asyncio.gather(
            *(access.create_token(token(name)) for name in ("a", "a", "b")), return_exceptions=True
        )
        assert [type(result) for result in results] == [type(None), sqlite3.IntegrityError, type(None)]
        assert {record.token_id for record in await access.list_tokens()} == {"a", "b"}


async def test_a_second_daemon_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db"):
        with pytest.raises(StoreInUse, match=str(os.getpid())):
            async with Store.open(tmp_path / "db"):
                pass


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(StoreTooNew):
        async with Store.open(tmp_path / "db"):
            pass


@pytest.mark.parametrize("damage", [b"this is no database" * 500, b"SQLite format 3\0" + b"\x93" * 8192])
async def test_a_damaged_store_is_refused_with_the_file_and_the_way_back(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "db").write_bytes(damage)
    with pytest.raises(StoreDamaged) as refused:
        async with Store.open(tmp_path / "db"):
            pass
    assert str(tmp_path / "db") in str(refused.value)
    assert "backup" in refused.value.advice
    assert (tmp_path / "db").read_bytes() == damage


async def test_a_page_damaged_in_the_middle_is_found_at_opening(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "db") as store:
        nodes = NodeStore(store, CLUSTER)
        await nodes.save_events([EventRecord(n, n, "k", "s", "m" * 500) for n in range(1, 500)])
    with (tmp_path / "db").open("r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xff" * 8192)
    with pytest.raises(StoreDamaged):
        async with Store.open(tmp_path / "db"):
            pass


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnreadable, match=r"clusteraid\.lock"):
        async with Store.open(tmp_path / "file" / "db"):
            pass


async def test_while_it_cannot_be_written_it_can_be_read_and_it_recovers(tmp_path: Path) -> None:
    """A limit on the number of pages is a full disk, as far as SQLite can tell."""
    async with Store.open(tmp_path / "db") as store:
        access = AccessStore(store, CLUSTER)
        await access.create_token(token())
        pages = await store.read(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await store.read(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone())
        event = [EventRecord(n, n, "k", "s", "m" * 1000) for n in range(1, 50)]
        with pytest.raises(StoreUnavailable, match="full"):
            await NodeStore(store, CLUSTER).save_events(event)
        assert "full" in store.problem
        assert await access.find_token("t1") is not None
        await store.read(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchone())
        await NodeStore(store, CLUSTER).save_events(event)
        assert store.problem == ""


async def test_the_files_are_for_the_daemon_alone(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "state" / "db"):
        for path in (tmp_path / "state").iterdir():
            assert path.stat().st_mode & 0o077 == 0, path
