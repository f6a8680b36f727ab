"""KeyService: the gateway's keys, for admins."""

from collections.abc import Callable, Sequence
from typing import Any

from clusterai.v1 import key_pb2 as pb
from clusterai.v1.key_pb2_grpc import KeyServiceServicer
from clusteraid.access import CURRENT_CALLER
from clusteraid.gateway.keys import KeyRequest, Keys
from clusteraid.store_keys import KeyRecord


class KeyServicer(KeyServiceServicer):
    """`urls` returns where clients reach the gateway, to print with a new key."""

    def __init__(self, keys: Keys, urls: Callable[[], Sequence[str]]) -> None:
        self._keys, self._urls = keys, urls

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Any) -> pb.CreateKeyResponse:
        key, record = await self._keys.create(
            KeyRequest(
                request.name, tuple(request.models), request.ttl_seconds, request.requests_per_minute,
                request.dashboard, CURRENT_CALLER.get().name,
            )
        )
        return pb.CreateKeyResponse(secret=str(key), key=_to_wire(record), gateway_urls=self._urls())

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:
        return pb.ListKeysResponse(keys=map(_to_wire, self._keys.list()))

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Any) -> pb.RevokeKeyResponse:
        return pb.RevokeKeyResponse(key=_to_wire(await self._keys.revoke(request.key, CURRENT_CALLER.get().name)))


def _to_wire(record: KeyRecord) -> pb.Key:
    return pb.Key(
        key_id=record.key_id, name=record.name, models=record.models, created_unix_seconds=record.created_at,
        expires_unix_seconds=record.expires_at, requests_per_minute=record.requests_per_minute,
        created_by=record.created_by, revoked=record.revoked, dashboard=record.dashboard,
    )
