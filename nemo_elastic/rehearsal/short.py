# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How much a rehearsal trains, and how its run follows from a recipe's, on any host: one `replace` after another."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.data.build import build_data
from nemo_elastic.data.packing import NPY
from nemo_elastic.data.prepare import prepare
from nemo_elastic.data.reasoning import generate
from nemo_elastic.errors import bad
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun
from nemo_elastic.hosts.common.planned import PlannedFamily
from nemo_elastic.hosts.common.token_files import Blend
from nemo_elastic.io.values import integer
from nemo_elastic.plan import Layout
from nemo_elastic.plan.stages import STAGES, Curriculum, Stage

from .small import ON_CPU, ON_GPU, narrow

#: of the narrow parent's own training: steps, sequences per step, and rate. A model that has learned nothing has
#: nothing to rank, to teach, or to lose
PARENT_STEPS, PARENT_BATCH, PARENT_LR = 40, 16, 3e-3
#: the first start of stage 1, which ends without a word
CUT_SHORT = "stage1-killed"
#: with some in a hundred held out, in sequences of some hundred tokens
CONVERSATIONS = 3000


@dataclass(frozen=True)
class Short:
    """How much a rehearsal trains.

    Attributes:
        ranks: processes, or GPUs of one node.
        cuda: whether they are GPUs; of this machine where not given.
        steps: of stage 1; the others are scaled alike.
        seq_length: of stage 1; as well.
        micro_batches: per rank and step, of stage 1 and of the others; the ranking takes one for each rank out of
            stage 1's step.
        samples, depth_samples: sequences that the ranking looks at.
        candidates: of the search.
        validations, validation_batches: of a stage, after its first step; and micro-batches of each.
    """

    ranks: int = 4
    steps: int = 18
    seq_length: int = 64
    micro_batches: tuple[int, int] = (4, 2)
    samples: int = 16
    depth_samples: int = 4
    candidates: int = 16
    validations: int = 6
    validation_batches: int = 2
    cuda: bool = field(default_factory=torch.cuda.is_available)

    def __post_init__(self) -> None:
        ranks = integer("ranks", self.ranks, 1, "a number of processes, at least 1")
        if ranks & (ranks - 1):
            raise bad("ranks", ranks, "a power of two, as tensor-parallel sizes are")
        integer("steps", self.steps, 6, "at least 6: a checkpoint is written after a third of them")


def scaled_layouts(layouts: Sequence[Layout], ranks: int) -> list[Layout]:
    """Layouts over fewer ranks, each in the same proportion: all tensor-parallel sizes are divided by one number.

    The number is the smallest power of two with which all fit, and some stage has data-parallel replicas where one
    had them.

    Args:
        layouts: of a recipe's stages.
        ranks: how many there are; a power of two.
    """
    factor = 1
    while True:
        small = [_divided(layout, factor, ranks) for layout in layouts]
        sizes = [layout.replica for layout in small]
        replicas = ranks == 1 or min(sizes) < ranks or all(layout.data == 1 for layout in layouts)
        if max(sizes) <= ranks and replicas:
            return small
        factor *= 2


