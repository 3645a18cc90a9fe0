# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family's model, as it trains, exported by Bridge's AutoBridge: the process of a rank.

    python -m tests.support.bridge -m tests.hosts.bridge.exporter CHECKPOINT FOLDER OUT

CHECKPOINT is one of the tiny family's, FOLDER a Hugging Face folder of its parent, of which AutoBridge reads the
config; OUT gets the tensors that it makes of the weights in training.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.hosts.bridge.runs import Job, config, port_of
from tests.parallel.runs import Layout


def main(checkpoint: str, folder: str, out: str) -> None:
    from megatron.bridge import AutoBridge
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker, model_parallel_cuda_manual_seed

    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.formats.megatron.context_files import read_context
    from nemo_elastic.formats.megatron.shape import parent_of
    from nemo_elastic.hosts.bridge.autobridge import as_stock, register_layers
    from nemo_elastic.hosts.bridge.platform import without_cuda
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.models import make_family
    from nemo_elastic.train.training import FamilyTraining

    os.environ["MASTER_PORT"] = port_of(Path(out).with_name("exporter.port"), int(os.environ["RANK"]))
    torch.distributed.init_process_group("gloo")
    world = torch.distributed.get_world_size()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=world)
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
    with cuda_as_cpu():
        model_parallel_cuda_manual_seed(1)
        bridge = AutoBridge.from_hf_pretrained(folder)
        stock = config(Path(checkpoint).parents[1], Job(out, layout=Layout(tensor=world)))
        without_cuda(stock)
        provider = stock.model
        provider.finalize()
        (model,) = provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=True)
        block = read_context(Path(checkpoint)).elastic
        assert block is not None
        family = FamilyTraining(ElasticConfig.from_dict(block))
        make_family(model, family, parent_of(provider, model.vocab_size, "model"), checkpoint)
        register_layers()
        with as_stock([model]):
            exported = dict(bridge.export_hf_weights([model], cpu=True, show_progress=False))
        assert family.members is model.elastic
    if torch.distributed.get_rank() == 0:
        save_file({name: tensor.contiguous() for name, tensor in exported.items()}, out)
    torch.distributed.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
