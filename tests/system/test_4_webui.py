"""Open WebUI on the server: `clusteraid setup open-webui` and the unit's sandbox are real, and so is the browser.

Its 1.6 GB of packages were installed on the test's own machine, once, and are copied to where they are looked for.
"""

import base64
import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import closing

import pytest

from lab import ollama
from lab.cluster import Cluster
from lab.images import RELEASES
from support.chromium import Browser, chromium
from support.webui import ADMINISTRATOR, webui_environment
from support.webui_page import ANSWER, answer_ended, last_answer_has, new_chat, say, sign_in

pytestmark = pytest.mark.timeout(3600)  # the first run on a machine installs Open WebUI

MODEL = "llama3.2:3b"
UNIT, DIRECTORY = "open-webui.service", "/var/lib/open-webui"
EXPOSURE = 1.5  # measured: 1.1
REPLY = "Here answers a node, word by word, until the very last of them was spoken."
QUESTION = "Who is in the house?"


@pytest.fixture(scope="module")
def _packages_in_place(cluster: Cluster) -> None:
    """The environment as a build leaves it: its scripts name their own path, its group is Open WebUI's."""
    built, server = webui_environment(RELEASES["bookworm"]), cluster.server
    place = f"{DIRECTORY}/env/{built.name}"
    server.copy_in(built, place)
    server.shell(f"cd {place}/bin; grep -lI '^#!/.*/bin/python' * | xargs sed -i '1s|^#!.*/bin|#!{place}/bin|'")
    server.run(["chgrp", "-R", "open-webui", f"{DIRECTORY}/env"])


@pytest.fixture(scope="module")
def port(cluster: Cluster) -> Iterator[int]:
    """A port of this machine that leads to the server's 443."""
    with cluster.server.doorway(443) as port:
        yield port


@pytest.fixture(scope="module")
def ann(cluster: Cluster, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Ann's browser; she is the administrator."""
    certificate = cluster.server.run(["cat", "/var/lib/clusterai-gateway/web.pem"]).encode()
    with chromium(tmp_path_factory.mktemp("ann"), certificate) as browser:
        sign_in(browser, home(port), email=ADMINISTRATOR.mail, password=ADMINISTRATOR.password)
        yield browser


def home(port: int) -> str:
    """What Ann types."""
    return f"https://localhost:{port}/"


def answers_are(cluster: Cluster, **faults: object) -> None:
    """Tell every Ollama's double how to answer: the server has fetched the model for alpha, and serves it too."""
    for name in ("server", "alpha", "beta"):
        cluster.lab[name].write("/srv/faults.json", json.dumps(faults))


def get(cluster: Cluster, port: int, path: str, *, password: str = "") -> tuple[int, str]:
    """Ask as a program with the cluster's CA does; return status and text."""
    trust = ssl.create_default_context(cadata=cluster.ctl("ca"))
    login = base64.b64encode(f"ann:{password}".encode()).decode()
    with closing(http.client.HTTPSConnection("localhost", port, timeout=60, context=trust)) as connection:
        connection.request("GET", path, headers={"Authorization": f"Basic {login}"} if password else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")


@pytest.mark.usefixtures("_packages_in_place")
def test_it_is_set_up_with_a_key_of_its_own_and_runs(cluster: Cluster) -> None:
    server = cluster.server
    unnamed = server.finished(["clusteraid", "setup", "open-webui"])
    assert (unnamed.returncode, "--admin MAIL" in unnamed.stderr) == (2, True)
    server.write("/srv/password", ADMINISTRATOR.password + "\n")
    setup = ["clusteraid", "setup", "open-webui", "--admin", ADMINISTRATOR.mail, "--password-file", "/srv/password"]
    said = server.run(setup, seconds=320)
    assert "https://server/" in said
    assert ADMINISTRATOR.mail in said
    assert "administrator.env" not in server.run(["ls", DIRECTORY])
    assert server.unit(UNIT, "ActiveState") == "active"
    keys = cluster.json("key", "list")["keys"]
    assert [key["name"] for key in keys if not key.get("revoked")].count("open-webui") == 1
    modes = server.run(["stat", "-c", "%U:%G %a", f"{DIRECTORY}/settings.env", f"{DIRECTORY}/data"])
    assert modes.splitlines() == ["root:open-webui 640", "open-webui:open-webui 700"]


def test_it_runs_as_hardened_as_it_was_measured(cluster: Cluster) -> None:
    assert cluster.server.exposure(UNIT) <= EXPOSURE


def test_its_sandbox_holds(cluster: Cluster) -> None:
    server = cluster.server
    process = server.main_process(UNIT)
    told = dict(line.split(":\t", 1) for line in server.run(["cat", f"/proc/{process}/status"]).splitlines())
    assert (told["Seccomp"], told["NoNewPrivs"], int(told["CapBnd"], 16)) == ("2", "1", 0)
    own, machine_s = (server.run(["readlink", f"/proc/{of}/ns/user"]) for of in (process, 1))
    assert own != machine_s, "PrivateUsers="
    inside = ["nsenter", "-t", str(process), "-m", "--", "sh", "-c"]
    assert server.finished([*inside, f"touch {DIRECTORY}/settings.env"]).returncode != 0
    assert server.run([*inside, "ls /root /home"]).split() == ["/home:", "/root:"]


def test_the_doctor_and_the_list_of_units_know_it(cluster: Cluster) -> None:
    checks = {check["check"]: check for check in cluster.json("doctor")["checks"]}
    assert checks["open-webui"]["outcome"] == "ok", checks["open-webui"]
    units = {unit["unit"]: unit["active_state"] for unit in cluster.json("unit", "list")["units"]}
    assert units[UNIT] == "active"


def test_a_model_of_the_cluster_is_there_to_chat_with(cluster: Cluster, port: int, ann: Browser) -> None:
    ollama.serve_registry(cluster.lab["gamma"], {MODEL: 40_000_000})
    cluster.ctl("model", "pull", MODEL, "--node", "alpha", seconds=120)
    answers_are(cluster, reply=REPLY)
    new_chat(ann, home(port), MODEL)
    say(ann, QUESTION)
    last_answer_has(ann, "was spoken.")
    answer_ended(ann)


def test_an_answer_is_read_while_it_is_written(cluster: Cluster, ann: Browser) -> None:
    answers_are(cluster, reply=REPLY, hang_after_tokens=6)
    say(ann, "And who else?")
    ann.until(f"return document.querySelectorAll('{ANSWER}').length === 2")
    last_answer_has(ann, "word by")
    ann.click("button[aria-label=Stop]")
    answer_ended(ann)
    answers_are(cluster)


def test_a_restart_keeps_account_and_chat(cluster: Cluster, ann: Browser) -> None:
    chat = ann.url
    assert "/c/" in chat
    cluster.server.run(["systemctl", "restart", UNIT], seconds=320)
    ann.open(chat)
    ann.shows(QUESTION)
    ann.shows("was spoken.", ANSWER)
    ann.find("#chat-input")  # she is still signed in


def test_the_dashboard_is_beside_it_with_its_own_key(cluster: Cluster, port: int) -> None:
    key = cluster.ctl("key", "create", "board", "--dashboard").strip()
    assert get(cluster, port, "/dask/status")[0] == 401
    status, page = get(cluster, port, "/dask/status", password=key)
    assert status == 200, page[:2000]
    assert "bokeh" in page.lower()
    assert get(cluster, port, "/cluster/")[0] == 200
