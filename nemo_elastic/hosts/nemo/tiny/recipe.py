# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A Nemotron-H that trains on a CPU, the parent of the demo, the tests and the tiny recipes; and its stock recipe of
NeMo-Run's: what `apply_elastic` is given in the demo.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, of a factory and for overrides.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nemo_run as run
import torch
from megatron.core.optimizer import OptimizerConfig
from nemo import lightning as nl
from nemo.collections import llm
from nemo.collections.llm.gpt.model.ssm import NemotronHConfigBase
from nemo.collections.llm.recipes.log.default import tensorboard_logger

from nemo_elastic.data.folder import CHAT_MANIFEST, ChatFolder, DataFolder
from nemo_elastic.hosts.common.checkpoints import NEMO
from nemo_elastic.hosts.nemo.callbacks import MetricsWriter
from nemo_elastic.hosts.nemo.checkpoint.resume import FILENAME, StopInTime
from nemo_elastic.hosts.nemo.folder_data import packed_chats, pretraining_data
from nemo_elastic.hosts.nemo.optim import ElasticSchedule
from nemo_elastic.hosts.nemo.platform.strategy import strategy_class
from nemo_elastic.megatron.spec import elastic_stack_spec


@dataclass
class TinyNemotronH(NemotronHConfigBase):
    """1.6M parameters with every part of a Nano V2: Mamba-2, squared-ReLU MLP and grouped-query attention layers.

    No positional embedding, untied head, no biases except conv1d and dt, as the large ones. The vocabulary is that of
    the tokenizer; 1024 is what the demo trains.

    A NeMo trap: a class that captures its arguments for checkpoints (`io.IOMixin`) is wrapped on first use; one whose
    base class was used before it inherits the mark "already wrapped" and captures nothing. `__wrapped_init__ = False`
    takes the mark away; a subclass of this class needs that line too.
    """

    __wrapped_init__ = False

    hybrid_override_pattern: str = "M-M-M*-M-M*-"
    num_layers: int = 12
    hidden_size: int = 128
    ffn_hidden_size: int = 512
    mamba_num_heads: int = 16
    mamba_head_dim: int = 16
    mamba_num_groups: int = 4
    mamba_state_dim: int = 16
    num_attention_heads: int = 4
    num_query_groups: int = 2
    kv_channels: int = 32
    vocab_size: int = 1024
    # The base class pads to a multiple of 128 times the tensor-parallel size: here 1024 is 1024.
    make_vocab_size_divisible_by: int = 1
    seq_length: int = 256

    # Without TransformerEngine, and with layers that know widths; the parameter names are the stock ones.
    mamba_stack_spec: Callable = field(default_factory=lambda: elastic_stack_spec)

    # what a CPU needs
    use_cpu_initialization: bool = True
    params_dtype: torch.dtype = torch.float32
    bf16: bool = False
    first_last_layers_bf16: bool = False
    # fused kernels that exist for CUDA alone
    apply_rope_fusion: bool = False
    bias_dropout_fusion: bool = False
    cross_entropy_loss_fusion: bool = False
    gradient_accumulation_fusion: bool = False
    masked_softmax_fusion: bool = False
    persist_layer_norm: bool = False


@dataclass
class RecallNemotronH(TinyNemotronH):
    """0.15M parameters for texts whose words are their tokens (`demo.words`).

    It starts from 1/sqrt(hidden): from megatron-core's 0.02 so small a model takes many times as long to learn to look
    anything up.
    """

    __wrapped_init__ = False

    hybrid_override_pattern: str = "M*M*-"
    num_layers: int = 5
    hidden_size: int = 64
    ffn_hidden_size: int = 128
    mamba_num_heads: int = 8
    num_attention_heads: int = 2
    vocab_size: int = 258
    init_method_std: float = 64**-0.5


def tiny_recipe(
    data: str | Path,
    out: str | Path,
    *,
    steps: int,
    seq_length: int = 256,
    micro_batch_size: int = 8,
    global_batch_size: int = 8,
    lr: float = 3e-3,
    warmup_steps: int = 20,
    min_ratio: float = 0.1,
    split: str = "train",
    label: str = "train",
    eval_every: int = 0,
    eval_sequences: int = 16,
    devices: int = 1,
    tensor_parallel: int = 1,
    seed: int = 1234,
    config: run.Config | None = None,
) -> run.Partial:
    """`llm.pretrain` of a `TinyNemotronH` on a data folder.

    Args:
        data: folder made by `nemo-elastic data`; one of conversations has its own length of sequences, which go
            through one by one.
        out: log directory; checkpoints go to `out/checkpoints`, metrics to `out/metrics.jsonl`.
        steps: optimizer steps; the data order is fixed for exactly as many.
        seq_length, micro_batch_size, global_batch_size: tokens per sequence, sequences per forward and per step.
        lr, warmup_steps, min_ratio: peak rate, linear warm-up, rate at the end as a share of the peak.
        split: split of the data folder to train on.
        label: name of the phase in metrics and progress.
        eval_every, eval_sequences: see `held_out`.
        devices, tensor_parallel: ranks, and how many of them share a layer.
        seed: of the data order.
        config: of another model than a `TinyNemotronH`; length and vocabulary are set here.
    """
    if Path(data, CHAT_MANIFEST).is_file():
        folder = ChatFolder.open(data)
        module = packed_chats(folder, global_batch_size, seed)
    else:
        folder = DataFolder.open(data)
        module = pretraining_data(
            folder, seq_length=seq_length, micro_batch_size=micro_batch_size, global_batch_size=global_batch_size,
            num_train_samples=steps * global_batch_size, train=split, seed=seed,
        )  # fmt: skip
    config = config or run.Config(TinyNemotronH)
    config.seq_length, config.vocab_size = module.seq_length, folder.vocab_size
    schedule = run.Config(ElasticSchedule, total_steps=steps, warmup_steps=warmup_steps, min_ratio=min_ratio)
    adam = run.Config(OptimizerConfig, optimizer="adam", lr=lr, weight_decay=0.05, adam_beta2=0.95, clip_grad=1.0)
    recipe = run.Partial(
        llm.pretrain,
        model=run.Config(llm.MambaModel, config=config, tokenizer=module.tokenizer),
        data=module,
        trainer=_trainer(devices, tensor_parallel, steps, label),
        log=_logger(out, steps, label),
        optim=run.Config(nl.MegatronOptimizerModule, config=adam, lr_scheduler=schedule),
        resume=run.Config(nl.AutoResume, resume_if_exists=True, resume_ignore_no_checkpoint=True),
    )
    held_out(recipe, eval_every, eval_sequences)
    return recipe


