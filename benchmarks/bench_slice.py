# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cutting members out of a large family: the rate against `cp`, and the memory.

    python -m benchmarks.bench_slice [--place DIR] [--layers 62] [--rounds 3] [--markdown FILE]

The family has Nemotron Nano V2 12B's exact shapes and random bfloat16 weights; all 62 layers take about 61 GB of disk.
Every command is timed as a whole process, with the page cache of its input dropped before and its output on the disk
(fsync) at the end, in turn with the `cp` that it is compared with. Memory is what `/proc` says of the process.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.output import arguments, deliver, markdown, resident
from nemo_elastic.core import layout
from nemo_elastic.core.manifest import Family
from nemo_elastic.formats.checkpoint import in_memory
from nemo_elastic.formats.hf.writing import write_checkpoints
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.plan import preset
from nemo_elastic.slicing.example import byte_tokenizer

ROOT = Path(__file__).parents[1]
BLOCK = 2**25
#: least rate of a cut against `cp`, and most anonymous memory
TARGET, MEMORY = 0.9, 2**28


def family_of(layers: int) -> Family:
    """The first layers of the 12B, and members of about 0.72 and 0.49 of it on every axis."""
    parent = replace(preset("nemotron-nano-12b-v2"), ffn_stripes=8)
    parent = replace(parent, pattern=parent.pattern[:layers])
    dropped = set(range(9, layers, 10)) if layers > 20 else {layers - 2}  # the last of eight is the attention
    keep = [i for i in range(layers) if i not in dropped]
    members = {
        "12b": parent.full,
        "9b": parent.uniform(keep, hidden=4480, ffn=16384),
        "6b": parent.uniform(keep, hidden=3584, ffn=12288, mamba_heads=112, attention_heads=32),
    }
    return Family.of(parent, members)


def make(folder: Path, family: Family) -> None:
    """Write the family folder: bfloat16 weights that no compression could shrink, in shards of 5 GB."""
    normal = np.random.default_rng(0).standard_normal(BLOCK, np.float32) * np.float32(0.02)
    words = (normal.view(np.uint32) >> 16).astype(np.uint16)

    def rows(shape: tuple[int, ...], seed: int) -> Callable[[int, int], np.ndarray]:
        row = int(np.prod(shape[1:]))

        def some(first: int, last: int) -> np.ndarray:
            places = np.arange(first * row + seed * 7919, last * row + seed * 7919) % BLOCK
            return words[places].reshape(last - first, *shape[1:])

        return some

    parent = family.parent
    tensors = {
        t.hf: Tensor.made("BF16", t.shape, rows(t.shape, i)) for i, t in enumerate(layout.tensors(parent, parent.full))
    }
    folder.mkdir()
    write_checkpoints({folder: in_memory(parent, parent.full, tensors)})
    for name, content in byte_tokenizer().items():
        (folder / name).write_text(json.dumps(content))
    family.save(folder)


@dataclass(frozen=True)
class Ran:
    """Seconds of a finished command, and its peak memory: of no file (anonymous), and in all."""

    seconds: float
    anonymous: int
    resident: int


def run(command: Sequence[str]) -> Ran:
    """Run a command to its end and watch its memory."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    anonymous = most = 0
    while process.poll() is None:
        try:
            anonymous = max(anonymous, resident("RssAnon", process.pid))
            most = max(most, resident("VmRSS", process.pid))
        except OSError:
            break
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return Ran(time.perf_counter() - began, anonymous, most)


def forget(folder: Path) -> None:
    """Drop a folder from the page cache."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def cut(family: Path, out: Path, *names: str, options: Sequence[str] = ()) -> Ran:
    """`nemo-elastic slice` of some members, from a cold source."""
    shutil.rmtree(out, ignore_errors=True)
    out.with_suffix(".gguf").unlink(missing_ok=True)
    forget(family)
    members = [word for name in names for word in ("--member", name)]
    return run([sys.executable, "-m", "nemo_elastic", "slice", str(family), *members, *options, "--out", str(out)])


