"""What commands print, letter by letter."""

import sys
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import pytest

from clusteractl.output import Block, printable_lines
from clusteractl.tables import Table, render
from clusteractl.views import cluster, lists, nodes
from clusteractl.views.code import scannable
from clusterai.v1.cluster_pb2 import GetStatusResponse, ModelsStatus, PoolStatus
from clusterai.v1.node_admin_pb2 import NODE_STATE_DRAINING, DrainNodeResponse
from clusterai.v1.token_pb2 import ROLE_NODE, ROLE_OPERATOR, CreateTokenResponse, Token
from clusterai.v1.types_pb2 import WORKER_STATE_FAILED, WORKER_STATE_REGISTERED
from support import model_samples, samples
from support.zone import in_utc

WIDTH = 80


@pytest.fixture(autouse=True)
def _utc() -> Iterator[None]:
    with in_utc():
        yield


def text(blocks: list[Block] | list[str]) -> str:
    """The blocks as they are printed, on a terminal of 80 columns without colour."""
    parts = [
        render(block, width=WIDTH, colour=False) if isinstance(block, Table) else "\n".join(printable_lines(block))
        for block in blocks
    ]
    return "\n".join(parts)


def golden(written: str) -> str:
    """A text as it stands in a test."""
    return dedent(written).strip("\n")


def test_the_list_of_nodes_ends_with_what_to_do_about_them() -> None:
    seen = nodes.node_list([samples.tower(), samples.phone(), samples.stranger()], samples.NOW, WIDTH)
    assert text(seen) == golden(
        """
        NODE   STATE         CPUS    MEMORY  GPUS              WORKERS  LOAD  HEARD
        tower  ready           32  64.0 GiB  GeForce RTX 4090  1/1       3.1  2 s ago
        phone  incompatible     8   8.0 GiB  -                 -         0.2  4 s ago
        pi4    pending          -         -  -                 -           -  40 s ago

        phone is incompatible: the pool main runs Python 3.11, this node has only 3.13
          uv python install 3.11, on the node
        pi4 asks to join. Compare the code that it shows, then:
          clusteractl node approve pi4 --code CODE
        """
    )


def test_a_node_is_shown_with_all_that_is_known() -> None:
    assert text(nodes.node_page(samples.tower(), samples.NOW, WIDTH)) == golden(
        """
        tower is ready for 2 h

          heard        2 s ago
          address      192.0.2.11:40122
          certificate  ends in 6 d (2026-11-30 02:00:00)
          cpu          32 × AMD Ryzen 9 7950X 16-Core Processor
          memory       64.0 GiB
          disk         1.8 TiB
          gpu          NVIDIA GeForce RTX 4090, 24.0 GiB, driver 550.163
          system       Debian GNU/Linux 12 (bookworm) 6.1.0-41-amd64 x86_64
          agent        0.1.0 on Python 3.11.2
          pythons      3.11
          now          cpu 38%, load 3.1, memory free 40.0 GiB, gpu 0 80%, 6.0 GiB used
          temperature  k10temp 62 °C
          no reading   network: permission denied
          environment  ready; dask 2026.8.0
          pool         main

        WORKER   NODE   STATE       THREADS    MEMORY  TASKS   STORED
        tower-0  tower  registered       32  38.0 GiB     12  900 MiB
        """
    )


def test_what_is_not_known_of_a_node_is_not_shown() -> None:
    assert text(nodes.node_page(samples.phone(), samples.NOW, WIDTH)) == golden(
        """
        phone is incompatible
          the pool main runs Python 3.11, this node has only 3.13
          uv python install 3.11, on the node

          heard        4 s ago
          cpu          8
          memory       8.0 GiB
          now          load 0.2
          battery      81%
          pool         main
        """
    )


def test_workers_that_failed_alike_share_a_reason() -> None:
    failed = [samples.worker(f"pi{number}", WORKER_STATE_FAILED, "no space left on device") for number in range(5)]
    assert text(nodes.worker_list(failed, WIDTH)).splitlines()[-1] == (
        "pi0-0, pi1-0, pi2-0 and 2 more failed: no space left on device"
    )


def test_the_pool_of_a_worker_is_shown_where_there_are_several() -> None:
    workers = [samples.worker(name, WORKER_STATE_REGISTERED) for name in ("tower", "pixel")]
    assert "POOL" not in text(nodes.worker_list(workers, WIDTH))
    for worker, pool in zip(workers, ("main", "mobile"), strict=True):
        worker.pool_name = pool
    head, tower, pixel = (line.split() for line in text(nodes.worker_list(workers, WIDTH)).splitlines())
    assert head[:4] == ["WORKER", "NODE", "POOL", "STATE"]
    assert (tower[:3], pixel[:3]) == (["tower-0", "tower", "main"], ["pixel-0", "pixel", "mobile"])


