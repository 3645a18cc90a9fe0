# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Three steps of elastic training in float32, in bf16, with a router and of several budgets, for test_bf16.py.

python -m tests.hosts.nemo.bf16_worker FOLDER: writes FOLDER/facts.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.hosts.nemo.elastic_worker import BLOCK
from tests.texts import FEW, library_text


def halve(recipe: Any) -> None:
    """Let a recipe train in bf16, as NeMo's recipes on GPUs do."""
    import torch
    from nemo.collections.llm.recipes.precision.mixed_precision import bf16_mixed

    recipe.trainer.plugins = bf16_mixed()
    for config in (recipe.model.config, recipe.optim.config):
        config.bf16, config.params_dtype = True, torch.bfloat16


def main(folder: Path) -> None:
    import fiddle
    import torch
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from nemo_elastic.data.build import build_data
    from nemo_elastic.demo.quiet import quiet
    from nemo_elastic.formats.megatron.stored import plain_tensors
    from nemo_elastic.hosts.nemo.host import NemoHost
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint, tiny_recipe
    from tests.parallel.compare import digests, stored

    quiet()
    torch.set_num_threads(1)
    text = library_text(folder / "text", FEW)
    build_data(folder / "data", [text], vocab=512, held_out_problems=4)
    seen: set[str] = set()
    student = NemoHost.student

    def watched(self: Any, *args: Any) -> Any:
        core, hidden = student(self, *args)
        seen.add(str(hidden.dtype))
        return core, hidden

    NemoHost.student = watched

    def launch(name: str, teacher: str | None = None, half: bool = False, until: int = 3, **more: Any) -> Path:
        recipe = tiny_recipe(folder / "data", folder / name, steps=3, seq_length=64, micro_batch_size=2,
                             global_batch_size=4, label=name, eval_sequences=2)  # fmt: skip
        if half:
            halve(recipe)
        if teacher is not None:
            apply_elastic(recipe, BLOCK | {"distill": {"mode": "frozen_ce"}} | more, teacher=teacher, verbose=False)
        recipe.trainer.max_steps = until
        destroy_num_microbatches_calculator()
        seen.clear()
        fiddle.build(recipe)()
        return last_checkpoint(folder / name)

    teacher = str(launch("parent"))
    facts: dict[str, Any] = {}
    several = {"distill": {"mode": "frozen_ce", "teacher_precision": "int8"}, "budgets_per_batch": 3}
    for name, more in (("single", {}), ("half", {}), ("several", several)):
        tensors = plain_tensors(launch(name, teacher, half=name != "single", **more))
        lines = [json.loads(x) for x in (folder / name / "metrics.jsonl").read_text().splitlines()]
        facts[name] = {
            "hidden": sorted(seen),
            "weights": str(tensors["module.output_layer.weight"].dtype),
            "losses": [x["reduced_train_loss"] for x in lines if x["kind"] == "step"],
            "norms": [x["grad_norm"] for x in lines if x["kind"] == "step"],
            "budgets": [{k: v for k, v in x.items() if k.startswith("loss_")} for x in lines if x["kind"] == "step"],
        }
    routed = {"shapes": "router", "router": {"hidden": 16}}
    for name, ends in (("whole", (3,)), ("stopped", (2, 3))):
        for until in ends:
            launch(name, teacher, half=True, until=until, **routed)
        lines = [json.loads(x) for x in (folder / name / "metrics.jsonl").read_text().splitlines()]
        moments = stored(folder / name, "optimizer.state.exp_avg.module.elastic.router.")
        facts[name] = {
            "losses": [x["reduced_train_loss"] for x in lines if x["kind"] == "step"],
            "state": digests(folder / name),
            "router": {k: [str(v.dtype), float(v.abs().max())] for k, v in moments.items()},
        }
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
