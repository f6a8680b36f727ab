#!/usr/bin/env python3
"""A census of the files on every machine of the cluster: duplicates, bytes by type, how far each type compresses.

    examples/census.py                  each machine walks its own /usr
    examples/census.py /srv/photos      another tree
    examples/census.py --json --out -   the result on standard output

Each machine reads only its own files; what travels is sizes and hashes. Duplicates are found across all machines in
three steps that each read more of fewer files: equal size, equal ends, equal content. Symbolic links are not followed,
hard links count once, and the walk stays on the file system it begins on. Needs dask.distributed, in the version of
the cluster (`clusteractl dask env --create PATH` makes such an environment), and a `Client()` that connects.
"""

import argparse
import contextlib
import json
import lzma
import mimetypes
import os
import re
import shutil
import stat
import sys
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

BATCH_FILES = 4_000  # so that a task takes 0.1 s or more
END_BYTES, PIECE_BYTES = 4_096, 1 << 20
HASH_TASK_BYTES = 64 << 20
SAMPLE_BLOCK_BYTES, SAMPLE_BYTES, SAMPLED_TYPES = 128 << 10, 2 << 20, 16
LOST_SECONDS, CONNECT_SECONDS = 60, 20
EXAMPLES_KEPT, GROUPS_KEPT, ROWS_SHOWN = 20, 1_000, 12


# --- What runs on the workers. Pickled by value: it uses only the standard library and what is in this file. ---


@dataclass
class Batch:
    """Files of one machine: (path, size, inode when it has several links, else None), and what could not be read."""

    files: list[tuple[bytes, int, tuple[int, int] | None]] = field(default_factory=list)
    left: list[bytes] = field(default_factory=list)
    device: int = 0
    others: int = 0
    errors: list[tuple[bytes, str]] = field(default_factory=list)


def scan(directories: list[bytes], device: int | None, limit: int) -> Batch:
    """Walk the directories until `limit` files are found; `left` are the directories not yet seen."""
    batch = Batch(left=list(directories))
    while batch.left and len(batch.files) < limit:
        directory = batch.left.pop()
        try:
            if device is None:
                device = os.stat(directory).st_dev  # noqa: PTH116  names are bytes here
            with os.scandir(directory) as entries:
                for entry in entries:
                    note_entry(entry, device, batch)
        except OSError as error:
            batch.errors.append((directory, error.strerror or "unreadable"))
    batch.device = device or 0
    return batch


def note_entry(entry: "os.DirEntry[bytes]", device: int, batch: Batch) -> None:
    try:
        info = entry.stat(follow_symlinks=False)
    except OSError as error:
        batch.errors.append((entry.path, error.strerror or "unreadable"))
        return
    if stat.S_ISDIR(info.st_mode):
        if info.st_dev == device:
            batch.left.append(entry.path)
    elif stat.S_ISREG(info.st_mode):
        batch.files.append((entry.path, info.st_size, (info.st_dev, info.st_ino) if info.st_nlink > 1 else None))
    else:
        batch.others += 1


def file_type(path: bytes) -> str:
    """The type that the name tells: its extension in lower case, "so" for libfoo.so.1.2, "-" without one."""
    name = path.rpartition(b"/")[2].lower()
    if re.search(rb"\.so(\.\d+)*$", name):
        return "so"
    match = re.search(rb"[^.]\.([a-z][a-z0-9_+-]{0,11}|7z)$", name)
    return match[1].decode() if match else "-"


def outline(batch: Batch) -> dict[str, Any]:
    """What the client needs to know of a batch: counts, never one entry for each file."""
    types: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    sizes: Counter[int] = Counter()
    linked = []
    for path, size, inode in batch.files:
        if inode is not None:
            linked.append((inode, file_type(path), size))
            continue
        entry = types[file_type(path)]
        entry[0] += 1
        entry[1] += size
        sizes[size] += 1
    return {
        "files": len(batch.files), "left": batch.left, "device": batch.device, "others": batch.others,
        "errors": len(batch.errors), "examples": batch.errors[:EXAMPLES_KEPT],
        "types": dict(types), "sizes": sizes, "linked": linked,
    }  # fmt: skip


