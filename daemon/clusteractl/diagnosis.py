"""The checks of this side: the way to the daemon, the login, the clock, the versions, the user's Dask."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

import clusterai
from clusteractl.command import Ctl
from clusteractl.connection import Cluster
from clusteractl.dask_environment import difference
from clusteractl.views.cluster import Check
from clusteractl.words import moment, until
from clusterai.credentials import load_credentials, renewal_due
from clusterai.errors import ClusterAIError
from clusterai.files import BadFile
from clusterai.v1.cluster_pb2 import (
    GetStatusRequest,
    GetStatusResponse,
    PoolStatus,
    RunChecksRequest,
    RunChecksResponse,
)

_SKEW_WARNING, _SKEW_FAILURE = 5.0, 120.0
_SERVER_PATIENCE = 60.0  # the daemon's own checks wait for the bus, the network and the disk
_RENEW_DASK = "clusteractl dask env > cluster.env"


async def diagnose(ctl: Ctl) -> list[Check]:
    """Make every check that can be made; what hinders the others is the last of them."""
    checks = [login_check(ctl), dask_certificate_check(ctl.surroundings.config_directory / "dask", datetime.now(UTC))]
    try:
        async with ctl.cluster() as cluster:
            connection, *others = await _answered(ctl, cluster)
            return [connection, *checks, *others]
    except ClusterAIError as error:
        return [_failed("connection", error), *checks]


async def _answered(ctl: Ctl, cluster: Cluster) -> list[Check]:
    """The checks for which the daemon has to answer."""
    asked = time.time()
    status = await cluster.call("ClusterService/GetStatus", GetStatusRequest(), GetStatusResponse)
    middle = (asked + time.time()) / 2
    environment = ctl.surroundings.environment.get("VIRTUAL_ENV", "")
    own = [
        Check("connection", "client", "ok", f"{cluster.target} answers"),
        clock_check(status.clock_unix_seconds, middle),
        version_check(clusterai.__version__, status.server_version),
        dask_environment_check(Path(environment) if environment else None, status.pools),
    ]
    return own + await _servers(cluster)


async def _servers(cluster: Cluster) -> list[Check]:
    try:
        patience = max(cluster.timeout, _SERVER_PATIENCE)
        reply = await cluster.call("ClusterService/RunChecks", RunChecksRequest(), RunChecksResponse, timeout=patience)
    except ClusterAIError as error:
        return [_failed("server", error)]
    return [Check.of_server(result) for result in reply.checks]


def login_check(ctl: Ctl) -> Check:
    """The operator certificate on this machine, when there is one."""
    try:
        login = ctl.logins.load()
    except BadFile as error:
        return _failed("login", error)
    if login is None:
        return Check("login", "client", "not-applicable", "not logged in anywhere")
    own, now = login.credentials, datetime.now(UTC)
    ends = own.not_after.timestamp()
    message = f"{login.operator} at {login.addresses[0]}, certificate ends {until(ends, now.timestamp())}"
    again = f"clusteractl login --server {login.addresses[0].rpartition(':')[0]}"
    if login.expired(now):
        return Check("login", "client", "failed", f"the certificate of {login.operator} ended {moment(ends)}", again)
    if renewal_due(own.not_before, own.not_after, now, jitter=0.0):
        return Check("login", "client", "warning", message, "any command renews it: clusteractl status")
    return Check("login", "client", "ok", message)


def clock_check(server: float, here: float) -> Check:
    """Compare this machine's clock with the server's."""
    if not server:
        return Check("clock", "client", "not-applicable", "this server does not tell its clock")
    skew = here - server
    message = f"{round(skew, 1) + 0.0:+.1f} s against the server"
    if abs(skew) < _SKEW_WARNING:
        return Check("clock", "client", "ok", message)
    outcome = "warning" if abs(skew) < _SKEW_FAILURE else "failed"
    return Check("clock", "client", outcome, message, "sudo timedatectl set-ntp true  (on the machine that is wrong)")


def version_check(client: str, server: str) -> Check:
    """Both sides' versions."""
    if client == server:
        return Check("versions", "client", "ok", f"clusteractl and clusteraid are both {client}")
    fix = "sudo apt install --only-upgrade clusteractl  (or clusteraid, on the server)"
    return Check("versions", "client", "warning", f"clusteractl is {client}, clusteraid is {server}", fix)


def dask_certificate_check(directory: Path, now: datetime) -> Check:
    """The client certificates that `clusteractl dask env` wrote."""
    found = [path for path in sorted(directory.glob("*.pem")) if not path.name.endswith("-ca.pem")]
    if not found:
        return Check("dask-certificate", "client", "not-applicable", "none was asked for (clusteractl dask env)")
    try:
        last = max(load_credentials(path).not_after for path in found)
    except BadFile as error:
        return _failed("dask-certificate", error)
    if last <= now:
        return Check("dask-certificate", "client", "warning", f"ended {moment(last.timestamp())}", _RENEW_DASK)
    return Check("dask-certificate", "client", "ok", f"ends {until(last.timestamp(), now.timestamp())}")


def dask_environment_check(active: Path | None, pools: Sequence[PoolStatus]) -> Check:
    """The Python environment that is active in this shell against the pools': any that matches will do."""
    name = "dask-environment"
    present = installed(active) if active else {}
    if "distributed" not in present:
        return Check(name, "client", "not-applicable", "no environment with distributed is active")
    wrong = {pool.pool_name: difference(present, pool.environment) for pool in pools if pool.environment.python_minor}
    for pool, problem in wrong.items():
        if not problem:
            return Check(name, "client", "ok", f"{active} matches the pool {pool}")
    if not wrong:
        return Check(name, "client", "not-applicable", "no pool tells its environment yet")
    pool, problem = next(iter(wrong.items()))
    fix = f"clusteractl dask env --pool {pool} --create PATH"
    return Check(name, "client", "failed", f"{active}: for the pool {pool} {problem}", fix)


def installed(environment: Path) -> dict[str, str]:
    """Return what is installed in a virtual environment, by its files: names to versions, `python` its minor."""
    places = sorted(environment.glob("lib/python3.*/site-packages"))
    if not places:
        return {}
    found = {
        (one.metadata["Name"] or "").lower().replace("_", "-"): one.version
        for one in distributions(path=[str(places[-1])])
    }
    return found | {"python": places[-1].parent.name.removeprefix("python")}


def _failed(check: str, error: ClusterAIError) -> Check:
    return Check(check, "client", "failed", str(error), error.advice)
