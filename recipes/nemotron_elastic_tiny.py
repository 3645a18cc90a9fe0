# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A Nemotron-H of 1.6M parameters → 1.1M and 0.8M, on a CPU: every job of the large recipes, in some minutes.

    python recipes/nemotron_elastic_tiny.py --dir runs/tiny

Two processes on two cores. Tokens and parent are made first where none are given. The ranking runs at data-parallel
size 2, both stages at tensor-parallel size 2 with sequence parallelism, the second with activation recomputation: the
way of the large recipes, where the parent is ranked whole and trained in pieces.

    >>> from nemotron_elastic_tiny import family_experiment
    >>> family_experiment("/tmp/tiny", dryrun="/tmp/dryrun")
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import nemo_run as run

    from nemo_elastic.hosts.common.curriculum_run import CurriculumRun
    from nemo_elastic.hosts.nemo.curriculum.jobs import Curriculum, Executors

NAME = "nemotron_elastic_tiny"
BLOCK = Path(__file__).resolve().parents[1] / "conf" / "elastic_tiny.yaml"
RANKS = 2
PARENT_STEPS = 120


def curriculum() -> Curriculum:
    """The large recipes' curriculum, scaled down: 2048 tokens a step, stage 2 at four times the length of stage 1."""
    from nemo_elastic.hosts.nemo.curriculum.jobs import Curriculum, Stage

    stage1 = Stage(128, 16, 60, micro_batch_size=16)
    return Curriculum(stage1, Stage(512, 4, 30, (0.5, 0.3, 0.2), micro_batch_size=4), lr=3e-3, warmup_steps=5)


def _recipe(job: str, data: str, dir: str, *, steps: int, seq_length: int, batch: int, micro_batch: int,
            tensor: int, split: str = "train", lr: float = 3e-3, warmup: int = 5) -> run.Partial:  # fmt: skip
    from nemo_elastic.hosts.nemo.curriculum.jobs import FILENAME, job_folder
    from nemo_elastic.hosts.nemo.tiny.recipe import tiny_recipe

    recipe = tiny_recipe(
        data,
        job_folder(dir, job),
        steps=steps,
        seq_length=seq_length,
        micro_batch_size=micro_batch,
        global_batch_size=batch,
        lr=lr,
        warmup_steps=warmup,
        split=split,
        label=job,
        devices=RANKS,
        tensor_parallel=tensor,
    )
    recipe.log.ckpt.filename = FILENAME
    recipe.trainer.strategy.sequence_parallel = tensor > 1
    return recipe


def parent_recipe(data: str, dir: str, steps: int = PARENT_STEPS) -> run.Partial:
    """The stock recipe that trains a parent."""
    return _recipe("parent", data, dir, steps=steps, seq_length=256, batch=8, micro_batch=4, tensor=1)


def run_of(parent: str, data: str, dir: str, plan: Curriculum | None = None) -> CurriculumRun:
    """The run whose jobs the others are."""
    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.hosts.common.curriculum_run import CurriculumRun

    return CurriculumRun(parent, [data], dir, ElasticConfig.load(BLOCK), curriculum=plan or curriculum())


def rank_recipe(parent: str, data: str, dir: str, plan: Curriculum | None = None) -> run.Partial:
    """The ranking: every process holds the parent whole and looks at its half of the samples."""
    from nemo_elastic.hosts.nemo.curriculum import jobs as parts

    own = run_of(parent, data, dir, plan)
    stage = own.stage("rank")
    batch = stage.global_batch_size
    recipe = _recipe(
        "rank", data, dir, steps=stage.max_steps, seq_length=stage.seq_length, batch=batch,
        micro_batch=batch // RANKS, tensor=1,
    )  # fmt: skip
    return parts.rank_recipe(recipe, own)


