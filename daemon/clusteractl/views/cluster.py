"""The cluster as a whole, and the checks of `clusteractl doctor`."""

from collections.abc import Sequence
from dataclasses import dataclass

from clusteractl.output import Block, paragraph
from clusteractl.tables import Column, Table
from clusteractl.words import plural, printable, size, span, word
from clusterai.v1.cluster_pb2 import CheckOutcome, CheckResult, GetStatusResponse, ModelsStatus, PoolStatus
from clusterai.v1.types_pb2 import EnvironmentSpec

_LABEL = 9


@dataclass(frozen=True)
class Check:
    """One check: its stable name, `client` or `server`, `ok`, `warning`, `failed` or `not-applicable`, and the fix."""

    check: str
    where: str
    outcome: str
    message: str
    fix: str = ""

    @classmethod
    def of_server(cls, result: CheckResult) -> "Check":
        """Return a check that the daemon made."""
        return cls(result.check, "server", word(CheckOutcome, result.outcome), result.message, result.fix)


def status_page(status: GetStatusResponse, now: float, width: int) -> list[Block]:
    """The cluster in a few lines: nodes, pools, where it is, and its problems."""
    up = f", up {span(now - status.started_unix_seconds)}" if status.started_unix_seconds else ""
    pairs = [("nodes", _nodes(status))]
    for pool in status.pools:
        pairs += [("pool" if name == "" else "", text) for name, text in _pool(pool)]
    pairs += [("models" if first else " ", text) for first, text in _models(status.models)]
    pairs.append(("server", ", ".join(status.server_addresses)))
    pairs += [("problem", problem) for problem in status.problems]
    head = f"Cluster {status.cluster_id}, clusteraid {status.server_version}{up}"
    return [head, *(_pair(name, value, width) for name, value in pairs if value)]


def environment_line(environment: EnvironmentSpec) -> str:
    """The Python and the package versions of a pool, `Python 3.11, dask 2026.8.0, …`."""
    versions = [f"{name} {version}" for name, version in sorted(environment.versions.items(), key=_importance)]
    return ", ".join((f"Python {environment.python_minor or '?'}", *versions))


def check_report(checks: Sequence[Check], width: int) -> list[Block]:
    """The table of checks; under it, in full, what is to be fixed."""
    columns = (
        Column("CHECK", keep=True),
        Column("OUTCOME", keep=True, stated=True),
        Column("ON", keep=True),
        Column("MESSAGE", least=20),
    )
    rows = tuple((check.check, check.outcome, check.where, check.message) for check in checks)
    wanting = [check for check in checks if check.outcome in ("failed", "warning")]
    blocks: list[Block] = [Table(columns, rows)]
    for check in wanting:
        blocks += ["", paragraph(f"{check.check} ({check.where}): {check.message}", indent="  ", first="", width=width)]
        blocks += [f"  fix: {printable(line)}" for line in check.fix.splitlines() if line]
    failed = sum(check.outcome == "failed" for check in checks)
    verdict = f"{plural(failed, 'check')} failed." if failed else "Nothing is broken."
    return [*blocks, "", verdict]


def _nodes(status: GetStatusResponse) -> str:
    counts = [f"{count} {state}" for state, count in sorted(status.node_counts.items(), key=_most) if count]
    return ", ".join(counts) or "none yet; for the first one: clusteractl token create"


def _most(item: tuple[str, int]) -> tuple[bool, int, str]:
    return item[0] != "ready", -item[1], item[0]


def _pool(pool: PoolStatus) -> list[tuple[str, str]]:
    counts = f"{plural(pool.worker_count, 'worker')}, {plural(pool.thread_count, 'thread')}"
    has = f"{counts}, {size(pool.memory_limit_bytes)}" if pool.worker_count else "no workers"
    state = f"{pool.pool_name}: {pool.scheduler_state}" + (f" ({pool.reason})" if pool.reason else "")
    places = [f"scheduler {pool.scheduler_address}", f"dashboard {pool.dashboard_address}"]
    lines = [("", f"{state}, {has}")]
    lines += [(" ", place) for place in places if not place.endswith(" ")]
    return [*lines, (" ", environment_line(pool.environment))] if pool.environment.python_minor else lines


def _models(models: ModelsStatus) -> list[tuple[bool, str]]:
    """What is served and by which gateway; nothing where the server tells nothing of models."""
    if not models.gateway_state:
        return []
    served = f"{plural(models.model_count, 'model')} on {plural(models.node_count, 'node')}"
    why = f" ({models.reason})" if models.reason else ""
    line = f"{served if models.model_count else 'none yet'}, gateway {models.gateway_state}{why}"
    return [(True, line), *((False, url) for url in models.gateway_urls[:1])]


def _importance(item: tuple[str, str]) -> tuple[bool, str]:
    return item[0] not in ("dask", "distributed"), item[0]


def _pair(name: str, value: str, width: int) -> str:
    return paragraph(value, indent=" " * (_LABEL + 2), first=f"  {name:<{_LABEL}}", width=width)
