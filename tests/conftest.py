"""For every test: its layer, nothing left behind, a systemd to ask for, and a summary by layer at the end."""

import asyncio
import inspect
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.fake_systemd import BusDaemon, FakeSystemd, fake_systemd, private_bus
from support.leaks import Belongings, end_children, left_behind, tasks_left

LAYERS = ("lint", "types", "architecture", "unit", "contract", "integration", "newest", "webui", "termux", "system")
_LONGEST = ("newest", "termux", "system", "webui")
_LONG_FILES = ("test_two_pools", "test_webui_setup", "test_policy_compute", "test_repository_apt")  # minutes each
_BEFORE = pytest.StashKey[Belongings]()
_HERE = Path(__file__).resolve().parent


def layer_of(path: Path) -> str:
    """Return the layer of a test file: its folder, or its own name where that is a layer."""
    name = path.stem.removeprefix("test_")
    return name if name in LAYERS else path.relative_to(_HERE).parts[0]


@pytest.hookimpl(tryfirst=True)  # xdist's own reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the layers in order, and keep a file's tests (all of the layers termux and system) in one process each.

    Side by side, what takes longest begins: what is last decides when all is done.
    """
    order = {layer: number for number, layer in enumerate(LAYERS)}
    items.sort(key=lambda item: order.get(layer_of(item.path), len(LAYERS)))
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: (layer_of(item.path) not in _LONGEST, item.path.stem not in _LONG_FILES))
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        layer = layer_of(item.path)
        item.add_marker(pytest.mark.xdist_group(layer if layer in ("termux", "system") else str(item.path)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse a pair of pytest and xdist that does not keep groups together: the lab would be booted twice."""
    if getattr(session.config.option, "loadgroup", False) and any("@" not in item.nodeid for item in session.items):
        raise pytest.UsageError("xdist's groups are not in the test ids: these versions do not fit (requirements.txt)")


def pytest_configure(config: pytest.Config) -> None:
    """Give this process its own temporary directory, so that what is left in it shows. Its path is short: sockets."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest's own stays where it was
    directory = tempfile.TemporaryDirectory(prefix="cai-")
    patch = pytest.MonkeyPatch()
    patch.setenv("TMPDIR", directory.name)
    patch.setattr(tempfile, "tempdir", directory.name)
    config.add_cleanup(directory.cleanup)
    config.add_cleanup(patch.undo)


@pytest.fixture
async def _no_task_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    if left := await tasks_left(before):
        for task in left:
            task.cancel()
        pytest.fail("tasks left behind:\n" + "\n".join(f"  {task!r}" for task in left), pytrace=False)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> None:
    """Note what there is once the wider fixtures stand; the hook below compares after the test's own are gone."""
    request.node.stash[_BEFORE] = Belongings.now()
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_no_task_left")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Fail a test that leaves a child, a socket, a file, a thread or a temporary file."""
    yield
    before = item.stash.get(_BEFORE, None)
    if before is None:
        return
    if left := left_behind(before):
        end_children(before)
        pytest.fail("left behind:\n" + "\n".join(f"  {line}" for line in left), pytrace=False)


@pytest.fixture
def bus() -> Iterator[BusDaemon]:
    """A D-Bus of the test's own."""
    with private_bus() as daemon:
        yield daemon


@pytest.fixture
async def systemd(bus: BusDaemon) -> AsyncIterator[FakeSystemd]:
    """A systemd on that bus, which has no units yet."""
    async with fake_systemd(bus.address) as manager:
        yield manager


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what each layer came to."""
    counts: dict[str, Counter[str]] = {}
    seconds: defaultdict[str, float] = defaultdict(float)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            if "::" not in report.nodeid and not report.nodeid.endswith(".py"):
                continue  # a worker process's own trouble, shown above
            layer = layer_of(config.rootpath / report.nodeid.partition("::")[0])
            counts.setdefault(layer, Counter())[outcome] += 1
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[layer_of(config.rootpath / report.nodeid.partition("::")[0])] += report.duration
    terminalreporter.section("layers")
    for layer in sorted(counts, key=LAYERS.index):
        said = ", ".join(f"{number} {outcome}" for outcome, number in counts[layer].items())
        terminalreporter.write_line(f"{layer:14} {said} in {seconds[layer]:.0f} s")
