"""What happened, for people: noted at once, written behind in groups, kept up to a limit."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from clusteraid.store import StoreUnavailable
from clusteraid.store_nodes import EVENTS_KEPT, EventRecord, NodeStore
from clusteraid.text import printable

log = logging.getLogger(__name__)
_WRITE_PAUSE_SECONDS = 0.2  # events that come together share a transaction
_RETRY_SECONDS = 2.0
_MESSAGE_LIMIT, _SUBJECT_LIMIT = 1000, 128


class Events:
    """The newest events in memory; the store has the same ones a moment later."""

    def __init__(self, store: NodeStore, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._kept: deque[EventRecord] = deque(maxlen=EVENTS_KEPT)
        self._unsaved: deque[EventRecord] = deque(maxlen=EVENTS_KEPT)
        self._sequence = 0
        self._noted = asyncio.Event()  # replaced at each event: waiters hold the old one

    async def load(self) -> None:
        """Read what was kept; once at start."""
        self._kept.extend(await self._store.load_events())
        self._sequence = self._kept[-1].sequence if self._kept else 0

    def note(self, kind: str, subject: str, message: str) -> None:
        """Note an event; never waits, never fails. What a node says in it makes no second line of a log."""
        message = printable(message, _MESSAGE_LIMIT)
        self._sequence += 1
        event = EventRecord(self._sequence, self._clock(), kind, subject[:_SUBJECT_LIMIT], message)
        log.info("%s: %s", event.kind, event.message)
        self._kept.append(event)
        self._unsaved.append(event)
        self._noted.set()
        self._noted = asyncio.Event()

    def since(self, sequence: int, limit: int) -> tuple[EventRecord, ...]:
        """Return the newest `limit` events after a sequence number, oldest first."""
        newest: list[EventRecord] = []
        for event in reversed(self._kept):
            if event.sequence <= sequence or len(newest) >= limit:
                break
            newest.append(event)
        return tuple(reversed(newest))

    async def watch(self, sequence: int, limit: int, *, follow: bool) -> AsyncIterator[EventRecord]:
        """Yield the newest `limit` events after a sequence number, oldest first; when following, then each new one.

        Who reads more slowly than events come misses the oldest of them.
        """
        noted = self._noted
        for event in self.since(sequence, limit):
            sequence = event.sequence
            yield event
        sequence = max(sequence, self._sequence) if not self.since(sequence, 1) else sequence
        while follow:
            for event in self.since(sequence, EVENTS_KEPT):
                sequence = event.sequence
                yield event
            await noted.wait()
            noted = self._noted

    async def keep_saving(self) -> None:
        """Write new events to the store, for ever; while it cannot be written they wait, the oldest give way."""
        while True:
            noted = self._noted
            if not self._unsaved:
                await noted.wait()
            await asyncio.sleep(_WRITE_PAUSE_SECONDS)
            if not await self._save():
                await asyncio.sleep(_RETRY_SECONDS)

    async def close(self) -> None:
        """Write what is left; once at the end."""
        await self._save()

    async def _save(self) -> bool:
        batch = tuple(self._unsaved)
        if batch:
            with contextlib.suppress(StoreUnavailable):
                await self._store.save_events(batch)
                for event in batch:
                    if self._unsaved and self._unsaved[0] is event:
                        self._unsaved.popleft()
                return True
        return not batch
