# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The baseline: ModelOpt's Minitron pruning, then NeMo's distillation, once per size, as NVIDIA's guides do.

Theirs: importance by activations over `samples` training sequences (L2 over samples of the mean absolute value over
positions; behind norms for hidden, before the output projections for FFN and query heads, x for Mamba heads and head
channels), layers by 1 - cosine of input and output, all in one shot; then `llm.distill` with its defaults: forward KL
of logits at temperature 1, no cross-entropy, no intermediate layers, the parent as frozen teacher.

Ours, because this is a comparison on a CPU: optimizer, schedule, data order and batch are those of every other run
(`tiny_recipe`), layers run in torch, and width steps are finer than ModelOpt's own (`modelopt_targets.DIVISORS`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: training sequences that importance is measured on, NeMo's default
SAMPLES = 1024
#: seed of a data order, as in `tiny_recipe`
SEED = 1234
#: variables by which a process that trained is part of its own run: another process must not find them
_OWN = ("NVTE_", "MASTER_", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE")


def prune(
    parent_checkpoint: str | Path,
    out: str | Path,
    *,
    data: str | Path,
    seq_length: int,
    targets: Mapping[str, int],
    samples: int = SAMPLES,
    seed: int = SEED,
) -> Path:
    """Prune a NeMo checkpoint to given sizes, in a process of its own: ModelOpt has to know of Mamba on import.

    Args:
        parent_checkpoint: NeMo checkpoint of a Nemotron-H.
        out: checkpoint to write, of the parent's classes with the new sizes; beside its weights, `pruned.json` tells
            what was cut and from how many tokens.
        data: folder made by `nemo-elastic data`; importance is measured on its training split.
        seq_length: tokens per sequence.
        targets: arguments of NeMo's `PruningConfig`, e.g. {"target_hidden_size": 192}.
        samples: sequences that are looked at.
        seed: of their order.

    Raises:
        RuntimeError: it failed; the message ends with what it printed.
    """
    job = {
        "parent": str(Path(parent_checkpoint).resolve()),
        "out": str(Path(out).resolve()),
        "data": str(Path(data).resolve()),
        "seq_length": seq_length,
        "targets": dict(targets),
        "samples": samples,
        "seed": seed,
    }
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:  # NeMo's validation logs into its working directory
        prune_apart(sys.executable, "benchmarks.study.modelopt_prune", job, place, str(dict(targets)))
    return Path(out)


def prune_apart(python: str, module: str, job: Mapping[str, Any], place: str, size: str) -> None:
    """Run a pruning in a process of its own, which has nothing of this one's run.

    Args:
        python: of its environment.
        module: what it runs, with a file that has the job.
        job: as JSON.
        place: an empty folder, in which it runs.
        size: to which it prunes, for the error.

    Raises:
        RuntimeError: it failed; the message ends with what it printed.
    """
    file = Path(place, "job.json")
    file.write_text(json.dumps(job))
    done = subprocess.run(
        [python, "-W", "ignore", "-m", module, str(file)],
        cwd=place,
        env={k: v for k, v in os.environ.items() if not k.startswith(_OWN)} | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"pruning to {size} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def prune_to_ratio(
    parent_checkpoint: str | Path, out: str | Path, ratio: float, *, depth: bool = True, **settings: Any
) -> Path:
    """Prune to a share of the parameters in NVIDIA's proportions (`modelopt_targets`), within 2%.

    Which layers ModelOpt drops decides what widths fit, and only dropping them tells: where depth is cut, it is cut
    first by itself, to see. Both cuts start from the parent and measure alike, so they drop the same layers.

    Args:
        parent_checkpoint, out: see `prune`.
        ratio: parameters to keep, as a share.
        depth: whether layers may go where NVIDIA's own cut dropped some; widths alone otherwise.
        **settings: of `prune`.
    """
    from benchmarks.study import modelopt_targets
    from nemo_elastic.formats.megatron.stored import read_shapes

    parent, pattern = read_shapes(parent_checkpoint).parent, None
    layers = modelopt_targets.depth(parent, ratio) if depth else parent.num_layers
    if layers < parent.num_layers:
        with tempfile.TemporaryDirectory() as place:
            shallow = prune(
                parent_checkpoint, Path(place, "shallow"), targets={"target_num_layers": layers}, **settings
            )
            pattern = facts(shallow)["pattern"]
    targets = modelopt_targets.targets(parent, ratio, pattern)
    pruned = prune(parent_checkpoint, out, targets=targets.pruning(parent), **settings)
    if facts(pruned)["pattern"] != targets.shape.pattern:
        raise RuntimeError(
            f"{pruned}: ModelOpt kept {facts(pruned)['pattern']}, not {targets.shape.pattern} as before"
        )
    return pruned


def facts(pruned: str | Path) -> dict[str, Any]:
    """What `prune` wrote down: targets, pattern, parameters, measured_tokens, cpu_seconds (of this cut
    alone: without imports, and without the cut that only tells which layers go)."""
    return json.loads(Path(pruned, "pruned.json").read_text())


def distill(student: Path, teacher: Path, out: Path, recipe: Any) -> Path:
    """NeMo's `llm.distill` in this process; returns the student's last checkpoint.

    Trainer, optimizer, schedule, data and log are those of a recipe of `tiny_recipe`. `out/metrics.jsonl` has the loss
    of every step and the held-out losses of the student alone, as NeMo validates it.
    """
    import nemo_run as run
    from nemo.collections import llm

    from benchmarks.study.nemo_runs import launch

    task = run.Partial(
        llm.distill,
        student_model_path=str(student),
        teacher_model_path=str(teacher),
        data=recipe.data,
        trainer=recipe.trainer,
        log=recipe.log,
        optim=recipe.optim,
        tokenizer="data",
    )
    return launch(task, out)
