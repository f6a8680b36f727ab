"""Which environments lie on a node's disk."""

import asyncio
import json
import sys
from pathlib import Path

from clusterai.v1.types_pb2 import ENVIRONMENT_STATE_INCOMPATIBLE, ENVIRONMENT_STATE_READY
from clusterai_agent.config import EnvironmentSection
from clusterai_agent.server import Server
from clusterai_agent.supervisor.desired import DesiredEnvironment
from clusterai_agent.supervisor.environments import Environments
from clusterai_agent.supervisor.further_environments import FurtherEnvironments

OLD, NEW, NEWEST = "0" * 16, "1" * 16, "2" * 16


def finished(root: Path, name: str) -> None:
    python = root / name / "bin/python"
    python.parent.mkdir(parents=True)
    python.touch(0o755)
    (root / name / ".complete").write_text(json.dumps({"versions": {"dask": "1"}}))


async def test_an_environment_that_the_pool_left_before_the_agent_started_is_removed(tmp_path: Path) -> None:
    for name in (OLD, NEW, NEWEST):
        finished(tmp_path, name)
    environments = Environments(tmp_path, EnvironmentSection(), Server(), lambda: None)
    await environments.want(DesiredEnvironment(NEW, "3.11", build=True))
    assert environments.ready
    assert [path.name for path in tmp_path.iterdir()] == [NEW]
    finished(tmp_path, NEWEST)
    await environments.want(DesiredEnvironment(NEWEST, "3.11", build=True))
    assert {path.name for path in tmp_path.iterdir()} == {NEW, NEWEST}, "workers may still run in the one of before"


async def test_what_schedulers_of_this_machine_run_in_stays_when_the_agent_starts(tmp_path: Path) -> None:
    for name in (OLD, NEW, NEWEST):
        finished(tmp_path, name)
    environments = Environments(tmp_path, EnvironmentSection(), Server(), lambda: None)
    await environments.want(DesiredEnvironment(NEW, "3.11", build=True), {NEWEST})
    assert {path.name for path in tmp_path.iterdir()} == {NEW, NEWEST}


async def test_further_environments_are_found_and_remove_nothing(tmp_path: Path) -> None:
    for name in (OLD, NEW, NEWEST):
        finished(tmp_path, name)
    further = FurtherEnvironments(tmp_path, EnvironmentSection(), Server(), lambda: None)
    await further.want([DesiredEnvironment(NEW, "3.11", build=True), DesiredEnvironment(NEWEST, "3.12", build=True)])
    assert [(one.environment_hash, one.state) for one in further.statuses] == [
        (NEW, ENVIRONMENT_STATE_READY), (NEWEST, ENVIRONMENT_STATE_READY),
    ]  # fmt: skip
    await further.want([DesiredEnvironment(NEWEST, "3.12", build=True)])
    assert [one.environment_hash for one in further.statuses] == [NEWEST]
    assert {path.name for path in tmp_path.iterdir()} == {OLD, NEW, NEWEST}


async def test_a_further_environment_without_its_python_says_so_and_is_given_up_when_nobody_wants_it(
    tmp_path: Path,
) -> None:
    """The interpreter in agent.toml is for the node's own pool: another minor is looked for."""
    told = asyncio.Event()
    further = FurtherEnvironments(tmp_path, EnvironmentSection(python=Path(sys.executable)), Server(), told.set)
    await further.want([DesiredEnvironment(NEW, "3.99", build=True)])
    async with asyncio.timeout(60):
        while not (further.statuses and further.statuses[0].state == ENVIRONMENT_STATE_INCOMPATIBLE):
            told.clear()
            await told.wait()
    (status,) = further.statuses
    assert "3.99" in status.reason
    assert "uv python install 3.99" in status.hint
    await further.want(())
    assert further.statuses == []
