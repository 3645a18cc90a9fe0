# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of both hosts: NeMo against Megatron-Bridge, and Bridge's layouts against one rank.

    .venv-bridge/bin/python -m tests.hosts.bridge.table FOLDER --nemo .venv/bin/python [--markdown FILE]

The same tiny parent, data, seeds and budgets. Ends with exit code 1 where they train anything else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from nemo_elastic.formats.folders import open_source
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.hosts.bridge import experts, layouts
from tests.hosts.bridge.experts import RANKED, SHARED, TRAINED
from tests.hosts.bridge.layouts import PAIRS
from tests.parallel import test_packed as packed
from tests.parallel.bridge import STARTED_BY
from tests.parallel.compare import LOSS, WEIGHT, apart, checkpoint, lines, losses, rankings_apart
from tests.parallel.runs import Job, Layout, do, host, prepare, ranking_of
from tests.workers import ROOT, environment, work

#: on one rank of each host; two micro-batches a step, so that one step samples several budgets
HOSTS = {
    "on slices": Layout(micro_batches=2),
    "on slices of searched shapes": Layout(micro_batches=2, searched=True),
    "under the router's masks": Layout(micro_batches=2, soft=True),
}
STEPS = 4
NUMBERS = {2: "two", 4: "four"}
HEAD = "| what | steps | deviation of a loss | of a weight, in steps of the optimizer |\n| --- | ---: | ---: | ---: |"
RANKING = """\
| ranking, sorting and search with experts, ranks against one | deviation of a score | of a candidate's loss | \
sorted tensors that differ |
| --- | ---: | ---: | ---: |"""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path)
    parser.add_argument("--nemo", type=Path, default=ROOT / ".venv/bin/python", help="python that has NeMo")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args(argv)
    place: Path = args.place.resolve()
    assert __spec__ is not None  # as a program it is called otherwise
    command = [args.nemo, "-W", "ignore", "-m", "tests.parallel.forks", __spec__.name, "measure", place / "both"]
    measuring: list[ModuleType] = [layouts, packed, experts]
    for folder in ("both", *(module.__name__ for module in measuring)):
        (place / folder).mkdir(parents=True)
    subprocess.run([*map(str, command)], cwd=ROOT, env=environment(), check=True, stdout=sys.stderr)
    for name, folder in ((__spec__.name, "both"), *((module.__name__, module.__name__) for module in measuring)):
        work(*STARTED_BY, "tests.parallel.forks", name, "measure", place / folder)
    own, documents, sharing = (place / module.__name__ for module in measuring)
    table, differ = [HEAD], False
    for what, actual, wanted in pairs(place / "both", own, documents, sharing):
        loss, weight = apart(actual, wanted)
        table.append(f"| {what} | {len(lines(actual))} | {loss:.1e} | {weight:.1e} |")
        differ |= not (loss <= LOSS and weight <= WEIGHT)
    assert losses(own / "killed") == losses(own / "whole")
    table += ["", RANKING]
    for name, layout in RANKED.items():
        found = rankings_apart(sharing / f"rank-{name}", sharing / ranking_of(experts.ONE))
        table.append(f"| {layout.name} | {found.score:.1e} | {found.loss:.1e} | {found.weights} |")
        differ |= not found.alike
    table += ["", "A member cut from NeMo's checkpoint and from Megatron's of the same weights: "
              f"{same_bytes(place / 'both'):,} bytes of weights, all the same."]  # fmt: skip
    text = "\n".join(table) + "\n"
    print(text)
    if args.markdown:
        args.markdown.write_text(text)
    return int(differ)


def measure(place: Path, parts: Collection[str]) -> None:
    """Train with this host; the first of the two makes data and parent."""
    if not (place / "parent").exists():
        prepare(place, whole=False)
    name, teacher = host().__name__.rpartition(".")[2], checkpoint(place / "parent")
    do(place, *(Job(f"{name} {what}", layout=layout, steps=STEPS, ranked=None, teacher=teacher)
                for what, layout in HOSTS.items()))  # fmt: skip


def pairs(both: Path, own: Path, documents: Path, sharing: Path) -> Iterator[tuple[str, Path, Path]]:
    """What is compared, and the two runs."""
    for what in HOSTS:
        yield f"stage 1 {what}, NeMo against Bridge", both / f"bridge {what}", both / f"nemo {what}"
    for name, layout in PAIRS.items():
        yield f"Bridge, {against(layout)}", own / name, own / f"{name}-alone"
    for name, layout in packed.LAYOUTS.items():
        message = f"Bridge, documents in packed rows, {against(layout)}"
        yield message, documents / name, documents / packed.alone(name).name
    yield "Bridge, killed before its last step and started again", own / "killed", own / "whole"
    yield "Bridge, stage 2 from the other layout", own / "second-dp2", own / "second"
    for name, layout in TRAINED.items():
        yield f"Bridge with experts, {against(layout)}", sharing / name, sharing / layout.alone.name
    for before, now in SHARED[1:]:
        what = f"Bridge with experts, stage 2 with ep{now} from ep{before}"
        yield what, sharing / f"second-{before}-{now}", sharing / "second-1-1"


def against(layout: Layout) -> str:
    return f"{NUMBERS[layout.world]} ranks against one: {layout.name}"


def same_bytes(both: Path) -> int:
    """Cut the smallest member from NeMo's checkpoint, and from the same weights in Megatron's format."""
    from nemo_elastic.megatron.dist_checkpoint import write_cut

    source = open_source(checkpoint(both / "nemo on slices"))
    assert source.family is not None
    member = list(source.family)[-1].subnet
    write_cut(source, source.parent.full, both / "megatron", force=True)
    # a stock checkpoint does not say how many stripes the FFN was sorted in
    other = replace(open_source(both / "megatron"), parent=source.parent, held=source.parent.full)
    for name, origin in (("a", source), ("b", other)):
        slice_checkpoint(origin, both / f"cut-{name}", subnet=member, force=True)
    first, second = ((both / f"cut-{name}" / "model.safetensors").read_bytes() for name in "ab")
    assert first == second
    return len(first)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
