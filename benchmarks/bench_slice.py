# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cutting members out of a 12B: the rate against `cp`, the memory, two members in one pass, and today's way.

The family has Nemotron Nano V2 12B's exact shapes and random bfloat16 weights. It has all 62 layers where the disk has
room for it and the copies (about 61 GB), else as many as fit; `--layers` says so by hand. Every command is timed as a
whole process, with the page cache of what it reads dropped before and its output on the disk (fsync) at the end, in
turn with the `cp` that it is compared with. Memory is what `/proc` says of the process while it runs.

    python -m benchmarks.bench_slice [--place DIR] [--layers N] [--rounds 3] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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

from nemo_elastic.core import layout
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.writing import Model, write_models
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.plan import preset
from nemo_elastic.slicing.pieces import kept_parts

ROOT = Path(__file__).parents[1]
SHORT = 8  # layers of the family that is also cut by way of transformers, which holds all of it in memory
BLOCK = 2**25
#: least rate of a cut against `cp`, and most anonymous memory
TARGET, MEMORY = 0.9, 2**28


@dataclass(frozen=True)
class Ran:
    """One finished command.

    Attributes:
        seconds: wall clock.
        anonymous, resident: most bytes in memory that belong to no file, and most bytes in all.
        processor: seconds of it that its threads, and the system for them, computed.
    """

    seconds: float
    anonymous: int
    resident: int
    processor: float = 0.0


def family_of(layers: int) -> Family:
    """The first layers of the 12B, and members of about 0.72 and 0.49 of it on every axis."""
    parent = replace(preset("nemotron-nano-12b-v2"), ffn_stripes=8)
    parent = replace(parent, pattern=parent.pattern[:layers])
    dropped = set(range(9, layers, 10)) if layers > 20 else {layers - 1}
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
    write_models([Model(folder, parent, parent.full, tensors)])
    family.save(folder)


def forget(folder: Path) -> None:
    """Drop what the page cache holds of a folder."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def run(command: Sequence[str], **more: str) -> Ran:
    """Run a command to its end and watch its memory."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | more, stdout=subprocess.DEVNULL)
    anonymous = resident = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        fields = (line.partition(":") for line in status.splitlines())
        sizes = {name: int(value.split()[0]) * 1024 for name, _, value in fields if "Rss" in name}
        anonymous, resident = max(anonymous, sizes.get("RssAnon", 0)), max(resident, sum(sizes.values()))
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(took, anonymous, resident, computed)


def cut(family: Path, out: Path, *names: str) -> Ran:
    """`nemo-elastic slice` of some members, from a cold source."""
    shutil.rmtree(out, ignore_errors=True)
    forget(family)
    budgets = [word for name in names for word in ("--budget", name)]
    return run([sys.executable, "-m", "nemo_elastic", "slice", str(family), *budgets, "--out", str(out)])


def copy(source: Path, out: Path) -> Ran:
    """`cp` of a cold folder, and its output on the disk."""
    shutil.rmtree(out, ignore_errors=True)
    forget(source)
    return run(["bash", "-c", 'cp -r "$0" "$1" && sync "$1"/* "$1"', str(source), str(out)])