@dataclass
class Marked:
    """Files whose size occurs more than once: (key, path, size, inode). The key is the size and a hash of both ends."""

    files: list[tuple[bytes, bytes, int, tuple[int, int] | None]] = field(default_factory=list)
    errors: list[tuple[bytes, str]] = field(default_factory=list)


def mark(batch: Batch, sizes: frozenset[int]) -> Marked:
    """Hash both ends of each file whose size is in `sizes`."""
    marked = Marked()
    for path, size, inode in batch.files:
        if size in sizes:
            key = attempt(partial(hash_ends, path, size), path, marked.errors)
            if key:
                marked.files.append((size.to_bytes(8, "big") + key, path, size, inode))
    return marked


def keys(marked: Marked) -> dict[str, Any]:
    """The keys of the batch, packed, 24 bytes each; the several links of one file give one key."""
    once = {inode or path: key for key, path, _, inode in marked.files}
    return {"keys": b"".join(once.values()), "errors": len(marked.errors), "examples": marked.errors[:EXAMPLES_KEPT]}


def attempt(read: Callable[[], bytes], path: bytes, errors: list[tuple[bytes, str]]) -> bytes:
    """Return what was read; note the path, and return nothing, when it cannot be read or has changed meanwhile."""
    try:
        return read()
    except OSError as error:
        errors.append((path, error.strerror or str(error)))
        return b""


