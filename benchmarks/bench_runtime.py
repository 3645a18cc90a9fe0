# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family of over 1 GiB in memory once: what three live members take, and how fast they are.

    python -m benchmarks.bench_runtime [--place DIR] [--json FILE] [--markdown FILE]

A random family in float32 is written to a temporary folder (needs 4 GB of disk), and its three members are cut out.
Each measurement runs in a new process:

- memory: the largest member's folder alone, all three members of the family folder, and the three member folders in
  one process; every model reads 64 tokens and then decodes 32, in turn with the others, all caches alive. What counts
  is the peak of the anonymous memory above what the process has before it loads.
- select: members and shapes between them, at the 62 layers and the vocabulary of the 12B parent and tiny widths,
  without anything cached. Selecting cuts no layer: the first forward of one token does, so it is timed, too, and
  those that follow.
- decoding: a member of the family and the same member's own folder take turns.

Ends with exit code 1 if a target is missed. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.output import arguments, deliver, markdown, resident

if TYPE_CHECKING:  # a process that measures memory imports what it needs
    from nemo_elastic.core.family import Parent, Subnet

NAMES = ("1.00", "0.72", "0.50")
PROMPT, NEW = 64, 32
MEMORY, SELECT_MS, FIRST = 1.05, 1.0, 2.5  # targets: at most; FIRST over the forwards that follow


def shape() -> Parent:
    """The proportions of Nemotron Nano 12B v2 at two fifths of its width and few layers."""
    from nemo_elastic.core.family import Parent

    return Parent(
        "M-M*-M-M", hidden=2048, vocab=12288, ffn=8192, mamba_heads=64, mamba_head_dim=64, mamba_groups=8, state=128,
        attention_heads=16, kv_heads=4, attention_head_dim=128, ffn_stripes=8,
    )  # fmt: skip


def members(parent: Parent) -> dict[str, Subnet]:
    """Three nested members; between them every axis is cut."""
    middle = {"hidden": 1792, "ffn": 6144, "mamba_heads": 48}
    small = {"hidden": 1536, "ffn": 5120, "mamba_heads": 48, "mamba_head_dim": 56, "attention_heads": 12}
    shapes = (parent.full, parent.uniform(None, **middle), parent.uniform(range(parent.num_layers - 1), **small))
    return dict(zip(NAMES, shapes, strict=True))


def make(place: Path) -> dict[str, Any]:
    """Write the family, its members and a prompt below `place`."""
    import numpy as np

    from nemo_elastic.core.cost import parameters
    from nemo_elastic.core.manifest import Family
    from nemo_elastic.nn.weights import random_state
    from nemo_elastic.slicing.family_folder import write_family
    from nemo_elastic.slicing.slicer import slice_checkpoint

    parent = shape()
    subnets = members(parent)
    write_family(place / "family", parent, random_state(parent, parent.full), Family.of(parent, subnets))
    for name in NAMES:
        slice_checkpoint(place / "family", place / name, member=name)
    np.save(place / "tokens.npy", np.random.default_rng(0).integers(parent.vocab, size=(1, PROMPT)))
    return {name: parameters(parent, member) for name, member in subnets.items()}


