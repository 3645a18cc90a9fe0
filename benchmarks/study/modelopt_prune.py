# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The process that prunes: ModelOpt's `mcore_minitron`, to given widths and depth.

    python -m benchmarks.study.modelopt_prune JOB.json

`modelopt_baseline` starts it, in Megatron-Bridge's environment, and gives it tokens to measure importance on.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.study.modelopt_targets import DIVISORS, FIELDS

#: sequences per forward of the importance estimation
BATCH = 8
#: steps of the widths; heads keep whole groups by themselves
STEPS = {name: DIVISORS[name] for name in ("hidden_size_divisor", "ffn_hidden_size_divisor", "mamba_head_dim_divisor")}
STEPS |= {"num_layers_divisor": 1, "num_moe_experts_divisor": 1}


def cut(job: dict[str, Any], prune: Any) -> None:
    """Prune `job["parent"]` and write `job["out"]`: `weights.pt` by megatron-core's names, and `pruned.json`.

    Args:
        job: parent, out, importance (file of tokens, [n, s]), scores (folder that keeps what was measured on them),
            sizes (ModelOpt's `export_config`).
        prune: ModelOpt's, see `modelopt_layers.prepare_modelopt`.
    """
    import numpy as np
    import torch
    from megatron.core import parallel_state

    from nemo_elastic.formats.megatron.stored import read_shapes
    from nemo_elastic.megatron.compat import named_parameters
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.dist_checkpoint import process_group

    used = time.process_time()  # imports are start-up, not work, here as for every other job
    tokens, whole = torch.as_tensor(np.load(job["importance"])), read_shapes(job["parent"]).parent
    with process_group(), cuda_as_cpu():
        parallel_state.initialize_model_parallel()
        model = load(job["parent"], whole)
        mode = ("mcore_minitron", {"megatron.core.models.hybrid.HybridModel": STEPS})
        seen: list[int] = []  # tokens; ModelOpt does not call the loop where it finds scores

        def measure(m: Any) -> None:
            for rows in tokens.split(BATCH):
                forward(m, rows)
                seen.append(rows.numel())

        config = {"forward_loop": measure, "scores_path": job["scores"]}
        prune.prune(model, mode=[mode], constraints={"export_config": job["sizes"]}, dummy_input=None, config=config)
        tensors = {name: p.detach().clone() for name, p in named_parameters(model)}
        parallel_state.destroy_model_parallel()
    fields = {FIELDS[k]: v for k, v in job["sizes"].items() if k in FIELDS}
    facts = {
        "modelopt": version("nvidia-modelopt"),
        "sizes": {**whole.to_json(), **fields, "pattern": model.hybrid_layer_pattern},
        "parameters": sum(p.numel() for p in tensors.values()),
        "measured_tokens": sum(seen),
        "cpu_seconds": time.process_time() - used,
    }
    out = Path(job["out"])
    out.mkdir(parents=True)
    torch.save(tensors, out / "weights.pt")
    (out / "pruned.json").write_text(json.dumps(facts, indent=2) + "\n")


def load(checkpoint: str, whole: Any) -> Any:
    """The parent as a HybridModel that ModelOpt can prune, with a checkpoint's weights."""
    import torch
    from megatron.core.activations import squared_relu
    from megatron.core.tensor_parallel.random import initialize_rng_tracker
    from megatron.core.transformer.transformer_config import TransformerConfig

    from benchmarks.study.modelopt_layers import prunable_stack_spec
    from nemo_elastic.core.layout import megatron_tensors
    from nemo_elastic.formats.megatron.stored import Stored
    from nemo_elastic.megatron.compat import named_parameters, new_model

    initialize_rng_tracker(inference_rng_tracker=True)
    config = TransformerConfig(
        num_layers=whole.num_layers, hidden_size=whole.hidden, num_attention_heads=whole.attention_heads,
        num_query_groups=whole.kv_heads, kv_channels=whole.attention_head_dim, ffn_hidden_size=whole.ffn,
        mamba_num_heads=whole.mamba_heads, mamba_head_dim=whole.mamba_head_dim, mamba_num_groups=whole.mamba_groups,
        mamba_state_dim=whole.state, layernorm_epsilon=whole.norm_eps, activation_func=squared_relu,
        normalization="RMSNorm", add_bias_linear=False, hidden_dropout=0.0, attention_dropout=0.0,
        use_cpu_initialization=True, gradient_accumulation_fusion=False, masked_softmax_fusion=False,
        bias_dropout_fusion=False, persist_layer_norm=False, params_dtype=torch.float32, is_hybrid_model=True,
    )  # fmt: skip
    model = new_model(config, prunable_stack_spec(), whole.vocab, 256, whole.pattern, whole.tied)
    stored, names = Stored(checkpoint), megatron_tensors(whole, whole.full).keys()
    own = dict(named_parameters(model))
    assert own.keys() == names, own.keys() ^ names
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(stored.read(name))
    return model.eval()


def forward(model: Any, tokens_bs: Any) -> None:
    import torch

    with torch.no_grad():
        model(tokens_bs, None, None)


if __name__ == "__main__":
    from benchmarks.study.modelopt_layers import prepare_modelopt

    modelopt = prepare_modelopt()
    cut(json.loads(Path(sys.argv[1]).read_text()), modelopt)
