# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a host's large recipes do by default, read from what they build, into docs/tables.

`make tables NAME="recipes recipes_bridge"` runs it in the environment of each host; tests compare.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nemo_elastic.hosts.common.planned import NODES
from nemo_elastic.plan.layouts import duration
from nemo_elastic.plan.stages import PAPER
from recipes.families import FAMILIES

HEAD = ("Recipe", "Stage", "Sequence", "Batch", "Steps", "Tokens", "Sampled", "Layout", "Weights, gradients",
        "GB of a GPU", "GPU-hours")  # fmt: skip


def table(host: str) -> str:
    """The hyper-parameters of both stages of every large recipe, and the layouts on their default machines."""
    lines, families = [_row(HEAD), "|---|" + "---:|" * 5 + "---|" * 3 + "---:|" * 2], []
    for name, row in FAMILIES.items():
        if row.host != host:
            continue
        family = row.family(name)
        families.append(family)
        for number in (1, 2):
            stage = PAPER.stage(number)
            layout = family.layout(number, PAPER, NODES * 8, "h100")
            config = stage.block(family.config)
            time = duration(layout, stage.max_steps)
            sampled = zip(config.budgets, config.weights(), strict=True)
            lines.append(_row((
                f"`{name}`", number, stage.seq_length, stage.global_batch_size, stage.max_steps,
                f"{stage.tokens / 1e9:.1f}B", ", ".join(f"{budget.name} {weight:.2g}" for budget, weight in sampled),
                layout, f"{family.precision.weights}, {family.precision.gradients}",
                f"{layout.memory.total / 1e9:.1f}", f"{time.gpu_hours:,.0f} to {time.gpu_hours_high:,.0f}",
            )))  # fmt: skip
    return "\n".join(lines) + "\n" + ("\n" + _same(PAPER, families[0].config) if host == "nemo" else "")


def _same(curriculum: Any, config: Any) -> str:
    rows = (
        (
            "learning rate of the weights",
            f"{curriculum.lr:g}, cosine over both stages to {curriculum.min_ratio:g} of it",
        ),
        ("warm-up", f"{curriculum.warmup_steps} steps, once"),
        ("sequences ranked", f"{config.importance.samples}"),
        ("candidates of the search", f"{config.search.candidates}, on {config.search.tokens} tokens each"),
        ("loss", f"forward KL from the {config.distill.teacher} parent at temperature {config.distill.temperature:g}"),
    )
    return "\n".join([_row(("In all of them", "set to")), "|---|---|", *(_row(row) for row in rows)]) + "\n"


def _row(cells: Any) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    host, file = sys.argv[1:]
    Path(file).write_text(table(host), encoding="utf-8")
