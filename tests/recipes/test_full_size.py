# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The model of a large recipe, built in full on a CPU; tests/hosts/test_families.py has what is configured."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fiddle
import pytest

from nemo_elastic.core.cost import parameters
from nemo_elastic.plan import preset
from recipes.families import family
from tests.parallel.forks import measured

pytestmark = pytest.mark.nemo
#: the recipe, and its parameters
BUILT, PARAMETERS = "nemotron_elastic_8b", 8_100_852_736


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """What the elastic model of a recipe's stage 1 consists of, on the meta device; no teacher is read."""
    import nemo_run as run
    import torch
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from tests.support.models import start

    start()
    model = family(BUILT).job("stage1", "/checkpoints/parent", ["/data/text"], "/runs/family").model
    model.teacher, model.elastic = None, {**model.elastic, "distill": {"teacher": "none"}, "shapes": "router"}
    model.tokenizer = run.Config(SimpleNamespace, vocab_size=131072)  # its own lies on a hub
    config = model.config
    # kernels that a CPU has not; none of them has a parameter
    config.use_cpu_initialization, config.apply_rope_fusion, config.gradient_accumulation_fusion = True, False, False
    with cuda_as_cpu():
        model_parallel_cuda_manual_seed(1)
        whole = fiddle.build(model)
        with torch.device("meta"):
            whole.configure_model()
    core = whole.host.core
    sizes = {n: p.numel() for n, p in core.named_parameters()}
    return {
        "class": type(core).__name__,
        "parameters": sum(size for n, size in sizes.items() if not n.startswith("elastic.")),
        "router": sum(size for n, size in sizes.items() if n.startswith("elastic.router.")),
        "layers": len(core.decoder.layers),
    }


place = measured(measure)


@pytest.mark.slow
def test_the_model_of_a_recipe_builds_in_full(results: dict[str, Any]) -> None:
    shape = preset(family(BUILT).shape)
    assert (results["class"], results["layers"]) == ("MambaModel", shape.num_layers)
    assert results["parameters"] == PARAMETERS == parameters(shape, shape.full)
    assert 0 < results["router"] < results["parameters"] / 50
