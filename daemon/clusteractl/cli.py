"""The commands of `clusteractl`, and where each is."""

import click

import clusterai
from clusteractl.command import CtlGroup, common_options

_EXAMPLES = """
clusteractl status
clusteractl token create
clusteractl node list
clusteractl node drain pi4
clusteractl dask env > cluster.env
clusteractl model pull llama3.2:3b
clusteractl key create > key
clusteractl logs -f --node pi4
"""
_COMMANDS = {
    "status": "clusteractl.commands.status:status",
    "node": "clusteractl.commands.node:node",
    "policy": "clusteractl.commands.policy:policy",
    "token": "clusteractl.commands.token:token",
    "unit": "clusteractl.commands.unit:unit",
    "worker": "clusteractl.commands.worker:worker",
    "model": "clusteractl.commands.model:model",
    "why": "clusteractl.commands.why:why",
    "key": "clusteractl.commands.key:key",
    "ca": "clusteractl.commands.ca:ca",
    "dask": "clusteractl.commands.dask:dask",
    "logs": "clusteractl.commands.logs:logs",
    "events": "clusteractl.commands.events:events",
    "doctor": "clusteractl.commands.doctor:doctor",
    "login": "clusteractl.commands.login:login",
    "logout": "clusteractl.commands.login:logout",
    "operator": "clusteractl.commands.operator:operator",
    "version": "clusteractl.commands.version:version",
    "completion": "clusteractl.commands.completion:completion",
}


@click.group(
    cls=CtlGroup,
    members=_COMMANDS,
    examples=_EXAMPLES,
    params=common_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(clusterai.__version__, prog_name="clusteractl", message="%(prog)s %(version)s")
def cli() -> None:
    """Run a Cluster AI cluster: its nodes, workers, models, units and the ways in.

    On the server it talks to the daemon's socket (as root or as a member of the group clusterai), elsewhere to the
    cluster that you logged in to. Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 denied, 5 unreachable.
    """
