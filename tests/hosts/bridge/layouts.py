# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of the tiny family on Megatron-Bridge in every layout of one and two ranks, and some that end too soon."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.errors import STOPPED
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.parallel import forks
from tests.parallel.bridge import config
from tests.parallel.forks import CLEAR
from tests.parallel.runs import VOCAB, Job, Layout, do, prepare
from tests.workers import work

STEPS = 2
#: ranks that AutoBridge exports from
WORLDS = (1, 2)
#: bytes of a file on a full disk: more than the log has, less than the weights
ROOM = 60_000
#: what scripts do with an elastic run -> the line that it ends with, before a step is taken
REFUSED = {
    "late": f"recipe.tokenizer.vocab_size: {VOCAB // 4} ",
    "forward_step": "forward_step: 'another' ",
    "callbacks": "callbacks: missing",
}
PAIRS = {
    "dp2": Layout(data=2, micro_batches=2, searched=True),
    "dp2-soft-sharded": Layout(data=2, sharded=True, micro_batches=2, soft=True),
    "dp2-tp2-sp-overlap": Layout(
        data=2, tensor=2, sequence=True, micro_batches=2, recompute="full", overlap=True, searched=True
    ),
    "dp2-tp2-sp-sharded-overlap": Layout(
        data=2, tensor=2, sequence=True, sharded=True, micro_batches=2, soft=True, overlap=True
    ),
    "tp2-sp": Layout(tensor=2, sequence=True, micro_batches=2, searched=True),
    "pp2": Layout(pipeline=2, micro_batches=4, searched=True),
    "pp2-soft": Layout(pipeline=2, micro_batches=4, soft=True, mode="frozen_ce"),
    "dp2-per-token": Layout(data=2, micro_batches=2, per_token=True),
    "cp2-soft-sharded": Layout(context=2, sharded=True, micro_batches=2, soft=True, recompute="full"),
    "cp2-tp2-sp": Layout(context=2, tensor=2, sequence=True, micro_batches=2, searched=True),
    "cp2-pp2": Layout(context=2, pipeline=2, micro_batches=4, searched=True),
    "cp2-per-token": Layout(context=2, micro_batches=2, per_token=True),
}
#: runs of one rank, which layouts that train the same share
ALONE = {layout.alone.name: layout.alone for layout in PAIRS.values()}
#: of the runs that end too soon and go on
SEARCHED = Layout(searched=True)
#: the same in bf16 on two ranks, with the optimizer's state in shares
HALF = Layout(data=2, sharded=True, micro_batches=2, half=True, searched=True)
SOFT = Layout(soft=True)
#: runs, and the same killed before their last step; `whole` is that of others that end too soon
KILLED = (("whole-half", "killed-half", HALF), ("whole-soft", "killed-soft", SOFT))


def by_name(jobs: list[Job], results: list[dict[str, Any]]) -> dict[str, Any]:
    return {job.out: result for job, result in zip(jobs, results, strict=True)}


def stage(name: str, layout: Layout, **more: Any) -> Job:
    return Job(name, layout=layout, padded=True, **more)


def going_on(name: str, layout: Layout = SEARCHED, **more: Any) -> Job:
    """A run of four steps that are all saved."""
    return stage(name, layout, steps=4, save_every=1, **more)


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """On one rank, where one is killed and one stopped, and in all layouts of several. What ended too soon goes on."""
    prepare(place)
    late = place / "late-teacher"  # not there before the run starts
    scripts: dict[str, dict[str, Any]] = {
        "late": {"teacher": late, "elastic": lambda _: os.symlink(place / "parent" / "checkpoints", late),
                 "stock": small_vocabulary},
        **{name: {"elastic": partial(started, name)} for name in ("forward_step", "callbacks")},
    }  # fmt: skip
    first = [
        *(stage(name, Layout(), ends=CLEAR, **how) for name, how in scripts.items()),
        stage("whole", SEARCHED, steps=4, stock=validated_twice),
        stage("whole-half", HALF, steps=4),
        going_on("whole-soft", SOFT, kept=1),
        *(going_on(killed, layout, until=3) for _, killed, layout in KILLED),
        stage("stopped", SEARCHED, steps=4, stop=1, ends=STOPPED),
        going_on("cut-short", before=partial(cut_short, 3), ends=-signal.SIGKILL),
        going_on("full", elastic=cramped, ends=CLEAR),
        *(stage(name, layout) for name, layout in ALONE.items()),
        # in one of them the recipe has Bridge's placeholder for a tokenizer, which is smaller than the parent's
        *(stage(name, layout, stock=small_vocabulary if name == "tp2-sp" else None) for name, layout in PAIRS.items()),
    ]
    results = {"first": by_name(first, do(place, *first))}
    later = {"distill": {"temperature": 2.0}}  # on which no ranking depends
    end: dict[str, Any] = {"kind": "stage2", "longer": True}
    again = [
        Job("rank-search", "rank", SEARCHED, changes=later),
        *(going_on(killed, layout) for _, killed, layout in KILLED),
        *(going_on(name) for name in ("stopped", "full", "cut-short")),
        stage("second", PAIRS["dp2"].alone, previous=(PAIRS["tp2-sp"].alone.name, STEPS), **end),
        stage("second-dp2", PAIRS["dp2"], previous=("tp2-sp", STEPS), **end),
    ]
    results["again"] = by_name(again, do(place, *again))
    before = times(place / "whole")
    (ended,) = do(place, stage("whole", SEARCHED, steps=4))
    slice_checkpoint(place / "whole" / "checkpoints", place / "parent-cut", member="full")
    for world in WORLDS:
        forks.run(place / "log" / f"exported-{world}", world, export, place, world)
    work(
        "nemo_elastic", "convert", place / "whole" / "checkpoints", "--format", "megatron", "--out", place / "release"
    )
    (stock,) = do(place, Job("started", "parent", steps=1, teacher=place / "release"))
    return results | {"ended": ended | {"changed": times(place / "whole") != before}, "stock": stock}


