"""The gateway's keys: what is stored, what the gateway is told, and who hears what."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from clusterai.api_keys import ApiKey, BadKey
from clusterai.errors import BadRequest, ClusterAIError, InvalidName
from clusterai.models import BadModelName
from clusteraid.gateway.keys import (
    AmbiguousKey,
    KeyNotInUse,
    KeyRequest,
    Keys,
    KeyStillInUse,
    NoSuchKey,
)
from clusteraid.status import Problems
from clusteraid.store import Store
from clusteraid.store_keys import KeyStore
from support.trust import Clock, Notes
from support.waiting import until


class Keyring:
    """Keys on a store and a gateway directory of their own."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.clock, self.events, self.problems = Clock(), Notes(), Problems()
        self.store, self.directory = KeyStore(store), directory
        self.keys = self.again()

    def again(self) -> Keys:
        """The keys as a daemon has them after a restart, before it has loaded them."""
        return Keys(self.store, self.events, self.directory, self.problems, self.clock)

    def told(self) -> dict[str, Any]:
        """What the gateway is told, by hash."""
        found: dict[str, Any] = json.loads((self.directory / "keys.json").read_text())["keys"]
        return found


@pytest.fixture
async def ring(tmp_path: Path) -> AsyncIterator[Keyring]:
    (tmp_path / "gateway").mkdir()
    async with Store.open(tmp_path / "clusteraid.sqlite") as store:
        yield Keyring(store, tmp_path / "gateway")


def hash_of(key: ApiKey) -> str:
    return hashlib.sha256(str(key).encode()).hexdigest()


async def test_a_key_is_known_to_the_gateway_when_it_is_given_out(ring: Keyring) -> None:
    request = KeyRequest("ann", ("LLama3.2", "llama3.2:latest", "phi3:mini"), 3600, 60, created_by="operator ann")
    key, record = await ring.keys.create(request)
    entry = ring.told()[hash_of(key)]
    assert entry == {
        "id": key.key_id, "name": "ann", "models": ["llama3.2:latest", "phi3:mini"],
        "expires_unix_seconds": entry["expires_unix_seconds"], "requests_per_minute": 60, "dashboard": False,
    }
    assert 3500 < entry["expires_unix_seconds"] - ring.clock() <= 3601
    assert record.created_by == "operator ann"
    assert ring.events.events[-1][:2] == ("key-created", key.key_id)


async def test_a_key_for_everything_names_no_models_and_never_ends(ring: Keyring) -> None:
    key, _ = await ring.keys.create(KeyRequest("ann"))
    assert "models" not in ring.told()[hash_of(key)]
    assert ring.told()[hash_of(key)]["expires_unix_seconds"] == 0


async def test_the_secret_is_on_no_disk_and_in_no_event(ring: Keyring, tmp_path: Path) -> None:
    key, record = await ring.keys.create(KeyRequest("ann", dashboard=True))
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert key.key_id.encode() in stored
    assert key.secret.encode() not in stored
    assert key.secret not in f"{ring.events.events}{key!r}{record!r}"


@pytest.mark.parametrize("by", [lambda key: key.key_id, lambda _: "ann"], ids=["id", "name"])
async def test_a_revoked_key_is_out_of_the_file_when_the_answer_comes(
    ring: Keyring, by: Callable[[ApiKey], str]
) -> None:
    key, _ = await ring.keys.create(KeyRequest("ann"))
    other, _ = await ring.keys.create(KeyRequest("bob"))
    revoked = await ring.keys.revoke(by(key), "root")
    assert revoked.revoked
    assert list(ring.told()) == [hash_of(other)]
    assert ring.events.events[-1][:2] == ("key-revoked", key.key_id)
    assert len(ring.keys) == 1


async def test_revoking_twice_by_id_is_fine_and_no_second_event(ring: Keyring) -> None:
    key, _ = await ring.keys.create(KeyRequest("ann"))
    await ring.keys.revoke(key.key_id, "root")
    assert (await ring.keys.revoke(key.key_id, "root")).revoked
    assert ring.events.kinds() == ["key-created", "key-revoked"]


async def test_a_name_that_two_usable_keys_have_does_not_say_which(ring: Keyring) -> None:
    first, _ = await ring.keys.create(KeyRequest("ann"))
    second, _ = await ring.keys.create(KeyRequest("ann"))
    with pytest.raises(AmbiguousKey) as refused:
        await ring.keys.revoke("ann", "root")
    assert first.key_id in refused.value.advice
    await ring.keys.revoke(first.key_id, "root")
    assert (await ring.keys.revoke("ann", "root")).key_id == second.key_id
    with pytest.raises(NoSuchKey):
        await ring.keys.revoke("ann", "root")


