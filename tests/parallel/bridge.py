# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge's side of `runs`: the container of a job, and what a rank does with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.parallel.runs import BUCKET, LENGTH, PEAK, SHAPE, Job, block_of, padded, weights_read

#: module that starts a module of ours in this environment
STARTED_BY = ("tests.support.bridge", "-m")
SIZES = {
    k: v
    for k, v in SHAPE.items()
    if k not in ("hybrid_override_pattern", "num_layers", "make_vocab_size_divisible_by")
}
SIZES["hybrid_layer_pattern"] = SHAPE["hybrid_override_pattern"]
#: a parent with experts, in a latent width, and its part of the block
EXPERTS = {
    "moe_router_topk": 2, "moe_router_topk_scaling_factor": 2.5, "moe_router_score_function": "sigmoid",
    "moe_router_enable_expert_bias": True, "moe_router_dtype": "fp32", "moe_token_dispatcher_type": "alltoall",
    "moe_router_load_balancing_type": "seq_aux_loss",
    **{k: v for k, v in SIZES.items() if k != "ffn_hidden_size"},
    "hybrid_layer_pattern": "MEM*EM", "num_moe_experts": 8, "moe_ffn_hidden_size": 24, "moe_latent_size": 24,
    "moe_shared_expert_intermediate_size": 32, "moe_router_bias_update_rate": 1e-2, "moe_aux_loss_coeff": 1e-2,
}  # fmt: skip
EXPERT_BLOCK: dict[str, Any] = {
    "budgets": [
        {"name": "full"}, {"name": "large", "params": 80000, "active_params": 69000},
        {"name": "small", "params": 70000, "active_params": 62000},
    ],
    "axes": {
        "hidden": [32, 28, 24], "mamba_heads": [8, 4], "mamba_head_dim": [8, 6], "attention_heads": [8, 4],
        "experts": {"choices": [8, 6, 4], "per_layer": True, "stripes": 2},
        "expert_ffn": {"choices": [24, 20, 16], "stripes": 4}, "shared_ffn": {"choices": [32, 24], "stripes": 4},
        "latent": [24, 20], "depth": [6, 5],
    },
    "importance": {"samples": 4, "depth_samples": 4}, "search": {"candidates": 12, "tokens": 256},
    "seed": 5,  # with which two steps of two micro-batches, and three of one, sample every budget
}  # fmt: skip


def load() -> None:
    """Import what ranks need, once for all of them."""
    import logging
    import warnings

    import torch

    import nemo_elastic.hosts.bridge.curriculum
    import nemo_elastic.hosts.bridge.tiny  # noqa: F401

    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)


def config(place: Path, job: Job) -> Any:
    """A stock container of the tiny parent in a layout."""
    from nemo_elastic.hosts.bridge.tiny import tiny_config

    layout = job.layout
    if job.padded:
        padded(uneven=layout.per_token)
    made = tiny_config(
        place / "data", place / job.out, steps=job.steps, seq_length=LENGTH * job.times,
        micro_batch_size=layout.batch // layout.data,
        global_batch_size=layout.batch * layout.micro_batches * job.times,
        warmup_steps=1, lr=PEAK, eval_iters=1, save_every=job.save_every,
        sizes=SIZES if layout.experts is None else EXPERTS,
    )  # fmt: skip
    model = made.model
    model.tensor_model_parallel_size, model.sequence_parallel = layout.tensor, layout.sequence
    model.pipeline_model_parallel_size, model.expert_model_parallel_size = layout.pipeline, layout.experts or 1
    made.optimizer.adam_eps, made.optimizer.clip_grad = 1e-3, layout.clip  # as in tests/parallel
    made.optimizer.use_distributed_optimizer = made.ddp.use_distributed_optimizer = layout.sharded
    if layout.half:
        made.mixed_precision = "bf16_mixed"
    if layout.overlap:
        made.ddp.overlap_grad_reduce, made.ddp.bucket_size = True, BUCKET
    if layout.recompute:
        made.model.recompute_granularity, made.model.recompute_method = layout.recompute, "uniform"
        made.model.recompute_num_layers = 1
    made.model.calculate_per_token_loss, made.model.context_parallel_size = layout.per_token, layout.context
    if job.packed:
        prompts(place, made)
    if job.few:
        made.dataset.dataset_root = str(place / "few")
        made.dataset.max_train_samples = job.steps * made.train.global_batch_size  # as our recipes on conversations
    if job.kept is not None:
        made.checkpoint.most_recent_k = job.kept
    if job.stock is not None:
        job.stock(made)
    return made


