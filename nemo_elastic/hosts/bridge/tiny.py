# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A stock recipe of Megatron-Bridge's of a tiny Nemotron-H that trains on a CPU: what `apply_elastic` is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.pretrain import pretrain
from megatron.bridge.training.tokenizers.config import TokenizerConfig
from megatron.core.activations import squared_relu

from nemo_elastic.data.folder import DataFolder
from nemo_elastic.hosts.common import tiny
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun
from nemo_elastic.megatron.spec import elastic_stack_spec
from nemo_elastic.slicing.family_folder import slice_family

from .curriculum import BridgeFamily
from .platform import bridge_on_this_machine, lines_to_logs

#: what both tiny models have
_BODY: Mapping[str, Any] = {
    "hidden_size": 128,
    "mamba_num_heads": 16,
    "mamba_head_dim": 16,
    "mamba_num_groups": 4,
    "mamba_state_dim": 16,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 32,
}
#: the sizes of the NeMo host's `TinyNemotronH`, 1.6M parameters
TINY: Mapping[str, Any] = {**_BODY, "hybrid_layer_pattern": "M-M-M*-M-M*-", "ffn_hidden_size": 512}
#: a hybrid with experts: 1.8M parameters, 1.2M active per token
TINY_EXPERTS: Mapping[str, Any] = {
    **_BODY,
    "hybrid_layer_pattern": "MEM*EMEM*E",
    "num_moe_experts": 8,
    "moe_router_topk": 2,
    "moe_router_topk_scaling_factor": 2.5,
    "moe_ffn_hidden_size": 96,
    "moe_shared_expert_intermediate_size": 192,
    "moe_router_score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
    "moe_router_dtype": "fp32",
    "moe_router_load_balancing_type": "seq_aux_loss",
    "moe_aux_loss_coeff": 1e-4,
    "moe_token_dispatcher_type": "alltoall",
}


#: what a model on a CPU has
_CPU: Mapping[str, Any] = {
    "make_vocab_size_divisible_by": 1,
    "activation_func": squared_relu,
    "params_dtype": torch.float32,
    "pipeline_dtype": torch.float32,
    "bf16": False,
    "hybrid_stack_spec": elastic_stack_spec,  # the stock one needs TransformerEngine
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
    seed: int = 1234,
    sizes: Mapping[str, Any] = TINY,
) -> ConfigContainer:
    """A `ConfigContainer` on a data folder.

    Args:
        data: folder made by `nemo-elastic data`.
        dir: folder of the run; checkpoints go to `dir/checkpoints`, TensorBoard's events to `dir/tensorboard`.
        steps: optimizer steps; the data order is fixed for exactly as many.
        seq_length, micro_batch_size, global_batch_size: tokens per sequence, sequences per forward and per step.
        lr, warmup_steps, min_ratio: peak rate, linear warm-up, rate at the end as a share of the peak.
        split: of the data folder, to train on.
        eval_every, eval_iters: steps between validations (0: one, at the end), and global batches of each.
        save_every: steps between checkpoints; only at the end if None.
        seed: of the data order.
        sizes: of another model than `TINY`.
    """
    folder = DataFolder.open(data)
    return ConfigContainer(
        model=HybridModelProvider(
            **sizes,
            **_CPU,
            seq_length=seq_length,
            vocab_size=folder.vocab_size,
        ),
        train=TrainingConfig(
            train_iters=steps, global_batch_size=global_batch_size, micro_batch_size=micro_batch_size
        ),
        validation=ValidationConfig(eval_interval=eval_every or steps, eval_iters=eval_iters),
        optimizer=_optimizer(lr, lr * min_ratio),
        scheduler=_scheduler(warmup_steps, max(steps, warmup_steps + 1)),
        ddp=DistributedDataParallelConfig(overlap_grad_reduce=False, check_for_nan_in_grad=False),
        dataset=_dataset(folder.path.resolve(), folder.available(split), seq_length, seed),
        logger=LoggerConfig(log_interval=max(1, steps), tensorboard_dir=str(Path(dir, "tensorboard"))),
        tokenizer=TokenizerConfig(tokenizer_type="NullTokenizer", vocab_size=folder.vocab_size),
        checkpoint=_checkpoint(str(Path(dir, "checkpoints")), save_every),
        rng=RNGConfig(seed=seed),
        dist=DistributedInitConfig(distributed_backend="nccl" if torch.cuda.is_available() else "gloo"),
    )


