"""`clusteractl dask`: the way in for Dask clients."""

from pathlib import Path

import click

from clusteractl.command import Ctl, CtlGroup, pass_ctl
from clusteractl.complete import pool_names
from clusteractl.dask_environment import create_environment
from clusteractl.dask_settings import DaskClient, environment_lines, kept, yaml_text
from clusteractl.shape import shape
from clusterai.ids import parse_pool_name
from clusterai.v1.worker_pb2 import IssueDaskClientRequest, IssueDaskClientResponse

_EXAMPLES = """
clusteractl dask env > cluster.env && . ./cluster.env
clusteractl dask env --yaml > ~/.config/dask/cluster.yaml
clusteractl dask env --create ~/cluster-env
clusteractl dask env --pool mobile --create ~/phones-env
"""


@click.group(cls=CtlGroup, examples="clusteractl dask env > cluster.env")
def dask() -> None:
    """Use the cluster from Python."""


@dask.command(examples=_EXAMPLES)
@click.option("--yaml", "as_yaml", is_flag=True, help="Print a Dask configuration file, not lines for a shell.")
@click.option(
    "--create", type=click.Path(path_type=Path), metavar="PATH", help="Also build the pool's Python environment there."
)
@click.option("--index-url", default="", metavar="URL", help="With --create: the package index [pip's own].")
@click.option(
    "--wheels", type=click.Path(path_type=Path), metavar="DIR", help="With --create: only wheels of this directory."
)
@click.option("--pool", default="main", show_default=True, metavar="POOL", shell_complete=pool_names, help="The pool.")
@pass_ctl
def env(ctl: Ctl, as_yaml: bool, create: Path | None, index_url: str, wheels: Path | None, pool: str) -> None:
    """Print what `from dask.distributed import Client; Client()` needs to connect.

    Gets a client certificate of its own, kept in ~/.config/clusterai/dask. Whoever holds it can run anything as the
    user clusterai-dask on every node.
    """
    name = parse_pool_name(pool)
    client, reply = ctl.run(_issued(ctl, name))
    if create is not None:
        create_environment(ctl, create.absolute(), reply, index_url, wheels)
    if ctl.out.as_json:
        ctl.out.show(_data(client, reply, create), [])
    else:
        ctl.out.raw(yaml_text(client) if as_yaml else environment_lines(client))


async def _issued(ctl: Ctl, pool: str) -> tuple[DaskClient, IssueDaskClientResponse]:
    from clusterai.pki import key_pem, new_csr, new_key

    key = new_key()
    request = IssueDaskClientRequest(pool_name=pool, csr_der=new_csr(key))
    async with ctl.cluster() as cluster:
        reply = await cluster.call("WorkerService/IssueDaskClient", request, IssueDaskClientResponse)
    directory = ctl.surroundings.config_directory / "dask"
    return kept(directory, pool, cluster.target, key_pem(key), reply), reply


def _data(client: DaskClient, reply: IssueDaskClientResponse, created: Path | None) -> dict[str, object]:
    """The JSON shape: the settings under Dask's own names."""
    return {
        "pool_name": client.pool,
        "scheduler_address": client.scheduler_address,
        "certificate_file": str(client.certificate),
        "ca_file": str(client.authority),
        "expires_unix_seconds": client.expires_unix_seconds,
        "environment": shape(reply.environment),
        "environment_path": str(created.absolute()) if created else None,
        "settings": {".".join(path): value for path, value in client.settings()},
    }