def test_a_step_of_a_drain_is_a_line() -> None:
    step = DrainNodeResponse(
        state=NODE_STATE_DRAINING, running_task_count=1, moved_result_count=7, total_result_count=12, message="to tower"
    )
    assert nodes.drain_line("pi4", step) == "pi4: draining, 1 task running, 7/12 results moved, to tower"


def test_the_status_is_a_few_lines() -> None:
    assert text(cluster.status_page(samples.status(), samples.NOW, WIDTH)) == golden(
        """
        Cluster c-5f1e0a77, clusteraid 0.1.0, up 3 d
          nodes    3 ready, 1 incompatible
          pool     main: running, 3 workers, 40 threads, 62.0 GiB
                   scheduler tls://tower:8786
                   dashboard http://127.0.0.1:8787/
                   Python 3.11, dask 2026.8.0, distributed 2026.8.0, cloudpickle 3.1.2,
                   msgpack 1.2.4, numpy 2.4.6
          server   tower:7443
          problem  the configuration was rejected at reload: clusteraid.toml: [server]
                   port: 99999 is not a port
        """
    )


def test_the_status_has_a_line_about_models_where_there_is_a_gateway() -> None:
    status = samples.status()
    status.models.CopyFrom(model_samples.served())
    lines = text(cluster.status_page(status, samples.NOW, WIDTH)).splitlines()
    assert "  models   2 models on 3 nodes, gateway running" in lines
    assert "           https://tower.local:11434" in lines
    status.models.CopyFrom(ModelsStatus(gateway_state="failed", reason="port 11434 is taken"))
    lines = text(cluster.status_page(status, samples.NOW, WIDTH)).splitlines()
    assert "  models   none yet, gateway failed (port 11434 is taken)" in lines


def test_an_empty_cluster_says_how_to_begin() -> None:
    pool = PoolStatus(pool_name="main", scheduler_state="waiting", reason="no environment yet")
    empty = GetStatusResponse(cluster_id="c-1", server_version="0.1.0", pools=[pool])
    assert "main: waiting (no environment yet), no workers" in text(cluster.status_page(empty, samples.NOW, WIDTH))
    assert "clusteractl token create" in text(cluster.status_page(empty, samples.NOW, WIDTH))
    assert "clusteractl token create" in text(nodes.node_list([], samples.NOW, WIDTH))
    assert "clusteractl token create" in text(lists.token_list([], samples.NOW))
    assert "token create --role operator" in text(lists.operator_list([], samples.NOW))
    assert "clusteractl node list" in text(nodes.worker_list([], WIDTH))


def test_every_failed_check_has_its_fix_lines() -> None:
    checks = [cluster.Check.of_server(check) for check in samples.checks()]
    assert text(cluster.check_report(checks, WIDTH)) == golden(
        """
        CHECK      OUTCOME         ON      MESSAGE
        units      ok              server  clusterai-scheduler@main.service is active
        polkit     failed          server  polkit refuses clusterai the right to restar…
        multicast  not-applicable  server  announcing is off

        polkit (server): polkit refuses clusterai the right to restart
          clusterai-scheduler@main.service, and polkit refuses clusterai the right to
          restart clusterai-scheduler@main.service, and polkit refuses clusterai the
          right to restart clusterai-scheduler@main.service, and
          fix: sudo apt install polkitd
          fix: sudo apt install --reinstall clusteraid

        1 check failed.
        """
    )


def test_warnings_break_nothing() -> None:
    report = text(cluster.check_report([cluster.Check("clock", "client", "warning", "+9.0 s", "set it")], WIDTH))
    assert report.endswith("clock (client): +9.0 s\n  fix: set it\n\nNothing is broken.")


def test_tokens_say_whether_they_can_be_used() -> None:
    rows = text(lists.token_list(samples.tokens(), samples.NOW)).splitlines()[1:]
    assert [row.split()[3] for row in rows] == ["usable", "expired", "used", "revoked"]
    assert rows[0] == "k3v7q2xa  node   -                 usable   0/1      in 12 min  local"


def test_a_new_node_token_comes_with_the_commands_for_the_node() -> None:
    details = Token(role=ROLE_NODE, use_limit=1, expires_unix_seconds=samples.NOW + 900, bound_name="pi4")
    reply = CreateTokenResponse(token="cai1", details=details, server_addresses=["tower.lan:7444"])
    assert text(lists.token_guide(reply, samples.NOW)) == golden(
        """
        This token lets in a node named pi4, once, for 15 minutes. It is shown only now.
        On the other machine:
          sudo apt install ./clusterai-agent_*.deb ./python3-clusterai_*.deb
          sudo clusterai-agent join --server tower.lan
        """
    )


