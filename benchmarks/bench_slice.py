# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cutting members out of large families: the rate against `cp`, and the memory.

    python -m benchmarks.bench_slice [--place DIR] [--layers 62] [--rounds 3] [--markdown FILE]
    python -m benchmarks.bench_slice --experts [--room 15]
    python -m benchmarks.bench_slice --quantized [--layers 20]

Without an option the family has Nemotron Nano V2 12B's exact shapes and random bfloat16 weights; its members are also
cut in one pass. `--quantized` makes low precision of it first. `--experts` has a family whose tensors are many:
Nemotron-3 Nano 30B-A3B's own, as many layers as fit in `--room`. All 62 layers of the 12B take about 61 GB of disk.

Every command is timed as a whole process, with the page cache of its input dropped before and its output on the disk
(fsync) at the end, in turn with the `cp` that it is compared with. Memory is what `/proc` says of the process.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.output import arguments, deliver, markdown, resident
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core import layout
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.core.manifest import Family
from nemo_elastic.formats.hf.writing import Model, write_models
from nemo_elastic.formats.low_precision import Weights
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.plan import preset

ROOT = Path(__file__).parents[1]
BLOCK = 2**25
SHORT = 8
#: least rate of a cut against `cp`, and most anonymous memory
TARGET, MEMORY = 0.9, 2**28
NANO = preset("nemotron-3-nano-30b-a3b")
#: axis -> what a member keeps of the 30B, in shares that multiples of 64 allow
KEPT = {"hidden": 18 / 21, "experts": 5 / 8, "expert_ffn": 24 / 29, "shared_ffn": 20 / 29, "mamba_heads": 3 / 4}
PRECISIONS = {"w4a16": (), "fp8": ("--layout", "compressed-tensors")}


# ------------------------------------------------------------------------------------------------------------ families


def dense_family(layers: int) -> Family:
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


def experts_family(parent: Parent) -> Family:
    """A parent in the stripes of the 30B's recipe, and a member that is smaller on every axis."""
    striped = ElasticConfig.load(ROOT / "conf" / "elastic_30b_a3b.yaml").parent_shape(parent)
    widths: dict[str, int] = {axis: round(striped.axis(axis).size * share) for axis, share in KEPT.items()}
    return Family.of(striped, {"30b": striped.full, "small": striped.uniform(None, **widths)})


def first_layers(room: float) -> Parent:
    """As many layers of the 30B as fit so many bytes, with a member of them and its copy."""
    for layers in range(NANO.num_layers, 1, -1):
        parent = replace(NANO, pattern=NANO.pattern[:layers])
        whole, small = (2 * m.parameters for m in experts_family(parent))
        if whole + 2 * small < room:
            return parent
    raise SystemExit(f"--room: {room / 1e9:.1f} GB do not hold two layers")


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
    write_models([Model(folder, parent, parent.full, Weights(tensors))])
    family.save(folder)


# ------------------------------------------------------------------------------------------------------------ commands


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
    processor: float


def run(command: Sequence[str]) -> Ran:
    """Run a command to its end and watch its memory."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
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
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(took, anonymous, most, computed)


def forget(folder: Path) -> None:
    """Drop what the page cache holds of a folder."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def command(*words: str) -> Ran:
    """`nemo-elastic` with these words."""
    return run([sys.executable, "-m", "nemo_elastic", *words])


def cut(family: Path, out: Path, *names: str) -> Ran:
    """`nemo-elastic slice` of some members, from a cold source."""
    shutil.rmtree(out, ignore_errors=True)
    forget(family)
    budgets = [word for name in names for word in ("--member", name)]
    return command("slice", str(family), *budgets, "--out", str(out))


def copy(source: Path, out: Path) -> Ran:
    """`cp` of a cold folder, and its output on the disk."""
    shutil.rmtree(out, ignore_errors=True)
    forget(source)
    return run(["bash", "-c", 'cp -r "$0" "$1" && sync "$1"/* "$1"', str(source), str(out)])


