# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The table of both hosts: NeMo against Megatron-Bridge, and Bridge's layouts against one rank.

    .venv-bridge/bin/python -m tests.hosts.bridge.table FOLDER --nemo .venv/bin/python [--markdown FILE]

The same tiny parent, data, seeds and budgets. Ends with exit code 1 where they train anything else.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from nemo_elastic.formats.registry import open_source
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.hosts.bridge.layouts import LOSS, PAIRS, WEIGHT, apart, checkpoint, lines, losses, ranks, train_all
from tests.hosts.bridge.nemo_side import LAYOUTS, STEPS
from tests.hosts.bridge.runs import Job
from tests.workers import ROOT

WHAT = {
    "sliced": "stage 1 on slices, NeMo against Bridge",
    "soft": "stage 1 under the router's masks, NeMo against Bridge",
}
HEAD = "| what | steps | deviation of a loss | of a weight, in steps of the optimizer |\n| --- | ---: | ---: | ---: |"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path)
    parser.add_argument("--nemo", type=Path, default=ROOT / ".venv/bin/python", help="python that has NeMo")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args(argv)
    place: Path = args.place.resolve()
    found: list[tuple[str, int, float, float]] = []
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    both = place / "both"
    command = [args.nemo, "-W", "ignore", "-m", "tests.hosts.bridge.nemo_side", both]
    subprocess.run([*map(str, command)], cwd=ROOT, env=env, check=True, stdout=sys.stderr)
    parent = str(checkpoint(both / "parent"))
    jobs = [
        Job(str(both / f"bridge-{n}"), layout=layout, steps=STEPS, teacher=parent) for n, layout in LAYOUTS.items()
    ]
    assert ranks(both, "bridge", jobs) == [0]
    for name in LAYOUTS:
        found.append((WHAT[name], STEPS, *apart(both / f"bridge-{name}", both / f"nemo-{name}")))
    train_all(place)
    for name, layout in PAIRS.items():
        told = f"Bridge, two ranks against one: {layout.name}"
        found.append((told, len(lines(place / name)), *apart(place / name, place / f"{name}-alone")))
    assert losses(place / "killed") == losses(place / "whole")
    found.append(
        ("Bridge, killed before its last step and started again", 4, *apart(place / "killed", place / "whole"))
    )
    found.append(("Bridge, stage 2 from the other layout", 2, *apart(place / "second-dp2", place / "second")))
    bytes_ = same_bytes(both)
    table = [HEAD, *(f"| {what} | {steps} | {loss:.1e} | {weight:.1e} |" for what, steps, loss, weight in found)]
    table += ["", f"A member cut from NeMo's checkpoint and from Megatron's of the same weights: {bytes_:,} bytes of "
              "weights, all the same."]  # fmt: skip
    text = "\n".join(table) + "\n"
    print(text)
    if args.markdown:
        args.markdown.write_text(text)
    return int(any(loss > LOSS or weight > WEIGHT for _, _, loss, weight in found))


def same_bytes(both: Path) -> int:
    """Cut the smallest member from NeMo's checkpoint, and from the same weights in Megatron's format."""
    from nemo_elastic.megatron.write import write_cut

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