def times(run: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def export(place: Path, world: int, run: str = "whole", before: Callable[[], None] | None = None) -> None:
    """Let Bridge's AutoBridge export a family's model, as it trains, in PLACE/exported-WORLD.safetensors."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker, model_parallel_cuda_manual_seed
    from safetensors.torch import save_file

    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.formats.megatron.context_files import read_context
    from nemo_elastic.formats.megatron.shape import parent_of
    from nemo_elastic.hosts.bridge.autobridge import as_stock, auto_bridge
    from nemo_elastic.hosts.bridge.platform import without_cuda
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.models import make_family
    from nemo_elastic.train.training import FamilyTraining

    if before is not None:
        before()
    checkpoint, out = place / run / "checkpoints", place / f"exported-{world}.safetensors"
    torch.distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=world)
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
    with cuda_as_cpu():
        model_parallel_cuda_manual_seed(1)
        bridge = auto_bridge(place / "parent-cut")
        stock = config(place, Job("export", layout=Layout(tensor=world)))
        without_cuda(stock)
        provider = stock.model
        provider.finalize()
        (model,) = provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=True)
        block = read_context(checkpoint).elastic
        assert block is not None
        family = FamilyTraining(ElasticConfig.from_dict(block))
        make_family(model, family, parent_of(provider, model.vocab_size, "model"), str(checkpoint))
        with as_stock([model]):
            exported = dict(bridge.export_hf_weights([model], cpu=True, show_progress=False))
        assert family.members is model.elastic
    if torch.distributed.get_rank() == 0:
        save_file({name: tensor.contiguous() for name, tensor in exported.items()}, out)
    torch.distributed.barrier()


def validated_twice(container: Any) -> None:
    """In the middle of four steps, and at the end."""
    container.validation.eval_interval = 2


def small_vocabulary(container: Any) -> None:
    """The tokenizer that stands for none in Bridge's own recipes."""
    container.model.vocab_size, container.model.should_pad_vocab = None, True
    container.tokenizer.vocab_size, container.tokenizer.use_tokenizer_vocab_size = VOCAB // 4, True


def started(wrong: str, run: Any) -> None:
    """Start an elastic run with another step, or without its callbacks."""
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    from nemo_elastic.hosts.bridge.platform import bridge_on_this_machine

    with bridge_on_this_machine(run.config):
        if wrong == "forward_step":
            pretrain(run.config, forward_step, callbacks=run.callbacks)
        else:
            pretrain(run.config, run.forward_step)


def cut_short(step: int) -> None:
    """Let the process end in the save of a step, when the trackers name it and its last file is to come."""
    from megatron.bridge.training.config import ConfigContainer

    write = ConfigContainer.to_yaml

    def killed(self: Any, path: Any = None) -> Any:
        if path is not None and f"iter_{step:07d}" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, path)

    ConfigContainer.to_yaml = killed


def cramped(run: Any) -> None:
    """From the third step on no file may be longer than there is room."""
    from megatron.bridge.training.callbacks import Callback

    class Cramped(Callback):
        def on_train_step_start(self, context: Any) -> None:
            if context.state.train_state.step == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))

    run.callbacks.append(Cramped())
