# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of a tiny family in any layout of ranks, on either host: what they are; `nemo` and `bridge` do them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.shapes import LOSSES
from tests.texts import FEW, library_text
from tests.workers import copy_of

LENGTH, BATCH, PEAK = 64, 2, 3e-3
VOCAB = 512
#: hidden size of a router that is larger than what a rank holds of everything else
WIDE = 4096
#: of training, in the folder `few`
CONVERSATIONS = 20
#: elements of a bucket, where gradients are reduced during the backward pass
BUCKET = 5000
#: every kind of layer in each half, and blocks that four ranks can share
SHAPE = {
    "hybrid_override_pattern": "M-*-M*-M", "num_layers": 8, "hidden_size": 32, "ffn_hidden_size": 64,
    "mamba_num_heads": 8, "mamba_head_dim": 8, "mamba_num_groups": 4, "mamba_state_dim": 8,
    "num_attention_heads": 8, "num_query_groups": 4, "kv_channels": 8, "make_vocab_size_divisible_by": 128,
}  # fmt: skip
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "large", "ratio": 0.8}, {"name": "small", "ratio": 0.65}],
    "axes": {
        "hidden": [32, 28, 24, 20],
        "ffn": {"choices": [64, 48, 32], "per_layer": True, "stripes": 4},
        "mamba_heads": [8, 4],
        "mamba_head_dim": [8, 6],
        "attention_heads": [8, 4],
        "depth": [8, 7, 6],
    },
    "importance": {"samples": 4, "depth_samples": 2},
    "shapes": "even",
    "seed": 15,
}
SEARCHED: dict[str, Any] = {"shapes": "search", "search": {"candidates": 48, "tokens": 128}}


@dataclass(frozen=True)
class Layout:
    """Ranks and settings of a run.

    Attributes:
        tensor, pipeline, data, context: ranks along each kind of parallelism.
        sequence: sequence parallelism.
        sharded: the distributed optimizer.
        recompute: None, "selective" or "full".
        micro_batches: per step; the sequences of one are shared among data-parallel ranks, so that every layout has
            the same budgets for the same sequences.
        soft: under the router's masks, else on slices.
        searched: shapes are the search's, else the most even ones.
        teacher: the parent's checkpoint is given, else the loss is cross-entropy.
        mode: the loss, of `tests.shapes.LOSSES`, where it is.
        half: bf16, as the large recipes train.
        clip: largest norm of the gradients.
        router: its hidden size.
        overlap: gradients are reduced during the backward pass, in buckets of about a layer.
        per_token: each token of a step weighs alike, also those of micro-batches that have few.
        batch: sequences of a micro-batch of all data-parallel ranks.
        experts: ranks that share the experts of a parent with such; None for the dense one.
    """

    tensor: int = 1
    sequence: bool = False
    pipeline: int = 1
    data: int = 1
    sharded: bool = False
    recompute: str | None = None
    micro_batches: int = 1
    soft: bool = False
    teacher: bool = True
    mode: str = "frozen"
    half: bool = False
    clip: float = 1.0
    router: int = 16
    context: int = 1
    overlap: bool = False
    searched: bool = False
    per_token: bool = False
    batch: int = BATCH
    experts: int | None = None

    @property
    def world(self) -> int:
        return self.tensor * self.pipeline * self.data * self.context

    @property
    def alone(self) -> Layout:
        """One rank that trains the same."""
        alone = {"tensor": 1, "pipeline": 1, "data": 1, "sequence": False, "sharded": self.half, "recompute": None,
                 "overlap": False}  # fmt: skip
        experts = None if self.experts is None else 1
        return replace(
            self, context=1, experts=experts, **alone
        )  # in bf16 megatron-core's other optimizer cannot save the router

    @property
    def name(self) -> str:
        sizes = {"tp": self.tensor, "pp": self.pipeline, "dp": self.data, "mb": self.micro_batches}
        words = [] if self.experts is None else [f"ep{self.experts}"]
        words += [f"cp{self.context}"] if self.context > 1 else []
        words += [f"{k}{v}" for k, v in sizes.items()] + (["sp"] if self.sequence else [])
        words += (["sharded"] if self.sharded else []) + ([self.recompute] if self.recompute else [])
        words += ["soft" if self.soft else "searched" if self.searched else "sliced"]
        words += [] if self.teacher else ["ce"]
        words += [self.mode] if self.mode != Layout.mode else []
        words += (["bf16"] if self.half else []) + ([f"clip{self.clip:g}"] if self.clip != Layout.clip else [])
        words += [f"router{self.router}"] if self.router != Layout.router else []
        words += ["overlap"] if self.overlap else []
        words += (["per-token"] if self.per_token else []) + ([f"b{self.batch}"] if self.batch != BATCH else [])
        return "-".join(words)


