# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 3 in FP8 through NeMo, behind two short stages: whole, killed, and on weights that were rounded beforehand.

python -m tests.hosts.nemo.quantize_worker FOLDER: leaves `facts.json`; `test_quantize.py` asserts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.parallel.runs import Layout

STEPS, STOP, SCHEME = 3, 2, "fp8"
LAYOUT = Layout(micro_batches=2)


def third(
    place: Path, out: Path, quantize: str | None = None, rounded: str | None = None, until: int | None = None
) -> dict[str, Any]:
    """Train stage 3 on this rank.

    Args:
        place: where `two` is.
        out: log directory.
        quantize: of the block.
        rounded: the weights are rounded so before the first step.
        until: step before which this process kills itself.
    """
    import fiddle
    import lightning.pytorch as pl

    from nemo_elastic.hosts.nemo.curriculum.jobs import checkpoints, end_of
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    from tests.hosts.bridge.runs import round_in_place
    from tests.parallel import runs

    runs.quiet()
    facts: dict[str, Any] = {"losses": [], "budgets": [], "norms": []}

    class Watch(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            facts["from"] = trainer.global_step
            if rounded is not None:
                round_in_place(module.host, rounded)
            facts["members"] = runs.member_losses(module)

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == until:
                os.kill(os.getpid(), signal.SIGKILL)

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            facts["losses"].append(metrics["reduced_train_loss"])
            facts["budgets"].append({name: value for name, value in metrics.items() if name.startswith("loss_")})
            facts["norms"].append(metrics.get("grad_norm"))

    stock = runs.recipe(place, out, LAYOUT, STEPS)
    stock.log.ckpt = checkpoints(1)
    task = apply_elastic(
        stock, runs.block_of(LAYOUT, distill={"quantize": quantize}), stage=3, previous=end_of(str(place / "two"), 1),
        done_steps=2, total_steps=2 + STEPS, teacher=str(runs.parent(place)), out=str(out / "elastic"), verbose=False,
    )  # fmt: skip
    task = fiddle.build(task)
    task.keywords["trainer"].callbacks.append(Watch())
    task()
    return facts


def main(place: Path) -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from tests.parallel import forks, runs
    from tests.parallel.compare import digests

    forks.prepare(place)
    forks.run(place / "one" / "log", 1, runs.train, place, place / "one", LAYOUT, 1, 1)
    forks.run(place / "two" / "log", 1, runs.second_stage, place, place / "two", LAYOUT, place / "one", 1, 1)
    facts: dict[str, Any] = {}
    killed = place / "killed"
    ranks = forks.start(killed / "log", 1, third, place, killed, quantize=SCHEME, until=STOP)
    assert ranks.wait() == [-signal.SIGKILL], ranks.said()
    for name, how in (
        ("whole", {"quantize": SCHEME}), ("killed", {"quantize": SCHEME}), ("rounded", {"rounded": SCHEME}),
        ("plain", {}),
    ):  # fmt: skip
        (facts[name],) = forks.run(place / name / "log", 1, third, place, place / name, **how)
        facts[name]["state"] = digests(place / name)
    (place / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
