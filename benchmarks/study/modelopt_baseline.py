# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The baselines: ModelOpt's Minitron pruning, then NeMo's distillation, once per size, as NVIDIA's guides do.

ModelOpt prunes to widths in NVIDIA's proportions (`modelopt_targets`). Its release 0.47 takes hybrid models of
megatron-core 0.19 alone, so it runs in Megatron-Bridge's environment, that of `make .venv-bridge/.stamp` or the one
whose python `NEMO_ELASTIC_BRIDGE_PYTHON` names. The pruned model becomes a NeMo checkpoint of the parent's classes.

Theirs: importance by activations over `samples` training sequences, once for all sizes, layers by 1 - cosine of input
and output, all in one shot; then `llm.distill` with its defaults: forward KL of logits at temperature 1, no
cross-entropy, no intermediate layers, the parent as frozen teacher.

Ours, because this is a comparison on a CPU: optimizer, schedule, data order and batch are those of every other run
(`tiny_recipe`), layers run in torch, and width steps are finer than ModelOpt's own (`modelopt_targets.DIVISORS`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study import modelopt_targets
from benchmarks.study.nemo_runs import launch, write_checkpoint
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import bad
from nemo_elastic.io.outputs import atomic_dir

ROOT = Path(__file__).parents[2]
#: variable that names the python of Megatron-Bridge's environment
PYTHON = "NEMO_ELASTIC_BRIDGE_PYTHON"
#: training sequences that importance is measured on, as many as for the family (NeMo's default is 1,024)
SAMPLES = 64
#: variables of a process that trained; a new process must not inherit them
_OWN = ("NVTE_", "MASTER_", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE")


def bridge_python() -> str:
    """The python of Megatron-Bridge's environment.

    Raises:
        ElasticError: there is none.
    """
    # a link into an environment must not be resolved
    python = os.path.abspath(os.environ.get(PYTHON) or ROOT / ".venv-bridge/bin/python")
    if not os.access(python, os.X_OK):
        raise bad(PYTHON, python, "the python of Megatron-Bridge's environment: make .venv-bridge/.stamp")
    return python


def prune(
    parent_checkpoint: Path,
    out: Path,
    sizes: Mapping[str, int],
    *,
    data: Path,
    seq_length: int,
    seed: int,
    scores: Path,
    samples: int = SAMPLES,
) -> Path:
    """Let ModelOpt cut a NeMo checkpoint.

    Args:
        parent_checkpoint: NeMo checkpoint of a Nemotron-H.
        out: checkpoint to write, of the parent's classes with the new sizes; beside its weights, `pruned.json` tells
            what was measured and cut.
        sizes: ModelOpt's `export_config`.
        data: folder made by `nemo-elastic data`.
        seq_length: tokens per sequence.
        seed: of the order of the training sequences.
        scores: folder of the importance: the first cut measures and writes it, the next ones read it.
        samples: first training sequences that importance is measured on.

    Raises:
        ElasticError: there is no environment of Megatron-Bridge.
        RuntimeError: it failed; the message ends with what it printed.
    """
    import torch

    from tests.support.states import from_megatron

    python = bridge_python()
    with tempfile.TemporaryDirectory() as place:
        np.save(Path(place, "importance"), training_tokens(data, seq_length, samples, seed))
        job = {"parent": str(parent_checkpoint.resolve()), "out": str(Path(place, "pruned")), "sizes": dict(sizes),
               "importance": str(Path(place, "importance.npy")), "scores": str(scores.resolve())}  # fmt: skip
        file = Path(place, "job.json")
        file.write_text(json.dumps(job))
        done = subprocess.run(
            [python, "-W", "ignore", "-m", "benchmarks.study.modelopt_prune", str(file)],
            cwd=place,
            env={k: v for k, v in os.environ.items() if not k.startswith(_OWN)} | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"pruning to {sizes} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        with atomic_dir(out, force=False) as folder:
            shape, cut = Parent.from_json(facts(Path(job["out"]))["sizes"]), Path(job["out"], "weights.pt")
            tensors = from_megatron(shape, shape.full, torch.load(cut, weights_only=True))
            write_checkpoint(folder, shape, tensors, parent_checkpoint, Path(place))
            shutil.copy(Path(job["out"], "pruned.json"), folder)
    return out


def prune_to_ratio(parent_checkpoint: Path, out: Path, ratio: float, **settings: Any) -> Path:
    """Prune to a share of the parameters in NVIDIA's proportions (`modelopt_targets`), within 2%.

    Which layers ModelOpt drops decides what widths fit, and only dropping them tells: where NVIDIA's own cut dropped
    some, depth is cut first by itself, to see. Both cuts start from the parent and from the same scores, so they drop
    the same layers.

    Args:
        parent_checkpoint, out: see `prune`.
        ratio: parameters to keep, as a share.
        **settings: of `prune`.
    """
    from nemo_elastic.formats.megatron.stored import read_shapes

    parent, pattern = read_shapes(parent_checkpoint).parent, None
    layers = modelopt_targets.depth(parent, ratio)
    if layers < parent.num_layers:
        with tempfile.TemporaryDirectory() as place:
            shallow = prune(parent_checkpoint, Path(place, "shallow"), {"num_layers": layers}, **settings)
            pattern = facts(shallow)["sizes"]["pattern"]
    wanted = modelopt_targets.targets(parent, ratio, pattern)
    pruned = prune(parent_checkpoint, out, modelopt_targets.pruning(wanted, parent), **settings)
    if (kept := facts(pruned)["sizes"]["pattern"]) != wanted.pattern:
        raise RuntimeError(f"{pruned}: ModelOpt kept {kept}, not {wanted.pattern} as before")
    return pruned


def training_tokens(data: Path, seq_length: int, sequences: int, seed: int) -> np.ndarray:
    """[n, s]: the first training sequences of a run with this order."""
    import fiddle

    from nemo_elastic.hosts.nemo.folder_data import pretraining_data
    from nemo_elastic.megatron.gpt_tokens import dataset_tokens

    sizes: dict[str, Any] = {"micro_batch_size": 1, "global_batch_size": 1, "num_train_samples": sequences}
    module = fiddle.build(pretraining_data(data, seq_length=seq_length, seed=seed, **sizes))
    module.build(sequences, trainer_val_check_interval=sequences, trainer_limit_val_batches=0,
                 trainer_limit_test_batches=0)  # fmt: skip
    return dataset_tokens(module._train_ds, sequences)[0].cpu().numpy()


def facts(pruned: Path) -> dict[str, Any]:
    """What the process that pruned wrote down: modelopt (its version), sizes, parameters, measured_tokens, cpu_seconds
    (without imports).
    """
    return json.loads((pruned / "pruned.json").read_text())


def distill(student: Path, teacher: Path, out: Path, recipe: Any) -> Path:
    """NeMo's `llm.distill` in this process; returns the student's last checkpoint.

    Trainer, optimizer, schedule, data and log are those of a recipe of `tiny_recipe`. `out/metrics.jsonl` has the loss
    of every step and the held-out losses of the student alone, as NeMo validates it.
    """
    import nemo_run as run
    from nemo.collections import llm

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