def _divided(layout: Layout, factor: int, ranks: int) -> Layout:
    """A layout with `factor` times fewer ranks for a replica, taken from pipeline and context where its are spent."""
    tensor = max(1, layout.tensor // factor)
    left = max(1, factor * tensor // layout.tensor)
    pipeline = max(1, layout.pipeline // left)
    context = max(1, layout.context // max(1, left * pipeline // layout.pipeline))
    data = max(1, ranks // (tensor * pipeline * context))
    return replace(
        layout,
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        context=context,
        expert=layout.expert and math.gcd(layout.expert, tensor * data * context),
        sequence_parallel=layout.sequence_parallel and tensor > 1,
    )


def rehearsed(family: PlannedFamily, run: CurriculumRun, short: Short, dir: str) -> dict[str, CurriculumRun]:
    """The steps from a recipe's run to its rehearsal's: why it is changed -> the run after this change.

    Nothing else differs between a recipe's jobs and those of its rehearsal: the same code builds the recipe's run and
    the last of these.

    Args:
        family: the recipe's.
        run: the real one.
        short: how much is trained.
        dir: folder of the rehearsal.

    Raises:
        ElasticError: as the recipe itself: no layout fits.
    """
    run = family.planned(run)
    layouts = tuple(scaled_layouts(run.layouts, short.ranks))
    shape, block = narrow(run.shape or family.parent, run.block, ON_GPU if short.cuda else ON_CPU)
    batches = short.validation_batches
    out: dict[str, CurriculumRun] = {}

    def change(why: str, **fields: Any) -> None:
        nonlocal run
        out[why] = run = replace(run, **fields)

    change("a CPU's kernels", cuda=short.cuda)
    # a rank has its share of two cores, and these sequences are short
    change("number of ranks", nodes=1, devices=short.ranks, layouts=layouts, workers=0)
    change("widths and vocabulary", shape=shape, block=block, tokenizer=f"{data_dir(dir)}/tokenizer")
    for why, plan in _shorter(run.curriculum, layouts, short).items():
        change(why, curriculum=plan)
    change("samples", block=_fewer_samples(block, short))
    change("intervals", save_every=max(1, short.steps // 3), validations=short.validations, validation_batches=batches)
    data: tuple[Blend, ...] = text_of(dir), text_of(dir, "train_long")
    if run.chat:
        data = tuple([chats_dir(dir, run.curriculum.stage(number).seq_length)] for number in (1, 2))
    parent = family.checkpoint_of("parent", parent_run(replace(run, dir=dir), short))
    change("paths", parent=parent, data=data[0], long_data=data[1], dir=dir)
    return out


def _fewer_samples(block: ElasticConfig, short: Short) -> ElasticConfig:
    importance = replace(block.importance, samples=short.samples, depth_samples=short.depth_samples)
    tokens = short.depth_samples * short.seq_length
    search = replace(block.search, candidates=short.candidates, tokens=tokens)
    return replace(block, importance=importance, search=search)


def _shorter(whole: Curriculum, layouts: Sequence[Layout], short: Short) -> dict[str, Curriculum]:
    """The stages in the proportions of a recipe's, on a few ranks: first their lengths, then batches, then steps."""
    share, length = short.steps / whole.stage1.max_steps, whole.stage1.seq_length
    first, later = short.micro_batches
    counts = [layout.data * (later if i else first) for i, layout in enumerate(layouts)]

    def stages(plan: Curriculum, *fields: dict[str, int], **more: Any) -> Curriculum:
        changed = {n: replace(stage, **f) for n, stage, f in zip(STAGES, plan.stages, fields, strict=False)}
        return replace(plan, **changed, **more)

    every = whole.stages
    lengths = stages(whole, *({"seq_length": one.seq_length * short.seq_length // length} for one in every))
    batches = stages(lengths, *({"micro_batch_size": 1, "global_batch_size": count} for count in counts))
    steps = stages(
        batches,
        *({"max_steps": max(3, round(one.max_steps * share))} for one in every),
        warmup_steps=max(1, round(whole.warmup_steps * share)),
    )
    return {"lengths": lengths, "batch": batches, "steps": steps}


def parent_run(run: CurriculumRun, short: Short) -> CurriculumRun:
    """The run whose parent's training is by the host's own recipe of it, which is not elastic."""
    micro = max(1, PARENT_BATCH // short.ranks)
    stage = Stage(short.seq_length, PARENT_BATCH, PARENT_STEPS, micro_batch_size=micro)
    plan = Curriculum(stage, stage, lr=PARENT_LR, warmup_steps=PARENT_STEPS // 10)
    changed: dict[str, Any] = {"chat": False, "data": text_of(run.dir)}  # a host's own model knows no packed documents
    return replace(run, curriculum=plan, save_every=PARENT_STEPS, validation_batches=0, **changed)


def job_names(run: CurriculumRun) -> list[str]:
    """The jobs of a rehearsal between its parent's training and the slicing; stage 1 runs twice, killed once."""
    return [name for job in run.jobs[:-1] for name in ((CUT_SHORT, job) if job == "stage1" else (job,))]


def stage_of(job: str) -> str:
    """The job of a recipe that a rehearsal's job runs."""
    return "stage1" if job == CUT_SHORT else job


def watch_of(job: str, run: CurriculumRun) -> tuple[str, int | None] | None:
    """Arguments of a job's `Watch`; None of the ranking, which trains nothing."""
    if job == "rank":
        return None
    return watch_dir(run.dir, stage_of(job)), run.save_every + 1 if job == CUT_SHORT else None


def watch_dir(dir: str, job: str) -> str:
    """Where the starts of a training job are written down."""
    return os.path.join(dir, "watched", job)


def data_dir(dir: str) -> str:
    """Where text and tokenizer are made."""
    return os.path.join(dir, "data")


def text_of(dir: str, split: str = "train") -> dict[str, list[str]]:
    """The text that a job trains and validates on, as recipes take it."""
    return {"train": [os.path.join(data_dir(dir), split)], "validation": [os.path.join(data_dir(dir), "val")]}


def chats_dir(dir: str, length: int) -> str:
    """Where conversations in sequences of so many tokens are made."""
    return os.path.join(dir, "chats", str(length))


def make_data(dir: str, vocab: int, lengths: Sequence[int] = (), packed: str = NPY) -> None:
    """Text of Python's standard library, and a tokenizer, unless they are there; and worked sums as conversations.

    Args:
        dir: of the rehearsal.
        vocab: entries of the tokenizer.
        lengths: tokens of packed sequences of conversations, a folder for each.
        packed: in which files, see `data.packing`.
    """
    if not os.path.exists(data_dir(dir)):
        build_data(data_dir(dir), vocab=vocab)
    rows = Path(dir, "chats", "sums.jsonl")  # of one name, by which the same ones are held out of both
    if lengths and not rows.exists():
        problems = islice(generate("chain_sum", 2, seed=0), CONVERSATIONS)
        rows.parent.mkdir(exist_ok=True)
        rows.write_text("".join(problem.chat_line for problem in problems), encoding="utf-8")
    for length in lengths:
        folder = chats_dir(dir, length)
        if not os.path.exists(folder):
            prepare(folder, [rows], os.path.join(data_dir(dir), "tokenizer"), length=length, packed=packed)
