"""The double as a program: `serve`, and what is needed of the command line: `list`, `ps`, `pull`, `rm`, `--version`."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import sys
from typing import Any

from fakes.ollama.server import FakeOllama
from fakes.ollama.settings import VERSION, Settings

USAGE = "usage: ollama serve | list | ps | pull NAME | rm NAME | --version   (a test double of Ollama)"


async def serve() -> None:
    """Run until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with FakeOllama(Settings.here()) as ollama:
        if ollama.pruned:
            print(f"total unused blobs removed: {len(ollama.pruned)}", file=sys.stderr)
        print(
            f"Listening on {ollama.url} (version {ollama.settings.version}), a test double", file=sys.stderr, flush=True
        )
        await ended.wait()


@contextlib.contextmanager
def _asked(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    settings = Settings.here()
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    connection = http.client.HTTPConnection(host, settings.port, timeout=600)
    try:
        connection.request(method, path, json.dumps(body) if body else None)
        yield connection.getresponse()
    except OSError:
        sys.exit("Error: could not connect to ollama server, run 'ollama serve' to start it")
    finally:
        connection.close()


def _show_version() -> None:
    try:
        with _asked("GET", "/api/version") as answer:
            print(f"ollama version is {json.load(answer)['version']}")
    except SystemExit:
        print("Warning: could not connect to a running Ollama instance")
        print(f"Warning: client version is {os.environ.get('FAKE_OLLAMA_VERSION', VERSION)}")


def _show_models(path: str) -> None:
    with _asked("GET", path) as answer:
        models = json.load(answer)["models"]
    print(f"{'NAME':40} {'ID':12} {'SIZE':>10}")
    for model in models:
        print(f"{model['name']:40} {model['digest'][:12]} {model['size'] / 1e6:>7.1f} MB")


def _pull(name: str) -> None:
    with _asked("POST", "/api/pull", {"model": name}) as answer:
        for line in answer:
            told = json.loads(line)
            if "error" in told:
                sys.exit(f"Error: {told['error']}")
            print(told["status"])


def _remove(name: str) -> None:
    with _asked("DELETE", "/api/delete", {"model": name}) as answer:
        if answer.status != http.client.OK:
            sys.exit(f"Error: {json.load(answer)['error']}")
    print(f"deleted '{name}'")


def main() -> int:
    """Run the command that the arguments name; return the exit code."""
    match sys.argv[1:]:
        case ["serve" | "start"]:
            asyncio.run(serve())
        case ["--version" | "-v"]:
            _show_version()
        case ["list" | "ls"]:
            _show_models("/api/tags")
        case ["ps"]:
            _show_models("/api/ps")
        case ["pull", name]:
            _pull(name)
        case ["rm", name]:
            _remove(name)
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