def size(folder: Path) -> int:
    """Bytes of all files in a folder and in its folders."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@dataclass(frozen=True)
class Turns:
    """A member that was cut out of a family and copied, in turn.

    Attributes:
        cuts, copies: of each round.
        written: bytes of the member.
    """

    cuts: Sequence[Ran]
    copies: Sequence[Ran]
    written: int

    @classmethod
    def of(cls, place: Path, member: str, rounds: int) -> Turns:
        """Of the family in `place`, which then has the member, too."""
        cuts: list[Ran] = []
        copies: list[Ran] = []
        for i in range(rounds):
            cuts.append(cut(place / "family", place / member, member))
            copies.append(copy(place / member, place / "copy"))
            shutil.rmtree(place / "copy")
            print(f"round {i + 1}: cut {cuts[-1].seconds:.1f} s, cp {copies[-1].seconds:.1f} s", flush=True)
        return cls(cuts, copies, size(place / member))

    @property
    def ratio(self) -> float:
        """Rate of the cut against that of `cp`."""
        return statistics.median(b.seconds / a.seconds for a, b in zip(self.cuts, self.copies, strict=True))

    @property
    def anonymous(self) -> int:
        return max(r.anonymous for r in self.cuts)

    def rows(self, member: str) -> dict[str, str]:
        """Cells of a table."""
        return {
            f"cut {member}, median of {len(self.cuts)}": self._rate(self.cuts),
            "`cp` of that member, in turn": self._rate(self.copies),
            "bytes per second against `cp`": f"{self.ratio:.2f} x",
        }

    def missed(self, name: str) -> list[str]:
        """Targets that were not met."""
        out = [f"{name}: {self.ratio:.2f} of the rate of cp, wanted {TARGET}"] if self.ratio < TARGET else []
        return out + _too_much(name, self.anonymous)

    def _rate(self, runs: Sequence[Ran]) -> str:
        seconds = statistics.median(r.seconds for r in runs)
        return f"{seconds:.1f} s, {self.written / seconds / 1e6:.0f} MB/s"


def _too_much(name: str, anonymous: int) -> list[str]:
    words = f"{name}: {mib(anonymous)} of anonymous memory, wanted {mib(MEMORY)}"
    return [words] if anonymous > MEMORY else []


def mib(count: float) -> str:
    return f"{count / 2**20:.0f} MiB"


def billions(count: float) -> str:
    return f"{count / 1e9:.1f}B"


def table(title: str, columns: Mapping[str, Mapping[str, str]]) -> str:
    """Name of a column -> name of a row -> cell; all columns have the same rows."""
    rows = [[name, *(cells[name] for cells in columns.values())] for name in next(iter(columns.values()))]
    return markdown([title, *columns], rows)


Found = tuple[str, list[str], dict[str, object]]


# -------------------------------------------------------------------------------------------------------- measurements


def dense(place: Path, layers: int, rounds: int) -> Found:
    """The 12B: a member in turn with `cp`, and two members apart and in one pass."""
    family = dense_family(layers)
    make(place / "family", family)
    turns = Turns.of(place, "6b", rounds)
    apart = [cut(place / "family", place / "6b", "6b"), cut(place / "family", place / "9b", "9b")]
    for name in ("6b", "9b"):
        shutil.rmtree(place / name)
    both = cut(place / "family", place / "both", "9b", "6b")
    two, ran = sum(r.seconds for r in apart), [*turns.cuts, *apart, both]
    anonymous = max(r.anonymous for r in ran)
    rows = turns.rows(f"the {billions(family.member('6b').parameters)} member") | {
        "peak anonymous memory": mib(anonymous),
        "peak resident memory": mib(max(r.resident for r in ran)),
        "9b and 6b in two passes": f"{two:.1f} s",
        "9b and 6b in one pass": f"{both.seconds:.1f} s",
        "one pass against two": f"{both.seconds / two:.2f} x",
    }
    whole = billions(family.member("12b").parameters)
    title = f"{whole} parameters ({layers} layers, {size(place / 'family') / 1e9:.1f} GB)"
    missed = turns.missed("6b") or _too_much("9b", anonymous)
    missed += ["one pass is no faster than two"] if both.seconds >= two else []
    for name in ("family", "both"):
        shutil.rmtree(place / name)
    return table(title, {"": rows}), missed, {"ratio": turns.ratio, "anonymous": anonymous}


def with_experts(place: Path, room: float, rounds: int) -> Found:
    """A family with experts, and a member in turn with `cp`."""
    parent = first_layers(room)
    family, load = experts_family(parent), os.getloadavg()[0]
    make(place / "family", family)
    turns = Turns.of(place, "small", rounds)
    held = [t for t in layout.tensors(family.parent, family.parent.full) if t.number is not None]
    each = 2 * held[0].shape[0] * held[0].shape[1]
    title = (
        f"{billions(family.member('30b').parameters)} parameters ({parent.num_layers} layers, "
        f"{size(place / 'family') / 1e9:.1f} GB), {len(held):,} tensors of experts, {each / 1e6:.1f} MB each"
    )
    member = f"a member of {billions(family.member('small').parameters)}, {turns.written / 1e9:.1f} GB"
    processor = [statistics.median(r.processor for r in runs) for runs in (turns.cuts, turns.copies)]
    rows = turns.rows(member) | {
        "processor time of the cut": f"{processor[0]:.1f} s",
        "processor time of `cp`": f"{processor[1]:.1f} s",
        "peak anonymous memory": mib(turns.anonymous),
        "peak resident memory": mib(max(r.resident for r in turns.cuts)),
        f"load average of the {os.cpu_count()} cores before it began": f"{load:.1f}",
    }
    return table(title, {"": rows}), turns.missed("experts"), {"ratio": turns.ratio}


def quantized(place: Path, layers: int, rounds: int) -> Found:
    """The 12B in low precision: making it, and a member in turn with `cp`."""
    family, columns, missed, ratios = dense_family(layers), {}, [], {}
    make(place / "bf16", family)
    before = size(place / "bf16")
    for to, more in PRECISIONS.items():
        forget(place / "bf16")
        made = command("quantize", str(place / "bf16"), "--to", to, *more, "--out", str(place / "family"))
        turns = Turns.of(place, "6b", rounds)
        columns[f"`{to}`"] = {
            "`quantize` of it": f"{made.seconds:.0f} s, {before / made.seconds / 1e6:.0f} MB/s",
            "peak anonymous memory of that, torch included": mib(made.anonymous),
            "the family then": f"{size(place / 'family') / 1e9:.1f} GB",
            **turns.rows(f"the {billions(family.member('6b').parameters)} member"),
            "peak anonymous memory of the cut": mib(turns.anonymous),
        }
        missed += turns.missed(to)
        ratios[to] = turns.ratio
        for folder in ("family", "6b"):
            shutil.rmtree(place / folder)
    whole = billions(parameters(family.parent, family.parent.full))
    title = f"{whole} parameters ({layers} layers, {before / 1e9:.1f} GB in bfloat16)"
    return table(title, columns), missed, ratios


def main() -> None:
    parser = arguments(__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--experts", action="store_true", help="families with many small tensors")
    which.add_argument("--quantized", action="store_true", help="the 12B in low precision")
    parser.add_argument("--place", type=Path, help="folder on the disk to measure; a temporary one by default")
    parser.add_argument("--layers", type=int, help="layers of the 12B, at most 62; 8, and 20 with --quantized")
    parser.add_argument("--room", type=float, default=15, help="GB of the disk to use with --experts, at most")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.place) as folder:
        place = Path(folder)
        if args.experts:
            text, missed, figures = with_experts(place, args.room * 1e9, args.rounds)
        elif args.quantized:
            text, missed, figures = quantized(place, args.layers or 20, args.rounds)
        else:
            text, missed, figures = dense(place, args.layers or SHORT, args.rounds)
    deliver(args, figures, text, missed)


if __name__ == "__main__":
    main()
