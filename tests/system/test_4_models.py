"""Chats: Ollama on three machines behind one gateway, from setting them up to pulling a plug in mid-stream.

Ollama itself and the public registry are doubles (tests/fakes); nginx, stunnel, the units and the machines are real.
"""

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import ollama
from lab.cluster import Cluster
from lab.machine import Machine
from lab.repository import chat_clients

MODEL, SIZE = "llama3.2:3b", 40_000_000
SERVING = ("server", "alpha", "beta")
CA, KEY = "/srv/cluster-ca.pem", "/srv/key"
SCORES = {"clusterai-gateway.service": ("server", 2.0), "clusterai-gate.service": ("alpha", 2.0),
          "clusterai-mirror.service": ("alpha", 2.0)}  # fmt: skip


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Machine:
    """The machine from which people chat: it serves no models."""
    return cluster.lab["gamma"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A release archive of the double."""
    return ollama.archive(tmp_path_factory.mktemp("ollama"))


def chat(client: Machine, *, key: str = KEY, seconds: float = 60, **body: Any) -> "subprocess.CompletedProcess[str]":
    """Ask over the gateway as a person would with curl: headers, an empty line, the answer."""
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Why is the sky blue?"}], "stream": False} | body
    client.write("/srv/question.json", json.dumps(asked))
    script = (
        f'curl -sS -i --max-time {seconds} --cacert {CA} -H "Authorization: Bearer $(cat {key})"'
        " -H 'Content-Type: application/json' -d @/srv/question.json https://server:11434/api/chat"
    )
    return client.finished(["sh", "-c", script], seconds=seconds + 5)


def answered_by(said: "subprocess.CompletedProcess[str]") -> str:
    """Return the node that answered; fail when nobody did."""
    head, _, answer = said.stdout.partition("\n\n")  # read as text: \r\n is \n
    assert status(said) == 200, said.stdout[:2000] + said.stderr
    assert json.loads(answer)["message"]["content"]
    headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
    return headers["x-clusterai-node"]


def status(said: "subprocess.CompletedProcess[str]") -> int:
    """Return the answer's HTTP status; 0 where there was none."""
    words = said.stdout.partition("\n")[0].split()
    return int(words[1]) if len(words) > 1 and words[0].startswith("HTTP/") else 0


def models(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Return the cluster's models by name."""
    return {model["model"]: model for model in cluster.json("model", "list")["models"]}


def usable_on(cluster: Cluster, model: str = MODEL) -> set[str]:
    """Return the nodes that can answer for the model."""
    copies = models(cluster).get(model, {}).get("copies", [])
    return {copy["node_id"] for copy in copies if copy.get("usable")}


def test_the_registry_s_double_runs(client: Machine) -> None:
    ollama.serve_registry(client, {MODEL: SIZE, "qwen3:0.6b": 5_000_000})
    manifest = f"http://127.0.0.1:{ollama.REGISTRY_PORT}/v2/library/{MODEL.replace(':', '/manifests/')}"
    layers = json.loads(client.run(["curl", "-sSf", manifest]))["layers"]
    assert max(layer["size"] for layer in layers) >= SIZE


@pytest.mark.parametrize("name", SERVING)
def test_ollama_is_set_up_from_a_release(
    cluster: Cluster, client: Machine, release: tuple[Path, str], name: str
) -> None:
    machine, (path, sha256) = cluster.lab[name], release
    machine.copy_in(path, "/srv/ollama.tgz")
    ollama.settings(machine, client, FAKE_OLLAMA_CONTROL="/srv/faults.json")
    wrong = machine.finished(["clusterai-agent", "setup", "ollama", "--from", "/srv/ollama.tgz", "--sha256", "0" * 64])
    assert wrong.returncode != 0
    assert not machine.shell("ls /usr/local/bin/ollama 2>/dev/null || true")
    machine.run(["clusterai-agent", "setup", "ollama", "--from", "/srv/ollama.tgz", "--sha256", sha256])
    machine.eventually(lambda: machine.unit("ollama.service", "ActiveState") == "active", "Ollama runs", seconds=30)
    assert machine.unit("ollama.service", "User") == "ollama"


@pytest.mark.parametrize("name", SERVING)
def test_ollama_is_on_loopback_and_only_the_gate_is_not(cluster: Cluster, name: str) -> None:
    machine = cluster.lab[name]
    machine.eventually(lambda: ":11443 " in machine.run(["ss", "-ltn"]), "the gate listens", seconds=60)
    port = 11435 if name == "server" else 11434
    machine.eventually(lambda: f"127.0.0.1:{port} " in machine.run(["ss", "-ltn"]), "Ollama listens", seconds=60)
    listening = [line.split()[3] for line in machine.run(["ss", "-Hltn"]).splitlines()]
    if name != "server":
        assert [address for address in listening if address.endswith(":11434")] == ["127.0.0.1:11434"]
    environment = machine.unit("ollama.service", "Environment")
    assert "OLLAMA_NO_CLOUD=1" in environment


def test_a_pull_says_where_and_why_and_shows_progress(cluster: Cluster) -> None:
    said = cluster.server.finished(["clusteractl", "model", "pull", MODEL, "--node", "server"], seconds=120)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "server" in said.stdout + said.stderr
    assert usable_on(cluster) == {"server"}


def test_further_nodes_copy_from_the_server(cluster: Cluster, client: Machine) -> None:
    """The registry is away: what alpha and beta get, they can only have from the server."""
    client.run(["systemctl", "stop", "lab-registry"])
    cluster.ctl("model", "place", MODEL, "--node", "server", "--node", "alpha", "--node", "beta")
    cluster.until(lambda: usable_on(cluster) == set(SERVING), f"{MODEL} on all three", seconds=120)
    for name in ("alpha", "beta"):
        listed = cluster.lab[name].run(["ollama", "list"])
        assert MODEL in listed
        assert "127.0.0.1:11445" not in listed


def test_a_key_opens_the_gateway_and_nothing_else_does(cluster: Cluster, client: Machine) -> None:
    cluster.server.write(CA, cluster.ctl("ca"))
    client.write(CA, cluster.ctl("ca"))
    client.write(KEY, cluster.ctl("key", "create", "--name", "lab"))
    client.write("/srv/no-key", "cak1.aaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaa")
    # Each process of the gateway looks at the keys by itself, five times a second.
    client.eventually(lambda: all(status(chat(client)) != 401 for _ in range(5)), "the gateway knows the key")
    assert answered_by(chat(client)) in SERVING
    refused = chat(client, key="/srv/no-key")
    assert status(refused) == 401, refused.stdout


def test_a_revoked_key_is_refused_within_a_second(cluster: Cluster, client: Machine) -> None:
    client.write("/srv/gone", cluster.ctl("key", "create", "--name", "gone"))
    client.eventually(lambda: status(chat(client, key="/srv/gone")) == 200, "the key works")
    cluster.ctl("key", "revoke", "gone")
    client.eventually(
        lambda: all(status(chat(client, key="/srv/gone")) == 401 for _ in range(5)), "refused", seconds=30
    )


def test_the_python_clients_chat(cluster: Cluster, client: Machine) -> None:
    """`ollama` and `openai` from PyPI, on a machine with the gateway's certificate and a key."""
    alpha = cluster.lab["alpha"]
    alpha.copy_in(chat_clients(), "/srv/clients")
    alpha.write(CA, cluster.ctl("ca"))
    alpha.write(KEY, client_key := cluster.ctl("key", "create", "--name", "clients"))
    client.write("/srv/clients-key", client_key)
    client.eventually(lambda: all(status(chat(client, key="/srv/clients-key")) == 200 for _ in range(5)), "it is known")
    alpha.write(
        "/srv/clients.py",
        "import os, ollama, openai\n"
        "key = open('/srv/key').read().strip()\n"
        "asked = [{'role': 'user', 'content': 'hello'}]\n"
        "native = ollama.Client(headers={'Authorization': f'Bearer {key}'})\n"
        f"print(len(list(native.chat('{MODEL}', asked, stream=True))) > 2)\n"
        f"print('{MODEL}' in [model.model for model in native.list().models])\n"
        "other = openai.OpenAI(base_url='https://server:11434/v1', api_key=key)\n"
        f"chunks = list(other.chat.completions.create(model='{MODEL}', messages=asked, stream=True))\n"
        "print(len(chunks) > 2, bool(chunks[0].choices[0].delta.role))\n",
    )
    variables = f"PYTHONPATH=/srv/clients SSL_CERT_FILE={CA} OLLAMA_HOST=https://server:11434"
    assert alpha.shell(f"{variables} python3 /srv/clients.py", seconds=120).split() == ["True"] * 4


def logged(machine: Machine, path: str) -> list[dict[str, Any]]:
    """Return the lines of the gateway's access log about that path."""
    said = machine.run(["journalctl", "-u", "clusterai-gateway", "-t", "clusterai_gateway", "-o", "cat", "--no-pager"])
    return [line for line in map(json.loads, said.splitlines()) if line["path"] == path]


def test_the_journal_has_a_line_for_each_request_and_after_its_own_restart(cluster: Cluster, client: Machine) -> None:
    server = cluster.server
    node = answered_by(chat(client))
    server.eventually(lambda: node in [line.get("node") for line in logged(server, "/api/chat")], "it is written down")
    line = [line for line in logged(server, "/api/chat") if line.get("node") == node][-1]
    assert (line["model"], line["status"], line["output_tokens"] > 0) == (MODEL, 200, True)
    server.run(["systemctl", "restart", "systemd-journald"])
    client.run(["curl", "-s", "--cacert", CA, "https://server:11434/after-the-restart"])
    server.eventually(lambda: logged(server, "/after-the-restart") != [], "lines arrive again")


def test_why_explains_the_choice(cluster: Cluster) -> None:
    steps = cluster.json("why", MODEL)["peers"]
    assert {step["node_id"] for step in steps if step["usable"]} == set(SERVING)
    unknown = cluster.server.finished(["clusteractl", "why", "lama3.2:3b"])
    assert MODEL in unknown.stdout + unknown.stderr


@pytest.mark.parametrize("unit", SCORES)
@pytest.mark.parametrize("release_name", ["bookworm", "trixie"])
def test_units_of_the_gateway_are_hardened(cluster: Cluster, unit: str, release_name: str) -> None:
    name, limit = SCORES[unit]
    judge = cluster.lab[name if release_name == "bookworm" else "gamma"]
    judge.write(f"/srv/score/{unit}", cluster.lab[name].run(["systemctl", "cat", unit]))
    assert judge.exposure(f"/srv/score/{unit}", "--offline=true") <= limit


@pytest.fixture
def _slow_answers(cluster: Cluster) -> Iterator[None]:
    """Answers of about 20 seconds."""
    for name in SERVING:
        cluster.lab[name].write("/srv/faults.json", json.dumps({"tokens": 100, "token_seconds": 0.2}))
    yield
    for name in SERVING:
        cluster.lab[name].write("/srv/faults.json", "{}")


@pytest.mark.usefixtures("_slow_answers")
def test_a_node_cut_off_in_mid_stream_costs_that_answer_only(cluster: Cluster, client: Machine) -> None:
    """The conversation holds to one node; that one's cable is pulled while it answers."""
    client.run(["systemctl", "stop", "lab-stream"], check=False)
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "a story"}], "stream": True}
    client.write("/srv/story.json", json.dumps(asked))
    script = (
        f'exec curl -sSN -D /srv/story.head --cacert {CA} -H "Authorization: Bearer $(cat {KEY})"'
        " -d @/srv/story.json https://server:11434/api/chat >/srv/story.out"
    )
    client.run(["systemd-run", "--quiet", "--unit=lab-stream", "sh", "-c", script])
    client.eventually(lambda: client.shell("wc -l </srv/story.out || echo 0").strip() not in ("0", ""), "it streams")
    head = client.run(["cat", "/srv/story.head"]).lower()
    node = next(line.split(": ")[1] for line in head.splitlines() if line.startswith("x-clusterai-node"))
    if node == "server":  # its cable is everybody's; another conversation is as good
        cluster.server.run(["systemctl", "kill", "--signal=SIGKILL", "ollama.service"])
        cluster.server.run(["systemctl", "stop", "ollama.service"])
    else:
        cluster.lab[node].link_down()
    try:
        for _ in range(3):
            other = answered_by(chat(client, seconds=45, options={"num_predict": 3}))
            assert other != node
    finally:
        if node == "server":
            cluster.server.run(["systemctl", "start", "ollama.service"])
        else:
            cluster.lab[node].link_up()
        client.run(["systemctl", "stop", "lab-stream"], check=False)
    cluster.until(lambda: usable_on(cluster) == set(SERVING), "all three serve again", seconds=60)


