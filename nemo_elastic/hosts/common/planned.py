# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a large recipe is on any host, before anything is built: a parent, a block, and by them layouts."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import gcd, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.moe import EXPERTS
from nemo_elastic.data.folder import TOKENIZER
from nemo_elastic.errors import bad
from nemo_elastic.plan import NODE, Layout, RunShape, best, duration, preset
from nemo_elastic.plan.activations import Routing
from nemo_elastic.plan.stages import PAPER, Curriculum
from nemo_elastic.slicing.family_folder import slice_family

from .curriculum_run import NODES, CurriculumRun, Job, described, number_of
from .recipe import Recipe
from .token_files import Blend

if TYPE_CHECKING:
    import nemo_run

    from .experiment import Executors

__all__ = ["PlannedFamily", "Precision", "ranking_experts"]


def ranking_experts(parent: Parent, gpus: int) -> int:
    """Ranks of the ranking's job that share the experts of a layer: as many of its GPUs as divide them.

    Experts are most of the weights. Shared, they leave room for activations; all
    else each GPU holds whole, so that each looks at samples of its own.
    """
    return gcd(gpus, parent.size(EXPERTS)) if parent.has(EXPERTS) else 1


@dataclass(frozen=True)
class Precision:
    """What a training computes in, as its host sets it up.

    Attributes:
        weights: dtype of the model's parameters.
        gradients: what those of micro-batches and of ranks are summed in.
    """

    weights: str
    gradients: str


