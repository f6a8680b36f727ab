"""`clusteractl operator`: people with a certificate."""

import time

import click

from clusteractl.command import Ctl, CtlGroup, pass_ctl
from clusteractl.shape import shape
from clusteractl.views.lists import operator_list
from clusterai.ids import parse_operator_name
from clusterai.v1 import operator_pb2 as pb


@click.group(cls=CtlGroup, examples="clusteractl operator list\nclusteractl operator revoke ann")
def operator() -> None:
    """List and revoke the people who logged in."""


@operator.command("list", examples="clusteractl operator list")
@pass_ctl
def list_operators(ctl: Ctl) -> None:
    """List operators with their role and the end of their certificate."""

    async def fetch() -> pb.ListOperatorsResponse:
        async with ctl.cluster() as cluster:
            return await cluster.call(
                "OperatorService/ListOperators", pb.ListOperatorsRequest(), pb.ListOperatorsResponse
            )

    reply = ctl.run(fetch())
    ctl.out.show(shape(reply), operator_list(reply.operators, time.time()))


@operator.command(examples="clusteractl operator revoke ann")
@click.argument("name")
@pass_ctl
def revoke(ctl: Ctl, name: str) -> None:
    """Revoke the certificates of the operator NAME; open connections end."""
    known = parse_operator_name(name)

    async def send() -> None:
        async with ctl.cluster() as cluster:
            request = pb.RevokeOperatorRequest(name=known)
            await cluster.call("OperatorService/RevokeOperator", request, pb.RevokeOperatorResponse)

    ctl.run(send())
    ctl.out.show({"name": known, "revoked": True}, [f"{known} is revoked. A new login needs a new token."])