def opened(path: bytes, size: int | None = None) -> Any:
    """Open a regular file (of that size), without waiting on a pipe or following a link that took its place."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)
    info = os.fstat(file.fileno())
    if not stat.S_ISREG(info.st_mode) or (size is not None and info.st_size != size):
        file.close()
        raise OSError("changed while it was read")
    return file


def hash_ends(path: bytes, size: int) -> bytes:
    with opened(path, size) as file:
        digest = blake2b(file.read(2 * END_BYTES if size <= 2 * END_BYTES else END_BYTES), digest_size=16)
        if size > 2 * END_BYTES:
            file.seek(-END_BYTES, os.SEEK_END)
            digest.update(file.read(END_BYTES))
    return digest.digest()


def hash_whole(path: bytes, size: int) -> bytes:
    digest, seen = blake2b(digest_size=16), 0
    with opened(path, size) as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            seen += len(piece)
            if seen > size:
                break
    if seen != size:
        raise OSError("changed while it was read")
    return digest.digest()


def weigh(marked: Marked, repeated: frozenset[bytes]) -> int:
    """How many bytes `confirm` will have to read."""
    return sum(size for key, _, size, _ in marked.files if key in repeated and size > 2 * END_BYTES)


def confirm(marked: Marked, repeated: frozenset[bytes], part: int, parts: int) -> dict[str, Any]:
    """Hash the whole of every `parts`-th file whose ends occur more than once; small ones are hashed whole already."""
    errors: list[tuple[bytes, str]] = []
    found, read = [], 0
    chosen = (entry for entry in marked.files if entry[0] in repeated)
    for key, path, size, inode in islice(chosen, part, None, parts):
        if size <= 2 * END_BYTES:
            found.append((key, path, inode))
            continue
        digest = attempt(partial(hash_whole, path, size), path, errors)
        read += size
        if digest:
            found.append((key[:8] + digest, path, inode))
    return {"found": found, "bytes": read, "errors": len(errors), "examples": errors[:EXAMPLES_KEPT]}


def compress(batch: Batch, budgets: dict[str, float]) -> dict[str, list[int]]:
    """Compress samples: for each type [bytes read, zlib's, lzma's]. `budgets`: which share of its bytes to read.

    Blocks are taken at even steps through the bytes of a type, so a large file counts as much as it weighs.
    """
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    passed: dict[str, float] = {}
    for path, size, _ in batch.files:
        kind = file_type(path)
        share = budgets.get(kind, 0)
        if not share or not size:
            continue
        step = max(SAMPLE_BLOCK_BYTES / share, SAMPLE_BLOCK_BYTES)
        position = passed.setdefault(kind, int.from_bytes(blake2b(path, digest_size=4).digest(), "big") / 2**32 * step)
        while position < size:
            for index, count in enumerate(compressed(path, int(position))):
                sums[kind][index] += count
            position += step
        passed[kind] = position - size
    return dict(sums)


def compressed(path: bytes, offset: int) -> tuple[int, int, int]:
    try:
        with opened(path) as file:
            file.seek(offset - offset % SAMPLE_BLOCK_BYTES)
            block = file.read(SAMPLE_BLOCK_BYTES)
    except OSError:
        return 0, 0, 0
    return len(block), len(zlib.compress(block, 6)), len(lzma.compress(block, preset=1))


def host_name() -> str:
    """The worker's machine in a person's words."""
    return os.uname().nodename


# --- What runs here. ---


class Progress:
    """One line on a terminal, redrawn; elsewhere one line for each stage."""

    def __init__(self, quiet: bool) -> None:
        self._live = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._drawn = 0.0

    def draw(self, stage: str, done: float, total: float | None, text: str) -> None:
        if not self._live or (time.monotonic() - self._drawn < 0.1 and done != total):
            return
        self._drawn = time.monotonic()
        width = 24
        filled = int(width * min(1, done / total)) if total else int(self._drawn * 8) % width
        bar = "█" * filled + "░" * (width - filled) if total else "░" * filled + "█" + "░" * (width - filled - 1)
        columns = shutil.get_terminal_size().columns
        line = f"  {stage:<12} {bar} {text}"[: columns - 1]
        sys.stderr.write(f"\r{line}\033[K")
        sys.stderr.flush()

    def end(self, stage: str, text: str) -> None:
        if not self._quiet:
            before, after = ("\r", "\033[K") if self._live else ("", "")
            sys.stderr.write(f"{before}  {stage:<12} {text}{after}\n")


class Crew:
    """The machines of the cluster; work for a machine runs on any worker of it and nowhere else."""

    def __init__(self, client: Any) -> None:
        from distributed.comm import get_address_host

        self._client, self._host_of = client, get_address_host
        workers = self._workers()
        names = client.run(host_name)
        self.hosts: dict[str, str] = {}
        self.threads: Counter[str] = Counter()
        for address, info in sorted(workers.items()):
            host = get_address_host(address)
            self.threads[host] += info["nthreads"]
            self.hosts.setdefault(host, names.get(address, host))
        for host, name in self.hosts.items():
            if list(self.hosts.values()).count(name) > 1:
                self.hosts[host] = f"{name} ({host})"
        self.lost: dict[str, str] = {}

    def _workers(self) -> dict[str, Any]:
        return dict(self._client.scheduler_info(n_workers=-1)["workers"])

    def submit(self, host: str, function: Callable[..., Any], *args: Any) -> Any:
        return self._client.submit(function, *args, workers=[host], allow_other_workers=False, pure=False)

    def share(self, value: Any) -> Any:
        """Send a value to every worker. In a list, or scatter would take a set apart; each value has its own life."""
        return self._client.scatter([value], broadcast=True, hash=False)[0]

    def results(self, pending: dict[Any, str]) -> Iterator[tuple[Any, str, Any]]:
        """Yield (future, host, result) as they end; `pending` may grow meanwhile. Gives up machines that stay away."""
        from distributed import wait

        absent: dict[str, float] = {}
        while pending:
            try:
                done = wait(list(pending), timeout=5, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                self._drop_lost(pending, absent)
                continue
            for future in done:
                host = pending.pop(future)
                yield future, host, future.result()

    def _drop_lost(self, pending: dict[Any, str], absent: dict[str, float]) -> None:
        present = {self._host_of(address) for address in self._workers()}
        for host in set(pending.values()):
            if host in present:
                absent.pop(host, None)
            elif time.monotonic() - absent.setdefault(host, time.monotonic()) > LOST_SECONDS:
                self.lost[host] = f"gone for {LOST_SECONDS} s: its part of the result is missing"
                for future in [future for future, owner in pending.items() if owner == host]:
                    future.cancel()
                    del pending[future]


@dataclass
class Machine:
    """What is known of one machine."""

    name: str
    files: int = 0
    size: int = 0
    others: int = 0
    limited: bool = False
    errors: int = 0
    examples: list[tuple[bytes, str]] = field(default_factory=list)
    types: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    sizes: Counter[int] = field(default_factory=Counter)
    inodes: set[tuple[int, int]] = field(default_factory=set)
    queue: list[bytes] = field(default_factory=list)
    device: int | None = None
    seen: int = 0

    def note_errors(self, told: dict[str, Any]) -> None:
        self.errors += told["errors"]
        self.examples += told["examples"][: EXAMPLES_KEPT - len(self.examples)]

    def note_walked(self, told: dict[str, Any]) -> None:
        """Add a batch's outline; a file with several links counts once."""
        self.note_errors(told)
        self.others += told["others"]
        self.device = told["device"] if self.device is None else self.device
        self.queue += told["left"]
        self.seen += told["files"]
        for kind, (files, size) in told["types"].items():
            self.note_files(kind, files, size)
        self.sizes.update(told["sizes"])
        for inode, kind, size in told["linked"]:
            if inode not in self.inodes:
                self.inodes.add(inode)
                self.note_files(kind, 1, size)
                self.sizes[size] += 1

    def note_files(self, kind: str, files: int, size: int) -> None:
        self.files += files
        self.size += size
        self.types[kind][0] += files
        self.types[kind][1] += size


