# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A member and its teacher on NeMo's own packed prompts and answers, on one rank and on two.

python -m tests.hosts.nemo.packed_worker FOLDER: trains there; `test_packed.py` compares what the runs left.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.parallel.runs import LENGTH, Layout

STEPS, MICRO_BATCHES = 2, 4
#: rows of a step, one to a micro-batch
LAYOUTS = {
    "alone": Layout(micro_batches=MICRO_BATCHES),
    "joined": Layout(micro_batches=MICRO_BATCHES),
    "dp2": Layout(data=2, micro_batches=MICRO_BATCHES // 2),
    "pp2": Layout(pipeline=2, micro_batches=MICRO_BATCHES),
    "halved": Layout(micro_batches=MICRO_BATCHES, halved=True),
    "halved pp2": Layout(pipeline=2, micro_batches=MICRO_BATCHES, halved=True),
}


def packed_task(place: Path, out: Path, layout: Layout, steps: int, every: int = 0, **changes: Any) -> Any:
    """An elastic recipe on the packed data, from the ranking that was made on text; see `runs.elastic_task`."""
    import nemo_run as run
    import torch
    from nemo.collections import llm
    from nemo.collections.llm.gpt.data.packed_sequence import PackedSequenceSpecs

    from tests.parallel import runs

    runs.quiet()
    torch.cuda.LongTensor = torch.LongTensor  # NeMo counts its samples with it
    task = runs.elastic_task(place, out, layout, steps, every, sampling={"large": 1}, **changes)
    task.data = run.Config(
        llm.FineTuningDataModule, dataset_root=str(place / "sft"), seq_length=LENGTH, micro_batch_size=1,
        global_batch_size=layout.data * layout.micro_batches, tokenizer=task.data.tokenizer, num_workers=0,
        dataset_kwargs={"pad_to_max_length": True},
        packed_sequence_specs=run.Config(
            PackedSequenceSpecs, packed_sequence_size=LENGTH, tokenizer_model_name="tiny"
        ),
    )  # fmt: skip
    return task


def train(place: Path, name: str) -> None:
    """One run, of its own ranks."""
    import fiddle

    changes = {"data": {"documents": "joined"}} if name == "joined" else {}
    fiddle.build(packed_task(place, place / name, LAYOUTS[name], STEPS, **changes))()


def main(place: Path) -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from tests.hosts.bridge.runs import write_prompts
    from tests.parallel import forks

    forks.prepare(place)
    write_prompts(place)
    for name, layout in LAYOUTS.items():
        forks.run(place / name / "log", layout.world, train, place, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
