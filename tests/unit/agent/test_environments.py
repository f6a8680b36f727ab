"""Which environments lie on a node's disk."""

import json
from pathlib import Path

from clusterai_agent.config import EnvironmentSection
from clusterai_agent.server import Server
from clusterai_agent.supervisor.desired import DesiredEnvironment
from clusterai_agent.supervisor.environments import Environments

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
