# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The NeMo host's half of the comparison: python -m tests.hosts.bridge.nemo_side PLACE, in NeMo's environment.

It leaves data and a parent in PLACE, and in PLACE/nemo-{sliced,halved,soft} runs that rank and train on one rank.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.parallel.runs import Layout, block_of, parent, prepare_parent, quiet, recipe

STEPS = 4
#: two micro-batches a step, so that one step samples several budgets
LAYOUTS = {
    "sliced": Layout(micro_batches=2),
    "halved": Layout(micro_batches=2, halved=True),
    "soft": Layout(micro_batches=2, soft=True),
}


def main(place: Path) -> None:
    import fiddle
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    quiet()
    prepare_parent(place)
    for name, layout in LAYOUTS.items():
        destroy_num_microbatches_calculator()
        out = place / f"nemo-{name}"
        stock = recipe(place, out, layout, STEPS)
        task = apply_elastic(
            stock, block_of(layout), teacher=str(parent(place)), out=str(out / "elastic"), verbose=False
        )
        fiddle.build(task)()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
