# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Print docs/tables/plan_stage2.md: stage 2 of the 12B family on 128 H100, by layout, at two lengths.

`.venv/bin/python tools/plan_table.py > docs/tables/plan_stage2.md`; a test compares. `nemo-elastic plan` prints the
same figures, and those of all other layouts.
"""

from __future__ import annotations

from pathlib import Path

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.plan import Layout, RunShape, layouts, preset

CONFIG = Path(__file__).parents[1] / "conf" / "elastic_12b.yaml"
#: tokens per sequence -> sequences per step
LENGTHS = {49152: 512, 131072: 192}
#: tensor- and context-parallel sizes
SIZES = ((4, 1), (8, 1), (2, 4), (4, 2))


def shape(length: int, batch: int) -> RunShape:
    """Stage 2 on 128 H100."""
    return RunShape(length, batch, gpus=128, gpu="h100", stage=2)


def table(length: int, batch: int) -> str:
    """One table and what a step costs, as Markdown."""
    run = shape(length, batch)
    planned = layouts(preset("nemotron-nano-12b-v2"), ElasticConfig.load(CONFIG), run)
    rows = [_row(layout) for layout in planned if (layout.tensor, layout.context) in SIZES and layout.pipeline == 1]
    work = {part: flops / 1e15 for part, flops in next(x for x in planned if x.recompute).work.to_json().items()}
    return "\n".join(
        [
            f"| {length} tokens | parameters | activations | loss | in all |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            f"A step of {batch} x {length} tokens with recomputation is {work['total']:,.0f} PFLOP: student "
            f"{work['student']:,.0f}, recomputation {work['recompute']:,.0f}, teacher {work['teacher']:,.0f}.",
            "",
        ]
    )


def _row(layout: Layout) -> str:
    m = layout.memory
    held = (m.weights + m.gradients + m.optimizer + m.teacher, m.activations, m.loss)
    name = str(layout).replace(f" PP1 DP{layout.data}", "")
    total = f"**{m.total / 1e9:.1f}**" if layout.fits else f"{m.total / 1e9:.1f}"
    return f"| {' | '.join([name, *(f'{size / 1e9:.1f}' for size in held), total])} |"


def page() -> str:
    """All tables."""
    usable = shape(*next(iter(LENGTHS.items()))).usable
    note = (
        f"GB per GPU. Bold: fits the {usable / 1e9:.1f} that are usable. *Parameters* are weights, "
        "gradients, optimizer and teacher; *in all* has the larger of loss and backward pass.\n"
    )
    return "\n".join([note, *(table(*run) for run in LENGTHS.items())])


if __name__ == "__main__":
    print(page(), end="")
