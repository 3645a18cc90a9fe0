# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One run of a family's curriculum: all that its jobs are built of, whichever host builds them; and a job of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import bad
from nemo_elastic.formats.megatron.shape import has_experts, layer_pattern
from nemo_elastic.io.fields import read
from nemo_elastic.plan import NODE, Duration, Layout
from nemo_elastic.plan.layouts import layout_name
from nemo_elastic.plan.stages import PAPER, STAGES, Curriculum, Stage

from .recipe import Recipe
from .stage import StageOptions
from .token_files import Blend

if TYPE_CHECKING:
    import nemo_run

__all__ = ["JOBS", "NODES", "CurriculumRun", "Job", "described", "job_folder"]

#: all that there can be, in their order
JOBS = ("rank", *STAGES, "slice")
#: nodes of 8 GPUs that the defaults are for
NODES = 16


@dataclass(frozen=True)
class Job:
    """One job, as an experiment of NeMo-Run's takes it.

    Attributes:
        task: what each of its processes calls.
        nodes, devices: nodes, and GPUs of each; 0 GPUs: one process that needs none.
        layout: its ranks, in words.
        steps: of the optimizer.
        stop: (task, exit code) -> has a training that gets SIGTERM end with that code; None for a job that is never
            several in a row.
        time: by plan; None where nothing is planned.
    """

    task: nemo_run.Partial
    nodes: int = 1
    devices: int = 0
    layout: str = "one process"
    steps: int = 0
    stop: Callable[[nemo_run.Partial, int], None] | None = None
    time: Duration | None = None


def described(recipe: Recipe, task: Any, stop: Callable[..., None], machines: tuple[int, int] | None = None) -> Job:
    """A job with its ranks in words, as its recipe has them.

    Args:
        recipe: what the job runs; one that runs no model is a process that needs no GPU.
        task: what each of its processes calls.
        stop: of a job that trains, see `Job`.
        machines: nodes, and GPUs of each, where the recipe does not say them.
    """
    nodes, devices = machines or (recipe.ranks("nodes"), recipe.get("devices"))
    if devices is None:
        return Job(task)
    tensor, pipeline, context = (recipe.ranks(kind) for kind in ("tensor", "pipeline", "context"))
    sequence, recompute = recipe.get("sequence_parallel"), recipe.get("recompute") == "full"
    expert = recipe.ranks("expert") if has_experts(layer_pattern(recipe.get("shape")) or "") else None
    data = nodes * devices // (tensor * pipeline * context)
    layout = layout_name(tensor, pipeline, data, sequence, recompute, expert, context)
    trains = recipe.get("trains")
    return Job(task, nodes, devices, layout, recipe.get("steps") if trains else 0, stop if trains else None)


@dataclass(frozen=True)
class CurriculumRun:
    """What the jobs of a curriculum are built of. A rehearsal is a `replace` of it, which the same code builds.

    Attributes:
        parent: checkpoint of the parent, the teacher of all stages.
        data: of the ranking and stage 1, see `token_files.splits_of`, or `chat_data.chat_folder`.
        dir: folder for everything, an absolute path that all nodes see.
        block: the elastic block.
        long_data: of the stages after the first, if other.
        curriculum: lengths, batches, steps and rates of the stages.
        tokenizer: of the parent, a folder or hub name; what the host's recipe names where not given.
        nodes, devices, gpu: machines of the stages: nodes, GPUs of each, their kind; the ranking takes one node.
        shape: the parent's, where it is another than the family's.
        layouts: of the stages; the planner's for these machines where not given.
        save_every: steps between checkpoints.
        validations, validation_batches: of a stage, and at most so many in each; the host's number where not given.
        workers: loader processes per rank; the host's number where not given.
        cuda: whether ranks are GPUs.
        chat: whether data are packed conversations.
    """

    parent: str
    data: Blend
    dir: str
    block: ElasticConfig
    long_data: Blend | None = None
    curriculum: Curriculum = PAPER
    tokenizer: str | None = None
    nodes: int = NODES
    devices: int = NODE
    gpu: str = "h100"
    shape: Parent | None = None
    layouts: tuple[Layout, ...] = ()
    save_every: int = 100
    validations: int = 10
    validation_batches: int | None = None
    workers: int | None = None
    cuda: bool = True
    chat: bool = False

    @property
    def jobs(self) -> tuple[str, ...]:
        """In their order."""
        left = STAGES[len(self.curriculum.stages) :]
        return tuple(job for job in JOBS if job not in left)

    @property
    def last(self) -> int:
        """The stage out of whose end members are cut."""
        return len(self.curriculum.stages)

    @staticmethod
    def before(job: str) -> int:
        """The stage whose end a job's starts from; the first starts from none, and gets itself."""
        return max(1, number_of(job) - 1)

    def folder(self, job: str) -> str:
        """A job's own folder."""
        return job_folder(self.dir, job)

    def stage(self, job: str) -> Stage:
        """The stage whose lengths a job has: the ranking reads stage 1's first samples."""
        return self.curriculum.stage(number_of(job))

    def text(self, job: str) -> Blend:
        """What a job reads."""
        return self.long_data or self.data if number_of(job) > 1 else self.data

    def block_of(self, job: str) -> ElasticConfig:
        """The elastic block of a job, see `Curriculum.block`."""
        return self.curriculum.block(self.block, number_of(job))

    def machines(self, job: str) -> tuple[int, int]:
        """Nodes of a job, and GPUs of each."""
        return self.nodes if job.startswith("stage") else 1, self.devices

    def options(self, job: str, previous: str) -> StageOptions:
        """What `apply_elastic` is given of a job.

        Args:
            job: rank, stage1 and so on.
            previous: what the stage before leaves.
        """
        number = number_of(job)
        return StageOptions(
            teacher=self.parent,
            stage=number,
            previous=previous if number > 1 else None,
            total_steps=self.curriculum.steps,
            out=os.path.join(self.folder(job), "elastic"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for another process."""
        values = vars(self) | {name: _plain(getattr(self, name)) for name in ("data", "long_data")}
        values |= {"block": self.block.to_dict(), "shape": self.shape and self.shape.to_json()}
        return values | {"curriculum": asdict(self.curriculum), "layouts": [asdict(one) for one in self.layouts]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CurriculumRun:
        """The run of `to_dict`."""
        block, plan = ElasticConfig.of(values["block"]), Curriculum.from_dict(values["curriculum"])
        shape = values["shape"] and Parent.from_json(values["shape"])
        layouts = tuple(read(Layout, one, "layout") for one in values["layouts"])
        return cls(**{**values, "block": block, "curriculum": plan, "shape": shape, "layouts": layouts})


def number_of(job: str) -> int:
    """The stage of a job; 1 of those that are none."""
    return STAGES.index(job) + 1 if job in STAGES else 1


def job_folder(dir: str, name: str) -> str:
    """A folder of the curriculum in `dir`: that of a job, by its name.

    Raises:
        ElasticError: `dir` is no absolute path.
    """
    if not os.path.isabs(dir):
        raise bad(
            "dir", dir, "an absolute path, the same on all nodes, because each job has its own working directory"
        )
    return os.path.join(dir, name)


def _plain(data: Blend | None) -> Any:
    if data is None:
        return None
    return {split: list(part) for split, part in data.items()} if isinstance(data, Mapping) else list(data)
