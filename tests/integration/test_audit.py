"""The audit line of a call says who called, also when the caller was not let in."""

from pathlib import Path

import grpc
import pytest

from clusterai.rpc import secure_channel
from clusterai.v1.token_pb2 import CreateTokenRequest
from clusterai.v1.token_pb2_grpc import TokenServiceStub
from support.trust import Trust


async def test_a_refused_caller_is_named_with_its_address_and_what_it_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "clusteraid.audit")
    async with Trust.open(tmp_path) as trust, trust.serving():
        key, chain = await trust.member("pi4")
        async with secure_channel(trust.address, ca_pem=trust.authority.ca_pem, chain_pem=chain, key_pem=key) as opened:
            with pytest.raises(grpc.aio.AioRpcError):
                await TokenServiceStub(opened).CreateToken(CreateTokenRequest(bound_name="spy"), timeout=60)
        caller = f"refused caller 'spiffe://{trust.authority.cluster_id}/node/pi4' from 127.0.0.1"
    (line,) = [record.getMessage() for record in caplog.records if record.name == "clusteraid.audit"]
    assert line == f"{caller} called TokenService/CreateToken bound_name='spy': denied"
