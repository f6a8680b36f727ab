"""The commands for models and keys as processes of their own, against a daemon that knows some."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusterai.v1.model_pb2 import Candidate, ExplainRouteResponse, ListCatalogResponse, PullModelResponse
from support import model_samples
from support.ctl import Ctl
from support.fake_daemon import FakeDaemon, made_up_cluster
from support.terminal import PATIENCE, interrupted, line_of, on_terminal

LLAMA = model_samples.LLAMA


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with made_up_cluster() as running:
        yield running


@pytest.fixture
def ctl(daemon: FakeDaemon, tmp_path: Path) -> Ctl:
    return Ctl(tmp_path, daemon.socket)


READING = {
    "model list": ("models", "drifts", "settings"),
    f"model list {LLAMA}": ("models", "drifts", "settings"),
    f"model show {LLAMA}": ("model", "digest", "copies", "drifts", "settings"),
    "model catalog": ("entries", "catalog_version"),
    "model recommend": ("recommendations",),
    "key list": ("keys",),
    f"why {LLAMA}": ("model", "peers", "answer", "closest"),
    "ca": ("ca_pem", "ca_fingerprint"),
}


@pytest.mark.parametrize("command", READING)
async def test_what_a_person_sees_a_script_can_have(command: str, ctl: Ctl) -> None:
    seen, had = await ctl(*command.split()), await ctl(*command.split(), "--json")
    assert (seen.code, seen.err, had.code, had.err) == (0, "", 0, "")
    assert set(READING[command]) <= set(had.data)
    assert all(len(line) <= 80 for line in seen.out.splitlines())
    assert "\x1b" not in seen.out


async def test_names_are_sent_as_the_cluster_writes_them(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert (await ctl("model", "show", "registry.ollama.ai/library/LLaMA3.2:3B")).code == 0
    assert daemon.asked("ListModels")[0].model == LLAMA
    await ctl("key", "create", "--model", "Llama3.2")
    assert daemon.asked("CreateKey")[0].models == ["llama3.2:latest"]


@pytest.mark.parametrize("command", ["model list nobody", "model show nobody"])
async def test_a_model_that_is_not_there_exits_with_3_and_says_how_to_fetch_it(command: str, ctl: Ctl) -> None:
    ended = await ctl(*command.split())
    assert (ended.code, ended.out) == (3, "")
    assert "clusteractl model pull nobody:latest" in ended.err


@pytest.mark.parametrize(
    ("command", "method", "sent", "said"),
    [
        (f"model rm {LLAMA}", "RemoveModel", {"model": LLAMA, "node_ids": []}, "from nas, pi4, tower"),
        (f"model rm {LLAMA} --node pi4", "RemoveModel", {"model": LLAMA, "node_ids": ["pi4"]}, "from pi4"),
        ("model rm none", "RemoveModel", {"model": "none:latest"}, "from no node: none has it"),
        ("model sync", "SyncModels", {"model": ""}, "phone has llama3.2:3b as 4c27e0f5b5ad"),
        (f"model sync {LLAMA}", "SyncModels", {"model": LLAMA}, "clusteractl model list"),
        ("key revoke ann", "RevokeKey", {"key": "ann"}, "Key k3v7q2xa of ann is revoked."),
        ("model catalog --size small --type code --for analysis --fits", "ListCatalog",
         {"size_class": "small", "type": "code", "purpose": "analysis", "fits": True}, "Catalogue 2026-11-20"),
        ("model recommend --type text --for general", "RecommendModels", {"type": "text", "purpose": "general"},
         f"clusteractl model pull {LLAMA}"),
    ],
)  # fmt: skip
async def test_what_is_asked_for_is_sent_and_confirmed(
    command: str, method: str, sent: dict[str, object], said: str, ctl: Ctl, daemon: FakeDaemon
) -> None:
    ended = await ctl(*command.split())
    assert (ended.code, ended.err) == (0, "")
    assert said in ended.out
    (request,) = daemon.asked(method)
    assert {name: getattr(request, name) for name in sent} == sent


@pytest.mark.parametrize(
    ("options", "wish"),
    [
        ("--node tower --node nas", {"node_ids": ["tower", "nas"], "gpus": False, "replica_count": 0}),
        ("--gpu", {"node_ids": [], "gpus": True, "replica_count": 0}),
        ("--replicas 2", {"node_ids": [], "gpus": False, "replica_count": 2}),
    ],
)
async def test_a_wish_says_where_a_model_shall_be(
    options: str, wish: dict[str, object], ctl: Ctl, daemon: FakeDaemon
) -> None:
    ended = await ctl("model", "place", LLAMA, *options.split())
    assert (ended.code, ended.err) == (0, "")
    assert "  tower  fits in the 24 GB of its GPU" in ended.out
    assert ended.out.endswith(f"clusteractl model list {LLAMA}\n")
    assert (await ctl("model", "pull", LLAMA, *options.split())).code == 0
    for method in ("PlaceModel", "PullModel"):
        (request,) = daemon.asked(method)
        assert {name: getattr(request.wish, name) for name in wish} == wish


async def test_a_placement_in_json_has_its_candidates(ctl: Ctl) -> None:
    placed = (await ctl("model", "place", LLAMA, "--gpu", "--json")).data
    assert placed["model"] == LLAMA
    assert [(one["node_id"], one["chosen"], one["fit"]) for one in placed["candidates"]] == [
        ("tower", True, "gpu"), ("nas", False, "main-memory"), ("pi4", False, "none"), ("phone", False, "unable"),
    ]  # fmt: skip


async def test_nothing_to_mend_is_said(ctl: Ctl, daemon: FakeDaemon) -> None:
    del daemon.cluster.models.drifts[:]
    ended = await ctl("model", "sync")
    assert (ended.code, ended.out) == (0, "There is nothing to mend.\n")
    assert (await ctl("model", "sync", "--json")).data == {"mended": []}


async def test_an_empty_catalogue_is_no_error(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.catalog = ListCatalogResponse()
    ended = await ctl("model", "catalog", "--fits")
    assert (ended.code, ended.err) == (0, "")
    assert "clusteractl model catalog" in ended.out


async def test_a_pull_says_where_it_goes_shows_its_steps_and_ends_with_what_is_next(
    ctl: Ctl, daemon: FakeDaemon
) -> None:
    ended = await ctl("model", "pull", LLAMA, "--limit", "50M")
    assert ended.code == 0
    assert ended.err.splitlines() == [
        "tower: pulling from the registry, 40 % of 2.0 GB",
        "nas: waiting: tower fetches it first",
        "tower: ready",
        "nas: pulling from the server, 70 % of 2.0 GB",
        "nas: ready",
    ]
    lines = ended.out.splitlines()
    assert lines[:3] == [
        "llama3.2:3b goes to",
        "  tower  fits in the 24 GB of its GPU, needs 3.0 GB, 22.0 GB free",
        "  nas    fits in main memory (10 GB free), needs 3.0 GB",
    ]
    assert lines[6:9] == [
        "llama3.2:3b is ready on tower and nas. Use it:",
        "  clusteractl key create > key",
        "  clusteractl ca > cluster-ca.pem",
    ]
    assert 'https://tower.local:11434/api/chat -d \'{"model": "llama3.2:3b"' in lines[9]
    assert daemon.asked("PullModel")[0].limit_bytes_per_second == 50 << 20


async def test_a_pull_in_json_is_an_object_a_step(ctl: Ctl) -> None:
    ended = await ctl("model", "pull", LLAMA, "--json")
    assert (ended.code, ended.err) == (0, "")
    first, *steps = ended.records
    assert [one["node_id"] for one in first["candidates"] if one["chosen"]] == ["tower", "nas"]
    assert [step["done"] for step in steps] == [False, False, False, True]
    assert steps[0]["nodes"][0]["pull"]["state"] == "pulling"
    assert steps[0]["nodes"][0]["pull"]["from"] == "registry"
    assert [node["present"] for node in steps[-1]["nodes"]] == [True, True]


async def test_a_dry_run_changes_nothing_and_says_how_to_go_on(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = await ctl("model", "pull", LLAMA, "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == f"Nothing was changed. To fetch it: clusteractl model pull {LLAMA}"
    assert daemon.asked("PullModel")[0].dry_run
    assert len((await ctl("model", "pull", LLAMA, "--dry-run", "--json")).records) == 1


async def test_a_model_that_fits_nowhere_exits_with_1_and_says_why_of_each_node(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.candidates = [*model_samples.candidates()[2:]]
    daemon.cluster.pull_steps = [PullModelResponse(model=LLAMA, candidates=daemon.cluster.candidates)]
    for command in (("pull",), ("pull", "--dry-run"), ("place", "--gpu")):
        ended = await ctl("model", command[0], LLAMA, *command[1:])
        assert ended.code == 1
        assert "  pi4    needs 3 GB, has 1.1 GB free" in ended.out
        assert "clusteractl model catalog --fits" in ended.err
        assert "See it arrive" not in ended.out
    ended = await ctl("model", "pull", LLAMA, "--json")
    assert (ended.code, ended.error["code"], len(ended.records)) == (1, "fits-nowhere", 1)


async def test_a_dry_run_in_a_cluster_without_nodes_fails(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.pull_steps = [PullModelResponse(model=LLAMA, done=True)]
    ended = await ctl("model", "pull", LLAMA, "--dry-run")
    assert (ended.code, ended.out) == (1, "")
    assert f"no node can take {LLAMA}" in ended.err


async def test_a_node_that_fails_makes_the_pull_fail_and_is_named(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.pull_steps = model_samples.failed_pull()
    ended = await ctl("model", "pull", LLAMA)
    assert ended.code == 1
    assert "nas: failed, 70 % of 2.0 GB: sha256 of a blob differs; tried again in 60 s" in ended.err.splitlines()
    assert f"the pull of {LLAMA} has not come to its end: 1 of 2 nodes have {LLAMA}; nas: sha256 of a" in ended.err
    assert f"clusteractl model list {LLAMA}" in ended.err
    assert (await ctl("model", "pull", LLAMA, "--json")).error["code"] == "pull-failed"


async def test_a_pull_that_the_server_ends_early_failed(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.pull_steps = model_samples.pull_steps()[:2]
    ended = await ctl("model", "pull", LLAMA)
    assert ended.code == 1
    assert "tower: pulling; nas: tower fetches it first" in ended.err
    daemon.cluster.pull_steps = []
    assert "the server ended the pull" in (await ctl("model", "pull", LLAMA)).err


@pytest.mark.parametrize("as_json", [False, True])
async def test_ctrl_c_leaves_the_pull_going_and_says_how_to_see_it(as_json: bool, ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.pull_steps, daemon.cluster.stream_pause_seconds = model_samples.pull_steps(), 60
    async with ctl.running("model", "pull", LLAMA, *(["--json"] if as_json else [])) as process:
        assert LLAMA in await line_of(process)
        code, _, err = await interrupted(process)
    assert code == 130
    note = f"The pull of {LLAMA} goes on. See it with: clusteractl model list {LLAMA}"
    assert err == ("" if as_json else note)


async def test_a_server_that_fetches_first_leaves_its_place_when_it_has_done(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.pull_steps, daemon.cluster.stream_pause_seconds = model_samples.server_first(), 1.0
    shown = await on_terminal(ctl, "model", "pull", LLAMA)
    last = shown[shown.index("60 %") :]
    assert "server" in shown[: shown.index("60 %")]
    assert "waiting" not in last
    assert "llama3.2:3b is ready on nas." in last


async def test_a_server_that_goes_away_during_a_pull_ends_the_command(ctl: Ctl, tmp_path: Path) -> None:
    async with made_up_cluster() as other:
        other.cluster.stream_pause_seconds = 60
        async with Ctl(tmp_path, other.socket).running("model", "pull", LLAMA, "--json") as process:
            await line_of(process)
            await other.stop()
            async with asyncio.timeout(PATIENCE):
                _, err = await process.communicate()
    assert process.returncode == 5
    assert json.loads(err)["error"]["code"] == "unreachable"


@pytest.mark.parametrize("command", ["model list", f"model pull {LLAMA} --json", "key list"])
async def test_a_reader_that_leaves_early_is_no_error(command: str, ctl: Ctl, daemon: FakeDaemon) -> None:
    known = daemon.cluster
    known.models.models.extend([model_samples.qwen()] * 5000)
    known.pull_steps = model_samples.pull_steps()[:4] * 500
    known.keys = model_samples.keys() * 2000
    async with ctl.running(*command.split()) as process:
        assert process.stdout is not None
        await line_of(process)
        process.stdout._transport.close()  # type: ignore[attr-defined]
        async with asyncio.timeout(PATIENCE):
            assert process.stderr is not None
            assert await process.stderr.read() == b""
            assert await process.wait() == 0


async def test_a_terminal_gets_a_bar_for_each_node(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.stream_pause_seconds = 0.3
    shown = await on_terminal(ctl, "model", "pull", LLAMA)
    assert shown.count("━") > 30
    assert "43 % of 2.0 GB, pulling from the registry" in shown
    assert "waiting: tower fetches it first" in shown
    assert shown.count("tower: ready") == 1
    assert shown.index("and not to") < shown.index("━") < shown.index("tower: ready") < shown.index("nas: ready")
    assert "llama3.2:3b is ready on tower and nas." in shown
    assert "\x1b[32m" not in await on_terminal(Ctl(ctl.home, ctl.socket, {"NO_COLOR": "1"}), "model", "show", LLAMA)
    assert "\x1b[32mloaded" in await on_terminal(ctl, "model", "show", LLAMA)


async def test_on_a_terminal_a_pull_on_a_hundred_nodes_ends_with_a_line_for_each(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.stream_pause_seconds = 0.3
    daemon.cluster.pull_steps = model_samples.large_pull()
    shown = await on_terminal(ctl, "model", "pull", LLAMA)
    assert "llama3.2:3b is ready on 100 nodes." in shown
    assert shown.count(": ready") == 100


async def test_on_a_terminal_a_removal_from_everywhere_is_asked_for(ctl: Ctl, daemon: FakeDaemon) -> None:
    shown = await on_terminal(ctl, "model", "rm", LLAMA, at="[y/N]: ", types="n\n")
    assert f"Remove {LLAMA} from every node?" in shown
    assert daemon.asked("RemoveModel") == []
    assert "is being removed" in await on_terminal(ctl, "model", "rm", LLAMA, at="[y/N]: ", types="y\n")
    assert "every node" not in await on_terminal(ctl, "model", "rm", LLAMA, "--yes")
    assert "every node" not in await on_terminal(ctl, "model", "rm", LLAMA, "--node", "pi4")


async def test_a_key_goes_to_stdout_alone_and_its_use_beside_it(ctl: Ctl, daemon: FakeDaemon) -> None:
    options = ("--model", LLAMA, "--model", "qwen3:32b", "--ttl", "30d", "--rpm", "60")
    ended = await ctl("key", "create", "ann", *options)
    assert (ended.code, ended.out) == (0, "cak1.k3v7q2xa.aaaaaaaaaaaaaaaaaaaaaaaaaa\n")
    assert ended.out.strip() not in ended.err
    assert "opens llama3.2:3b, qwen3:32b, 60 requests a minute, for 30 d" in " ".join(ended.err.split())
    assert "  export OPENAI_BASE_URL=https://tower.local:11434/v1" in ended.err
    (request,) = daemon.asked("CreateKey")
    assert (request.name, request.models) == ("ann", [LLAMA, "qwen3:32b"])
    assert (request.ttl_seconds, request.requests_per_minute, request.dashboard) == (30 * 86400, 60, False)


async def test_a_key_without_a_wish_is_for_all_and_for_ever(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = await ctl("key", "create", "--name", "ann", "--json")
    assert ended.err == ""
    assert ended.data["secret"].startswith("cak1.")
    assert ended.data["gateway_urls"][0] == model_samples.GATEWAY_URL
    assert ended.data["key"]["expires_unix_seconds"] is None
    (request,) = daemon.asked("CreateKey")
    assert (request.name, request.models, request.ttl_seconds, request.requests_per_minute) == ("ann", [], 0, 0)


async def test_a_key_without_a_name_is_the_users_own(ctl: Ctl, daemon: FakeDaemon) -> None:
    user = Ctl(ctl.home, ctl.socket, {"SUDO_USER": "Ann_B"})
    assert (await user("key", "create")).code == 0
    assert daemon.asked("CreateKey")[0].name == "ann-b"


async def test_a_key_of_the_dashboard_says_where_that_is(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert "https://tower.local/dask/status" in (await ctl("key", "create", "--dashboard")).err
    assert daemon.asked("CreateKey")[0].dashboard


async def test_a_key_that_is_not_there_exits_with_3(ctl: Ctl) -> None:
    ended = await ctl("key", "revoke", "nobody")
    assert (ended.code, ended.out) == (3, "")
    assert "clusteractl key list" in ended.err


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        (LLAMA, 0, "goes to tower now."),
        ("qwen3:32b", 1, "gets no answer now: desk, which has it, is offline"),
        ("lama", 3, "Close to it: llama3.2:3b, qwen3:32b"),
    ],
)
async def test_why_says_by_its_exit_code_whether_there_is_an_answer(model: str, code: int, said: str, ctl: Ctl) -> None:
    ended, data = await ctl("why", model), await ctl("why", model, "--json")
    assert (ended.code, ended.err, data.code, data.err) == (code, "", code, "")
    assert said in ended.out
    assert bool(data.data["peers"]) == (code != 3)


async def test_an_unknown_model_with_no_close_name_can_be_fetched(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.routes["xyz:latest"] = ExplainRouteResponse(model="xyz:latest")
    ended = await ctl("why", "xyz")
    assert ended.code == 3
    assert "clusteractl model pull xyz:latest" in ended.out


async def test_the_authority_is_the_servers_own_and_nothing_else_is_printed(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = await ctl("ca")
    assert (ended.code, ended.out, ended.err) == (0, daemon.authority.cert_pem.decode(), "")


async def test_a_server_without_models_has_no_line_about_them(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert "  models   2 models on 3 nodes, gateway running" in (await ctl("status")).out
    assert (await ctl("status", "--json")).data["models"]["gateway_urls"] == [model_samples.GATEWAY_URL]
    daemon.cluster.status.ClearField("models")
    assert "  models" not in (await ctl("status")).out
    assert (await ctl("status", "--json")).data["models"] is None


@pytest.mark.parametrize(
    ("command", "method"),
    [
        (f"model pull {LLAMA}", "PullModel"), (f"model place {LLAMA} --gpu", "PlaceModel"),
        (f"model rm {LLAMA}", "RemoveModel"), ("model sync", "SyncModels"), ("model list", "ListModels"),
        (f"model show {LLAMA}", "ListModels"), ("model catalog", "ListCatalog"),
        ("model recommend", "RecommendModels"), (f"why {LLAMA}", "ExplainRoute"), ("key create", "CreateKey"),
        ("key list", "ListKeys"), ("key revoke ann", "RevokeKey"), ("ca", "GetStatus"),
    ],
)  # fmt: skip
async def test_what_is_refused_exits_with_4(command: str, method: str, ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.refused.add(method)
    ended = await ctl(*command.split(), "--json")
    assert (ended.code, ended.out) == (4, "")
    assert ended.error["message"] == f"your role viewer may not call {method}"


async def test_a_candidate_of_a_newer_server_is_shown_as_far_as_it_is_known(ctl: Ctl, daemon: FakeDaemon) -> None:
    newer = Candidate.FromString(Candidate(node_id="tower", chosen=True).SerializeToString() + bytes([0x18, 99]))
    daemon.cluster.candidates = [newer]
    placed = await ctl("model", "place", LLAMA, "--gpu", "--json")
    assert placed.data["candidates"][0]["fit"] == "unknown"
    assert (await ctl("model", "place", LLAMA, "--gpu")).out.splitlines()[1] == "  tower  -"
