# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Two hundred steps in bf16 beside the same in float32; and what happens to weights that no step touches.

python -m tests.parallel.numerics FOLDER: leaves `numerics.json`, which `test_numerics.py` asserts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.parallel.runs import Layout

STEPS, SHORT = 200, 5


def precision(place: Path, out: Path, half: bool) -> dict[str, Any]:
    """Losses of a run: of every step, and held-out ones of every member at the end."""
    import fiddle

    from nemo_elastic.hosts.nemo.tiny.recipe import held_out
    from tests.hosts.nemo.bf16_worker import halve
    from tests.parallel import runs

    runs.quiet()
    task = runs.elastic_task(place, out, Layout(micro_batches=2), STEPS)
    held_out(task, 0, 16)
    if half:
        halve(task)
    fiddle.build(task)()
    lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    heldout, taught = ([x[key] for x in lines if x["kind"] == "heldout"] for key in ("losses", "kl"))
    return {
        "losses": [x["reduced_train_loss"] for x in lines if x["kind"] == "step"],
        "norms": [x["grad_norm"] for x in lines if x["kind"] == "step"],
        "end": heldout[-1], "taught": [taught[0], taught[-1]],
    }  # fmt: skip


def untouched(place: Path, out: Path) -> dict[str, Any]:
    """Train the smallest member alone; returns what weights outside of it were multiplied by, and their moments."""
    import fiddle
    import lightning.pytorch as pl

    from tests.parallel import runs

    runs.quiet()
    results: dict[str, Any] = {"rates": []}

    class Watch(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.before = {k: p.detach().clone() for k, p in module.host.core.named_parameters()}

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            results["rates"].append(trainer.optimizers[0].param_groups[0]["lr"])

        def on_train_end(self, trainer: Any, module: Any) -> None:
            small = module.members.get()[2]
            optimizer = trainer.optimizers[0].mcore_optimizer.optimizer
            params = dict(module.host.core.named_parameters())
            head, norm = "output_layer.weight", "decoder.final_norm.weight"
            for name, outside in (
                (head, (slice(None), slice(small.hidden, None))),
                (norm, (slice(small.hidden, None),)),
            ):
                after, before = params[name].detach()[outside], self.before[name][outside]
                moments = optimizer.state[params[name]]
                results[name] = {
                    "factor": [float((after / before).min()), float((after / before).max())],
                    "moments": max(float(moments[k][outside].abs().max()) for k in ("exp_avg", "exp_avg_sq")),
                    "inside": float((params[name].detach() - self.before[name]).abs().max()),
                }

    task = runs.elastic_task(place, out, Layout(), SHORT, sampling={"full": 0, "large": 0, "small": 1})
    results["decay"] = task.optim.config.weight_decay
    task = fiddle.build(task)
    task.keywords["trainer"].callbacks.append(Watch())
    task()
    return results


def main(place: Path) -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from tests.parallel import forks

    forks.prepare(place)
    results = {}
    for name, half in (("single", False), ("half", True)):
        (results[name],) = forks.run(place / name / "log", 1, precision, place, place / name, half)
    (results["untouched"],) = forks.run(place / "untouched" / "log", 1, untouched, place, place / "untouched")
    (place / "numerics.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
