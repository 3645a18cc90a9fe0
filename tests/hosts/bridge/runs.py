# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tiny families on Megatron-Bridge: trainings in any layout of ranks.

    python -m tests.support.bridge -m tests.hosts.bridge.runs PLACE JOBS

JOBS is a JSON list of `Job`s, done one after the other until one ends otherwise than it should: each in forks of this
process, one per rank, for importing Bridge takes longer than any of them. JOBS.codes gets how they ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nemo_elastic.errors import STOPPED
from tests.parallel import forks
from tests.parallel.runs import BATCH, BUCKET, LENGTH, PEAK, SHAPE, VOCAB, Layout, block_of, padded
from tests.texts import FEW, library_text
from tests.workers import free_port

#: of training, in the folder `few`
CONVERSATIONS = 20
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


@dataclass
class Job:
    """One run.

    Attributes:
        out: its folder.
        kind: parent, rank, stage1, stage2 or stage3.
        layout: of ranks, and what is trained.
        batch: sequences of a micro-batch of all data-parallel ranks.
        steps: of the run; done: of the stages before.
        teacher, ranked, previous: what it starts from; a parent from weights alone, as `ranked`.
        until: step before which the process kills itself; stop: in which SIGTERM comes.
        save_every: steps between checkpoints; kept: how many.
        cut_short: step whose save ends the process between the trackers and the checkpoint's last file.
        room: bytes that a file of weights may have from the third step on.
        longer: stage 2's sequences are twice as long, and twice as many of them make a step.
        changes: of the elastic block.
        padded: a part of every sample does not count, see `padded`; per_token: another part of each, and each token
            counts for as much as another in a step.
        packed: prompts and answers, several in a row, of which the answers count; few: so few that a run reads all of
            them more than once.
        placeholder: size of the tokenizer that stands for none in the recipe, as in Bridge's own.
        wrong: what a script does so that the run is refused, see `spoilt`; late: the teacher is not there before it.
        experts: ranks that share the experts of a parent with such; None for the dense one.
        rounded: the weights are rounded so before the first step.
    """

    out: str
    kind: str = "stage1"
    layout: Layout = field(default_factory=Layout)
    batch: int = BATCH
    steps: int = 4
    done: int = 0
    teacher: str | None = None
    ranked: str | None = None
    previous: str | None = None
    until: int | None = None
    stop: int | None = None
    save_every: int | None = None
    kept: int | None = None
    cut_short: int | None = None
    room: int | None = None
    longer: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    padded: bool = False
    per_token: bool = False
    packed: bool = False
    few: bool = False
    placeholder: int | None = None
    wrong: str | None = None
    experts: int | None = None
    rounded: str | None = None

    @property
    def ends(self) -> int:
        """Its exit code."""
        if self.wrong is not None or self.room is not None:
            return forks.CLEAR
        killed = self.until is not None or self.cut_short is not None
        return -signal.SIGKILL if killed else 0 if self.stop is None else STOPPED

    @classmethod
    def load(cls, data: dict[str, Any]) -> Job:
        return cls(**{**data, "layout": Layout(**data["layout"])})


def dump(jobs: list[Job], path: Path) -> Path:
    path.write_text(json.dumps([asdict(job) for job in jobs]))
    return path


