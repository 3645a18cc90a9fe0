# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of the tiny recipe for test_tiny.py, as a user's script starts them, and what they write down of themselves.

python -m tests.recipes.tiny_jobs RUN FOLDER [OUT]: RUN is a function below; it needs FOLDER/data and
FOLDER/elastic.yaml.
"""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fiddle
import lightning.pytorch as pl
import nemo_run as run
from megatron.core import parallel_state
from nemo.lightning import io

from nemo_elastic.hosts.common.experiment import job, local_executor
from nemo_elastic.hosts.common.tiny import TINY
from nemo_elastic.hosts.nemo.curriculum.jobs import run_family
from nemo_elastic.hosts.nemo.model import ElasticMambaModel
from nemo_elastic.hosts.nemo.tiny.family import TinyFamily
from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH
from tests.parallel.nemo import digest

STEPS, PARENT_STEPS = (8, 6), 4
#: of `local`: steps between checkpoints, and the step in which Ctrl-C comes
EVERY, PRESSED = 2, 5


class StateRecorder(pl.Callback):
    """Digests of a stage's state, its lengths and its samples, in FOLDER/stageN-rankM.json.

    Args:
        folder: where to write.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.record: dict[str, Any] = {}

    def state(self, trainer: Any, model: Any) -> dict[str, Any]:
        """Digests of weights, members, optimizer and teacher."""
        core, optimizer = model.host.core, trainer.optimizers[0].mcore_optimizer.optimizer
        named = {k: v for k, v in core.state_dict().items() if hasattr(v, "detach")}
        moments = {
            f"{g}.{i}.{k}": optimizer.state[p][k]
            for g, group in enumerate(optimizer.param_groups)
            for i, p in enumerate(group["params"])
            for k in ("exp_avg", "exp_avg_sq")
            if p in optimizer.state
        }
        return {
            "weights": digest({k: v for k, v in named.items() if not k.startswith("elastic.")}),
            "members": digest({k: v for k, v in named.items() if k.startswith("elastic.")}),
            "optimizer": digest(moments),
            "moments": len(moments),
            "teacher": digest(dict(model.host.frozen.named_parameters())),
        }

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not isinstance(pl_module, ElasticMambaModel):
            return
        core, data = pl_module.host.core, trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        ranks = (f() for f in (parallel_state.get_tensor_model_parallel_world_size,
                               parallel_state.get_data_parallel_world_size))  # fmt: skip
        self.record = {
            "start": self.state(trainer, pl_module),
            "members": [m.to_json() for m in pl_module.members.get()],
            "frozen": pl_module.members.is_frozen,
            "length": [core.config.recompute_granularity, data.seq_length, pl_module.config.seq_length],
            "sampling": pl_module.elastic_config.weights(),
            "parallel": [*ranks, core.config.sequence_parallel],
            "lr": [g["lr"] for g in trainer.optimizers[0].param_groups],
            # one that every rank holds, and the first row of one that is cut in two
            "norm": core.decoder.final_norm.weight.tolist(),
            "row": core.decoder.layers[1].mlp.linear_fc2.weight[0].tolist(),
        }

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.record:
            self.record |= {
                "end": self.state(trainer, pl_module),
                "end_members": [m.to_json() for m in pl_module.members.get()],
                "end_lr": [g["lr"] for g in trainer.optimizers[0].param_groups],
            }
            out = Path(self.folder) / f"stage{pl_module.stage}-rank{trainer.global_rank}.json"
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(self.record))


class Press(pl.Callback, io.IOMixin):
    """Ctrl-C on the terminal of the script, in a step that is not done before it is heard."""

    def __init__(self, script: int) -> None:
        self.script = script

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == PRESSED and trainer.global_rank == 0:
            os.kill(self.script, signal.SIGINT)
            time.sleep(120)


class Recorded(TinyFamily):
    """With a callback in the jobs that train."""

    folder: Path

    def build(self, job: str, own: Any) -> Any:
        task = super().build(job, own)
        if job.startswith("stage"):
            task.trainer.callbacks.append(run.Config(StateRecorder, folder=str(self.folder / "record")))
        return task


def family_of(folder: Path, kind: type[TinyFamily] = TinyFamily) -> Any:
    return kind("tiny", TinyNemotronH, "nemotron-h-tiny", folder / "elastic.yaml", parent_steps=PARENT_STEPS)


def whole(folder: Path) -> None:
    """All jobs, fewer steps of everything."""
    from torchx.runner import Runner

    wait = Runner.wait  # NeMo-Run looks every 2 s
    Runner.wait = lambda self, job, wait_interval=10: wait(self, job, min(0.2, wait_interval))
    first = replace(TINY.stage1, max_steps=STEPS[0], global_batch_size=4, micro_batch_size=2)
    second = replace(TINY.stage2, max_steps=STEPS[1], seq_length=256, global_batch_size=2, micro_batch_size=2)
    family, dir = family_of(folder, Recorded), str(folder / "tiny")
    Recorded.folder = folder
    family.family_experiment(
        family.own_parent(dir), [str(folder / "data")], dir, local_executor, num_nodes=1, num_gpus_per_node=2,
        curriculum=replace(TINY, stage1=first, stage2=second, warmup_steps=2),
    )  # fmt: skip


def stage1(folder: Path, out: str, ranks: int) -> Any:
    """Stage 1 of the parent that `whole` has trained."""
    family = family_of(folder)
    stage = replace(TINY.stage1, max_steps=STEPS[0], global_batch_size=4, micro_batch_size=4)
    return family.stage1_recipe(
        family.own_parent(str(folder / "tiny")), [str(folder / "data")], str(folder / out),
        curriculum=replace(TINY, stage1=stage), num_nodes=1, num_gpus_per_node=ranks,
    )  # fmt: skip


def alone(folder: Path, out: str) -> None:
    """Stage 1 in this process."""
    job(fiddle.build(stage1(folder, out, ranks=1)))


def leave(path: str) -> None:
    """What the job behind stage 1 does."""
    os.mkdir(path)


def family_experiment(parent: str, data: list[str], dir: str, executors: Any, **_: Any) -> None:
    """Under this name `run.py` calls what a recipe runs."""
    from tests.recipes import tiny_jobs  # whose classes the jobs find by their names

    folder = Path(data[0]).parent
    stage = stage1(folder, dir, ranks=2)
    stage.log.ckpt.every_n_train_steps = EVERY
    if (folder / "press").exists():
        stage.trainer.callbacks.append(run.Config(tiny_jobs.Press, script=os.getpid()))
    run_family("local", {"stage1": stage, "behind": run.Partial(tiny_jobs.leave, path=f"{dir}/behind")}, executors)


def local(folder: Path, out: str) -> None:
    """`recipes/run.py --local`, with a recipe of two short jobs; Ctrl-C comes where there is FOLDER/press."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
    import run as script

    own: Any = SimpleNamespace(family=lambda name: SimpleNamespace(family_experiment=family_experiment))
    script.FAMILIES["short"] = own
    given = {"recipe": "short", "parent": "-", "data": str(folder / "data"), "dir": str(folder / out)}
    script.main(["--local", *(word for name, value in given.items() for word in (f"--{name}", value))])


if __name__ == "__main__":
    from tests.recipes import tiny_jobs

    getattr(tiny_jobs, sys.argv[1])(Path(sys.argv[2]), *sys.argv[3:])
