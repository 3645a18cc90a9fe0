# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Builds the models of recipes in full, on the meta device, for test_families.py.

python -m tests.recipes.meta_worker RECIPE…; prints {recipe: {"parameters": …, "class": …, …}} as JSON.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

from recipes.families import family


def built(name: str) -> dict[str, Any]:
    """What the elastic model of a recipe's stage 1 consists of, with a router; no teacher is read."""
    import fiddle
    import nemo_run as run
    import torch

    model = family(name).stage1_recipe("/parent", ["/data/text"], "/runs/family").model
    model.teacher, model.elastic = None, {**model.elastic, "distill": {"teacher": "none"}, "shapes": "router"}
    model.tokenizer = run.Config(SimpleNamespace, vocab_size=131072)  # its own lies on a hub
    config = model.config
    # kernels that a CPU has not; none of them has a parameter
    config.use_cpu_initialization, config.apply_rope_fusion, config.gradient_accumulation_fusion = True, False, False
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


def main(names: list[str]) -> None:
    import torch
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker, model_parallel_cuda_manual_seed

    from nemo_elastic.megatron.cpu import cuda_as_cpu

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
    with cuda_as_cpu():
        model_parallel_cuda_manual_seed(1)
        report = {name: built(name) for name in names}
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