def config(place: Path, job: Job) -> Any:
    """A stock container of the tiny parent in a layout."""
    from nemo_elastic.hosts.bridge.tiny import tiny_config

    layout, times = job.layout, 2 if job.longer else 1
    if job.padded:
        padded(uneven=job.per_token)
    made = tiny_config(
        place / "data", job.out, steps=job.steps, seq_length=LENGTH * times,
        micro_batch_size=job.batch // layout.data, global_batch_size=job.batch * layout.micro_batches * times,
        warmup_steps=1, lr=PEAK, eval_iters=1, save_every=job.save_every,
        tensor_parallel=layout.tensor, pipeline_parallel=layout.pipeline,
        sequence_parallel=layout.sequence,
        sizes=SIZES if job.experts is None else EXPERTS,
        expert_parallel=job.experts or 1,
    )  # fmt: skip
    made.optimizer.adam_eps, made.optimizer.clip_grad = 1e-3, layout.clip  # as in tests/parallel
    made.optimizer.use_distributed_optimizer = made.ddp.use_distributed_optimizer = layout.sharded
    if layout.half:
        made.mixed_precision = "bf16_mixed"
    if layout.overlap:
        made.ddp.overlap_grad_reduce, made.ddp.bucket_size = True, BUCKET
    if layout.recompute:
        made.model.recompute_granularity, made.model.recompute_method = layout.recompute, "uniform"
        made.model.recompute_num_layers = 1
    made.model.calculate_per_token_loss, made.model.context_parallel_size = job.per_token, layout.context
    if job.packed:
        prompts(place, made)
    if job.few:
        made.dataset.dataset_root = str(place / "few")
        made.dataset.max_train_samples = job.steps * made.train.global_batch_size  # as our recipes on conversations
    if job.kept is not None:
        made.checkpoint.most_recent_k = job.kept
    if job.placeholder is not None:
        made.model.vocab_size, made.model.should_pad_vocab = None, True
        made.tokenizer.vocab_size, made.tokenizer.use_tokenizer_vocab_size = job.placeholder, True
    return made


def write_prompts(place: Path) -> None:
    """Prompts and answers of many lengths."""
    rows = [{"input": f"what is {i} + {i}?", "output": f"{' well,' * (i % 7)} {2 * i}."} for i in range(200)]
    for folder, count in (("sft", len(rows)), ("few", CONVERSATIONS)):
        (place / folder).mkdir()
        for name in ("training", "validation", "test"):
            some = rows[:count] if name == "training" else rows
            (place / folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))


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


def run(place: Path, job: Job) -> None:
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    from nemo_elastic.hosts.bridge.apply import apply_elastic
    from nemo_elastic.hosts.bridge.curriculum import train_to_the_end
    from nemo_elastic.hosts.bridge.platform import bridge_on_this_machine
    from nemo_elastic.hosts.bridge.step import ElasticStep

    container = config(place, job)
    if job.kind == "parent":
        container.checkpoint.pretrained_checkpoint = job.ranked
        with bridge_on_this_machine(container):
            pretrain(container, forward_step)
        return
    stage, teacher = int(job.kind[-1]) if job.kind.startswith("stage") else 1, job.teacher
    if job.wrong == "late":
        teacher = f"{job.out}-teacher"
    changes = job.changes if job.experts is None else EXPERT_BLOCK | job.changes
    elastic = apply_elastic(
        container, block_of(job.layout, **changes), teacher=teacher, stage=stage,
        previous=job.previous, done_steps=job.done, total_steps=job.done + job.steps if stage > 1 else None,
        ranked=job.ranked, rank_only=job.kind == "rank", verbose=False,
    )  # fmt: skip
    assert type(elastic.forward_step) is ElasticStep
    if job.wrong == "late":
        os.symlink(job.teacher or "", teacher or "")
    elif job.wrong is not None and spoilt(place, job.wrong, elastic):
        return
    if job.until is not None:
        elastic.callbacks.append(killer(job.until, signal.SIGKILL))
    if job.stop is not None:
        elastic.callbacks.append(killer(job.stop, signal.SIGTERM))
    if job.cut_short is not None:
        cut_short(job.cut_short)
    if job.room is not None:
        elastic.callbacks.append(cramped(job.room))
    if job.rounded is not None:
        elastic.callbacks.append(rounder(job.rounded, elastic.forward_step))
    done = elastic.ended
    train_to_the_end(elastic)
    if job.kind == "rank" and not done:
        holds_weights_alone(elastic.forward_step)


def spoilt(place: Path, wrong: str, elastic: Any) -> bool:
    """Do with an elastic run what no script should; whether that was to start it."""
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    from nemo_elastic.hosts.bridge.platform import bridge_on_this_machine

    config = elastic.config
    if wrong in ("forward_step", "callbacks"):
        with bridge_on_this_machine(config):
            if wrong == "forward_step":
                pretrain(config, forward_step, callbacks=elastic.callbacks)
            else:
                pretrain(config, elastic.forward_step)
        return True
    if wrong == "overlap":
        config.ddp.overlap_grad_reduce = True
    return False


