# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A stock recipe of Megatron-Bridge's of a tiny Nemotron-H that trains on a CPU: what `apply_elastic` is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.models.hybrid.hybrid_provider import HybridModelProvider
from megatron.bridge.training.config import (
    CheckpointConfig,
    ConfigContainer,
    DistributedDataParallelConfig,
    DistributedInitConfig,
    GPTDatasetConfig,
    LoggerConfig,
    OptimizerConfig,
    RNGConfig,
    SchedulerConfig,
    TrainingConfig,
    ValidationConfig,
)
from megatron.bridge.training.tokenizers.config import TokenizerConfig
from megatron.core.activations import squared_relu

from nemo_elastic.data.folder import DataFolder
from nemo_elastic.megatron.spec import elastic_stack_spec

#: the sizes of the NeMo host's `TinyNemotronH`, 1.6M parameters
TINY: Mapping[str, Any] = {
    "hybrid_layer_pattern": "M-M-M*-M-M*-",
    "hidden_size": 128,
    "ffn_hidden_size": 512,
    "mamba_num_heads": 16,
    "mamba_head_dim": 16,
    "mamba_num_groups": 4,
    "mamba_state_dim": 16,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 32,
}


def tiny_config(
    data: str | Path,
    dir: str | Path,
    *,
    steps: int,
    seq_length: int = 256,
    micro_batch_size: int = 8,
    global_batch_size: int = 8,
    lr: float = 3e-3,
    warmup_steps: int = 20,
    min_ratio: float = 0.1,
    split: str = "train",
    eval_every: int = 0,
    eval_iters: int = 2,
    save_every: int | None = None,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    sequence_parallel: bool = False,
    seed: int = 1234,
    sizes: Mapping[str, Any] = TINY,
) -> ConfigContainer:
    """A `ConfigContainer` on a data folder.

    Args:
        data: folder made by `nemo-elastic data`.
        dir: folder of the run; checkpoints go to `dir/checkpoints`.
        steps: optimizer steps; the data order is fixed for exactly as many.
        seq_length, micro_batch_size, global_batch_size: tokens per sequence, sequences per forward and per step.
        lr, warmup_steps, min_ratio: peak rate, linear warm-up, rate at the end as a share of the peak.
        split: of the data folder, to train on.
        eval_every, eval_iters: steps between validations (0: one, at the end), and global batches of each.
        save_every: steps between checkpoints; only at the end if None.
        tensor_parallel, pipeline_parallel, sequence_parallel: ranks that share a model.
        seed: of the data order.
        sizes: of another model than `TINY`.
    """
    folder = DataFolder.open(data)
    root = folder.path.resolve()
    checkpoints = str(Path(dir, "checkpoints"))
    blend = [([str(root / part)], None) for part in (split, "val", "val")]
    return ConfigContainer(
        model=HybridModelProvider(
            **sizes,
            seq_length=seq_length,
            vocab_size=folder.vocab_size,
            make_vocab_size_divisible_by=1,
            activation_func=squared_relu,
            params_dtype=torch.float32,
            pipeline_dtype=torch.float32,
            bf16=False,
            hybrid_stack_spec=elastic_stack_spec,  # the stock one needs TransformerEngine
            tensor_model_parallel_size=tensor_parallel,
            pipeline_model_parallel_size=pipeline_parallel,
            sequence_parallel=sequence_parallel,
        ),
        train=TrainingConfig(
            train_iters=steps, global_batch_size=global_batch_size, micro_batch_size=micro_batch_size
        ),
        validation=ValidationConfig(eval_interval=eval_every or steps, eval_iters=eval_iters),
        optimizer=OptimizerConfig(
            optimizer="adam", lr=lr, min_lr=lr * min_ratio, weight_decay=0.05, adam_beta2=0.95, clip_grad=1.0
        ),
        scheduler=SchedulerConfig(
            lr_warmup_iters=warmup_steps,
            lr_decay_iters=max(steps, warmup_steps + 1),
            start_weight_decay=0.05,
            end_weight_decay=0.05,
            weight_decay_incr_style="constant",
            override_opt_param_scheduler=True,
        ),
        ddp=DistributedDataParallelConfig(overlap_grad_reduce=False, check_for_nan_in_grad=False),
        dataset=GPTDatasetConfig(
            seq_length=seq_length,
            random_seed=seed,
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
            blend_per_split=blend,
            path_to_cache=str(root / "index"),
            num_workers=0,
            dataloader_type="single",
        ),
        logger=LoggerConfig(log_interval=max(1, steps), tensorboard_dir=None),
        tokenizer=TokenizerConfig(tokenizer_type="NullTokenizer", vocab_size=folder.vocab_size),
        checkpoint=CheckpointConfig(
            save=checkpoints,
            load=checkpoints,
            save_interval=save_every,
            ckpt_format="torch_dist",
            async_save=False,
            fully_parallel_save=False,
        ),
        rng=RNGConfig(seed=seed),
        dist=DistributedInitConfig(distributed_backend="nccl" if torch.cuda.is_available() else "gloo"),
    )
