# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The baseline: ModelOpt's Minitron pruning, then NeMo's distillation, once per size, as NVIDIA's guides do.

    python -m benchmarks.study.modelopt_baseline targets --parent CHECKPOINT --ratio 0.5
    python -m benchmarks.study.modelopt_baseline prune --parent CHECKPOINT --data DATA --ratio 0.5 --out DIR
    python -m benchmarks.study.modelopt_baseline distill --student DIR --teacher CHECKPOINT --data DATA --steps N \
        --out DIR
    python -m benchmarks.study.modelopt_baseline heldout --checkpoint CHECKPOINT --data DATA

Theirs: importance by activations over `samples` training sequences (L2 over samples of the mean absolute value over
positions; behind norms for hidden, before the output projections for FFN and query heads, x for Mamba heads and head
channels), layers by 1 - cosine of input and output, all in one shot; then `llm.distill` with its defaults: forward KL
of logits at temperature 1, no cross-entropy, no intermediate layers, the parent as frozen teacher.

Ours, because this is a comparison on a CPU: optimizer, schedule, data order and batch are those of every other run
(`tiny_recipe`), layers run in torch, and width steps are finer than ModelOpt's own (`modelopt_targets.DIVISORS`).
"""

from __future__ import annotations

import argparse
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


def distill(
    student_checkpoint: str | Path,
    teacher_checkpoint: str | Path,
    out: str | Path,
    *,
    data: str | Path,
    steps: int,
    seq_length: int,
    micro_batch_size: int,
    global_batch_size: int,
    lr: float,
    warmup_steps: int,
    min_ratio: float = 0.1,
    seed: int = SEED,
    eval_every: int = 0,
    eval_sequences: int = 16,
) -> Path:
    """NeMo's `llm.distill` in this process; returns the student's last checkpoint.

    `out/metrics.jsonl` has the loss of every step and the held-out losses, the last one at the end, as our own runs
    have: NeMo validates the student alone. Arguments are those of `tiny_recipe`, from which trainer, optimizer,
    schedule, data and log are taken.
    """
    import nemo_run as run
    from nemo.collections import llm

    from benchmarks.study.train import launch
    from nemo_elastic.hosts.nemo.tiny.recipe import tiny_recipe

    recipe = tiny_recipe(
        data,
        out,
        steps=steps,
        seq_length=seq_length,
        micro_batch_size=micro_batch_size,
        global_batch_size=global_batch_size,
        lr=lr,
        warmup_steps=warmup_steps,
        min_ratio=min_ratio,
        label=Path(out).name,
        eval_every=eval_every,
        eval_sequences=eval_sequences,
        seed=seed,
    )
    task = run.Partial(
        llm.distill,
        student_model_path=str(student_checkpoint),
        teacher_model_path=str(teacher_checkpoint),
        data=recipe.data,
        trainer=recipe.trainer,
        log=recipe.log,
        optim=recipe.optim,
        tokenizer="data",
    )
    return launch(task, Path(out))


def heldout(
    checkpoint: str | Path, data: str | Path, seq_length: int = 256, sequences: int = 16, seed: int = SEED
) -> float:
    """Held-out cross-entropy in nats per token of a dense checkpoint, on the tokens that our runs validate on.

    Those are the first validation sequences of a run with this data order; the model is the plain one in torch.
    """
    import fiddle
    import torch
    import torch.nn.functional as F

    from benchmarks.study.evaluate import dense
    from nemo_elastic.formats.megatron.stored import read_shapes
    from nemo_elastic.hosts.nemo.folder_data import pretraining_data
    from nemo_elastic.megatron.gpt_tokens import dataset_tokens

    config = pretraining_data(
        data, seq_length=seq_length, micro_batch_size=1, global_batch_size=1, num_train_samples=1, seed=seed
    )
    module = fiddle.build(config)
    module.build(1, trainer_val_check_interval=1, trainer_limit_val_batches=0, trainer_limit_test_batches=0)
    tokens, labels = dataset_tokens(module._validation_ds, sequences)
    model = dense(Path(checkpoint), read_shapes(checkpoint).parent)
    with torch.no_grad():
        losses = [
            F.cross_entropy(model(t).flatten(0, 1), y.flatten(), reduction="sum")
            for t, y in zip(tokens.split(8), labels.split(8), strict=True)
        ]
    return float(sum(losses)) / labels.numel()


def main() -> None:
    """One of the steps, from the command line."""
    parser = argparse.ArgumentParser(description="ModelOpt pruning and NeMo distillation of a Nemotron-H on a CPU")
    commands = parser.add_subparsers(dest="command", required=True)
    sizes = commands.add_parser("targets", help="sizes for shares of the parameters, in NVIDIA's proportions")
    cut = commands.add_parser("prune", help="prune a checkpoint to a share of its parameters")
    train = commands.add_parser("distill", help="distil a pruned checkpoint from its parent")
    measure = commands.add_parser("heldout", help="held-out loss of a checkpoint, nats per token")
    for p in (sizes, cut):
        p.add_argument("--parent", type=Path, required=True)
        p.add_argument("--ratio", type=float, required=True)
    for p in (cut, train):
        p.add_argument("--out", type=Path, required=True)
    for p in (cut, train, measure):
        p.add_argument("--data", type=Path, required=True)
        p.add_argument("--seq-length", type=int, default=256)
        p.add_argument("--seed", type=int, default=SEED)
    cut.add_argument("--samples", type=int, default=SAMPLES)
    cut.add_argument("--width-only", action="store_true", help="keep every layer")
    train.add_argument("--student", type=Path, required=True)
    train.add_argument("--teacher", type=Path, required=True)
    train.add_argument("--steps", type=int, required=True)
    train.add_argument("--batch", type=int, default=4, help="sequences per step")
    train.add_argument("--lr", type=float, default=3e-3)
    train.add_argument("--warmup-steps", type=int, default=20)
    train.add_argument("--eval-every", type=int, default=0)
    measure.add_argument("--checkpoint", type=Path, required=True)
    measure.add_argument("--sequences", type=int, default=16)
    args = parser.parse_args()
    _COMMANDS[args.command](args)


def _targets(args: argparse.Namespace) -> None:
    from benchmarks.study import modelopt_targets
    from nemo_elastic.formats.megatron.stored import read_shapes

    parent = read_shapes(args.parent).parent
    print(json.dumps(modelopt_targets.describe(parent, modelopt_targets.targets(parent, args.ratio)), indent=2))


def _prune(args: argparse.Namespace) -> None:
    settings = {"data": args.data, "seq_length": args.seq_length, "samples": args.samples, "seed": args.seed}
    print(json.dumps(facts(prune_to_ratio(args.parent, args.out, args.ratio, depth=not args.width_only, **settings))))


def _distill(args: argparse.Namespace) -> None:
    from nemo_elastic.demo.quiet import quiet

    quiet()
    last = distill(
        args.student, args.teacher, args.out, data=args.data, steps=args.steps, seq_length=args.seq_length,
        micro_batch_size=args.batch, global_batch_size=args.batch, lr=args.lr, warmup_steps=args.warmup_steps,
        seed=args.seed, eval_every=args.eval_every,
    )  # fmt: skip
    print(last)


def _heldout(args: argparse.Namespace) -> None:
    print(f"{heldout(args.checkpoint, args.data, args.seq_length, args.sequences, args.seed):.4f}")


_COMMANDS = {"targets": _targets, "prune": _prune, "distill": _distill, "heldout": _heldout}

if __name__ == "__main__":
    main()
