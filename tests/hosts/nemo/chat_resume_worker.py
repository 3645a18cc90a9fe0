# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A run on packed conversations that reads them more than once, and one that is killed where candidates are compared.

python -m tests.hosts.nemo.chat_resume_worker FOLDER: leaves `facts.json`; `test_chat_resume.py` asserts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.hosts.nemo.packed_worker import packed_task
from tests.parallel.runs import Layout

STEPS, STOP = 6, 4
LAYOUT = Layout(micro_batches=4, halved=True)


def train(place: Path, out: Path, until: int | None) -> dict[str, Any]:
    """See `runs.train`, on what `nemotron_elastic_12b_sft` reads by."""
    import fiddle
    import lightning.pytorch as pl

    from nemo_elastic.hosts.nemo.folder_data import PackedChats

    facts: dict[str, Any] = {"losses": []}

    class Watch(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            dataset = trainer.train_dataloader.dataset
            facts.update({"from": trainer.global_step, "rows": len(dataset), "packed": len(dataset.indexed_dataset)})

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == until:
                os.kill(os.getpid(), signal.SIGKILL)

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            facts["losses"].append(float(trainer.callback_metrics["reduced_train_loss"]))

    task = packed_task(place, out, LAYOUT, STEPS, 1)
    fiddle.update_callable(task.data, PackedChats)
    task.data.dataset_root = str(place / "few")
    built = fiddle.build(task)
    built.keywords["trainer"].callbacks.append(Watch())
    built()
    return facts


def main(place: Path) -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from tests.hosts.bridge.runs import write_prompts
    from tests.parallel import forks
    from tests.parallel.compare import digests

    forks.prepare(place)
    write_prompts(place)
    facts: dict[str, Any] = {}
    for name, until in (("whole", None), ("stopped", STOP)):
        out = place / name
        if until is not None:
            ranks = forks.start(out / "log", 1, train, place, out, until)
            assert ranks.wait() == [-9], ranks.said()
        (facts[name],) = forks.run(out / "log", 1, train, place, out, None)
        facts[name]["state"] = digests(out)
    (place / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
