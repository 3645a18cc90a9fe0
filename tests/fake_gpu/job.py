# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A step of a large recipe as one rank of its layout runs it: `python -m tests.fake_gpu.job JOB.json RESULT.json`.

Model, teacher, data parallelism, optimizer and callbacks are the recipe's; data and weights alone are replaced: every
token is 0, and nothing is loaded. Fields of a job:

    recipe, job    a name of recipes/families.py, a job of its curriculum
    rank, gpus     a rank of so many, and gpu: what they are
    steps          each of another member, the whole model last, when the optimizer has its state
    launches       see `tests.fake_gpu.cases.case`
    soft           of the whole model under the gates of the paper's router
    layout         one in place of the planner's best
    packed         rows hold several documents
    validated      every member is validated before the first step (NeMo)
    real           on the GPU of this machine, with its kernels; else on one that is not there
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.config.block import ElasticConfig
from tests.fake_gpu import gpu
from tests.fake_gpu.meter import Meter
from tests.support.bridge import stand_in_when_imported
from tests.workers import ROOT


class Watch:
    """Figures of each phase of a job, by its host's callbacks.

    Attributes:
        phases: name, bytes, launches and so on of each.
    """

    def __init__(self, meter: Meter, steps: int) -> None:
        self.meter, self.steps, self.phases = meter, steps, list[dict[str, Any]]()

    def begin(self, family: Any, soft: bool) -> None:
        """The model is built: give it members, and run them in turn, whole under the router's gates if `soft`."""
        members = members_of(family.parent, family.config)
        put(family.members, members, frozen=not soft)
        if soft:
            gpu.tell(family.members.router.drop_order, range(family.parent.num_layers))
        family.steps += soft  # they freeze after the last step, by numbers
        family.sampler.budget = lambda step, _: (self.steps - 1 - step) % len(members)
        self.end("start")

    def end(self, phase: str) -> None:
        """Take what was counted since the last phase."""
        meter = self.meter
        live, peak = meter.now()
        self.phases.append(
            {"phase": phase, "live": live, "peak": peak, "launches": meter.launches, "waits": dict(gpu.WAITS)}
        )
        meter.clear()
        gpu.WAITS.clear()


class Zeros(torch.utils.data.Dataset):
    """Rows of tokens, all 0 and all counted."""

    def __init__(self, length: int, size: int = 10**6) -> None:
        self.length, self.size = length, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, _: int) -> dict[str, torch.Tensor]:
        tokens = torch.zeros(self.length, dtype=torch.long)
        return {"tokens": tokens, "labels": tokens, "loss_mask": torch.ones(self.length), "position_ids": tokens}


def members_of(parent: Any, config: Any) -> list[Any]:
    """A member for each budget: the largest of all layers that fits, of the widths that its axes allow."""
    axes = {name: axis.choices for name, axis in config.resolve_axes(parent).items() if name != "depth"}
    shapes = [parent.uniform(**dict(zip(axes, widths, strict=True))) for widths in product(*axes.values())]
    found = []
    for budget in config.budgets:
        costs = [(budget.cost(parent, shape), shape) for shape in shapes]
        found.append(max((each for each in costs if each[0] <= budget.target(parent)), key=lambda each: each[0])[1])
    return found


def put(buffers: Any, members: list[Any], frozen: bool) -> None:
    """The members that a run has once shapes are fixed; fake buffers have no numbers to decode them from."""
    from nemo_elastic.train.members import _Read

    held = buffers.codes, buffers.frozen
    buffers._read = _Read(held, tuple(b._version for b in held), frozen, members)


def replace_data(packed: bool) -> None:
    """Rows are one document, or three of uneven lengths."""
    from nemo_elastic.megatron import gpt_tokens
    from nemo_elastic.nn.documents import Documents

    def documents(batch: Any, _: str | None = None) -> Documents | None:
        length = next(batch[name] for name in ("tokens", "labels") if batch.get(name) is not None).shape[1]
        return Documents(((length // 5, length // 2 + 1, length),)) if packed else None

    gpt_tokens.documents_of = documents


def replace_layout(name: str) -> None:
    """The planner's layout of this name is the best."""
    from nemo_elastic.hosts.common import planned
    from nemo_elastic.plan import layouts

    planned.best = lambda *run: next(layout for layout in layouts(*run) if str(layout) == name)


def main(job: dict[str, Any], folder: str) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "recipes"))
    os.chdir(folder)  # hosts write there
    from families import FAMILIES, family  # pyright: ignore[reportMissingImports]

    if not job["real"]:
        stand_in_when_imported()
    replace_data(job["packed"])
    if job["layout"]:
        replace_layout(job["layout"])
    made = family(job["recipe"])
    if FAMILIES[job["recipe"]].host == "nemo":
        from tests.fake_gpu.nemo import train
    else:
        from tests.fake_gpu.bridge import on_a_gpu, train

        made = on_a_gpu(made)
    from tests.fake_gpu import kernels, real

    # after the host was imported: with a GPU some of Bridge's modules need TransformerEngine
    (real if job["real"] else gpu).install(job["rank"], job["gpus"])
    if not job["real"]:
        kernels.install()
    block = ElasticConfig.of(ROOT / "conf/elastic_12b_paper.yaml") if job["soft"] else made.config
    run = made.run_of("/parent", ["/data/text"], f"{folder}/family", num_nodes=job["gpus"] // 8, gpu=job["gpu"],
                      block=block)  # fmt: skip
    planned = made.layout_of(job["job"], run)
    watch = Watch(real.Allocated() if job["real"] else Meter(), job["steps"])
    began = time.monotonic()
    train(made.build(job["job"], run), watch, job)
    seconds = round(time.monotonic() - began, 1)
    return {"job": job, "seconds": seconds, "phases": watch.phases, "layout": str(planned),
            "planned": planned.memory.to_json()}  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    given, out = (Path(each).resolve() for each in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        result = main(json.loads(given.read_text()), folder)
    out.write_text(json.dumps(result, indent=1))