class Census:
    """The whole count, stage by stage. Batches and marks stay on the workers; counts, hashes and names come here."""

    def __init__(self, crew: Crew, root: bytes, limit: int, progress: Progress) -> None:
        self._crew, self.root, self._limit, self._progress = crew, root, limit, progress
        self.machines = {host: Machine(name, queue=[root]) for host, name in crew.hosts.items()}
        self._batches: dict[Any, str] = {}
        self.groups: dict[bytes, dict[object, tuple[str, bytes]]] = defaultdict(dict)
        self.compression: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])

    def run(self) -> None:
        self._walk()
        self._find_duplicates()
        self._sample()

    def _walk(self) -> None:
        pending: dict[Any, str] = {}
        source: dict[Any, Any] = {}
        busy: Counter[str] = Counter()
        for host in self.machines:
            self._feed(host, pending, source, busy)
        for future, host, told in self._crew.results(pending):
            busy[host] -= 1
            self._batches[source.pop(future)] = host
            self.machines[host].note_walked(told)
            self._feed(host, pending, source, busy)
            self._progress.draw("walking", 0, None, self._counted())
        self._progress.end("walked", self._counted())

    def _feed(self, host: str, pending: dict[Any, str], source: dict[Any, Any], busy: Counter[str]) -> None:
        """Hand the machine's open directories to its free threads."""
        machine, slots = self.machines[host], self._crew.threads[host] + 1
        while machine.queue and busy[host] < slots:
            room = self._limit - machine.seen - busy[host] * BATCH_FILES if self._limit else BATCH_FILES
            if room <= 0:
                machine.limited = machine.limited or not busy[host]
                return
            count = max(1, len(machine.queue) // (slots - busy[host]))
            taken, machine.queue = machine.queue[:count], machine.queue[count:]
            batch = self._crew.submit(host, scan, taken, machine.device, min(BATCH_FILES, room))
            told = self._crew.submit(host, outline, batch)
            pending[told], source[told] = host, batch
            busy[host] += 1

    def _counted(self) -> str:
        files, size = (sum(getattr(machine, name) for machine in self.machines.values()) for name in ("files", "size"))
        machines = f" on {len(self.machines)} machines" if len(self.machines) > 1 else ""
        return f"{files:,} files, {amount(size)}{machines}"

    def _find_duplicates(self) -> None:
        sizes: Counter[int] = Counter()
        for machine in self.machines.values():
            sizes.update(machine.sizes)
        alike = frozenset(size for size, count in sizes.items() if count > 1 and size)
        marked = self._mark(self._crew.share(alike))
        counts: Counter[bytes] = Counter()
        for packed in marked.values():
            counts.update(packed[i : i + 24] for i in range(0, len(packed), 24))
        repeated = frozenset(key for key, count in counts.items() if count > 1)
        self._confirm({future: self._owner[future] for future in marked}, self._crew.share(repeated))
        for key in [key for key, members in self.groups.items() if len(members) < 2]:
            del self.groups[key]

    def _mark(self, sizes: Any) -> dict[Any, bytes]:
        pending, source, self._owner, packed = {}, {}, {}, {}
        for batch, host in self._batches.items():
            future = self._crew.submit(host, mark, batch, sizes)
            told = self._crew.submit(host, keys, future)
            pending[told], source[told], self._owner[future] = host, future, host
        total = len(pending)
        for future, host, told in self._crew.results(pending):
            self.machines[host].note_errors(told)
            packed[source[future]] = told["keys"]
            self._progress.draw("comparing", len(packed), total, "both ends of files of equal size")
        self._progress.end("compared", f"both ends of {sum(map(len, packed.values())) // 24:,} files of equal size")
        return packed

    def _confirm(self, marked: dict[Any, str], repeated: Any) -> None:
        weights = {self._crew.submit(host, weigh, future, repeated): (host, future) for future, host in marked.items()}
        pending, total = {}, 0
        for weight, host, size in self._crew.results({future: host for future, (host, _) in weights.items()}):
            parts = 1 + size // HASH_TASK_BYTES
            total += size
            for part in range(parts):
                pending[self._crew.submit(host, confirm, weights[weight][1], repeated, part, parts)] = host
        done = 0
        for _, host, told in self._crew.results(pending):
            done += told["bytes"]
            self.machines[host].note_errors(told)
            for key, path, inode in told["found"]:
                self.groups[key][(host, inode or path)] = (host, path)
            self._progress.draw("hashing", done, total, f"{amount(done)} of {amount(total)}")
        self._progress.end("hashed", f"{amount(done)} of files whose ends are equal")

    def _sample(self) -> None:
        weights: Counter[str] = Counter()
        for machine in self.machines.values():
            weights.update({kind: size for kind, (_, size) in machine.types.items()})
        budgets = {kind: min(1.0, SAMPLE_BYTES / size) for kind, size in weights.most_common(SAMPLED_TYPES) if size}
        pending = {self._crew.submit(host, compress, batch, budgets): host for batch, host in self._batches.items()}
        total = len(pending)
        for done, (_, _, sums) in enumerate(self._crew.results(pending), 1):
            for kind, counts in sums.items():
                self.compression[kind] = [a + b for a, b in zip(self.compression[kind], counts, strict=True)]
            self._progress.draw("compressing", done, total, f"samples of {len(budgets)} types")
        read = sum(counts[0] for counts in self.compression.values())
        self._progress.end("compressed", f"{amount(read)} of samples of {len(budgets)} types")


def result(census: Census, crew: Crew, seconds: float) -> dict[str, Any]:
    """The census as plain values, the largest first everywhere."""
    return {
        "root": text(census.root),
        "seconds": round(seconds, 3),
        "machines": [
            {"name": m.name, "address": host, "files": m.files, "bytes": m.size, "special_files": m.others,
             "limited": m.limited, "unreadable": m.errors, "lost": crew.lost.get(host, ""),
             "unreadable_examples": [{"path": text(path), "reason": reason} for path, reason in m.examples]}
            for host, m in census.machines.items()
        ],
        "types": list(types(census)),
        "duplicates": duplicates(census),
    }  # fmt: skip


def types(census: Census) -> Iterator[dict[str, Any]]:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for machine in census.machines.values():
        for kind, (files, size) in machine.types.items():
            sums[kind][0] += files
            sums[kind][1] += size
    for kind, (files, size) in sorted(sums.items(), key=lambda item: -item[1][1]):
        read, by_zlib, by_lzma = census.compression.get(kind, (0, 0, 0))
        mime = mimetypes.guess_type(f"x.{kind}")[0] if kind != "-" else None
        yield {
            "type": kind, "mime": mime, "files": files, "bytes": size, "sampled_bytes": read,
            "zlib_ratio": round(by_zlib / read, 4) if read else None,
            "lzma_ratio": round(by_lzma / read, 4) if read else None,
        }  # fmt: skip


def duplicates(census: Census) -> dict[str, Any]:
    def wasted(item: tuple[bytes, dict[object, tuple[str, bytes]]]) -> int:
        return int.from_bytes(item[0][:8], "big") * (len(item[1]) - 1)

    ordered = sorted(census.groups.items(), key=lambda item: (-wasted(item), item[0]))
    names = {host: machine.name for host, machine in census.machines.items()}
    return {
        "groups": len(ordered),
        "files": sum(len(members) for _, members in ordered),
        "wasted_bytes": sum(wasted(item) for item in ordered),
        "groups_across_machines": sum(len({host for host, _ in members.values()}) > 1 for _, members in ordered),
        "largest": [
            {"bytes": int.from_bytes(key[:8], "big"), "wasted_bytes": wasted((key, members)), "hash": key[8:].hex(),
             "files": sorted(({"machine": names[host], "path": text(path)} for host, path in members.values()),
                             key=lambda f: (f["machine"], f["path"]))}
            for key, members in ordered[:GROUPS_KEPT]
        ],
    }  # fmt: skip


def text(path: bytes) -> str:
    """A path for JSON: bytes that are no UTF-8 become lone surrogates, which `os.fsencode` turns back."""
    return os.fsdecode(path)


def printable(path: str) -> str:
    """A path for a terminal: nothing in a file's name moves the cursor."""
    clean = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in clean)


