"""What examples/census.py has to find in a tree, by a plain walk."""

import hashlib
import os
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOT_UTF8 = b"caf\xe9.txt"


def make_tree(root: Path) -> Path:
    """Make a tree with every kind of file: duplicates, near duplicates, links, a pipe, an odd name, an empty file."""
    rng = random.Random(1)
    for number in range(300):
        path = root / f"d{number % 7}/e{number % 3}/file{number}.{('txt', 'bin', 'so.1', 'TAR')[number % 4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 100, 8192, 8193, 30_000, 200_000])))
    big = rng.randbytes(3 << 20)
    (root / "big-a").write_bytes(big)
    (root / "d1/big-b").write_bytes(big)
    (root / "big-same-ends").write_bytes(big[: 1 << 20] + b"!" + big[(1 << 20) + 1 :])
    (root / "small-a.c").write_bytes(b"int main;")
    (root / "d2/small-b.c").write_bytes(b"int main;")
    (root / "d2/small-c.h").write_bytes(b"int main;")
    os.link(root / "big-a", root / "hard-link-of-big-a")
    (root / "symbolic").symlink_to("big-a")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe")
    Path(os.fsdecode(os.fsencode(root) + b"/" + NOT_UTF8)).write_bytes(b"int main;")
    return root


@dataclass(frozen=True)
class Reference:
    """What a plain walk finds."""

    files: int
    size: int
    groups: frozenset[frozenset[str]]


def reference(root: Path) -> Reference:
    """Walk the tree and compare whole contents."""
    seen: set[tuple[int, int]] = set()
    contents: dict[bytes, set[str]] = defaultdict(set)
    size = 0
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            info = path.lstat()
            if not path.is_file() or path.is_symlink() or (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            size += info.st_size
            if info.st_size:
                contents[hashlib.sha256(path.read_bytes()).digest()].add(str(path))
    groups = frozenset(frozenset(paths) for paths in contents.values() if len(paths) > 1)
    return Reference(len(seen), size, groups)


def groups(result: dict[str, Any]) -> frozenset[frozenset[str]]:
    """Return the groups of equal files in the census's own result."""
    return frozenset(frozenset(f["path"] for f in group["files"]) for group in result["duplicates"]["largest"])