def holds_weights_alone(step: Any) -> None:
    """A ranking has no teacher, and no gradients and optimizer's state of the parent's matrices."""
    host, small = step.host, 0
    assert host.frozen is None
    for name, weight in host.core.named_parameters():
        own = name.startswith("elastic.") or weight.ndim == 1
        small += weight.numel() * own
        assert own or (not weight.requires_grad and getattr(weight, "main_grad", None) is None), name
    assert 0 < sum(weight.numel() for group in host.optimizer.param_groups for weight in group["params"]) <= small


def killer(step: int, number: int) -> Any:
    """A callback by which the process gets a signal at the start of a step."""
    from megatron.bridge.training.callbacks import Callback

    class Killer(Callback):
        def on_train_step_start(self, context: Any) -> None:
            if context.state.train_state.step == step:
                os.kill(os.getpid(), number)

    return Killer()


def cut_short(step: int) -> None:
    """Let the process end in the save of a step, when the trackers name it and its last file is to come."""
    from megatron.bridge.training.config import ConfigContainer

    write = ConfigContainer.to_yaml

    def killed(self: Any, path: Any = None) -> Any:
        if path is not None and f"iter_{step:07d}" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, path)

    ConfigContainer.to_yaml = killed


def cramped(bytes_: int) -> Any:
    """A callback by which no file may be longer than so much, from the third step on."""
    from megatron.bridge.training.callbacks import Callback

    class Cramped(Callback):
        def on_train_step_start(self, context: Any) -> None:
            if context.state.train_state.step == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))

    return Cramped()


def rounder(scheme: str, step: Any) -> Any:
    """A callback by which the weights are those of low precision when a training begins."""
    from megatron.bridge.training.callbacks import Callback

    class Rounder(Callback):
        def on_train_start(self, context: Any) -> None:
            round_in_place(step.host, scheme)

    return Rounder()


def round_in_place(host: Any, scheme: str) -> None:
    """Round the weights of a model that one rank has whole, for all that they are used for."""
    import torch

    from nemo_elastic.formats.adapter import from_megatron, to_megatron
    from nemo_elastic.nn.low_precision import rounded_state

    parent, weights = host.state.parent, host.weights()
    rounded = rounded_state(parent, from_megatron(parent, parent.full, weights), scheme)
    with torch.no_grad():
        for name, value in to_megatron(parent, parent.full, rounded).items():
            weights[name].copy_(value)


def prepare_data(place: Path) -> None:
    from nemo_elastic.data.build import build_data

    if not (place / "data").exists():
        build_data(place / "data", [library_text(place / "text", FEW)], vocab=VOCAB, held_out_problems=4)


def port_of(file: Path, rank: int) -> str:
    """A port that is free now, the same on all ranks: the first writes it down."""
    if rank == 0:
        file.with_suffix(".new").write_text(str(free_port()))
        file.with_suffix(".new").rename(file)
    while not file.exists():
        time.sleep(0.02)
    return file.read_text()


def main(place: Path, listed: Path) -> None:
    import logging
    import warnings

    import torch

    import nemo_elastic.hosts.bridge.curriculum
    import nemo_elastic.hosts.bridge.tiny  # noqa: F401  (once, for all ranks)

    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    log, codes = listed.with_suffix(".ranks"), []
    forks.run(log / "data", 1, prepare_data, place)
    for job in map(Job.load, json.loads(listed.read_text())):
        ranks = forks.start(log / Path(job.out).name, job.layout.world, run, place, job)
        ended = ranks.wait(600)
        codes.append(next((code for code in ended if code), 0))
        for rank in range(job.layout.world if codes[-1] != job.ends else 1):
            print(ranks.said(rank))
        if codes[-1] != job.ends:
            print(f"{job.out}: exit codes {ended}")
            break
    listed.with_suffix(".codes").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
