# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of both hosts: NeMo against Megatron-Bridge, and Bridge's layouts against one rank.

    .venv-bridge/bin/python -m tests.hosts.bridge.table FOLDER --nemo .venv/bin/python [--markdown FILE]

The same tiny parent, data, seeds and budgets. Ends with exit code 1 where they train anything else.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nemo_elastic.formats.folders import open_source
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.hosts.bridge.experts import (
    CANDIDATE,
    ONE,
    RANKED,
    SCORE,
    SHARED,
    TRAINED,
    alone,
    ranked,
    rankings_apart,
    train_experts,
)
from tests.hosts.bridge.layouts import (
    LOSS,
    PACKED,
    PAIRS,
    WEIGHT,
    apart,
    checkpoint,
    do,
    lines,
    losses,
    packed_alone,
    train_all,
)
from tests.hosts.bridge.nemo_side import LAYOUTS, STEPS
from tests.hosts.bridge.runs import Job
from tests.workers import ROOT

WHAT = {
    "sliced": "stage 1 on slices, NeMo against Bridge",
    "halved": "stage 1 on candidates, of which one of each is left, NeMo against Bridge",
    "soft": "stage 1 under the router's masks, NeMo against Bridge",
}
#: what was compared, steps, and how far they are apart, see `layouts.apart`
Row = tuple[str, int, float, float]
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
    both, experts = place / "both", place / "experts"
    experts.mkdir(parents=True)
    train_all(place)
    train_experts(experts)
    actual = [*between_hosts(both, args.nemo), *between_layouts(place), *between_layouts_of_experts(experts)]
    one = experts / ranked(ONE)
    rankings = {ranks.name: rankings_apart(experts / f"rank-{name}", one) for name, ranks in RANKED.items()}
    bytes_ = same_bytes(both)
    table = [HEAD, *(f"| {what} | {steps} | {loss:.1e} | {weight:.1e} |" for what, steps, loss, weight in actual)]
    table += ["", RANKING]
    table += [f"| {name} | {d.score:.1e} | {d.loss:.1e} | {d.weights} |" for name, d in rankings.items()]
    table += ["", f"A member cut from NeMo's checkpoint and from Megatron's of the same weights: {bytes_:,} bytes of "
              "weights, all the same."]  # fmt: skip
    text = "\n".join(table) + "\n"
    print(text)
    if args.markdown:
        args.markdown.write_text(text)
    differ = any(loss > LOSS or weight > WEIGHT for _, _, loss, weight in actual)
    return int(differ or any(d.score > SCORE or d.loss > CANDIDATE or d.weights for d in rankings.values()))


def between_hosts(both: Path, nemo: Path) -> Iterator[Row]:
    """Train with NeMo, and the same with Bridge."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [nemo, "-W", "ignore", "-m", "tests.hosts.bridge.nemo_side", both]
    subprocess.run([*map(str, command)], cwd=ROOT, env=env, check=True, stdout=sys.stderr)
    parent = str(checkpoint(both / "parent"))
    do(both, "bridge", [
        Job(str(both / f"bridge-{n}"), layout=layout, steps=STEPS, teacher=parent) for n, layout in LAYOUTS.items()
    ])  # fmt: skip
    for name in LAYOUTS:
        yield WHAT[name], STEPS, *apart(both / f"bridge-{name}", both / f"nemo-{name}")


def between_layouts(place: Path) -> Iterator[Row]:
    """What `train_all` has left."""
    for name, layout in PAIRS.items():
        message = f"Bridge, {NUMBERS[layout.world]} ranks against one: {layout.name}"
        message += ", loss per token" if "per-token" in name else ""
        yield message, len(lines(place / name)), *apart(place / name, place / f"{name}-alone")
    for name, layout in PACKED.items():
        message = f"Bridge, documents in packed rows, {NUMBERS[layout.world]} ranks against one: {layout.name}"
        yield message, len(lines(place / name)), *apart(place / name, place / packed_alone(name))
    assert losses(place / "killed") == losses(place / "whole")
    yield "Bridge, killed before its last step and started again", 4, *apart(place / "killed", place / "whole")
    yield "Bridge, stage 2 from the other layout", 2, *apart(place / "second-dp2", place / "second")


def between_layouts_of_experts(place: Path) -> Iterator[Row]:
    """What `train_experts` has left."""
    for name, ranks in TRAINED.items():
        message = f"Bridge with experts, {NUMBERS[ranks.layout.world]} ranks against one: {ranks.name}"
        yield message, len(lines(place / name)), *apart(place / name, place / alone(name))
    for before, now in SHARED[1:]:
        message, name = f"Bridge with experts, stage 2 with ep{now} from ep{before}", f"second-{before}-{now}"
        yield message, len(lines(place / name)), *apart(place / name, place / "second-1-1")


def same_bytes(both: Path) -> int:
    """Cut the smallest member from NeMo's checkpoint, and from the same weights in Megatron's format."""
    from nemo_elastic.megatron.dist_checkpoint import write_cut

    source = open_source(checkpoint(both / "nemo-sliced"))
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