def _optimizer(lr: float, lowest: float) -> OptimizerConfig:
    return OptimizerConfig(optimizer="adam", lr=lr, min_lr=lowest, weight_decay=0.05, adam_beta2=0.95, clip_grad=1.0)


def _scheduler(warmup: int, decay: int) -> SchedulerConfig:
    return SchedulerConfig(
        lr_warmup_iters=warmup,
        lr_decay_iters=decay,
        start_weight_decay=0.05,
        end_weight_decay=0.05,
        weight_decay_incr_style="constant",
        override_opt_param_scheduler=True,
    )


def _dataset(root: Path, split: str, seq_length: int, seed: int) -> GPTDatasetConfig:
    return GPTDatasetConfig(
        seq_length=seq_length,
        random_seed=seed,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        blend_per_split=[([str(root / part)], None) for part in (split, "val", "val")],
        path_to_cache=str(root / "index"),
        num_workers=0,
        dataloader_type="single",
    )


def _checkpoint(folder: str, save_every: int | None) -> CheckpointConfig:
    return CheckpointConfig(
        save=folder,
        load=folder,
        save_interval=save_every,
        ckpt_format="torch_dist",
        async_save=False,
        fully_parallel_save=False,
    )


@dataclass(frozen=True)
class TinyFamily(BridgeFamily):
    """A family whose stock recipe is `tiny_config`; its data is one folder.

    Attributes:
        sizes: of the parent.
    """

    sizes: Mapping[str, Any] = field(default_factory=lambda: TINY)

    def stock_recipe(self, job: str, run: CurriculumRun) -> ConfigContainer:
        stage, plan, (data,) = run.stage(job), run.curriculum, run.data
        config = tiny_config(
            data, run.folder(job), steps=stage.max_steps, seq_length=stage.seq_length,
            micro_batch_size=stage.micro_batch_size, global_batch_size=stage.global_batch_size, lr=plan.lr,
            warmup_steps=plan.warmup_steps, min_ratio=plan.min_ratio, eval_iters=1, sizes=self.sizes,
            split="train_long" if job == "stage2" else "train",
        )  # fmt: skip
        config.scheduler.lr_decay_iters = plan.steps
        return config


def train_tiny(
    dir: str, block: Path, *, sizes: Mapping[str, Any] = TINY, data: str | None = None, scale: float = 1.0
) -> None:
    """A tiny family in one process: its parent's own training, ranking, both stages, members.

    Args:
        dir: folder for everything, an absolute path.
        block: YAML file with the elastic block.
        sizes: of the parent.
        data: folder made by `nemo-elastic data`; the standard library's text is tokenized where absent.
        scale: of all steps.
    """

    def steps(whole: int) -> int:
        return max(2, round(whole * scale))

    data, plan = tiny.tiny_data(dir, data), tiny.TINY
    parent = tiny_config(data, Path(dir, "parent"), steps=steps(tiny.PARENT_STEPS), warmup_steps=5, sizes=sizes)
    with bridge_on_this_machine(parent), lines_to_logs(Path(dir, "parent")):
        pretrain(parent, forward_step)
    first, second = (replace(stage, max_steps=steps(stage.max_steps)) for stage in plan.stages)
    plan = replace(plan, stage1=first, stage2=second, warmup_steps=min(plan.warmup_steps, first.max_steps - 1))
    family = TinyFamily("tiny", tiny_config, "", block, sizes=sizes)
    run = CurriculumRun(str(parent.checkpoint.save), [data], dir, family.config, curriculum=plan)
    for job in run.jobs[:-1]:
        family.build(job, run).pretrain_to_logs()
    slice_family(**family.slice_arguments(run))