def copy(source: Path, out: Path) -> Ran:
    """`cp` of a cold folder, and its output on the disk."""
    shutil.rmtree(out, ignore_errors=True)
    forget(source)
    return run(["bash", "-c", 'cp -r "$0" "$1" && sync "$1"/* "$1"', str(source), str(out)])


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def measure(place: Path, layers: int, rounds: int) -> tuple[str, list[str], dict[str, float]]:
    """A member in turn with `cp`, and two members apart and in one pass: a table, missed targets, figures."""
    family = family_of(layers)
    make(place / "family", family)
    cuts, copies, files, blocks = [], [], [], []
    for i in range(rounds):
        cuts.append(cut(place / "family", place / "6b", "6b"))
        copies.append(copy(place / "6b", place / "copy"))
        for each, options in ((files, ()), (blocks, ("--dtype", "q8_0"))):
            each.append(cut(place / "family", place / "6b.gguf", "6b", options=("--format", "gguf", *options)))
        print(f"round {i + 1}: cut {cuts[-1].seconds:.1f} s, cp {copies[-1].seconds:.1f} s", flush=True)
    written = size(place / "6b")
    shutil.rmtree(place / "copy")
    apart = [cut(place / "family", place / name, name) for name in ("6b", "9b")]
    for name in ("6b", "9b"):
        shutil.rmtree(place / name)
    both = cut(place / "family", place / "both", "9b", "6b")
    two, ran = sum(r.seconds for r in apart), [*cuts, *files, *blocks, *apart, both]
    anonymous, total = max(r.anonymous for r in ran), max(r.resident for r in ran)

    def against(runs: Sequence[Ran]) -> float:
        return statistics.median(b.seconds / a.seconds for a, b in zip(runs, copies, strict=True))

    ratio = against(cuts)

    def rate(runs: Sequence[Ran]) -> str:
        seconds = statistics.median(r.seconds for r in runs)
        return f"{seconds:.1f} s, {written / seconds / 1e6:.0f} MB/s"

    rows = [
        [f"cut the {family.member('6b').parameters / 1e9:.1f}B member, median of {rounds}", rate(cuts)],
        ["`cp` of that member, in turn", rate(copies)],
        ["bytes per second against `cp`", f"{ratio:.2f} x"],
        ["the same cut as a GGUF file in bf16, against `cp`", f"{against(files):.2f} x"],
        ["as a GGUF file in q8_0", f"{statistics.median(r.seconds for r in blocks):.1f} s"],
        ["peak anonymous memory", f"{anonymous / 2**20:.0f} MiB"],
        ["peak resident memory", f"{total / 2**20:.0f} MiB"],
        ["9b and 6b in two passes", f"{two:.1f} s"],
        ["9b and 6b in one pass", f"{both.seconds:.1f} s"],
        ["one pass against two", f"{both.seconds / two:.2f} x"],
    ]
    whole = f"{family.member('12b').parameters / 1e9:.1f}B parameters"
    title = f"{whole} ({layers} layers, {size(place / 'family') / 1e9:.1f} GB)"
    tests = {
        f"{ratio:.2f} of the rate of cp, wanted {TARGET}": ratio >= TARGET,
        f"{anonymous / 2**20:.0f} MiB of anonymous memory, wanted {MEMORY / 2**20:.0f}": anonymous <= MEMORY,
        "one pass is no faster than two": both.seconds < two,
    }
    missed = [words for words, met in tests.items() if not met]
    return markdown([title, ""], rows), missed, {"ratio": ratio, "anonymous": anonymous}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--place", type=Path, help="folder on the disk to measure; a temporary one by default")
    parser.add_argument("--layers", type=int, default=8, help="layers of the 12B, at most 62")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.place) as folder:
        text, missed, figures = measure(Path(folder), args.layers, args.rounds)
    deliver(args, figures, text, missed)


if __name__ == "__main__":
    main()
