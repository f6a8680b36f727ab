"""Every command of `clusteractl` as a process of its own, against a daemon on a Unix socket."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusterai.tokens import JoinToken
from clusterai.v1.node_admin_pb2 import NODE_VIEW_BASIC, NODE_VIEW_FULL, ListNodesRequest
from clusterai.v1.token_pb2 import ROLE_NODE, ROLE_OPERATOR
from support.ctl import Ctl
from support.fake_daemon import FakeDaemon, made_up_cluster
from support.terminal import on_terminal


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with made_up_cluster() as running:
        yield running


@pytest.fixture
def ctl(daemon: FakeDaemon, tmp_path: Path) -> Ctl:
    return Ctl(tmp_path, daemon.socket)


LISTS = {
    "status": ("node_counts", "pools", "problems", "server_addresses"),
    "node list": ("nodes",),
    "node show tower": ("node_id", "state", "facts", "workers"),
    "worker list": ("workers",),
    "token list": ("tokens",),
    "operator list": ("operators",),
    "unit list": ("units", "back_end"),
    "version": ("client_version", "server_version"),
}


@pytest.mark.parametrize("command", LISTS)
async def test_what_a_person_sees_a_script_can_have(command: str, ctl: Ctl) -> None:
    seen, had = await ctl(*command.split()), await ctl(*command.split(), "--json")
    assert (seen.code, seen.err, had.code, had.err) == (0, "", 0, "")
    assert set(LISTS[command]) <= set(had.data)
    assert all(len(line) <= 80 for line in seen.out.splitlines())
    assert "\x1b" not in seen.out


async def test_options_may_stand_before_the_command(ctl: Ctl) -> None:
    assert (await ctl("--json", "--timeout", "5", "node", "list")).data["nodes"][0]["node_id"] == "tower"


async def test_the_list_of_nodes_asks_for_readings_and_shows_them(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = await ctl("node", "list")
    assert "GeForce RTX 4090" in ended.out
    await ctl("node", "list", "--json")
    assert daemon.asked("ListNodes") == [
        ListNodesRequest(with_samples=True, view=NODE_VIEW_BASIC),
        ListNodesRequest(with_samples=True, view=NODE_VIEW_FULL),
    ]


@pytest.mark.parametrize(
    ("command", "method", "sent", "said"),
    [
        ("node approve pi4 --code k7m-q2x", "ApproveNode", {"node_id": "pi4", "approval_code": "K7M-Q2X"}, "approved"),
        ("node reject pi4", "RejectNode", {"node_id": "pi4"}, "turned away"),
        ("node undrain tower", "UndrainNode", {"node_id": "tower"}, "takes work again"),
        ("node remove tower", "RemoveNode", {"node_id": "tower"}, "clusterai-agent leave"),
        ("token revoke k3v7q2xa", "RevokeToken", {"token_id": "k3v7q2xa"}, "revoked"),
        ("operator revoke ann", "RevokeOperator", {"name": "ann"}, "revoked"),
        ("unit start clusterai-scheduler@main", "StartUnit", {"unit": "clusterai-scheduler@main.service"}, "active"),
        ("unit stop clusterai-scheduler@main", "StopUnit", {"unit": "clusterai-scheduler@main.service"}, "inactive"),
        ("unit restart nginx.service", "RestartUnit", {"unit": "nginx.service"}, "active (running)"),
    ],
)
async def test_a_change_is_sent_and_confirmed(
    command: str, method: str, sent: dict[str, str], said: str, ctl: Ctl, daemon: FakeDaemon
) -> None:
    ended = await ctl(*command.split())
    assert (ended.code, ended.err) == (0, "")
    assert said in ended.out
    (request,) = daemon.asked(method)
    assert {name: getattr(request, name) for name in sent} == sent


async def test_a_change_can_answer_in_json(ctl: Ctl) -> None:
    assert (await ctl("node", "remove", "tower", "--json")).data == {"node_id": "tower", "removed": True}
    assert (await ctl("node", "undrain", "phone", "--json")).data["state"] == "incompatible"


async def test_approval_without_a_code_and_without_a_person_is_a_usage_error(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = await ctl("node", "approve", "pi4")
    assert ended.code == 2
    assert "--code ABC-DEF" in ended.err
    assert daemon.asked("ApproveNode") == []


async def test_a_token_goes_to_stdout_alone_and_the_commands_beside_it(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = await ctl("token", "create", "--name", "pi4", "--ttl", "1h")
    assert ended.code == 0
    assert JoinToken.parse(ended.out).ca_sha256 == daemon.authority.spki_sha256
    assert "sudo clusterai-agent join --server tower.lan\n" in ended.err
    assert ended.out.strip() not in ended.err
    (request,) = daemon.asked("CreateToken")
    assert (request.role, request.bound_name, request.ttl_seconds, request.use_limit) == (ROLE_NODE, "pi4", 3600, 1)


async def test_a_token_in_json_has_its_commands(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = await ctl("token", "create", "--role", "operator", "--name", "ann", "--uses", "2", "--json")
    assert ended.err == ""
    assert JoinToken.parse(ended.data["token"])
    assert ended.data["details"]["role"] == "operator"
    assert ended.data["commands"][-1] == "clusteractl login --server tower.lan"
    assert daemon.asked("CreateToken")[0].role == ROLE_OPERATOR


async def test_a_phone_s_line_goes_to_stdout_alone_and_has_the_token(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.setup = ("https://tower.lan/repo/setup.sh", "ab" * 32)
    ended = await ctl("token", "create", "--phone", "--name", "pixel")
    assert ended.code == 0
    (line,) = ended.out.splitlines()
    assert line.startswith("cd;u=https://tower.lan/repo;")
    assert JoinToken.parse(line.rpartition("&&echo ")[2].removesuffix("|sh s $u"))
    assert "lets in a phone named pixel" in ended.err
    assert "█" not in ended.err, "a code is for a terminal"
    shown = await on_terminal(ctl, "token", "create", "--phone")
    assert shown.count("█") > 100
    as_json = await ctl("token", "create", "--phone", "--json")
    assert as_json.data["commands"][0].endswith(f"echo {as_json.data['token']}|sh s $u")
    assert as_json.err == ""


async def test_a_phone_needs_packages_and_is_no_operator(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = await ctl("token", "create", "--phone")
    assert ended.code == 1
    assert "sudo clusteraid repo add dist/termux/*.deb" in ended.err
    assert ended.out == ""
    assert [request.token_id for request in daemon.asked("RevokeToken")] == [daemon.cluster.tokens[-1].token_id]
    ended = await ctl("token", "create", "--phone", "--role", "viewer")
    assert ended.code == 2
    assert "a phone is a node, not viewer" in ended.err


async def test_logs_and_events_are_lines_and_in_json_an_object_a_line(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert (await ctl("logs", "-n", "1", "--node", "pi4")).out == "2026-11-24 02:00:00 pi4 clusterai-agent: no disk\n"
    (request,) = daemon.asked("ReadLogs")
    assert (request.node_id, request.unit, request.line_count, request.follow) == ("pi4", "", 1, False)
    assert [line["unit"] for line in (await ctl("logs", "--json")).records] == [
        "clusteraid.service",
        "clusterai-agent.service",
    ]
    assert [event["kind"] for event in (await ctl("events", "--json")).records] == ["node-joined", "node-ready"]
    assert (await ctl("events", "--after", "41")).out.split()[-1] == "ready"


async def test_doctor_fails_when_a_check_fails_and_prints_its_fix(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = await ctl("doctor")
    assert ended.code == 1
    assert "  fix: sudo apt install polkitd\n" in ended.out
    daemon.cluster.checks = daemon.cluster.checks[:1]
    healthy = await ctl("doctor", "--json")
    assert healthy.code == 0
    assert healthy.data["failed_count"] == 0
    checks = {check["check"]: check["outcome"] for check in healthy.data["checks"]}
    assert checks["connection"] == checks["clock"] == checks["versions"] == checks["units"] == "ok"


async def test_doctor_sees_a_clock_that_is_a_day_off(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.clock_offset_seconds = 86400
    clock = next(check for check in (await ctl("doctor", "--json")).data["checks"] if check["check"] == "clock")
    assert clock["outcome"] == "failed"
    assert "-864" in clock["message"]


async def test_what_is_not_there_exits_with_3(ctl: Ctl) -> None:
    ended = await ctl("node", "show", "nobody")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err == "clusteractl: there is no node 'nobody'\n  see `clusteractl node list`\n"


async def test_what_is_refused_exits_with_4_in_json_too(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.refused.add("RemoveNode")
    ended = await ctl("node", "remove", "tower", "--json")
    assert (ended.code, ended.out) == (4, "")
    assert ended.error == {
        "code": "role-refused",
        "message": "your role viewer may not call RemoveNode",
        "hint": "ask an admin of the cluster",
        "exit_code": 4,
    }


async def test_what_does_not_answer_exits_with_5_when_its_time_is_over(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.answer_delay_seconds = 20
    ended = await ctl("status", "--timeout", "0.3", "--json")
    assert ended.code == 5
    assert ended.error["code"] == "timed-out"


async def test_a_socket_where_nobody_listens_exits_with_5(tmp_path: Path) -> None:
    socket = tmp_path / "d.sock"
    socket.touch()
    ended = await Ctl(tmp_path, socket)("status")
    assert ended.code == 5
    assert "systemctl status clusteraid" in ended.err


async def test_no_socket_and_no_login_exits_with_5_and_says_both_ways(tmp_path: Path) -> None:
    ended = await Ctl(tmp_path)("node", "list", "--socket", str(tmp_path / "none"))
    assert ended.code == 5
    assert "there is no daemon's socket" in ended.err


async def test_version_needs_no_daemon(tmp_path: Path) -> None:
    ended = await Ctl(tmp_path, tmp_path / "none")("version", "--json")
    assert ended.code == 0
    assert ended.data["server_version"] is None
    assert "no daemon's socket" in ended.data["server_reason"]