async def test_an_unknown_key_is_named_shortly(ring: Keyring) -> None:
    with pytest.raises(NoSuchKey) as refused:
        await ring.keys.revoke("x" * 10_000, "root")
    assert len(str(refused.value)) < 120


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (KeyRequest(""), InvalidName),
        (KeyRequest("a\nb"), InvalidName),
        (KeyRequest("../x"), InvalidName),
        (KeyRequest("ann", ("a/b/c/d",)), BadModelName),
        (KeyRequest("ann", ttl_seconds=-1), BadRequest),
        (KeyRequest("ann", ttl_seconds=float("nan")), BadRequest),
        (KeyRequest("ann", ttl_seconds=float("inf")), BadRequest),
        (KeyRequest("ann", requests_per_minute=1 << 31), BadRequest),
        (KeyRequest("ann", ("m",) * 257), BadRequest),
        (KeyRequest("ann", ("m",), dashboard=True), BadRequest),
    ],
)
async def test_a_key_without_sense_is_not_made(
    ring: Keyring, request_: KeyRequest, error: type[ClusterAIError]
) -> None:
    with pytest.raises(error) as refused:
        await ring.keys.create(request_)
    assert refused.value.advice
    assert ring.keys.list() == ()


async def test_an_expired_key_leaves_the_file_by_time_and_is_not_found_by_its_name(ring: Keyring) -> None:
    key, _ = await ring.keys.create(KeyRequest("ann", ttl_seconds=60))
    keeping = asyncio.create_task(ring.keys.file.keep(ring.keys.until_due))
    try:
        ring.clock.ahead = 61
        assert len(ring.keys) == 0
        with pytest.raises(NoSuchKey):
            await ring.keys.revoke("ann", "root")
        assert hash_of(key) in ring.told(), "for an hour the client hears that it expired, the gateway sees the time"
        assert 3500 < ring.keys.until_due() <= 3600
        ring.clock.ahead = 3661
        assert ring.keys.until_due() <= 0 or ring.keys.until_due() == 3600
        ring.keys.file.changed()
        await until(lambda: not ring.told())
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_keys_are_there_after_a_restart_newest_first(ring: Keyring) -> None:
    first, _ = await ring.keys.create(KeyRequest("ann", ("phi3",)))
    ring.clock.ahead = 5
    second, _ = await ring.keys.create(KeyRequest("bob", dashboard=True))
    await ring.keys.revoke("bob", "root")
    keys = ring.again()
    await keys.load()
    assert keys.list() == ring.keys.list()
    assert [record.key_id for record in keys.list()] == [second.key_id, first.key_id]
    assert [record.revoked for record in keys.list()] == [True, False]
    assert keys.list()[1].models == ("phi3:latest",)


async def test_a_key_that_expired_a_month_ago_is_forgotten(ring: Keyring) -> None:
    await ring.keys.create(KeyRequest("ann", ttl_seconds=60))
    ring.clock.ahead = 32 * 86400
    await ring.keys.create(KeyRequest("bob"))
    assert [record.name for record in await ring.store.list()] == ["bob"]


async def test_no_key_is_given_out_that_the_gateway_does_not_know(ring: Keyring) -> None:
    (ring.directory / "keys.json").mkdir()
    (ring.directory / "keys.json/x").touch()
    with pytest.raises(KeyNotInUse, match=r"keys\.json") as refused:
        await ring.keys.create(KeyRequest("ann"))
    assert "df " in refused.value.advice
    assert ring.keys.list() == ()
    assert await ring.store.list() == ()


async def test_a_revocation_that_the_gateway_does_not_hear_of_is_said_and_made_up_for(ring: Keyring) -> None:
    key, _ = await ring.keys.create(KeyRequest("ann"))
    (ring.directory / "keys.json").unlink()
    (ring.directory / "keys.json").mkdir()
    (ring.directory / "keys.json/x").touch()
    with pytest.raises(KeyStillInUse) as refused:
        await ring.keys.revoke("ann", "root")
    assert "systemctl stop clusterai-gateway" in refused.value.advice
    assert ring.keys.list()[0].revoked
    (ring.directory / "keys.json/x").unlink()
    (ring.directory / "keys.json").rmdir()
    await ring.keys.revoke(key.key_id, "root")
    assert ring.told() == {}


async def test_where_there_is_no_gateway_keys_can_be_made_for_later(ring: Keyring) -> None:
    ring.directory.rmdir()
    key, _ = await ring.keys.create(KeyRequest("ann"))
    ring.directory.mkdir()
    await ring.keys.file.put()
    assert hash_of(key) in ring.told()


def test_a_key_is_read_back_and_what_is_none_is_refused_without_repeating_it() -> None:
    key = ApiKey.new()
    assert ApiKey.parse(f" {key}\n") == key
    assert len(str(key)) == 40
    for text in ("", "cak1.x.y", f"cai1{str(key)[4:]}", str(key) + "a", str(key).upper()):
        with pytest.raises(BadKey) as refused:
            ApiKey.parse(text)
        assert key.secret not in str(refused.value) + refused.value.advice


async def test_who_made_a_key_hears_of_it_once_every_process_of_the_gateway_has_looked(ring: Keyring) -> None:
    loop = asyncio.get_running_loop()
    keys = Keys(ring.store, ring.events, ring.directory, ring.problems, ring.clock, taken_seconds=0.2)
    begun = loop.time()
    key, _ = await keys.create(KeyRequest("ann"))
    assert loop.time() - begun >= 0.2
    begun = loop.time()
    await keys.revoke(key.key_id, "ann")
    assert loop.time() - begun >= 0.2
