"""What the tunnels' launch files may say, and the configuration that stunnel gets from them."""

import json
from pathlib import Path

import pytest

from clusterai.launch import BadLaunch, load
from clusterai.tunnels import GateLaunch, MirrorLaunch

CERTIFICATE, CA = Path("/srv/gate.pem"), Path("/srv/ca.pem")
GATE = GateLaunch("127.0.0.1", 11443, "127.0.0.1:11434", CERTIFICATE, CA, "gateway.clusterai")
MIRROR = MirrorLaunch(11445, "[fd00::1]:11444", CERTIFICATE, CA, "mirror.clusterai")


def changed(launch: GateLaunch | MirrorLaunch, **values: object) -> str:
    return json.dumps({**json.loads(launch.to_json()), **values})


def test_the_gate_lets_in_one_name_of_one_authority() -> None:
    lines = GateLaunch.parse(GATE.to_json()).configuration().splitlines()
    for line in (
        "verifyChain = yes", "checkHost = gateway.clusterai", "CAfile = /srv/ca.pem", "sslVersionMin = TLSv1.2",
        "accept = 127.0.0.1:11443", "connect = 127.0.0.1:11434", "sessionResume = no",
    ):  # fmt: skip
        assert line in lines
    assert "client = yes" not in lines


def test_without_a_host_it_listens_everywhere() -> None:
    accept = GateLaunch.parse(changed(GATE, host="")).ends()["accept"]
    assert accept in (":::11443", "0.0.0.0:11443")


def test_the_way_to_the_mirror_checks_the_server_and_listens_on_loopback_only() -> None:
    lines = MirrorLaunch.parse(MIRROR.to_json()).configuration().splitlines()
    for line in (
        "client = yes", "accept = 127.0.0.1:11445", "connect = fd00::1:11444", "checkHost = mirror.clusterai",
        "sni = mirror.clusterai", "verifyChain = yes",
    ):  # fmt: skip
        assert line in lines


@pytest.mark.parametrize(
    "values",
    [
        {"peer_name": ""},
        {"peer_name": "gateway.clusterai\nexec = /bin/sh"},
        {"peer_name": "*"},
        {"ollama_address": "127.0.0.1:11434\nexec = /bin/sh"},
        {"ollama_address": "/run/ollama.sock"},
        {"host": "0.0.0.0\n"},
        {"port": 0},
        {"port": "11443"},
        {"certificate": "gate.pem"},
        {"certificate": "/srv/gate.pem\nengine = x"},
        {"ca": "/srv/../etc/ca.pem"},
        {"exec": "/bin/sh"},
    ],
)
def test_nothing_else_gets_into_the_configuration(values: dict[str, object]) -> None:
    with pytest.raises(BadLaunch):
        GateLaunch.parse(changed(GATE, **values))


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    spec = tmp_path / "gate.json"
    spec.write_text(GATE.to_json())
    with pytest.raises(BadLaunch, match=r"certificate: /srv/gate\.pem cannot be read"):
        load("gate", spec)
