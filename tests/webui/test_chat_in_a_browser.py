"""Open WebUI, installed from its lock, in a real Chromium: through the real gateway and gates to doubles of Ollama."""

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusterai.pki import CertificateAuthority
from fakes.registry import make_model
from support.chat_node import ChatNode, chat_nodes
from support.chromium import Browser, chromium
from support.gateway import CLUSTER, Gateway, routes, running_gateway
from support.waiting import until
from support.webui import ADMINISTRATOR, OpenWebui, webui_environment
from support.webui_page import ANSWER, answer_ended, last_answer_has, new_chat, say, sign_in

pytestmark = pytest.mark.timeout(3600)  # the first run on a machine installs Open WebUI

KEY = "cak1.aaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaa"
MODEL = "llama3.2:3b"
MODELS = (
    make_model(MODEL),
    make_model("gemma3:4b", seed=2, architecture="gemma3"),
    make_model("nomic-embed-text", seed=3, embeds=True),
)
MOST_BYTES = 4000  # of a request with a question of a few words


def reply(node: str) -> str:
    """What a node says to everything."""
    return f"Here answers {node}, word by word, until the very last of them was spoken."


@dataclass
class House:
    """All of it: two nodes, the gateway, Open WebUI."""

    nodes: dict[str, ChatNode]
    gateway: Gateway
    webui: OpenWebui

    @property
    def url(self) -> str:
        """What a person types."""
        return f"https://127.0.0.1:{self.gateway.https_port}/"

    def begin(self) -> None:
        """Those who run behave well."""
        for node in self.nodes.values():
            if node.runs:
                node.ask("DELETE", "/fake/faults")
                node.behave(reply=reply(node.name))

    def ask(self, method: str, path: str, body: object = None, *, token: str = "") -> tuple[int, str]:
        """Ask as a program does, with the cluster's CA: status and text. `token` is a session of Open WebUI."""
        trust = ssl.create_default_context(cadata=self.gateway.authority.cert_pem.decode())
        port = self.gateway.https_port
        with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=trust)) as connection:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    async def quiet(self) -> None:
        """Wait until no node has anything to do: Open WebUI asks for a title and more after an answer."""
        calm = 0

        def settled() -> bool:
            nonlocal calm
            calm = 0 if any(node.ask("GET", "/fake/state")["in_flight"] for node in self.nodes.values()) else calm + 1
            return calm > 20

        await until(settled)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("house")
    authority = CertificateAuthority.create("test cluster", CLUSTER)
    environment = webui_environment()
    with ExitStack() as stack:
        nodes = stack.enter_context(chat_nodes(directory, authority, "tower", "shelf", models=MODELS))
        gateway = stack.enter_context(running_gateway(directory, authority=authority))
        tell(gateway, nodes)
        local = f"http://127.0.0.1:{gateway.port}"
        webui = OpenWebui(directory / "webui", environment, gateway.webui_socket, key=KEY, gateway=local)
        stack.callback(webui.stop)
        webui.start()
        yield House(nodes, gateway, webui)


def tell(gateway: Gateway, nodes: dict[str, ChatNode], generation: int = 1) -> None:
    """Write what the daemon writes: both models on all nodes, loaded, and Open WebUI's key."""
    tags = next(iter(nodes.values())).ask("GET", "/api/tags")["models"]
    copies = {name: {"loaded": True, "fit": 1} for name in nodes}
    ports = {name: node.port for name, node in nodes.items()}
    listing = {"version": "0.31.1", "tags": tags, "ps": []}
    models = {tag["name"]: copies for tag in tags}
    gateway.write_routes(routes(ports, models, listing=listing, slots=4, generation=generation))
    gateway.write_keys({KEY: {"id": "aaaaaaaa", "name": "open-webui"}})


@pytest.fixture
def house(built: House) -> House:
    built.begin()
    return built


