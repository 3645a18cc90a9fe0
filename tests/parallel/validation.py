# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that validate every member in layouts of ranks, with the checkpoints and the logger of the large recipes.

python -m tests.parallel.validation FOLDER LAYOUT...: leaves `validation.json`, which `test_validation.py` asserts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.parallel.runs import Layout

STEPS = 3
LAYOUTS = (
    Layout(tensor=2, sequence=True, soft=True),
    Layout(data=2),
    Layout(pipeline=2, teacher=False, micro_batches=4),
    Layout(pipeline=2, micro_batches=4),
)


def train(place: Path, out: Path, layout: Layout, every: int) -> dict[str, Any]:
    """Train, and validate after so many steps; returns what was sampled and lost, and what validating left behind."""
    import fiddle
    import lightning.pytorch as pl
    from nemo.collections.llm.recipes.log.default import tensorboard_logger

    from nemo_elastic.hosts.nemo.tiny.recipe import held_out
    from tests.hosts.nemo.training_worker import digest
    from tests.parallel import runs

    runs.quiet()
    task = runs.elastic_task(place, out, layout, STEPS, every=STEPS)
    held_out(task, every, 4)
    task.log.tensorboard = tensorboard_logger(name="run")
    facts: dict[str, Any] = {"samples": [], "losses": [], "training": []}
    runs.record_samples(facts["samples"])

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            facts["training"].append(module.training and module.host.core.training)

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            facts["losses"].append(float(trainer.callback_metrics["reduced_train_loss"]))

        def on_train_end(self, trainer: Any, module: Any) -> None:
            facts["weights"] = digest(dict(module.host.core.named_parameters()))
            facts["monitored"] = sorted(k for k in trainer.callback_metrics if k.startswith("val_"))

    task = fiddle.build(task)
    task.keywords["trainer"].callbacks.append(Watch())
    task()
    return facts


def left(out: Path) -> dict[str, Any]:
    """What a run leaves on disk: held-out lines, checkpoints, what TensorBoard's files name."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    checkpoints = [path for path in (out / "checkpoints").iterdir() if path.is_dir()]
    events = b"".join(path.read_bytes() for path in sorted(out.rglob("events.out.tfevents.*")))
    names = ("full", "large", "small")
    return {
        "heldout": [line for line in lines if line["kind"] == "heldout"],
        "whole": sorted(path.name for path in checkpoints),
        "tags": [tag for kind in ("val_loss", "val_kl") for n in names if (tag := f"{kind}/{n}").encode() in events],
    }


def main(place: Path, *names: str) -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from tests.parallel import forks

    forks.prepare(place)
    results: dict[str, Any] = {}
    for layout in [one for one in LAYOUTS if one.name in names]:
        for of in (layout, layout.alone):
            out = place / of.name
            if of.name not in results:
                ranks = forks.run(out / "log", of.world, train, place, out, of, 1)
                results[of.name] = {"ranks": ranks, **left(out)}
    out, of = place / "seldom", LAYOUTS[0].alone
    results["seldom"] = {"ranks": forks.run(out / "log", 1, train, place, out, of, 2), **left(out)}
    (place / "validation.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
