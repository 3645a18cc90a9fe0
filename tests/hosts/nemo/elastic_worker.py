# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Two steps of elastic training, the shortest way to a checkpoint as training writes it; a process of its own.

    python -m tests.hosts.nemo.elastic_worker FOLDER

FOLDER gets `checkpoint`, and `facts.json` with the members that the model held at the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.texts import FEW, library_text

BLOCK = {
    "budgets": [{"name": "full"}, {"name": "large", "ratio": 0.8}, {"name": "small", "ratio": 0.6}],
    "axes": {
        "hidden": [128, 112, 96],
        "ffn": {"choices": [512, 384, 256, 128], "stripes": 4},
        "mamba_heads": [16, 12, 8],
        "depth": [12, 11, 10],
    },
    "importance": {"samples": 2, "depth_samples": 2},
    "shapes": "even",
    "distill": {"teacher": "self"},
}


def main(folder: Path) -> None:
    import fiddle
    import lightning.pytorch as pl
    import torch

    from nemo_elastic.data.build import build_data
    from nemo_elastic.demo.quiet import quiet
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint, tiny_recipe

    quiet()
    torch.set_num_threads(1)
    text = library_text(folder / "text", FEW)
    build_data(folder / "data", [text], vocab=500, held_out_problems=4)

    class Recorder(pl.Callback):
        def on_train_end(self, trainer: Any, module: Any) -> None:
            names = [b.name for b in module.elastic_config.budgets]
            members = {n: m.to_json() for n, m in zip(names, module.members.get())}
            (folder / "facts.json").write_text(json.dumps({"members": members}))

    recipe = tiny_recipe(folder / "data", folder / "run", steps=2, seq_length=64, micro_batch_size=2,
                         global_batch_size=2, eval_every=0, eval_sequences=2)  # fmt: skip
    recipe.model.config.vocab_size = 500
    recipe.model.config.make_vocab_size_divisible_by = 64
    task = fiddle.build(apply_elastic(recipe, BLOCK, verbose=False, out=str(folder / "elastic")))
    task.keywords["trainer"].callbacks.append(Recorder())
    task()
    last_checkpoint(folder / "run").rename(folder / "checkpoint")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