def size(folder: Path) -> int:
    """Bytes of all files in a folder and in its folders."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def with_transformers(family: Path, member: Subnet, out: Path, place: Path) -> Ran:
    """The same cut as one does it today: load the model, index every tensor, save the model."""
    source = open_source(family)
    kept = {}
    for name, (_, selections) in kept_parts(source, member).items():
        kept |= {f"{name}/{dim}": s.indices for dim, s in enumerate(selections) if not s.is_full}
    names = {
        new.hf: old.hf
        for new in layout.tensors(source.parent, member)
        for old in layout.tensors(source.parent, source.held)
        if (new.row.name, new.layer and new.layer.index) == (old.row.name, old.layer and old.layer.index)
    }
    np.savez(place / "kept.npz", **kept)
    (place / "names.json").write_text(json.dumps(names))
    python = os.environ.get("NEMO_ELASTIC_HF_PYTHON", ".venv-hf/bin/python")
    script = Path(__file__).with_name("slice_with_transformers.py")
    forget(family)
    return run([python, "-W", "ignore", str(script), str(family), str(place), str(out)], HF_HUB_OFFLINE="1")


def compare(place: Path, layers: int) -> list[str]:
    """Lines of the table for ours against transformers."""
    family = family_of(layers)
    make(place / "short", family)
    member = family.member("6b").subnet
    ours = cut(place / "short", place / "ours", "6b")
    theirs = with_transformers(place / "short", member, place / "theirs", place)
    a, b = open_source(place / "ours"), open_source(place / "theirs")
    if any(not np.array_equal(a.tensors[n].words, b.tensors[n].words) for n in a.tensors):
        raise SystemExit("the two ways do not give the same tensors")
    count = parameters(family.parent, family.parent.full)
    for name in ("short", "ours", "theirs"):
        shutil.rmtree(place / name)
    return [
        f"| {count / 1e9:.1f}B parameters ({layers} layers) → {parameters(family.parent, member) / 1e9:.1f}B "
        f"| seconds | anonymous memory | resident memory |",
        "|---|---:|---:|---:|",
        f"| `nemo-elastic slice` | {ours.seconds:.1f} | {gib(ours.anonymous)} | {gib(ours.resident)} |",
        f"| load in transformers, index, save | {theirs.seconds:.1f} | {gib(theirs.anonymous)} "
        f"| {gib(theirs.resident)} |",
        f"| ratio | {theirs.seconds / ours.seconds:.1f} x | {theirs.anonymous / ours.anonymous:.0f} x | "
        f"{theirs.resident / ours.resident:.1f} x |",
    ]


def gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def in_turn(place: Path, member: str, rounds: int) -> tuple[list[Ran], list[Ran], float]:
    """Cut a member of the family there and copy it, in turn; both, and the rate of the cut against that of `cp`."""
    cuts: list[Ran] = []
    copies: list[Ran] = []
    for i in range(rounds):
        cuts.append(cut(place / "family", place / member, member))
        copies.append(copy(place / member, place / "copy"))
        shutil.rmtree(place / "copy")
        print(f"round {i + 1}: cut {cuts[-1].seconds:.1f} s, cp {copies[-1].seconds:.1f} s", flush=True)
    return cuts, copies, statistics.median(b.seconds / a.seconds for a, b in zip(cuts, copies, strict=True))


def measure(place: Path, layers: int, rounds: int) -> tuple[list[str], list[str]]:
    """Lines of the table for ours against `cp`, and what misses its target."""
    family = family_of(layers)
    print(f"writing a family of {layers} layers", flush=True)
    make(place / "family", family)
    cuts, copies, ratio = in_turn(place, "6b", rounds)
    written = size(place / "6b")
    apart = [cut(place / "family", place / "6b", "6b"), cut(place / "family", place / "9b", "9b")]
    for name in ("6b", "9b"):
        shutil.rmtree(place / name)
    both = cut(place / "family", place / "both", "9b", "6b")
    parent = family.parent
    whole, member = parameters(parent, parent.full), parameters(parent, family.member("6b").subnet)
    ran = [*cuts, *apart, both]
    anonymous, resident = max(r.anonymous for r in ran), max(r.resident for r in ran)
    lines = [
        f"| {whole / 1e9:.1f}B parameters ({layers} layers, {size(place / 'family') / 1e9:.1f} GB) | |",
        "|---|---:|",
        f"| cut the {member / 1e9:.1f}B member, median of {rounds} | {rate(written, cuts)} |",
        f"| `cp` of that member, in turn | {rate(written, copies)} |",
        f"| bytes per second against `cp` | {ratio:.2f} x |",
        f"| peak anonymous memory | {anonymous / 2**20:.0f} MiB |",
        f"| peak resident memory | {resident / 2**20:.0f} MiB |",
        f"| 9b and 6b in two passes | {sum(r.seconds for r in apart):.1f} s |",
        f"| 9b and 6b in one pass | {both.seconds:.1f} s |",
        f"| one pass against two | {both.seconds / sum(r.seconds for r in apart):.2f} x |",
    ]
    missed = []
    if ratio < TARGET:
        missed.append(f"the rate is {ratio:.2f} of cp's, wanted {TARGET:.2f}")
    if anonymous > MEMORY:
        missed.append(f"{anonymous / 2**20:.0f} MiB of anonymous memory, wanted {MEMORY / 2**20:.0f}")
    if both.seconds >= sum(r.seconds for r in apart):
        missed.append("one pass is no faster than two")
    for name in ("family", "both"):
        shutil.rmtree(place / name)
    return lines, missed


def rate(count: int, runs: list[Ran]) -> str:
    seconds = statistics.median(r.seconds for r in runs)
    return f"{seconds:.1f} s, {count / seconds / 1e6:.0f} MB/s"


def layers_that_fit(place: Path) -> int:
    """Layers of the largest family that the disk holds beside the members and a copy."""
    free = shutil.disk_usage(place).free - 4 * 10**9
    for layers in (62, 51, 40, 29, 18):
        family = family_of(layers)
        held = {m.name: 2 * m.parameters for m in family}
        # the most at one time: the family and two members, or the family, a member and its copy
        if sum(held.values()) < free and held["12b"] + 2 * held["9b"] < free:
            return layers
    raise SystemExit(f"{place}: about 20 GB of free disk are needed; --layers N takes less")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", type=Path, help="folder on the disk to measure; a temporary one by default")
    parser.add_argument("--layers", type=int, help="layers of the family, at most 62")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.place) as folder:
        place = Path(folder)
        lines, missed = measure(place, args.layers or layers_that_fit(place), args.rounds)
        lines += ["", *compare(place, SHORT)]
    table = "\n".join(lines) + "\n"
    print(table)
    if args.markdown:
        args.markdown.write_text(table)
    for line in missed:
        print(f"missed: {line}")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