def test_chats_go_on_without_the_daemon_and_through_a_restart_of_the_gateway(cluster: Cluster, client: Machine) -> None:
    cluster.server.run(["systemctl", "stop", "clusteraid"])
    try:
        assert answered_by(chat(client)) in SERVING
        cluster.server.kill_unit("clusterai-gateway.service")
        client.eventually(lambda: status(chat(client)) == 200, "it answers again", seconds=20)
    finally:
        cluster.server.run(["systemctl", "start", "clusteraid"])
    cluster.until(lambda: usable_on(cluster) == set(SERVING), "all three serve", seconds=60)


def test_open_webui_that_is_not_set_up_says_so(client: Machine) -> None:
    said = client.finished(["curl", "-sS", "-i", "--cacert", CA, "https://server/"])
    assert status(said) in (502, 503), said.stdout
    assert "setup open-webui" in said.stdout
    assert " 200" in client.run(["curl", "-sS", "-i", "--cacert", CA, "https://server/cluster/"]).splitlines()[0]
    moved = client.run(["curl", "-sS", "-i", "http://server/"])
    assert " 301" in moved.splitlines()[0] or " 308" in moved.splitlines()[0]


def test_the_gates_let_in_the_gateway_only(cluster: Cluster) -> None:
    """Beta shows its own gate's certificate, of the same authority, to alpha's gate."""
    beta = cluster.lab["beta"]
    beta.write(
        "/srv/knock.py",
        "import socket, ssl\n"
        "context = ssl.create_default_context(cafile='/var/lib/clusterai-gate/cluster-ca.pem')\n"
        "context.load_cert_chain('/var/lib/clusterai-gate/gate.pem')\n"
        "raw = socket.create_connection(('alpha', 11443), timeout=5)\n"
        "try:\n"
        "    with context.wrap_socket(raw, server_hostname='alpha.gate.clusterai') as gate:\n"
        "        gate.sendall(b'GET /api/version HTTP/1.0\\r\\n\\r\\n')\n"
        "        print(gate.recv(100) or 'closed')\n"
        "except (ssl.SSLError, OSError) as error:\n"
        "    print('refused', error)\n",
    )
    said = beta.run(["python3", "/srv/knock.py"])
    assert said.startswith(("refused", "closed")), said


def test_a_reboot_brings_gate_and_models_back(cluster: Cluster, client: Machine) -> None:
    cluster.lab["alpha"].reboot()
    cluster.until(lambda: "alpha" in usable_on(cluster), "alpha serves again", seconds=90)
    assert answered_by(chat(client)) in SERVING


def test_a_model_is_removed_everywhere(cluster: Cluster, client: Machine) -> None:
    cluster.ctl("model", "rm", MODEL, "--yes")
    cluster.until(lambda: MODEL not in models(cluster), "it is gone", seconds=60)
    for name in SERVING:
        assert MODEL not in cluster.lab[name].run(["ollama", "list"], check=False) or name == "server"
    assert status(chat(client)) == 404


def test_the_server_s_certificate_is_what_clients_verify(client: Machine, cluster: Cluster) -> None:
    context = ssl.create_default_context(cadata=cluster.ctl("ca"))
    assert context.cert_store_stats()["x509_ca"] == 1
    unknown = client.finished(["curl", "-sS", "https://server:11434/"])
    assert unknown.returncode == 60, unknown.stderr