def prompts(place: Path, container: Any) -> None:
    """Let a container train on them, packed as Bridge packs."""
    from megatron.bridge.data.packing.config import PackedSequenceSpecs
    from megatron.bridge.training import config as bridge

    container.dataset = bridge.GPTSFTDatasetConfig(
        dataset_root=str(place / "sft"), seq_length=LENGTH, dataloader_type="single", num_workers=0, do_test=False,
        enable_offline_packing=True, dataset_kwargs={"pad_to_max_length": True},
        offline_packing_specs=PackedSequenceSpecs(packed_sequence_size=LENGTH, tokenizer_model_name="tiny"),
    )  # fmt: skip
    container.tokenizer = own_tokenizer(place)


def own_tokenizer(place: Path) -> Any:
    """The data's, in place of none."""
    from megatron.bridge.training.tokenizers.config import TokenizerConfig

    return TokenizerConfig(tokenizer_type="HuggingFaceTokenizer", tokenizer_model=str(place / "data" / "tokenizer"))


def run(place: Path, job: Job) -> dict[str, Any]:
    """Do a job on this rank; returns what it read of the parent."""
    from megatron.bridge.training.callbacks import Callback
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    from nemo_elastic.hosts.bridge.apply import apply_elastic
    from nemo_elastic.hosts.bridge.platform import bridge_on_this_machine
    from nemo_elastic.hosts.bridge.step import ElasticStep

    if job.before is not None:
        job.before()
    facts = {"read": weights_read()}
    container = config(place, job)
    if job.kind == "parent":
        container.checkpoint.pretrained_checkpoint = None if job.teacher is None else str(job.teacher)
        with bridge_on_this_machine(container):
            pretrain(container, forward_step)
        return {}
    elastic = apply_elastic(
        container, block_of(job.layout, **({} if job.layout.experts is None else EXPERT_BLOCK) | dict(job.changes)),
        teacher=str(job.teacher or place / "parent" / "checkpoints"), stage=job.stage,
        previous=str(place / job.previous[0] / "checkpoints") if job.previous else None,
        ranked=str(place / job.from_ranking / "checkpoints") if job.from_ranking else None,
        rank_only=job.kind == "rank", verbose=False,
    )  # fmt: skip
    assert type(elastic.forward_step) is ElasticStep

    class Watch(Callback):
        def on_train_step_start(self, context: Any) -> None:
            job.starts(context.state.train_state.step, int(os.environ["RANK"]))

    elastic.callbacks.append(Watch())
    if job.elastic is not None:
        job.elastic(elastic)
    if job.callback is not None:
        elastic.callbacks.append(job.callback())
    done = elastic.ended
    elastic.pretrain()
    if job.kind == "rank" and not done:
        holds_weights_alone(elastic.forward_step)
    return facts


def holds_weights_alone(step: Any) -> None:
    """A ranking has no teacher, and no gradients and optimizer's state of the parent's matrices."""
    host, small = step.host, 0
    assert host.frozen is None
    for name, weight in host.core.named_parameters():
        own = name.startswith("elastic.") or weight.ndim == 1
        small += weight.numel() * own
        assert own or (not weight.requires_grad and getattr(weight, "main_grad", None) is None), name
    assert 0 < sum(weight.numel() for group in host.optimizer.param_groups for weight in group["params"]) <= small
