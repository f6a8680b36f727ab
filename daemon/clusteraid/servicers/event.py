"""EventService: what happened."""

from collections.abc import AsyncIterator
from typing import Any

from clusterai.v1 import event_pb2 as pb
from clusterai.v1.event_pb2_grpc import EventServiceServicer
from clusteraid.events import Events
from clusteraid.store_nodes import EVENTS_KEPT, EventRecord

_DEFAULT_COUNT = 100


class EventServicer(EventServiceServicer):
    def __init__(self, events: Events) -> None:
        self._events = events

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Any
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        limit = min(request.limit or _DEFAULT_COUNT, EVENTS_KEPT)
        async for event in self._events.watch(request.after_sequence, limit, follow=request.follow):
            yield pb.WatchEventsResponse(event=_to_wire(event))


def _to_wire(event: EventRecord) -> pb.Event:
    return pb.Event(
        sequence=event.sequence,
        time_unix_seconds=event.time,
        kind=event.kind,
        subject=event.subject,
        message=event.message,
    )
