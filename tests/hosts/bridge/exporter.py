# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family's model, as it trains, exported by Bridge's AutoBridge: the process of a rank.

    python -m tests.support.bridge -m tests.hosts.bridge.exporter CHECKPOINT FOLDER OUT

CHECKPOINT is a trained one, FOLDER a Hugging Face folder of its parent, of which AutoBridge reads the config; OUT gets
the tensors that it makes of the weights in training.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.hosts.bridge.runs import port_of


def main(checkpoint: str, folder: str, out: str) -> None:
    from megatron.bridge import AutoBridge
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker, model_parallel_cuda_manual_seed

    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.formats.megatron.context import read_context
    from nemo_elastic.formats.megatron.shape import parent_of
    from nemo_elastic.hosts.bridge.autobridge import register_layers
    from nemo_elastic.megatron.build import make_family
    from nemo_elastic.megatron.platform.device import cuda_as_cpu
    from nemo_elastic.megatron.spec import elastic_stack_spec
    from nemo_elastic.train.training import FamilyTraining

    os.environ["MASTER_PORT"] = port_of(Path(out).with_name("exporter.port"), int(os.environ["RANK"]))
    torch.distributed.init_process_group("gloo")
    world = torch.distributed.get_world_size()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=world)
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
    with cuda_as_cpu():
        model_parallel_cuda_manual_seed(1)
        bridge = AutoBridge.from_hf_pretrained(folder)
        provider = bridge.to_megatron_provider(load_weights=False)
        provider.hybrid_stack_spec = elastic_stack_spec
        provider.tensor_model_parallel_size = world
        provider.params_dtype, provider.bf16, provider.use_cpu_initialization = torch.float32, False, True
        provider.apply_rope_fusion = provider.bias_dropout_fusion = provider.masked_softmax_fusion = False
        provider.gradient_accumulation_fusion = provider.persist_layer_norm = provider.moe_permute_fusion = False
        provider.finalize()
        (model,) = provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=True)
        block = read_context(Path(checkpoint)).elastic
        assert block is not None
        family = FamilyTraining(ElasticConfig.from_dict(block))
        make_family(model, family, parent_of(provider, model.vocab_size, "model"), checkpoint)
        register_layers()
        exported = dict(bridge.export_hf_weights([model], cpu=True, show_progress=False))
    if torch.distributed.get_rank() == 0:
        save_file({name: tensor.contiguous() for name, tensor in exported.items()}, out)
    torch.distributed.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