def block_of(layout: Layout, **changes: Any) -> dict[str, Any]:
    """The elastic block of a layout."""
    shapes: dict[str, Any] = {"shapes": "router", "router": {"hidden": layout.router}} if layout.soft else {}
    distill = LOSSES[layout.mode if layout.teacher else "ce"]
    return BLOCK | (SEARCHED if layout.searched else shapes) | {"distill": distill} | changes


def padded(uneven: bool = False) -> None:
    """From here on the first quarter of every sample of text is no part of the loss, as padding is.

    Args:
        uneven: from none of its quarters to all, as its tokens say: the same in every layout, and unlike from rank to
            rank.
    """
    from megatron.core.datasets.gpt_dataset import GPTDataset

    whole = GPTDataset.__getitem__

    def masked(self: Any, index: int | None) -> dict[str, Any]:
        sample = whole(self, index)
        mask = sample["loss_mask"].clone()
        quarters = int(sample["tokens"].sum()) % 5 if uneven else 1
        mask[: len(mask) // 4 * quarters] = 0
        return sample | {"loss_mask": mask}

    GPTDataset.__getitem__ = masked


def quiet() -> None:
    """One thread per rank, and nothing that NeMo has to say."""
    import torch

    from nemo_elastic.demo.quiet import quiet

    torch.set_num_threads(1)
    quiet()


@dataclass(frozen=True)
class Job:
    """One run on either host: every rank of its layout is a fork that calls the host's `run`.

    Attributes:
        out: its folder, below the one that all jobs share; so are those of other runs here.
        kind: parent, rank, stage1, stage2 or stage3.
        layout: of ranks, and what is trained.
        steps: of the run.
        ranked: run of a ranking; the one for the shapes of the layout if empty; if None a training ranks itself.
        previous: run that a later stage goes on from, and its steps.
        teacher: a checkpoint in place of the parent's.
        until: step before which every rank kills itself; stop: in which the first gets `signal`.
        save_every: steps between checkpoints; kept: how many; validate: steps between validations.
        longer: sequences are twice as long, and twice as many of them make a step.
        changes: of the elastic block.
        padded: a part of every sample does not count, see `padded`.
        packed: prompts and answers, several in a row, of which the answers count; few: so few that a run reads all of
            them more than once.
        before: called first, on every rank; stock, elastic: change the host's recipe and the one with a block.
        callback: makes a callback more.
        ends: exit code of every rank; None for any.
    """

    out: str
    kind: str = "stage1"
    layout: Layout = Layout()
    steps: int = 2
    ranked: str | None = ""
    previous: tuple[str, int] | None = None
    teacher: Path | None = None
    until: int | None = None
    stop: int | None = None
    signal: int = signal.SIGTERM
    save_every: int | None = None
    kept: int | None = None
    validate: int = 0
    longer: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    padded: bool = False
    packed: bool = False
    few: bool = False
    before: Callable[[], Any] | None = None
    stock: Callable[[Any], Any] | None = None
    elastic: Callable[[Any], Any] | None = None
    callback: Callable[[], Any] | None = None
    ends: int | None = 0

    @property
    def stage(self) -> int:
        return int(self.kind[-1]) if self.kind.startswith("stage") else 1

    @property
    def times(self) -> int:
        return 1 + self.longer

    @property
    def from_ranking(self) -> str | None:
        """The ranking's run that a first stage starts from."""
        return (self.ranked or ranking_of(self.layout)) if self.kind == "stage1" and self.ranked is not None else None

    def block(self) -> dict[str, Any]:
        return block_of(self.layout, **self.changes)

    def starts(self, step: int, rank: int) -> None:
        """A rank begins a step: what is to happen to it happens."""
        if step == self.until:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.stop and rank == 0:
            os.kill(os.getpid(), self.signal)


def ranking_of(layout: Layout) -> str:
    """The run of the ranking for a layout's shapes."""
    own = block_of(layout)
    return f"rank-{own['shapes']}" + (str(layout.router) if layout.soft and layout.router != Layout.router else "")


def host() -> Any:
    """The host of this environment: `tests.parallel.nemo` or `tests.parallel.bridge`."""
    return import_module(f"tests.parallel.{'nemo' if find_spec('nemo') else 'bridge'}")


def weights_read() -> list[str]:
    """For which models this rank reads the parent's weights from here on: the student, the teacher."""
    from nemo_elastic.megatron import models

    read: list[str] = []
    load = models.load_model_weights

    def watched(core: Any, path: Any) -> None:
        read.append("student" if hasattr(core, "elastic") else "teacher")
        load(core, path)

    models.load_model_weights = watched
    return read


def do(place: Path, *jobs: Job) -> list[dict[str, Any]]:
    """Do jobs one after the other, each on its own number of ranks.

    Returns:
        Of each the exit codes, what its ranks said and (if they did) returned, and the checkpoints that it left.

    Raises:
        AssertionError: one did not end as it should; with the end of what was said.
    """
    from tests.parallel import forks

    results = []
    for job in jobs:
        job = replace(job, ends=-signal.SIGKILL) if job.until is not None else job
        world = job.layout.world
        ranks = forks.start(place / "log" / job.out, world, host().run, place, job)
        codes = ranks.wait()
        said = [ranks.said(rank) for rank in range(world)]
        bad = [rank for rank, code in enumerate(codes) if job.ends not in (None, code)]
        assert not bad, f"{job.out}: exit codes {codes}; rank {bad[0]} said:\n{said[bad[0]][-3000:]}"
        answered = all((ranks.folder / f"rank{rank}.json").exists() for rank in range(world))
        facts = [ranks.result(rank) for rank in range(world)] if answered else []
        results.append({"codes": codes, "said": said, "facts": facts, "left": left(place / job.out)})
    return results


def left(run: Path) -> list[str]:
    """Checkpoints of a run, and marks of unfinished ones."""
    names = ("step=*", "*iter_*")
    return sorted(p.name for name in names for p in (run / "checkpoints").glob(name) if not p.is_symlink())


def prepare(place: Path, whole: bool = True) -> None:
    """Data, a parent of two steps, and, if all is wanted, rankings; a run of the tests makes them once per host.

    `tests/hosts/bridge/test_against_nemo.py` starts NeMo from Bridge's run, and NeMo cannot read Bridge's parent.
    """
    rankings = [Layout(), Layout(soft=True), Layout(searched=True)]

    def make(out: Path) -> None:
        prepare_data(out)
        do(out, Job("parent", "parent"), *(Job(ranking_of(each), "rank", each) for each in rankings))

    name = f"prepared-{host().__name__.rpartition('.')[2]}"
    copy_of(name, make, place, *(() if whole else ("data", "text", "parent")))


def write_data(place: Path) -> None:
    """Text as tokens, in this process."""
    from nemo_elastic.data.build import build_data

    build_data(place / "data", [library_text(place / "text", FEW)], vocab=VOCAB, held_out_problems=4)


def prepare_data(place: Path) -> None:
    """The same in a fork."""
    from tests.parallel import forks

    forks.run(place / "log" / "data", 1, write_data, place)


def write_prompts(place: Path) -> None:
    """Prompts and answers of many lengths."""
    rows = [{"input": f"what is {i} + {i}?", "output": f"{' well,' * (i % 7)} {2 * i}."} for i in range(200)]
    for folder, count in (("sft", len(rows)), ("few", CONVERSATIONS)):
        (place / folder).mkdir()
        for name in ("training", "validation", "test"):
            some = rows[:count] if name == "training" else rows
            (place / folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
