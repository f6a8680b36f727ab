"""Our programs on the lab's machines, used as an operator uses them."""

import json
import time
from collections.abc import Callable
from typing import Any

from lab.lab import Lab
from lab.machine import Machine

Json = dict[str, Any]


class Cluster:
    """The cluster of one server among the machines; all its questions go through clusteractl there."""

    def __init__(self, lab: Lab, server: str = "server") -> None:
        self.lab = lab
        self.server: Machine = lab[server]

    def ctl(self, *words: str, seconds: float = 60) -> str:
        """Run clusteractl on the server; return what it printed."""
        return self.server.run(["clusteractl", *words], seconds=seconds)

    def json(self, *words: str) -> Any:
        """Run clusteractl on the server; return its JSON."""
        return self.server.json(["clusteractl", *words, "--json"])

    def node(self, name: str) -> Json:
        """Return the node as `node list` shows it; empty when it is not there."""
        nodes: list[Json] = self.json("node", "list")["nodes"]
        return next((node for node in nodes if node["node_id"] == name), {})

    def state(self, name: str) -> str:
        """Return the node's state; empty when it is not there, or nobody could be asked."""
        done = self.server.finished(["clusteractl", "node", "show", name, "--json"])
        if done.returncode:
            return ""
        return str(json.loads(done.stdout)["state"])

    def registered(self) -> dict[str, Json]:
        """Return the workers that the scheduler knows, by node."""
        workers: list[Json] = self.json("worker", "list")["workers"]
        return {worker["node_id"]: worker for worker in workers if worker["state"] == "registered"}

    def events(self, kind: str, subject: str) -> int:
        """Return how often something happened to somebody."""
        lines = self.ctl("events", "--json", "--lines", "10000").splitlines()
        happened = [(event["kind"], event["subject"]) for event in map(json.loads, lines)]
        return happened.count((kind, subject))

    def join(self, name: str, *options: str) -> str:
        """Make a token on the server and join the machine with it; return what joining printed."""
        self.lab[name].write("/srv/join-token", self.ctl("token", "create"))
        try:
            return self.lab[name].run(["clusterai-agent", "join", "--token-file", "/srv/join-token", *options])
        finally:
            self.lab[name].run(["rm", "/srv/join-token"])

    def until(self, check: Callable[[], bool], what: str, *, seconds: float) -> float:
        """Wait until the check holds; return how long that took, fail with the story of every machine."""
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            if check():
                return time.monotonic() - begun
            time.sleep(0.25)
        told = self.server.finished(["clusteractl", "node", "list"])
        raise AssertionError(f"not within {seconds} s: {what}\n{told.stdout}{told.stderr}\n{self.lab.story()}")

    def until_state(self, name: str, state: str, *, seconds: float = 60) -> float:
        """Wait until the node has the state."""
        return self.until(lambda: self.state(name) == state, f"{name} is {state}", seconds=seconds)

    def until_working(self, *names: str, seconds: float = 60) -> float:
        """Wait until each node has a registered worker."""
        return self.until(
            lambda: set(names) <= set(self.registered()), f"workers of {', '.join(names)} registered", seconds=seconds
        )