def hold(place: Path, folders: list[str], names: list[str]) -> dict[str, Any]:
    """Peak of the anonymous memory while members of these folders are loaded and decode in turn."""
    import numpy as np
    import torch

    from nemo_elastic.runtime import load_family

    tokens = torch.from_numpy(np.load(place / "tokens.npy"))
    torch.nn.functional.linear(torch.ones(64, 64), torch.ones(64, 64))  # threads and their buffers are no model's
    before = resident("RssAnon")
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            peak[0] = max(peak[0], resident("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    families = [load_family(place / folder) for folder in folders]
    loaded = resident("RssAnon")
    live = [family.select(name) for family in families for name in names if name in family.names]
    caches = [model.init_cache(1) for model in live]
    last = [model(tokens, cache, last=True) for model, cache in zip(live, caches, strict=True)]
    for _ in range(NEW):
        last = [m(x[:, -1].argmax(-1, keepdim=True), c, last=True) for m, c, x in zip(live, caches, last, strict=True)]
    done.set()
    watcher.join()
    return {
        "loaded": loaded - before,
        "peak": peak[0] - before,
        "models": len(live),
        "slices": sum(family.slice_bytes for family in families),
    }


def select_times() -> dict[str, Any]:
    """Median milliseconds of a first `select`, the first forward and the next, for the slowest of some shapes."""
    from dataclasses import replace

    import torch

    from nemo_elastic.core import layout
    from nemo_elastic.nn.nemotron_h import NemotronH
    from nemo_elastic.nn.weights import check_nested
    from nemo_elastic.plan import preset
    from nemo_elastic.runtime import FamilyRuntime

    parent = replace(
        shape(), pattern=preset("nemotron-nano-12b-v2").pattern, hidden=48, vocab=131072,
        ffn=64, mamba_heads=32, mamba_head_dim=4, state=4, attention_head_dim=4,
    )  # fmt: skip
    keep = [i for i in range(62) if i not in (20, 21)]
    small = {"hidden": 40, "ffn": 48, "mamba_heads": 24, "mamba_head_dim": 3, "attention_heads": 12}
    family = {"a": parent.full, "b": parent.uniform(hidden=44, ffn=56), "c": parent.uniform(keep, **small)}
    between = [parent.uniform(keep, **(small | {"hidden": d, "ffn": f})) for d in (41, 42, 43) for f in (48, 56)]
    model = NemotronH.random(parent)
    shapes = [*family, *between]
    tokens = torch.zeros(1, 1, dtype=torch.long)
    steps = ("select", "first", "next")
    times: list[dict[str, list[float]]] = [{step: [] for step in steps} for _ in shapes]
    for _ in range(15):
        runtime = FamilyRuntime(model, family)
        for which, taken in zip(shapes, times, strict=True):
            check_nested.cache_clear()
            layout._selection.cache_clear()
            began = [time.perf_counter()]
            member = runtime.select(which)
            began.append(time.perf_counter())
            for _ in steps[1:]:
                member(tokens, last=True)
                began.append(time.perf_counter())
            for step, start, end in zip(steps, began, began[1:], strict=False):
                taken[step].append(1e3 * (end - start))
    medians = [{step: statistics.median(taken[step]) for step in steps} for taken in times]
    slowest = max(medians, key=lambda row: row["select"] + row["first"])
    return slowest | {"select": max(row["select"] for row in medians)}


def decode(place: Path) -> dict[str, Any]:
    """Each member in the family and alone, in turn: tokens per second."""
    import numpy as np
    import torch

    from nemo_elastic.runtime import MemberModel, load_family

    def seconds(model: MemberModel) -> tuple[float, float]:
        cache = model.init_cache(1)
        began = time.perf_counter()
        model(tokens, cache, last=True)
        read = time.perf_counter()
        for i in range(12):
            model(tokens[:, i : i + 1], cache, last=True)
        return read - began, (time.perf_counter() - read) / 12

    tokens = torch.from_numpy(np.load(place / "tokens.npy"))
    family = load_family(place / "family")
    figures = {}
    for name in NAMES:
        inside, alone = family.select(name), load_family(place / name).select()
        rounds = [(seconds(inside), seconds(alone)) for _ in range(9)][1:]
        figures[name] = {
            "read": [PROMPT / statistics.median(r[i][0] for r in rounds) for i in (0, 1)],
            "decode": [1 / statistics.median(r[i][1] for r in rounds) for i in (0, 1)],
            "ratio": statistics.median(r[1][1] / r[0][1] for r in rounds),
            "read_ratio": statistics.median(r[1][0] / r[0][0] for r in rounds),
        }
    return figures


def worker(kind: str, place: Path, *folders: str) -> dict[str, Any]:
    """What `kind` returns in a new process."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_runtime", "--worker", kind]
    done = subprocess.run([*command, "--place", str(place), *folders], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{kind}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(place: Path) -> dict[str, Any]:
    """All measurements."""
    return {
        "parameters": worker("make", place),
        "alone": worker("hold", place, NAMES[0]),
        "family": worker("hold", place, "family"),
        "folders": worker("hold", place, *NAMES),
        "select": worker("select", place),
        "speed": worker("decode", place),
    }


def missed(figures: dict[str, Any]) -> list[str]:
    """Targets that were not met."""
    tests = {
        f"memory <= {MEMORY} x the largest": figures["family"]["peak"] <= MEMORY * figures["alone"]["peak"],
        "three models live": figures["family"]["models"] == figures["folders"]["models"] == len(NAMES),
        f"select < {SELECT_MS} ms": figures["select"]["select"] < SELECT_MS,
        f"the first forward <= {FIRST} x the next": figures["select"]["first"] <= FIRST * figures["select"]["next"],
    }
    return [name for name, met in tests.items() if not met]


def table(figures: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    alone, family, folders = (figures[k]["peak"] for k in ("alone", "family", "folders"))
    select, first, after = (figures["select"][k] for k in ("select", "first", "next"))
    rows = [
        ["weights of the family", f"{4 * figures['parameters'][NAMES[0]] / 2**30:.2f} GiB", "at least 1 GiB"],
        ["peak memory, largest member alone", f"{alone / 2**20:,.0f} MiB", ""],
        ["peak memory, all three in one family", f"{family / 2**20:,.0f} MiB, {family / alone:.3f} x", f"{MEMORY} x"],
        ["peak memory, three folders", f"{folders / 2**20:,.0f} MiB, {folders / alone:.3f} x", ""],
        ["first `select` at 62 layers, which cuts none", f"{select:.2f} ms", f"{SELECT_MS:.0f} ms"],
        ["first forward of one token after it, which cuts them", f"{first:.1f} ms, {first / after:.2f} x the next",
         f"{FIRST:.1f} x"],
        ["next forward", f"{after:.1f} ms", ""],
    ]  # fmt: skip
    head = ["member", "parameters", "decode, tokens/s", "decode alone", "decode, family / alone", "read, tokens/s",
            "read alone", "read, family / alone"]  # fmt: skip
    speeds = []
    for name in NAMES:
        speed, cells = figures["speed"][name], [name, f"{figures['parameters'][name]:,}"]
        for way, ratio in (("decode", "ratio"), ("read", "read_ratio")):
            cells += [f"{speed[way][0]:.1f}", f"{speed[way][1]:.1f}", f"{speed[ratio]:.2f}"]
        speeds.append(cells)
    return markdown(["what", "measured", "target"], rows) + "\n" + markdown(head, speeds)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--place", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("folders", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        kinds = {
            "make": lambda: make(args.place),
            "hold": lambda: hold(args.place, args.folders, list(NAMES)),
            "select": select_times,
            "decode": lambda: decode(args.place),
        }
        print(json.dumps(kinds[args.worker]()))
        return
    with tempfile.TemporaryDirectory(dir=args.place) as place:
        figures = measure(Path(place))
    deliver(args, figures, table(figures), missed(figures))


if __name__ == "__main__":
    main()