def test_a_server_with_packages_gives_the_line_that_pins_its_script() -> None:
    details = Token(role=ROLE_NODE, use_limit=1, expires_unix_seconds=samples.NOW + 900)
    reply = CreateTokenResponse(
        token="cai1", details=details, server_addresses=["192.0.2.10:7444"],
        setup_url="https://192.0.2.10/repo/setup.sh", setup_sha256="ab" * 32,
    )
    fetch, digest = 'f=$(mktemp) && curl -fsSk https://192.0.2.10/repo/setup.sh -o "$f"', "ab" * 32
    check, run = f'echo "{digest}  $f" | sha256sum -c --quiet -', 'sudo sh "$f" https://192.0.2.10/repo'
    assert lists.token_commands(reply) == [
        f"{fetch} && {check} && {run}", "sudo clusterai-agent join --server 192.0.2.10",
    ]  # fmt: skip


def phone_reply(**changed: Any) -> CreateTokenResponse:
    details = Token(role=ROLE_NODE, use_limit=1, expires_unix_seconds=samples.NOW + 900)
    known = {"token": "cai1." + "a" * 88, "server_addresses": ["192.0.2.10:7444"], "setup_sha256": "ab" * 32}
    return CreateTokenResponse(details=details, setup_url="https://192.0.2.10/repo/setup.sh", **{**known, **changed})


def test_the_line_of_a_phone_pins_the_script_and_pipes_the_token_into_it() -> None:
    assert lists.phone_line(phone_reply()) == (
        f'cd;u=https://192.0.2.10/repo;curl -fsSko s $u/setup.sh&&echo "{"ab" * 32}  s"|sha256sum -c'
        f"&&echo cai1.{'a' * 88}|sh s $u"
    )
    assert "|sh s --server tower:7555 $u" in lists.phone_line(phone_reply(server_addresses=["tower:7555"]))
    assert text(lists.phone_guide(phone_reply(), samples.NOW)).startswith("This token lets in a phone, once,")


def test_the_line_of_a_phone_fits_into_a_code_that_a_screen_shows() -> None:
    wide = scannable(lists.phone_line(phone_reply()), 80)
    lines = wide.splitlines()
    assert max(map(len, lines)) == len(lines[0]) <= 65
    assert len(lines) <= 33
    assert set(wide) <= set("█▀▄ \n")
    assert scannable(lists.phone_line(phone_reply()), 60) == (
        "For a code to scan make the terminal 65 columns wide, or its letters smaller."
    )


def test_without_the_library_the_way_to_a_code_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    assert scannable("x", 80) == "For a code to scan: sudo apt install python3-segno"


def test_a_phone_gets_no_line_from_a_server_without_packages() -> None:
    for changed in ({"setup_sha256": ""}, {"setup_sha256": "$(reboot)"}):
        assert lists.phone_line(phone_reply(**changed)) == ""


@pytest.mark.parametrize(
    ("url", "sha256"),
    [("https://a;reboot/repo/setup.sh", "ab" * 32), ("http://a/repo/setup.sh", "ab" * 32),
     ("https://a/repo/setup.sh", 'x" | sh'), ("https://a/repo/setup.sh", "")],
)  # fmt: skip
def test_what_is_no_address_and_hash_never_stands_in_a_line_for_a_shell(url: str, sha256: str) -> None:
    reply = CreateTokenResponse(details=Token(role=ROLE_NODE), setup_url=url, setup_sha256=sha256)
    assert lists.token_commands(reply)[0] == "sudo apt install ./clusterai-agent_*.deb ./python3-clusterai_*.deb"


def test_a_new_operator_token_comes_with_the_commands_for_the_person() -> None:
    details = Token(role=ROLE_OPERATOR, use_limit=3, expires_unix_seconds=samples.NOW + 7 * 86400)
    reply = CreateTokenResponse(token="cai1", details=details, server_addresses=["tower.lan:7555"])
    assert text(lists.token_guide(reply, samples.NOW)) == golden(
        """
        This token lets in an operator, 3 times, for 168 hours. It is shown only now.
        On the other machine:
          sudo apt install ./clusteractl_*.deb ./python3-clusterai_*.deb
          clusteractl login --server tower.lan:7555 --name NAME
        """
    )


def test_operators_and_units_are_rows() -> None:
    assert text(lists.operator_list(samples.operators()[:1], samples.NOW)) == golden(
        """
        OPERATOR  ROLE   CERTIFICATE ENDS  SINCE
        ann       admin  in 5 d            1 min ago
        """
    )
    assert text(lists.unit_list(samples.units()[::2], "systemd", samples.NOW)) == golden(
        """
        UNIT                      STATE          SUB          PID  RESTARTS  SINCE
        clusterai-scheduler@main  active         running  4194304         3  2 h ago
        ollama                    not installed  -              -         0  never
        """
    )


def test_events_and_log_lines_are_single_lines() -> None:
    assert lists.event_line(samples.events()[0]) == (
        "2026-11-24 01:59:00  node-joined        tower            tower joined"
    )
    assert lists.log_line(samples.log_lines()[0]) == "2026-11-24 02:00:00 clusteraid: 3 nodes"
    assert [lists.log_state(line) for line in samples.log_lines()] == ["", "failed"]
