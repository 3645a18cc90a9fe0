# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny family trained as the large ones are: bf16, the distributed optimizer, a router, saves that any layout reads.

python -m tests.gpu_checks.training DATA OUT TENSOR: one rank of a run; it goes on from a checkpoint in OUT.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

#: of a run, under soft masks and the last one on slices, and after how many it saves
STEPS, SAVED = 4, 2
#: a rank of two has widths that the kernels take
SHAPE = {
    "hybrid_override_pattern": "M-*-M*-M", "num_layers": 8, "hidden_size": 64, "ffn_hidden_size": 128,
    "mamba_num_heads": 8, "mamba_head_dim": 16, "mamba_num_groups": 4, "mamba_state_dim": 16,
    "num_attention_heads": 8, "num_query_groups": 4, "kv_channels": 16, "make_vocab_size_divisible_by": 128,
}  # fmt: skip
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "large", "ratio": 0.8}, {"name": "small", "ratio": 0.65}],
    "axes": {
        "hidden": [64, 56, 48, 40],
        "ffn": {"choices": [128, 96, 64], "stripes": 4},
        "mamba_heads": [8, 4],
        "mamba_head_dim": [16, 8],
        "attention_heads": [8, 4],
    },
    "importance": {"samples": 4, "depth_samples": 2},
    "shapes": "router",
    "router": {"freeze_at": 0.75, "hidden": 16},
    "distill": {"teacher": "none"},
    "seed": 15,
}
#: relative: losses of a run that went on, on one rank or two; some of a GPU's sums have no order
GONE_ON = 5e-3


def elastic_task(data: Path, out: Path, tensor: int) -> Any:
    """The recipe of a run."""
    import nemo_run as run
    import torch
    from nemo.collections.llm.recipes.precision.mixed_precision import bf16_mixed

    from nemo_elastic.hosts.nemo.curriculum.jobs import checkpoints
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH, tiny_recipe

    task = tiny_recipe(
        data, out, steps=STEPS, seq_length=64, micro_batch_size=2, global_batch_size=4, warmup_steps=1, label="",
        devices=tensor, tensor_parallel=tensor, config=run.Config(TinyNemotronH, **SHAPE),
    )  # fmt: skip
    task.trainer.plugins = bf16_mixed()
    for config in (task.model.config, task.optim.config):
        config.bf16, config.params_dtype = True, torch.bfloat16
    task.optim.config.use_distributed_optimizer = True
    task.trainer.strategy.sequence_parallel = tensor > 1
    task.trainer.strategy.ckpt_optim_fully_reshardable = True
    task.trainer.strategy.distrib_optim_fully_reshardable_mem_efficient = True
    task.log.ckpt = checkpoints(SAVED)
    return apply_elastic(task, BLOCK, out=str(out / "elastic"), verbose=False)


def train(data: Path, out: Path, tensor: int) -> None:
    """One rank of a run. What it goes on from it saves again before its first step, under `out/start`."""
    import fiddle
    import lightning.pytorch as pl

    from nemo_elastic.demo.quiet import quiet

    quiet()

    class SaveAgain(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            if trainer.global_step:
                trainer.save_checkpoint(out / "start" / "checkpoints" / "step=0-last")

    task = fiddle.build(elastic_task(data, out, tensor))
    task.keywords["trainer"].callbacks.append(SaveAgain())
    task()


def launch(data: Path, out: Path, tensor: int = 1) -> list[float]:
    """A run on so many ranks, in processes of their own; the losses of its steps.

    Raises:
        RuntimeError: It failed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={tensor}", "--standalone", "--module"]
    command += ["tests.gpu_checks.training", str(data), str(out), str(tensor)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "Error" in line and "ChildFailedError" not in line]
        raise RuntimeError((errors or done.stderr.strip().splitlines() or ["no error was reported"])[-1].strip())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["reduced_train_loss"] for line in lines if line["kind"] == "step"]


def make_data(place: Path) -> Path:
    """Tokens of modules of the standard library."""
    from nemo_elastic.data.build import build_data

    (place / "text").mkdir()
    for name in ("argparse", "calendar", "datetime", "subprocess", "tarfile", "typing"):
        shutil.copy(Path(json.__file__).parents[1] / f"{name}.py", place / "text")
    build_data(place / "data", [place / "text"], vocab=512, held_out_problems=4)
    return place / "data"


def check_save_and_load(place: Path) -> float:
    """A run of four steps, and another that goes on from what that had saved after two: how far its losses are."""
    worst, saved = _goes_on(place)
    assert differences(saved, place / "second" / "start" / "checkpoints" / "step=0-last") == []
    return worst


def check_tensor_parallel(place: Path) -> float:
    """What one rank saved goes on on two with sequence parallelism, NCCL between GPUs: how far losses are apart.

    From the start they cannot be compared: the initial weights of a shard are drawn by each rank for itself.
    """
    return _goes_on(place, tensor=2)[0]


def _goes_on(place: Path, tensor: int = 1) -> tuple[float, Path]:
    """How far losses of a second run on so many ranks are from the first's, and what it goes on from."""
    from nemo_elastic.hosts.nemo.curriculum.jobs import end_of

    data, whole, second = make_data(place), place / "whole", place / "second"
    losses = launch(data, whole)
    saved = Path(end_of(str(whole), SAVED))
    shutil.copytree(saved, second / "checkpoints" / saved.name)
    again = launch(data, second, tensor)
    assert len(losses) == STEPS and len(again) == STEPS - SAVED
    worst = _worst(again, losses[SAVED:])
    assert worst <= GONE_ON, (losses, again)
    return worst, saved


def _worst(actual: list[float], wanted: list[float]) -> float:
    """Largest relative difference; infinite where lengths differ or one is no number."""
    if len(actual) != len(wanted) or not wanted:
        return float("inf")
    each = [abs(a - b) / abs(b) for a, b in zip(actual, wanted, strict=True)]
    return max(each) if all(x == x for x in each) else float("inf")


def differences(saved: Path, loaded: Path) -> list[str]:
    """Names of tensors that two checkpoints do not have alike, to the byte: weights, router, members, optimizer."""
    from nemo_elastic.formats.megatron.stored import Stored, differing

    return differing(Stored(saved).read_all(), Stored(loaded).read_all())


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
