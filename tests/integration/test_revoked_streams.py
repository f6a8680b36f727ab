"""What an operator has open ends when the operator is revoked."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from clusterai.enroll_client import enroll
from clusterai.rpc import from_rpc_error, local_channel, secure_channel
from clusterai.tokens import JoinToken
from clusterai.v1.event_pb2 import WatchEventsRequest
from clusterai.v1.event_pb2_grpc import EventServiceStub
from clusterai.v1.operator_pb2 import RevokeOperatorRequest
from clusterai.v1.operator_pb2_grpc import OperatorServiceStub
from clusterai.v1.token_pb2 import ROLE_VIEWER, CreateTokenRequest
from clusterai.v1.token_pb2_grpc import TokenServiceStub
from support.killable import KillableDaemon, killable_daemon


async def events_of(daemon: KillableDaemon, name: str) -> tuple[grpc.aio.Channel, Any]:
    """Enrol a viewer and let it follow the events."""
    async with local_channel(daemon.socket) as admin:
        tokens: Any = TokenServiceStub(admin)
        answer = await tokens.CreateToken(CreateTokenRequest(role=ROLE_VIEWER, bound_name=name), timeout=60)
    enrolled = await enroll(await daemon.enrollment_address(), JoinToken.parse(answer.token), name=name, facts=None)
    channel = secure_channel(
        enrolled.server_addresses[0], ca_pem=enrolled.ca_pem, chain_pem=enrolled.chain_pem, key_pem=enrolled.key_pem
    )
    stub: Any = EventServiceStub(channel)
    call = stub.WatchEvents(WatchEventsRequest(follow=True), timeout=60)
    await call.read()
    return channel, call


async def test_an_operators_open_streams_end_at_its_revocation_and_nobody_elses(tmp_path: Path) -> None:
    async with killable_daemon(tmp_path) as daemon:
        (eve_channel, eves), (bob_channel, bobs) = await events_of(daemon, "eve"), await events_of(daemon, "bob")
        async with eve_channel, bob_channel, local_channel(daemon.socket) as admin:
            operators: Any = OperatorServiceStub(admin)
            await operators.RevokeOperator(RevokeOperatorRequest(name="eve"), timeout=60)
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                async with asyncio.timeout(60):
                    while True:
                        await eves.read()
            assert from_rpc_error(ended.value, "the daemon").code == "revoked"
            async with asyncio.timeout(60):
                while (await bobs.read()).event.kind != "operator-revoked":
                    pass
            bobs.cancel()