@dataclass(frozen=True)
class PlannedFamily(ABC):
    """A family that is trained from a host's own recipe of its parent.

    Attributes:
        host: whose, as `nemo-elastic train --host` says it.
        name: of the recipe and its experiment.
        stock: the host's recipe of the parent.
        shape: the parent's name in `nemo_elastic.plan`.
        block: YAML file with the elastic block, or the block.
        chat: whether it is trained on packed conversations, see `chat_data`; else on token files.
    """

    host: ClassVar[str]
    #: of a rank on NeMo, of all ranks on Megatron-Bridge, of every member
    validation_batches: ClassVar[int]

    name: str
    stock: Callable[..., Any]
    shape: str
    block: Path | ElasticConfig | Mapping[str, Any]
    chat: bool = False

    @property
    def config(self) -> ElasticConfig:
        """The elastic block."""
        return ElasticConfig.of(self.block)

    @property
    def parent(self) -> Parent:
        """Shape of the parent, with its vocabulary."""
        return preset(self.shape)

    @property
    @abstractmethod
    def precision(self) -> Precision:
        """Of all stages, read from what the host's jobs are built of."""

    @property
    def routing(self) -> Routing:
        """How tokens find experts in both stages, read from there as well; without experts nothing asks."""
        return Routing()

    # ------------------------------------------------------------------ what a host adds

    @abstractmethod
    def checkpoint_of(self, job: str, run: CurriculumRun) -> str:
        """The checkpoint that a job leaves: parent (its own training), rank, stage1 and so on."""

    @abstractmethod
    def stock_recipe(self, job: str, run: CurriculumRun) -> Any:
        """The host's recipe of the parent for a job (parent, rank, stage1 and so on), not yet elastic.

        In a job without a layout (`layout_of`) every GPU holds the whole model, but for experts.

        Raises:
            ElasticError: no layout fits.
        """

    @abstractmethod
    def elastic(self, recipe: Any, job: str, run: CurriculumRun) -> Any:
        """Turn a stock recipe into the ranking or a stage of a run.

        Raises:
            ElasticError: the block does not fit the recipe.
        """

    @abstractmethod
    def recipe_of(self, built: Any) -> Recipe:
        """The fields of a stock or elastic recipe."""

    @abstractmethod
    def settings(self, built: Any) -> dict[str, Any]:
        """Every setting of a job by its dotted name."""

    @abstractmethod
    def parent_recipe(self, run: CurriculumRun) -> Any:
        """The parent's training, by the host's recipe of it, which is not elastic: rehearsals begin with it."""

    @abstractmethod
    def watched(self, built: Any, out: str, stop_after: int | None) -> Any:
        """A stage with a `watch.Watch`, of these arguments."""

    @abstractmethod
    def task(
        self, built: Any, job: str, run: CurriculumRun, watch: tuple[str, int | None] | None = None
    ) -> nemo_run.Partial:
        """What each process of a job calls.

        Args:
            built: the job; `watched` where it has a watch.
            job: parent, rank, stage1 and so on.
            watch: arguments of the watch.
        """

    @staticmethod
    @abstractmethod
    def stop_in_time(task: nemo_run.Partial, code: int) -> None:
        """Have a training that is stopped before its end leave with this exit code."""

    # ------------------------------------------------------------------ jobs

    def job(self, name: str, parent: str, data: Blend, dir: str, *more: Any, **named: Any) -> Any:
        """A job of a run, to be changed and started by a script.

        Args:
            name: rank, stage1, stage2, stage3 or slice.
            parent, data, dir, more, named: see `run_of`.

        Raises:
            ElasticError: see `build`.
        """
        run = self.run_of(parent, data, dir, *more, **named)
        return self.slice_job(run) if name == "slice" else self.build(name, run)

    def build(self, job: str, run: CurriculumRun) -> Any:
        """A job of a run that runs a model, as the host starts it.

        Raises:
            ElasticError: another job, no layout fits, or the block does not fit the parent.
        """
        if job not in run.jobs[:-1]:
            raise bad("job", job, f"one of {', '.join(run.jobs[:-1])}")
        return self.elastic(self.stock_recipe(job, run), job, run)

    def build_all(self, run: CurriculumRun) -> dict[str, Any]:
        """The jobs of a run that run a model, by name, in order."""
        return {job: self.build(job, run) for job in run.jobs[:-1]}

    def slice_job(self, run: CurriculumRun) -> nemo_run.Partial:
        """What the one process of a run's last job calls."""
        import nemo_run

        return nemo_run.Partial(slice_family, **self.slice_arguments(run))

    def slice_arguments(self, run: CurriculumRun) -> dict[str, Any]:
        """Arguments of `slice_family`: the last stage's checkpoint, the run's folder, the ranking, and the parent."""
        ranking = run.block.ranking or os.path.join(run.folder("rank"), "elastic", "ranking")
        last = self.checkpoint_of(f"stage{run.last}", run)
        return {"checkpoint": last, "out": run.dir, "ranking": ranking, "parent": run.parent}

    def described(self, run: CurriculumRun) -> dict[str, Job]:
        """All jobs of a run as an experiment takes them. Each is built here once: mistakes are reported now."""
        jobs = {
            name: described(self.recipe_of(built), self.task(built, name, run), self.stop_in_time, run.machines(name))
            for name, built in self.build_all(run).items()
        }
        return jobs | {"slice": Job(self.slice_job(run))}

    def put(self, recipe: Recipe, job: str, run: CurriculumRun, layout: Layout | None) -> None:
        """Give the host's recipe of the parent, with a job's data, what the job has besides.

        Args:
            layout: see `layout_of`; without one every GPU holds the whole model, but for experts.
        """
        stage, plan, gpus = run.stage(job), run.curriculum, prod(run.machines(job))
        parent, batches = run.shape or self.parent, run.validation_batches
        fields = {
            "steps": stage.max_steps,
            "length": stage.seq_length,
            "micro batch": stage.micro_batch_size,
            "batch": stage.global_batch_size if layout else gpus * stage.micro_batch_size,
            "lr": plan.lr,
            "min_lr": plan.lr * plan.min_ratio,
            "warmup": plan.warmup_steps,
            "decay": plan.steps,
            "save every": run.save_every,
            "validate every": max(1, stage.max_steps // run.validations),
            "validation batches": self.validation_batches
            if batches is None
            else min(batches, self.validation_batches),
            "tensor": layout.tensor if layout else 1,
            "pipeline": layout.pipeline if layout else 1,
            "context": layout.context if layout else 1,
            "sequence_parallel": layout is not None and layout.sequence_parallel,
        }
        if run.workers is not None:
            fields |= {"workers": run.workers, "persistent_workers": run.workers > 0}
        if parent.has(EXPERTS):
            fields |= {"expert": layout.expert if layout else ranking_experts(parent, gpus), "expert tensor": 1}
        if layout is not None and layout.recompute:
            fields |= {"recompute": "full", "recompute method": "uniform", "recompute layers": 1}
        if run.chat and fields["context"] > 1:  # a rank may have no token that counts
            fields |= {"per token": True, "average_in_collective": False}
        recipe.fill(fields)

    def run_of(
        self,
        parent: str,
        data: Blend,
        dir: str,
        long_data: Blend | None = None,
        num_nodes: int = NODES,
        num_gpus_per_node: int = NODE,
        gpu: str = "h100",
        curriculum: Curriculum = PAPER,
        tokenizer: str | None = None,
        layouts: tuple[Layout, ...] = (),
        quantize: str | None = None,
        block: ElasticConfig | Mapping[str, Any] | str | Path | None = None,
    ) -> CurriculumRun:
        """A run of this family's.

        Args:
            parent: checkpoint of the parent: the teacher.
            data: of the ranking and stage 1: token files (`token_files.splits_of`), or of a family with `chat` a
                folder of conversations.
            long_data: of the later stages; `data` if not given.
            dir: folder for everything, an absolute path that all nodes see.
            num_nodes, num_gpus_per_node, gpu: machines of a stage; `gpu` a key of `plan.GPUS`.
            curriculum: lengths, batches, steps and rates of the stages.
            tokenizer: folder or hub name; by default that of the folder of conversations, or of the host's recipe.
            layouts: one for each stage; the planner's if empty.
            quantize: nvfp4 or fp8: adds a stage 3 in this precision. Without it the block's `distill.quantize` applies
                to the last stage.
            block: the elastic block in place of the recipe's, or its YAML file.
        """
        if self.chat and tokenizer is None:
            tokenizer = next((os.path.join(str(folder), TOKENIZER) for folder in data), None)
        machines: Any = {"nodes": num_nodes, "devices": num_gpus_per_node, "gpu": gpu, "layouts": layouts}
        machines["chat"], block = self.chat, self.config if block is None else ElasticConfig.of(block)
        if quantize is not None:
            block = replace(block, distill=replace(block.distill, quantize=quantize))
            curriculum = curriculum if curriculum.stage3 else curriculum.in_low_precision()
        return CurriculumRun(parent, data, dir, block, long_data, curriculum, tokenizer, **machines)

    def family_experiment(
        self,
        parent: str,
        data: Blend,
        dir: str,
        executors: Executors,
        *more: Any,
        repeat: int | None = None,
        dryrun: str | None = None,
        **named: Any,
    ) -> None:
        """All jobs as one experiment of NeMo-Run's.

        Args:
            executors: (nodes, GPUs per node) -> where a job runs.
            repeat, dryrun: see `experiment.run_jobs`.
            parent, data, dir, more, named: see `run_of`.

        Raises:
            ElasticError: no layout fits, the block does not fit the parent, or a job failed.
        """
        from .experiment import run_jobs

        run = self.planned(self.run_of(parent, data, dir, *more, **named))
        jobs = self.described(run)
        for job in run.jobs[1:-1]:
            time = duration(self._of_stage(number_of(job), run), jobs[job].steps)
            jobs[job] = replace(jobs[job], time=time)
        run_jobs(self.name, jobs, executors, repeat=repeat, dryrun=dryrun)

    def layout(
        self, number: int, curriculum: Curriculum, gpus: int, gpu: str, node: int = NODE,
        block: ElasticConfig | None = None,
    ) -> Layout:  # fmt: skip
        """The layout of a stage that `nemo_elastic.plan.best` takes; `node` is the GPUs of a node.

        The elastic block is the family's where none is given.

        Raises:
            ElasticError: none fits, or the batch does not divide.
        """
        stage = curriculum.stage(number)
        sizes = stage.seq_length, stage.global_batch_size, stage.micro_batch_size
        run = RunShape(*sizes, gpus, gpu, number, node=node, gradients=self.precision.gradients,
                       routing=self.routing)  # fmt: skip
        # of the block's own sampling, as `plan` has it: it knows no stage's
        return best(self.parent, curriculum.precision(block or self.config, number), run)

    def planned(self, run: CurriculumRun) -> CurriculumRun:
        """A run with the layouts of its stages."""
        return replace(run, layouts=tuple(self._of_stage(number, run) for number in range(1, run.last + 1)))

    def layout_of(self, job: str, run: CurriculumRun) -> Layout | None:
        """The layout of a job; None where every GPU holds the whole model."""
        return self._of_stage(number_of(job), run) if job.startswith("stage") else None

    def _of_stage(self, number: int, run: CurriculumRun) -> Layout:
        if run.layouts:
            return run.layouts[number - 1]
        return self.layout(number, run.curriculum, run.nodes * run.devices, run.gpu, run.devices, run.block)
