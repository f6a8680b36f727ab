"""What `clusterai-agent status` says of what the running agent reported."""

import json
from pathlib import Path

import pytest

from clusterai.program import Notifier
from clusterai.v1.node_pb2 import NodeStatus
from clusterai.v1.types_pb2 import ENVIRONMENT_STATE_BUILDING, ENVIRONMENT_STATE_READY, EnvironmentStatus
from clusterai_agent.config import AgentConfig, StateSection
from clusterai_agent.report import Report
from clusterai_agent.show import show_status

OWN = EnvironmentStatus(environment_hash="aaaa", state=ENVIRONMENT_STATE_READY)
PHONES = EnvironmentStatus(
    environment_hash="bbbb", state=ENVIRONMENT_STATE_BUILDING, progress_ratio=0.5, reason="installs bokeh"
)


async def test_each_environment_of_a_server_is_shown_with_its_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = AgentConfig(state=StateSection(directory=tmp_path))
    report = Report(config.state, Notifier())
    report.node_status(NodeStatus(environment=OWN, further_environments=[PHONES]))
    await show_status(config, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("environment")] == [
        "environment aaaa: ready", "environment bbbb: building 50% (installs bokeh)",
    ]  # fmt: skip
    await show_status(config, as_json=True)
    assert [one["hash"] for one in json.loads(capsys.readouterr().out)["further_environments"]] == ["bbbb"]


async def test_what_an_older_agent_wrote_is_shown_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = AgentConfig(state=StateSection(directory=tmp_path))
    Report(config.state, Notifier()).node_status(NodeStatus(environment=OWN))
    file = tmp_path / "agent-status.json"
    written = json.loads(file.read_text())
    del written["further_environments"]
    file.write_text(json.dumps(written))
    await show_status(config, as_json=False)
    assert "environment aaaa: ready" in capsys.readouterr().out