def _stage_recipe(number: int, parent: str, data: str, dir: str, plan: Curriculum | None) -> run.Partial:
    from nemo_elastic.hosts.nemo.curriculum.jobs import stage_recipe

    own, job = run_of(parent, data, dir, plan), f"stage{number}"
    stage, plan = own.stage(job), own.curriculum
    recipe = _recipe(
        job, data, dir, steps=stage.max_steps, seq_length=stage.seq_length,
        batch=stage.global_batch_size, micro_batch=stage.micro_batch_size, tensor=RANKS,
        split="train" if number == 1 else "train_long", lr=plan.lr, warmup=plan.warmup_steps,
    )  # fmt: skip
    if number == 2:
        config = recipe.model.config
        config.recompute_granularity, config.recompute_method, config.recompute_num_layers = "full", "uniform", 1
    return stage_recipe(recipe, own, job)


def stage1_recipe(parent: str, data: str, dir: str, plan: Curriculum | None = None) -> run.Partial:
    """Stage 1: candidates train in turn until one of each budget is left, at 128 tokens."""
    return _stage_recipe(1, parent, data, dir, plan)


def stage2_recipe(parent: str, data: str, dir: str, plan: Curriculum | None = None) -> run.Partial:
    """Stage 2: goes on at 512 tokens, where the full model is sampled more often."""
    return _stage_recipe(2, parent, data, dir, plan)


def slice_step(dir: str, plan: Curriculum | None = None) -> run.Partial:
    """Cuts every member out."""
    from nemo_elastic.hosts.nemo.curriculum import jobs as parts

    return parts.slice_step(run_of("", "", dir, plan))


def family_experiment(
    dir: str,
    data: str | None = None,
    parent: str | None = None,
    *,
    parent_steps: int = PARENT_STEPS,
    plan: Curriculum | None = None,
    executors: Executors | None = None,
    callbacks: Sequence[run.Config[Any]] = (),
    dryrun: str | None = None,
) -> None:
    """Parent (unless given) → rank → stage 1 → stage 2 → slice, as one experiment.

    Args:
        dir: folder for everything, an absolute path.
        data: folder made by `nemo-elastic data`; the standard library's text is tokenized where absent.
        parent: NeMo checkpoint of a `TinyNemotronH`; one is trained where absent.
        parent_steps: steps of that training.
        plan: lengths, batches, steps; `curriculum()` by default.
        executors: where jobs run; torchrun on this machine by default.
        callbacks: appended to those of the jobs that train.
        dryrun: see `curriculum.run_family`.
    """
    from nemo_elastic.data.build import build_data
    from nemo_elastic.hosts.common.experiment import local_executor
    from nemo_elastic.hosts.nemo.curriculum import jobs as parts

    plan = plan or curriculum()
    if data is None:
        data = parts.job_folder(dir, "data")
        if not Path(data).exists():
            build_data(data, vocab=1024)
    jobs = {}
    if parent is None:
        jobs["parent"] = parent_recipe(data, dir, parent_steps)
        parent = parts.end_of(parts.job_folder(dir, "parent"), parent_steps)
    jobs["rank"] = rank_recipe(parent, data, dir, plan)
    jobs["stage1"] = stage1_recipe(parent, data, dir, plan)
    jobs["stage2"] = stage2_recipe(parent, data, dir, plan)
    jobs["slice"] = slice_step(dir, plan)
    parts.add_callbacks(jobs, callbacks)
    parts.run_family(NAME, jobs, executors or local_executor, dryrun=dryrun)


def tiny_parser() -> argparse.ArgumentParser:
    """Options of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dir", default=f"runs/{NAME}", help="folder for everything")
    parser.add_argument("--data", help="folder made by nemo-elastic data")
    parser.add_argument("--parent", help="NeMo checkpoint of a parent")
    parser.add_argument("--dryrun", metavar="DIR", help="start nothing: write what would be run, print a table")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """See the module."""
    args = tiny_parser().parse_args(argv)
    from nemo_elastic.errors import exit_in_one_line

    with exit_in_one_line():
        family_experiment(str(Path(args.dir).resolve()), args.data, args.parent, dryrun=args.dryrun)


if __name__ == "__main__":
    main()
