"""`clusteractl token`: the way in for nodes and people."""

import time

import click

from clusteractl.command import Ctl, CtlGroup, pass_ctl
from clusteractl.errors import NoPhonePackages, PhoneIsNode
from clusteractl.inputs import SPAN
from clusteractl.shape import shape
from clusteractl.views.code import scannable
from clusteractl.views.lists import phone_guide, phone_line, token_commands, token_guide, token_list
from clusterai.v1 import token_pb2 as pb

_ROLES = ("node", "viewer", "operator", "admin")
_CREATE_EXAMPLES = """
clusteractl token create
clusteractl token create --name pi4 --ttl 1h
clusteractl token create --phone
clusteractl token create --role operator --name ann
clusteractl token create > token
"""


@click.group(
    cls=CtlGroup, examples="clusteractl token create\nclusteractl token list\nclusteractl token revoke k3v7q2xa"
)
def token() -> None:
    """Create, list and revoke join tokens."""


@token.command(examples=_CREATE_EXAMPLES)
@click.option(
    "--role", type=click.Choice(_ROLES), default="node", show_default=True, help="What the token's user becomes."
)
@click.option("--name", default="", metavar="NAME", help="Only for this node or operator name [any free one].")
@click.option("--ttl", type=SPAN, default="15m", show_default=True, metavar="TIME", help="How long it can be used.")
@click.option("--uses", type=click.IntRange(1, 10_000), default=1, show_default=True, metavar="N", help="How often.")
@click.option("--phone", is_flag=True, help="Print the line for a phone with Termux, and a code to scan.")
@pass_ctl
def create(ctl: Ctl, role: str, name: str, ttl: float, uses: int, phone: bool) -> None:
    """Create a join token, and print what to type on the other machine.

    The token goes to standard output, everything else to standard error: `> FILE` writes the token alone. With
    --phone it is the line for the phone, which holds the token.
    """
    if phone and role != "node":
        raise PhoneIsNode(role=role)
    request = pb.CreateTokenRequest(role=f"ROLE_{role.upper()}", bound_name=name, ttl_seconds=ttl, use_limit=uses)

    async def send() -> pb.CreateTokenResponse:
        async with ctl.cluster() as cluster:
            reply = await cluster.call("TokenService/CreateToken", request, pb.CreateTokenResponse)
            if phone and not phone_line(reply):
                withdrawn = pb.RevokeTokenRequest(token_id=reply.details.token_id)
                await cluster.call("TokenService/RevokeToken", withdrawn, pb.RevokeTokenResponse)
                raise NoPhonePackages
            return reply

    reply = ctl.run(send())
    if phone:
        _show_for_phone(ctl, reply)
        return
    ctl.out.show(shape(reply, commands=token_commands(reply)), [reply.token])
    ctl.out.note("\n".join(("", *token_guide(reply, time.time()))))


def _show_for_phone(ctl: Ctl, reply: pb.CreateTokenResponse) -> None:
    """Print the line to standard output, and on a terminal the code for the phone's camera beside it."""
    line = phone_line(reply)
    ctl.out.note("\n".join((*phone_guide(reply, time.time()), "")))
    ctl.out.show(shape(reply, commands=[line]), [line])
    if ctl.surroundings.draws:
        ctl.out.note("\n" + scannable(line, ctl.out.width))


@token.command("list", examples="clusteractl token list")
@pass_ctl
def list_tokens(ctl: Ctl) -> None:
    """List tokens. Their secrets are stored nowhere."""

    async def fetch() -> pb.ListTokensResponse:
        async with ctl.cluster() as cluster:
            return await cluster.call("TokenService/ListTokens", pb.ListTokensRequest(), pb.ListTokensResponse)

    reply = ctl.run(fetch())
    ctl.out.show(shape(reply), token_list(reply.tokens, time.time()))


@token.command(examples="clusteractl token revoke k3v7q2xa")
@click.argument("token_id", metavar="TOKEN")
@pass_ctl
def revoke(ctl: Ctl, token_id: str) -> None:
    """Make the token with the id TOKEN useless. Who joined with it stays."""

    async def send() -> None:
        async with ctl.cluster() as cluster:
            request = pb.RevokeTokenRequest(token_id=token_id)
            await cluster.call("TokenService/RevokeToken", request, pb.RevokeTokenResponse)

    ctl.run(send())
    ctl.out.show({"token_id": token_id, "revoked": True}, [f"Token {token_id} is revoked."])