@pytest.fixture(scope="module")
def signed_in(built: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser in which Ann, the administrator, has signed in."""
    certificate = (built.gateway.state / "web.pem").read_bytes()
    with chromium(tmp_path_factory.mktemp("ann"), certificate) as browser:
        sign_in(browser, built.url, email=ADMINISTRATOR.mail, password=ADMINISTRATOR.password)
        yield browser


@pytest.fixture
def ann(house: House, signed_in: Browser) -> Browser:
    """Ann's window, at a new chat."""
    new_chat(signed_in, house.url, MODEL)
    return signed_in


def answering(browser: Browser) -> str:
    """Wait until the last answer has begun; return which node gives it."""
    script = f"return [...document.querySelectorAll('{ANSWER}')].at(-1)?.innerText.match(/Here answers (\\w+)/)?.[1]"
    return str(browser.until(script))


def answered(browser: Browser) -> str:
    """Wait until the last answer is whole and a new question can be asked; return which node gave it."""
    last_answer_has(browser, " was spoken.")
    answer_ended(browser)
    return answering(browser)


def test_who_was_named_is_the_administrator_and_nobody_signs_up(house: House, ann: Browser) -> None:
    ann.open(f"{house.url}admin/users/overview")
    ann.shows("ann@example.com")
    ann.shows("Admin\tann@example.com")
    bob = {"name": "Bob", "email": "bob@example.com", "password": "another long sentence"}
    assert house.ask("POST", "/api/v1/auths/signup", bob)[0] == 403


def test_a_session_is_shown_over_tls_only(house: House, ann: Browser) -> None:
    trust = ssl.create_default_context(cadata=house.gateway.authority.cert_pem.decode())
    with closing(http.client.HTTPSConnection("127.0.0.1", house.gateway.https_port, context=trust)) as connection:
        said = json.dumps({"email": ADMINISTRATOR.mail, "password": ADMINISTRATOR.password})
        connection.request("POST", "/api/v1/auths/signin", said, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        cookies = [value.lower() for name, value in answer.getheaders() if name.lower() == "set-cookie"]
    assert answer.status == 200
    assert [cookie for cookie in cookies if "token=" in cookie]
    assert not [cookie for cookie in cookies if "secure" not in cookie]


def test_the_models_of_the_cluster_can_be_chosen(ann: Browser) -> None:
    ann.click("#model-selector-model-button")
    ann.find("[role=option][aria-label*='llama3.2:3b']")
    ann.click("[role=option][aria-label*='gemma3:4b']")
    ann.shows("gemma3:4b", "#model-selector-model-button")


def test_whoever_the_administrator_adds_has_the_models_too(house: House, ann: Browser) -> None:
    carol = {"name": "Carol", "email": "carol@example.com", "password": "a sentence of her own", "role": "user"}
    status, said = house.ask("POST", "/api/v1/auths/add", carol, token=ann.run("return localStorage.token"))
    assert status == 200, said
    listed = json.loads(house.ask("GET", "/api/models", token=json.loads(said)["token"])[1])["data"]
    assert {model["id"] for model in listed} >= {"llama3.2:3b", "gemma3:4b"}


async def test_an_answer_is_read_while_it_is_written_and_stopped_by_who_asked(house: House, ann: Browser) -> None:
    say(ann, "Who are you?")
    node = house.nodes[answered(ann)]
    await house.quiet()
    for each in house.nodes.values():
        each.behave(hang_after_tokens=6, token_seconds=0.01)
    say(ann, "And who else is there?")
    script = f"return document.querySelectorAll('{ANSWER}').length === 2"
    ann.until(script)
    assert answering(ann) == node.name, "a conversation stays where it began"
    last_answer_has(ann, "word by")
    assert not node.ask("GET", "/fake/state")["aborts"]
    ann.click("button[aria-label=Stop]")
    await until(lambda: node.ask("GET", "/fake/state")["aborts"])
    answer_ended(ann)


async def test_a_question_reaches_a_node_without_key_name_or_baggage(house: House, ann: Browser) -> None:
    say(ann, "What is in the house?")
    node = house.nodes[answered(ann)]
    await house.quiet()
    requests = node.requests("/api/chat")
    chat = ann.url.rpartition("/")[2]
    asked = [seen for seen in requests if seen["headers"].get("x-openwebui-chat-id") == chat]
    assert asked, "the gateway tells conversations apart by this"
    assert max(int(seen["headers"]["content-length"]) for seen in asked) < MOST_BYTES
    assert not [secret for secret in (KEY, "ann@example.com", "Ann") if f'"{secret}"' in json.dumps(requests)]


def test_a_file_is_read_with_the_cluster_s_own_embedding_model(house: House, ann: Browser, tmp_path: Path) -> None:
    file = tmp_path / "house.txt"
    file.write_text("The cat of the house is called Mimi. " * 50)
    ann.attach(file)
    ann.shows(file.name)
    say(ann, "What is the cat called?")
    answered(ann)
    ann.shows("1 Source", ANSWER)
    assert any(node.requests("/api/embed") for node in house.nodes.values())


async def test_when_no_node_can_answer_a_person_reads_why(house: House, ann: Browser) -> None:
    reason = "llama3.2:3b is being fetched to tower: 61 %"
    table = json.loads((house.gateway.state / "routes.json").read_text())
    told = house.gateway.status()["routes"]["generation"]
    table["models"]["llama3.2:3b"] |= {"nodes": {}, "reason": reason, "retry_after_seconds": 30}
    house.gateway.write_routes({**table, "generation": told + 1})
    await until(lambda: house.gateway.status()["routes"]["generation"] == told + 1)
    say(ann, "Is anybody there?")
    ann.shows(f"no node can serve llama3.2:3b now: {reason}", ANSWER)
    tell(house.gateway, house.nodes, told + 2)
    await until(lambda: house.gateway.status()["routes"]["generation"] == told + 2)


# The last two end what the others need.
def test_a_node_that_dies_in_mid_answer_leaves_a_page_that_works_and_the_next_chat_goes_elsewhere(
    house: House, ann: Browser
) -> None:
    for node in house.nodes.values():
        node.behave(token_seconds=1.0)
    say(ann, "Tell me a story.")
    dead = answering(ann)
    house.nodes[dead].kill()
    answer_ended(ann)
    (other,) = (node for node in house.nodes.values() if node.runs)
    other.behave(token_seconds=0.0)
    new_chat(ann, house.url, MODEL)
    say(ann, "Tell me another one.")
    assert answered(ann) == other.name


def test_without_open_webui_its_page_says_so_and_programs_still_chat(house: House, ann: Browser) -> None:
    house.webui.kill()
    status, page = house.ask("GET", "/")
    assert status == 503
    assert "Open WebUI does not run" in page
    ann.open(house.url)
    ann.shows("Open WebUI does not run")
    ann.shows("sudo clusteraid setup open-webui")
    ann.click("a[href='/cluster/']")
    ann.shows("Cluster")
    assert chat(house.gateway)["message"]["content"].startswith("Here answers ")


def chat(gateway: Gateway) -> Any:
    """Ask as a program does."""
    question = {"model": "llama3.2:3b", "stream": False, "messages": [{"role": "user", "content": "Are you there?"}]}
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)) as connection:
        connection.request("POST", "/api/chat", json.dumps(question), {"Authorization": f"Bearer {KEY}"})
        return json.load(connection.getresponse())