def _trainer(devices: int, tensor_parallel: int, steps: int, label: str) -> run.Config:
    strategy = run.Config(
        strategy_class(), tensor_model_parallel_size=tensor_parallel, ckpt_async_save=False, ckpt_parallel_load=False
    )
    return run.Config(
        nl.Trainer,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=devices,
        max_steps=steps,
        strategy=strategy,
        plugins=run.Config(nl.MegatronMixedPrecision, precision="32", params_dtype=torch.float32),
        callbacks=[run.Config(MetricsWriter, label=label), run.Config(StopInTime)],
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,  # `trainer.max_steps` may be changed to less than `val_check_interval`
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        logger=False,
    )


def _logger(out: str | Path, steps: int, label: str) -> run.Config:
    """NeMo's logs and TensorBoard's events in a folder, with one checkpoint: that of the run's end."""
    checkpoint = run.Config(
        nl.ModelCheckpoint,
        filename=FILENAME,
        save_last=True,
        every_n_train_steps=steps + 1,
        save_top_k=0,
        save_on_train_epoch_end=True,  # once, not at each validation
        save_optim_on_train_end=True,
        monitor="reduced_train_loss",
    )
    return run.Config(
        nl.NeMoLogger,
        name=label,
        explicit_log_dir=str(out),
        use_datetime_version=False,
        log_local_rank_0_only=True,
        ckpt=checkpoint,
        tensorboard=tensorboard_logger(name=label),
    )


def held_out(recipe: run.Partial, every: int, sequences: int) -> None:
    """Set when a recipe validates and on how much, once its ranks are known.

    Args:
        recipe: a tiny one; changed.
        every: steps between validations; 0 for none but the first and the last.
        sequences: of held-out text, of all ranks together; rounded up to whole global batches.
    """
    trainer, data = recipe.trainer, recipe.data
    kinds = (f"{kind}_parallel_size" for kind in ("tensor_model", "pipeline_model", "context"))
    replicas = trainer.devices // math.prod(getattr(trainer.strategy, kind, 1) or 1 for kind in kinds)
    trainer.val_check_interval = every or trainer.max_steps
    # NeMo counts micro-batches of a rank here
    of_a_step = data.global_batch_size // (data.micro_batch_size * replicas)
    trainer.limit_val_batches = -(-sequences // data.global_batch_size) * of_a_step


def nemotron_elastic_tiny(
    data: str = "data",
    out: str = "runs/nemotron_elastic_tiny",
    steps: int = 200,
    seq_length: int = 128,
    micro_batch_size: int = 8,
    global_batch_size: int = 16,
    devices: int = 1,
    tensor_parallel: int = 1,
) -> run.Partial:
    """The tiny recipe as a factory of `llm.pretrain`: a 1.6M Nemotron-H that trains on one or two CPU cores.

    It is a stock recipe; the elastic block is given beside it, as to any other.

    Examples:
        CLI usage:
            $ nemo-elastic demo --short --out demo
            $ nemo llm pretrain --factory "nemotron_elastic_tiny(data=demo/data,out=runs/parent,steps=300)"
            $ nemo elastic train --factory nemotron_elastic_tiny --yaml elastic.yaml teacher=runs/parent/checkpoints/…

        Python API usage:
            >>> recipe = nemotron_elastic_tiny(data="data", out="runs/parent", steps=300)

    Args:
        data: folder made by `nemo-elastic data`; of conversations also its `length` holds.
        out: log directory.
        steps: optimizer steps.
        seq_length, micro_batch_size, global_batch_size: tokens per sequence, sequences per forward and per step.
        devices, tensor_parallel: ranks, and how many of them share a layer.
    """
    return tiny_recipe(
        data,
        Path(out).resolve(),  # NeMo-Run starts jobs in other working directories
        steps=steps,
        seq_length=seq_length,
        micro_batch_size=micro_batch_size,
        global_batch_size=global_batch_size,
        warmup_steps=max(1, steps // 20),
        devices=devices,
        tensor_parallel=tensor_parallel,
    )


def last_checkpoint(out: str | Path) -> Path:
    """The checkpoint that a finished run left.

    Raises:
        ElasticError: there is none, or none that is whole.
    """
    from nemo_elastic.errors import bad

    newest, _ = NEMO.choose(Path(out, "checkpoints"))
    if newest is None:
        raise bad("checkpoint", str(out), "a run that has ended and left checkpoints/*-last")
    return newest