def amount(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def percent(ratio: float | None) -> str:
    return f"{'' if ratio is None else format(ratio, '.0%'):>8}"


def shortened(line: str, width: int) -> str:
    return line if len(line) <= width else "…" + line[1 - width :]


def table(census: dict[str, Any]) -> Iterator[str]:
    """The result for a person, at most 80 columns wide."""
    yield f"\n{'MACHINE':<24}{'FILES':>12}{'SIZE':>12}{'UNREADABLE':>12}"
    for machine in census["machines"]:
        note = "  " + machine["lost"] if machine["lost"] else "  (stopped at --limit)" if machine["limited"] else ""
        yield (f"{shortened(machine['name'], 23):<24}{machine['files']:>12,}{amount(machine['bytes']):>12}"
               f"{machine['unreadable']:>12,}{note}")  # fmt: skip
    yield f"\n{'TYPE':<14}{'FILES':>10}{'SIZE':>12}{'ZLIB':>8}{'LZMA':>8}  WHAT"
    for kind in census["types"][:ROWS_SHOWN]:
        ratios = "".join(percent(kind[name]) for name in ("zlib_ratio", "lzma_ratio"))
        mime = "no extension" if kind["type"] == "-" else shortened(kind["mime"] or "", 26)
        yield f"{kind['type']:<14}{kind['files']:>10,}{amount(kind['bytes']):>12}{ratios}  {mime}".rstrip()
    yield from duplicate_rows(census["duplicates"])


def duplicate_rows(found: dict[str, Any]) -> Iterator[str]:
    across = f", {found['groups_across_machines']:,} across machines" if found["groups_across_machines"] else ""
    yield (f"\n{found['files']:,} files have a copy ({found['groups']:,} groups{across}); "
           f"{amount(found['wasted_bytes'])} would be saved.")  # fmt: skip
    if found["groups"]:
        yield f"\n{'SAVES':<11}{'COPIES':>7}  LARGEST"
    for group in found["largest"][:ROWS_SHOWN]:
        first = printable(group["files"][0]["path"])
        yield f"{amount(group['wasted_bytes']):<11}{len(group['files']):>7}  {shortened(first, 58)}"


def parse(arguments: Iterable[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="census.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", nargs="?", default="/usr", help="directory that each machine walks (default: /usr)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="stop after about N files on each machine")
    parser.add_argument("--out", default="census.json", metavar="FILE", help="the result; - for standard output")
    parser.add_argument("--json", action="store_true", help="no progress, no table: only JSON, to FILE")
    options = parser.parse_args(list(arguments) if arguments is not None else None)
    if options.limit < 0:
        parser.error("--limit must be 0 or more")
    return options


def program() -> str:
    """What the messages begin with: other examples use these functions too."""
    return Path(sys.argv[0]).name


def connect() -> Any:
    """Return a Client for the configured scheduler; end with a sentence and a hint when there is none."""
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        sys.exit(f"{program()}: {error}\n  run it with the cluster's environment: clusteractl dask env --create PATH")
    if not dask.config.get("scheduler-address", None):
        fix = f"clusteractl dask env > cluster.env && . ./cluster.env, or: clusteraid local -- {sys.argv[0]}"
        sys.exit(f"{program()}: no cluster is configured\n  {fix}")
    try:
        client = Client(timeout=CONNECT_SECONDS)
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError) as error:
        sys.exit(f"{program()}: cannot reach the cluster: {error}\n  is it running? `clusteractl status` tells")
    return client


@contextlib.contextmanager
def lost_work_explained() -> Iterator[None]:
    """End with a sentence when workers died with what cannot be computed again."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    try:
        yield
    except (CancelledError, KilledWorker) as error:
        first = str(error).splitlines()[0]
        fix = "run it again; `clusteractl worker list` shows how the workers are"
        sys.exit(f"{program()}: a worker was lost with its part of the work ({first})\n  {fix}")


def save(found: dict[str, Any], out: str) -> None:
    """Write the result; end with a sentence when that is not possible."""
    document = json.dumps(found, indent=1)
    if out == "-":
        print(document)
        return
    try:
        Path(out).write_text(document + "\n", encoding="ascii")
    except OSError as error:
        sys.exit(f"{program()}: cannot write {out}: {error.strerror}\n  choose another file with --out")


def main(arguments: Iterable[str] | None = None) -> int:
    options = parse(arguments)
    root = os.fsencode(os.path.abspath(options.path))  # noqa: PTH100  Path() would not keep every byte of a name
    started = time.monotonic()
    with connect() as client, lost_work_explained():
        crew = Crew(client)
        quiet = options.json
        if not quiet:
            names = ", ".join(islice(crew.hosts.values(), 4)) + (", …" if len(crew.hosts) > 4 else "")
            print(f"Census of {printable(text(root))} on {names} with {crew.threads.total()} threads", file=sys.stderr)
        census = Census(crew, root, options.limit, Progress(quiet))
        census.run()
        found = result(census, crew, time.monotonic() - started)
    save(found, options.out)
    if not quiet and options.out != "-":
        print("\n".join(table(found)))
        print(f"\n{found['seconds']:.1f} s. All of it, with every path, is in {options.out}:")
        print(f"  python3 -m json.tool {options.out} | less")
    if not any(machine["files"] or machine["special_files"] for machine in found["machines"]):
        reasons = [example["reason"] for m in found["machines"] for example in m["unreadable_examples"]]
        print(f"census.py: no files below {': '.join([options.path, *reasons[:1]])}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
