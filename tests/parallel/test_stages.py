# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a pipeline stage loads of the parent's checkpoint, and what it holds of its teacher."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parallel.forks import measured
from tests.parallel.runs import SHAPE, Job, Layout, do, prepare
from tests.workers import part

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]
#: losses whose runs load the parent's checkpoint: into the student, and into the teacher
LOADED = ("frozen", "ce")
STAGES, BUILT = 2, 3


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    prepare(place)
    for mode in parts:
        layout = Layout(pipeline=STAGES, mode=mode)
        do(place, Job(mode, layout=layout, before=lambda mode=mode: end_when_built(place, mode), ends=BUILT))
    return {mode: {rank: json.loads((place / f"{mode}-{rank}.json").read_text()) for rank in range(STAGES)}
            for mode in parts}  # fmt: skip


def end_when_built(place: Path, mode: str) -> None:
    """Let a rank end with its model, and write down what student and teacher hold, as the whole model calls it, and
    whether all of it has the parent's values."""
    from megatron.core import parallel_state

    from nemo_elastic.formats.megatron.stored import Stored
    from nemo_elastic.hosts.nemo.model import ElasticMambaModel
    from tests.parallel.nemo import parent

    build = ElasticMambaModel.configure_model

    def watched(self: Any, *args: Any, **more: Any) -> None:
        build(self, *args, **more)
        whole, results = Stored(parent(place)), {}
        first = parallel_state.get_pipeline_model_parallel_rank() * SHAPE["num_layers"] // STAGES
        for name, core in (("student", self.host.core), ("teacher", self.host.frozen)):
            held = {} if core is None else dict(core.named_parameters())
            held = {global_name(k, first): p for k, p in held.items() if not k.startswith("elastic.")}
            results[name] = sorted(held)
            results[f"{name} is the parent"] = all(torch.equal(p.detach(), whole.read(k)) for k, p in held.items())
        (place / f"{mode}-{os.environ['RANK']}.json").write_text(json.dumps(results))
        raise SystemExit(BUILT)

    ElasticMambaModel.configure_model = watched


def global_name(name: str, first: int) -> str:
    """A parameter's name in the whole model; a stage counts its layers from 0."""
    return re.sub(r"(?<=layers\.)\d+", lambda match: str(int(match[0]) + first), name)


place = measured(measure)


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=part(mode, long=mode == "ce")) for mode in LOADED])
def test_a_stage_loads_its_own_layers_of_the_parent(results: dict[str, Any], mode: str) -> None:
    stages = results[mode]
    first, last = (set(stages[rank]["student"]) for rank in ("0", "1"))
    assert not first & last
    layers = [{int(name.split(".")[2]) for name in half if ".layers." in name} for half in (first, last)]
    assert layers == [{0, 1, 2, 3}, {4, 5, 6, 7}]
    assert "embedding.word_embeddings.weight" in first and "output_layer.weight" in last
    for stage in stages.values():
        assert stage["student is the parent"] and stage["teacher is the parent"]
        assert stage["teacher"] == (stage["student"] if mode == "frozen" else [])
