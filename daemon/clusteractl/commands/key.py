"""`clusteractl key`: who may use the models."""

import time

import click

from clusteractl.command import Ctl, CtlGroup, pass_ctl
from clusteractl.complete import key_ids, model_names
from clusteractl.errors import DashboardOnly, TwoNames
from clusteractl.inputs import MODEL, SPAN
from clusteractl.shape import shape
from clusteractl.views.keys import key_guide, key_list
from clusterai.ids import suggest_node_id
from clusterai.v1 import key_pb2 as pb

_CREATE_EXAMPLES = """
clusteractl key create ann > key
clusteractl key create --name laptop --model llama3.2:3b --ttl 30d --rpm 60
clusteractl key create ann --dashboard
"""


@click.group(cls=CtlGroup, examples="clusteractl key create\nclusteractl key list\nclusteractl key revoke k3v7q2xa")
def key() -> None:
    """Create, list and revoke keys of the gateway: no key, no prompt."""


@key.command(examples=_CREATE_EXAMPLES)
@click.argument("name", default="")
@click.option("--name", "named", default="", metavar="NAME", help="The same as the argument.")
@click.option("--model", "models", type=MODEL, multiple=True, metavar="MODEL", shell_complete=model_names,
              help="Only for this model; may be repeated [all].")  # fmt: skip
@click.option("--ttl", type=SPAN, metavar="TIME", help="How long it can be used, like 30d [until it is revoked].")
@click.option("--rpm", type=click.IntRange(1, 1_000_000), metavar="N", help="Requests a minute [any].")
@click.option("--dashboard", is_flag=True, help="For the Dask dashboard in a browser, and no models.")
@pass_ctl
def create(
    ctl: Ctl, name: str, named: str, models: tuple[str, ...], ttl: float | None, rpm: int | None, dashboard: bool
) -> None:
    """Create a key, and print how to use it.

    The key goes to standard output, everything else to standard error: `> FILE` writes the key alone. NAME says
    whose it is, in lists and logs; without one it is you.
    """
    if name and named and name != named:
        raise TwoNames(first=name, second=named)
    if dashboard and models:
        raise DashboardOnly(model=models[0])
    name = name or named or suggest_node_id(ctl.surroundings.user)
    request = pb.CreateKeyRequest(
        name=name, models=models, ttl_seconds=ttl or 0.0, requests_per_minute=rpm or 0, dashboard=dashboard
    )

    async def send() -> pb.CreateKeyResponse:
        async with ctl.cluster() as cluster:
            return await cluster.call("KeyService/CreateKey", request, pb.CreateKeyResponse)

    reply = ctl.run(send())
    ctl.out.show(shape(reply), [reply.secret])
    ctl.out.note("\n".join(("", *key_guide(reply, time.time(), ctl.out.width))))


@key.command("list", examples="clusteractl key list\nclusteractl key list --json | jq -r '.keys[].name'")
@pass_ctl
def list_keys(ctl: Ctl) -> None:
    """List keys. Their secrets are stored nowhere."""

    async def fetch() -> pb.ListKeysResponse:
        async with ctl.cluster() as cluster:
            return await cluster.call("KeyService/ListKeys", pb.ListKeysRequest(), pb.ListKeysResponse)

    reply = ctl.run(fetch())
    ctl.out.show(shape(reply), key_list(reply.keys, time.time()))


@key.command(examples="clusteractl key revoke k3v7q2xa\nclusteractl key revoke ann")
@click.argument("key_id", metavar="KEY", shell_complete=key_ids)
@pass_ctl
def revoke(ctl: Ctl, key_id: str) -> None:
    """Make KEY useless, within a second.

    KEY is its id, or a name that only one usable key has. Answers that stream already go on to their end.
    """

    async def send() -> pb.RevokeKeyResponse:
        async with ctl.cluster() as cluster:
            request = pb.RevokeKeyRequest(key=key_id)
            return await cluster.call("KeyService/RevokeKey", request, pb.RevokeKeyResponse)

    reply = ctl.run(send())
    name = f" of {reply.key.name}" if reply.key.name else ""
    ctl.out.show(shape(reply.key), [f"Key {reply.key.key_id}{name} is revoked."])
