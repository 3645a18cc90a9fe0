# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The 30B recipe's rehearsal with a parent that has an MTP layer, by Bridge's recipe of Nemotron 3.5 Lightning.

python -m tests.support.bridge -m tests.hosts.bridge.predicting FOLDER: leaves FOLDER/rehearsal.json. The rehearsal's
parent is trained without the layer, as all jobs are, and gets one of random weights before it is ranked.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.recipes.nemotronh.h100.nemotron_3_nano import nemotron_3_5_lightning_pretrain_config

from nemo_elastic.core.prediction import Prediction
from nemo_elastic.formats.folders import open_source
from nemo_elastic.hosts.common.experiment import local_executor
from nemo_elastic.megatron.dist_checkpoint import write_megatron_checkpoint
from nemo_elastic.rehearsal.run import rehearsal_of, run_by
from nemo_elastic.rehearsal.short import Short
from tests.hosts.bridge.recipes import recipe_of

#: Lightning's: one layer of attention and experts, which is run twice
LAYERS, STEPS = Prediction("*E"), 2


def add_layers(checkpoint: Path) -> None:
    """Give a parent's checkpoint the layers."""
    source, random = open_source(checkpoint), torch.Generator().manual_seed(0)
    parent, whole = source.parent, dict(source.as_torch())
    for t in LAYERS.tensors(parent, parent.full):
        vector = len(t.shape) == 1
        value = torch.ones(t.shape) if vector else torch.randn(t.shape, generator=random) * t.shape[1] ** -0.5
        whole[t.hf] = value.to(whole["backbone.embeddings.weight"].dtype)
        if t.hf.endswith("e_score_correction_bias"):
            whole[t.hf] = torch.zeros(t.shape)
    out = checkpoint.with_name("with_layers")
    write_megatron_checkpoint(out, parent, parent.full, whole, prediction=LAYERS, steps=STEPS)
    shutil.rmtree(checkpoint)
    out.rename(checkpoint)


def main(folder: Path) -> None:
    family = replace(recipe_of("30b_a3b"), stock=nemotron_3_5_lightning_pretrain_config)
    rehearsal = rehearsal_of(family, str(folder), Short(ranks=2))
    start = run_by(local_executor, family.name)

    def run_job(name: str, job: Any) -> None:
        start(name, job)
        if name == "parent":
            add_layers(Path(rehearsal.scaled.parent))

    folder.mkdir()
    report = rehearsal.run(run_job, lambda what: nullcontext(print(what, flush=True)))
    print(report.failed or "no job failed", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
