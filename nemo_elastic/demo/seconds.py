# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where the seconds of a demo went: `python -m nemo_elastic.demo.seconds runs/demo` prints a table."""

from __future__ import annotations

from pathlib import Path

from nemo_elastic.errors import bad
from nemo_elastic.report.run_record import load_run


def table(run: Path) -> str:
    """Wall time of every phase as a Markdown table, and how the phases that train divide theirs.

    The clock of a training phase's steps starts with training: up to the end of the first step goes what a stage does
    before it (rank, sort, search shapes); around the steps are building the model, loading and saving checkpoints.

    Args:
        run: a demo's folder.

    Raises:
        ElasticError: it has no `metrics.json` with the seconds of its phases.
    """
    loaded = load_run(run)
    told = loaded.results
    if told is None or told.total is None:
        raise bad("run", str(run), "the folder of a finished demo, with the seconds of its phases in metrics.json")
    steps = {phase.label: [line["seconds"] for line in phase.steps] for phase in loaded.phases}
    lines = [
        "| phase | s | share | up to the first step | further steps | around them |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, taken in [*told.seconds.items(), ("total", told.total)]:
        parts = [""] * 3
        if steps.get(name):
            first, last = steps[name][0], steps[name][-1]
            parts = [f"{part:.1f}" for part in (first, last - first, taken - last)]
        lines.append(f"| {name} | {taken:.1f} | {taken / told.total:.0%} | {' | '.join(parts)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    print(table(Path(sys.argv[1])), end="")
