"""The gateway's keys: made, listed, revoked; what keys.json says of them."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clusterai.api_keys import ApiKey
from clusterai.errors import BadRequest, ClusterAIError, Status
from clusterai.files import CannotWrite
from clusterai.ids import parse_key_name
from clusterai.models import normalised
from clusteraid.gateway.data import DataFile, KeptFile, Table
from clusteraid.ports import EventLog
from clusteraid.status import Problems
from clusteraid.store_keys import KeyRecord, KeyStore
from clusteraid.uninterrupted import uninterrupted

NAME = "keys.json"
_LONGEST_TTL_SECONDS = 3650 * 86400.0
_MOST_REQUESTS, _MOST_MODELS, _MOST_KEYS = 1_000_000, 256, 10_000
_SAID_SECONDS = 3600.0  # so long a client hears that its key has expired, and not only that it is unknown


class NoSuchKey(ClusterAIError):
    code, status = "no-such-key", Status.NOT_FOUND
    message = "there is no usable key {key}"
    hint = "`clusteractl key list` shows ids and names"


class AmbiguousKey(ClusterAIError):
    code, status = "ambiguous-key", Status.CONFLICT
    message = "{count} usable keys have the name {key}"
    hint = "say which one by its id: {ids}"


class KeyNotInUse(ClusterAIError):
    code, status = "key-not-in-use", Status.FAILED
    message = "no key was made, because the gateway cannot be told: {reason}"
    hint = "{fix}"


class KeyStillInUse(ClusterAIError):
    code, status = "key-still-in-use", Status.FAILED
    message = "key {key_id} is revoked, but the gateway still takes it, because it cannot be told: {reason}"
    hint = "it is tried again by itself; to end it at once: `sudo systemctl stop clusterai-gateway`; {fix}"


@dataclass(frozen=True)
class KeyRequest:
    """What a new key shall be. Zero stands for no limit, no models for all."""

    name: str
    models: Sequence[str] = ()
    ttl_seconds: float = 0
    requests_per_minute: int = 0
    dashboard: bool = False
    created_by: str = ""


class Keys:
    """All keys, in memory as in the store. The gateway knows of a change before `create` and `revoke` return.

    `taken_seconds`: how long until each of its processes has looked at a new file.
    """

    def __init__(
        self, store: KeyStore, events: EventLog, directory: Path, problems: Problems, clock: Callable[[], float],
        taken_seconds: float = 0.0,
    ) -> None:
        self._store, self._events, self._clock, self._taken_seconds = store, events, clock, taken_seconds
        self._records: dict[str, KeyRecord] = {}
        self._changing = asyncio.Lock()
        self.file = KeptFile(DataFile(directory / NAME), self._content, problems)

    async def load(self) -> None:
        """Read the keys of the store; once at start."""
        self._records = {record.key_id: record for record in await self._store.list()}

    def __len__(self) -> int:
        """How many keys can be used."""
        return len(self._usable())

    def list(self) -> tuple[KeyRecord, ...]:
        """Return all keys, newest first."""
        return tuple(sorted(self._records.values(), key=lambda record: (-record.created_at, record.key_id)))

    async def create(self, request: KeyRequest) -> tuple[ApiKey, KeyRecord]:
        """Make a key and keep its hash; the key itself exists only in what is returned, and works from then on.

        Raises:
            InvalidName, BadModelName, BadRequest: the request makes no sense.
            KeyNotInUse: the gateway cannot be told; there is no key then.
        """
        _check(request)
        if len(self) >= _MOST_KEYS:
            raise BadRequest(what="key", reason=f"there are {_MOST_KEYS} already: revoke some")
        key, now = ApiKey.new(), self._clock()
        record = KeyRecord(
            key.key_id, parse_key_name(request.name), key.hash,
            tuple(sorted({normalised(model) for model in request.models})), now, request.created_by,
            now + request.ttl_seconds if request.ttl_seconds else 0.0, request.requests_per_minute, request.dashboard,
        )
        await uninterrupted(self._add(record))
        self._events.note("key-created", key.key_id, f"{request.created_by} made the key {key.key_id} ({record.name})")
        await asyncio.sleep(self._taken_seconds)
        return key, record

    async def revoke(self, name: str, revoked_by: str) -> KeyRecord:
        """Make a key useless, given its id or a name that only one usable key has; return it.

        Raises:
            NoSuchKey, AmbiguousKey: the name does not tell which.
            KeyStillInUse: it is revoked, but the gateway cannot be told.
        """
        record = self._find(name)
        if not record.revoked:
            record = await uninterrupted(self._revoke(record))
            message = f"{revoked_by} revoked the key {record.key_id} ({record.name})"
            self._events.note("key-revoked", record.key_id, message)
        try:
            await self.file.put()
        except CannotWrite as error:
            raise KeyStillInUse(key_id=record.key_id, reason=error, fix=error.advice) from error
        await asyncio.sleep(self._taken_seconds)
        return record

    def until_due(self) -> float:
        """Seconds until the next key leaves the file."""
        ends = [record.expires_at for record in self._told() if record.expires_at]
        return min((end + _SAID_SECONDS - self._clock() for end in ends), default=3600.0)

    async def _add(self, record: KeyRecord) -> None:
        async with self._changing:
            await self._store.create(record)
            self._records[record.key_id] = record
            try:
                await self.file.put()
            except CannotWrite as error:
                del self._records[record.key_id]
                with contextlib.suppress(ClusterAIError):  # the disk is full: its secret is lost, it opens nothing
                    await self._store.forget(record.key_id)
                raise KeyNotInUse(reason=error, fix=error.advice) from error

    async def _revoke(self, record: KeyRecord) -> KeyRecord:
        async with self._changing:
            await self._store.revoke(record.key_id)
            record = self._records[record.key_id] = replace(record, revoked=True)
            return record

    def _find(self, name: str) -> KeyRecord:
        if name in self._records:
            return self._records[name]
        named = [record for record in self._usable() if record.name == name]
        if len(named) > 1:
            ids = ", ".join(sorted(record.key_id for record in named))
            raise AmbiguousKey(count=len(named), key=repr(name[:64]), ids=ids)
        if not named:
            raise NoSuchKey(key=repr(name[:64]))
        return named[0]

    def _usable(self) -> tuple[KeyRecord, ...]:
        return self._valid_at(self._clock())

    def _told(self) -> tuple[KeyRecord, ...]:
        """Those of which the gateway knows: it checks the time of each by itself."""
        return self._valid_at(self._clock() - _SAID_SECONDS)

    def _valid_at(self, now: float) -> tuple[KeyRecord, ...]:
        return tuple(record for record in self._records.values() if not (record.revoked or record.is_expired(now)))

    def _content(self) -> Table:
        told = sorted(self._told(), key=lambda record: record.key_id)
        return {"keys": {record.secret_hash.hex(): _entry(record) for record in told}}


def _entry(record: KeyRecord) -> Table:
    entry: Table = {
        "id": record.key_id,
        "name": record.name,
        "expires_unix_seconds": math.ceil(record.expires_at),
        "requests_per_minute": record.requests_per_minute,
        "dashboard": record.dashboard,
    }
    return entry | ({"models": list(record.models)} if record.models else {})


def _check(request: KeyRequest) -> None:
    if request.ttl_seconds and not 0 < request.ttl_seconds <= _LONGEST_TTL_SECONDS:
        raise BadRequest(what="lifetime", reason=f"{request.ttl_seconds:g} s is not within 10 years")
    if request.requests_per_minute > _MOST_REQUESTS:
        raise BadRequest(what="requests per minute", reason=f"{request.requests_per_minute} are too many")
    if len(request.models) > _MOST_MODELS:
        raise BadRequest(what="models", reason=f"{len(request.models)} are too many; without any the key is for all")
    if request.dashboard and request.models:
        raise BadRequest(what="models", reason="a key of the dashboard opens no models")
