# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Lightning callbacks: prepare and freeze the shapes, measure members while training, write the run's metrics.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model
from nemo.lightning import io
from nemo.lightning.megatron_parallel import MegatronStep
from nemo.utils.app_state import AppState

from nemo_elastic.config import DistillConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.files import atomic_write
from nemo_elastic.history import read_history, up_to
from nemo_elastic.megatron.vocabulary import hidden_states
from nemo_elastic.nn.gates import Choice
from nemo_elastic.router import Router

from .data import dataset_tokens
from .ending import settle, told
from .loss import distill_loss
from .model import ElasticMambaModel
from .shaping import freeze_members, prepare_members, refresh_members
from .streams import with_teacher

#: the loss on held-out text, over a vocabulary that may be split among ranks
CROSS_ENTROPY = DistillConfig(mode="ce")
#: metrics of a stock run that are kept beside our own
LOGGED = ("reduced_train_loss", "grad_norm", "lr")


class ElasticCallback(pl.Callback, io.IOMixin):
    """Finds the shapes before the first step, freezes them at `freeze_at`, logs what the router does, tells the end.

    Args:
        out: folder for the ranking, the search's trace and the frozen members (`ranking/`, `shapes.json`).
    """

    def __init__(self, out: str) -> None:
        self.out = out

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        model: ElasticMambaModel = pl_module
        if not model.members.found:
            prepare_members(trainer, model, Path(self.out))
        self._freeze_when_due(trainer, model)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._freeze_when_due(trainer, pl_module)
        refresh_members(trainer, pl_module)

    def on_megatron_step_start(self, step: MegatronStep) -> MegatronStep:
        """Make room for the teacher's hidden states between pipeline stages."""
        return with_teacher(step, step.pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Say in one line, before any traceback, who stops and what the next start goes on from."""
        settle(trainer, exception)
        if not isinstance(exception, ElasticError):
            print(told(trainer, exception), file=sys.stderr, flush=True)

    def _freeze_when_due(self, trainer: pl.Trainer, model: ElasticMambaModel) -> None:
        if not model.members.is_frozen and trainer.global_step >= model.freeze_step:
            freeze_members(trainer, model, Path(self.out))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        for name, value in step_facts(pl_module).items():
            pl_module.log(name, value, batch_size=1, prog_bar=name.startswith("loss_"))


def step_facts(model: ElasticMambaModel) -> dict[str, float]:
    """What the last step measured: losses of the budgets that it drew, and of the router where it had a part in it."""
    names = [b.name for b in model.elastic_config.budgets]
    facts = {f"loss_{names[i]}": loss for i, loss in budget_losses(model).items()}
    router = model.last_router
    if router and not model.members.is_frozen:
        budget = router["budget"]
        cost = float(model.elastic_config.budgets[budget].cost(model.parent, router["routed"].expected))
        target = model.elastic_config.targets(model.parent)[names[budget]]
        facts |= {f"cost_{names[budget]}": cost / target, "router_tau": router["tau"], "router_scale": router["scale"]}
        entropies = Router.entropy(router["routed"].probabilities)
        facts |= {f"entropy_{axis}": float(entropy) for axis, entropy in entropies.items()}
    return facts


def budget_losses(model: ElasticMambaModel) -> dict[int, float]:
    """Budget index -> mean loss of the last step, on every rank: only the last pipeline stage has seen them."""
    found = model.training_loss_reduction.by_budget
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return found
    seen = torch.zeros(2, model.training_loss_reduction.budgets, device=model.members.codes.device)
    for i, loss in found.items():
        seen[:, i] = torch.tensor([1.0, loss])
    torch.distributed.broadcast(
        seen,
        parallel_state.get_pipeline_model_parallel_last_rank(),
        parallel_state.get_pipeline_model_parallel_group(),
    )
    return {i: loss for i, (drawn, loss) in enumerate(seen.t().tolist()) if drawn}


class MetricsWriter(pl.Callback, io.IOMixin):
    """Writes one JSON line per step to `path`, and every `eval_every` steps the held-out loss of every member.

    A run that goes on from a checkpoint goes on in the same file, as if it had not been stopped: see `history`. Works
    with a stock MambaModel too (the parent's training), where the one member is the model itself.

    Args:
        path: JSON lines file.
        eval_every: steps between held-out losses; 0 measures only at the end.
        sequences: held-out sequences per member and measurement.
        label: phase name written to every line.
        total: steps of the phase, for the printed progress; progress is printed about every two seconds.
    """

    def __init__(self, path: str, eval_every: int = 0, sequences: int = 16, label: str = "", total: int = 0) -> None:
        self.path, self.eval_every, self.sequences = path, eval_every, sequences
        self.label, self.total = label, total
        self._began = self._printed = 0.0  # this start
        self._first, self._before = 0, 0.0  # the step from which it goes on, and the seconds until then
        self._measured = -1
        self._losses: dict[str, float] = {}  # the last of each budget, for the progress

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Leave the file where it is: NeMo would move it away, as all files that it finds in its log directory."""
        found, own = AppState(), Path(self.path).resolve()
        found.files_to_move = [file for file in found.files_to_move or () if Path(file).resolve() != own]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._first = trainer.global_step
        self._began = self._printed = time.monotonic()
        if trainer.is_global_zero:
            lines = up_to(read_history(Path(self.path)).lines, self._first)
            self._before = max((line.get("seconds", 0) for line in lines), default=0)
            atomic_write(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        if self._first == 0:
            self._measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        line = {k: float(v) for k, v in trainer.callback_metrics.items() if k in LOGGED}
        if isinstance(pl_module, ElasticMambaModel):
            line |= step_facts(pl_module)
        self._write(trainer, line | {"kind": "step", "seconds": self._before + time.monotonic() - self._began})
        if self.eval_every and trainer.global_step % self.eval_every == 0:
            self._measure(trainer, pl_module)
        self._progress(trainer, line)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._measured != trainer.global_step:
            self._measure(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        settle(trainer, exception)

    def _write(self, trainer: pl.Trainer, line: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            sampler = trainer.datamodule.data_sampler  # pyright: ignore[reportAttributeAccessIssue]
            samples = sampler.compute_consumed_samples(trainer.global_step - sampler.init_global_step)
            line = {
                "phase": self.label, "step": trainer.global_step, "tokens": samples * sampler.seq_len, **line
            }  # fmt: skip
            with Path(self.path).open("a") as f:
                f.write(json.dumps(line) + "\n")

    def _progress(self, trainer: pl.Trainer, line: dict[str, float]) -> None:
        now = time.monotonic()
        done = trainer.global_step
        self._losses |= {k.removeprefix("loss_"): v for k, v in line.items() if k.startswith("loss_")}
        if not trainer.is_global_zero or (now - self._printed < 2.0 and done != self.total):
            return
        self._printed = now
        left = (now - self._began) / max(1, done - self._first) * (self.total - done)
        losses = "  ".join(f"{name} {loss:.3f}" for name, loss in self._losses.items())
        losses = losses or f"loss {line.get('reduced_train_loss', float('nan')):.3f}"
        print(f"  {self.label}: step {done}/{self.total}  {losses}  {left:4.0f} s left", flush=True)

    def _measure(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._measured = trainer.global_step
        losses = heldout_losses(trainer, pl_module, self.sequences)
        if losses:
            self._write(trainer, {"kind": "heldout", "losses": losses})


@torch.no_grad()
def heldout_losses(trainer: pl.Trainer, model: Any, sequences: int) -> dict[str, float]:
    """Held-out cross-entropy in nats per token of every member as it is now, on the validation data.

    The losses are this data-parallel rank's own; members are those found so far (none before shapes were found). There
    are none under pipeline parallelism, where no rank holds a whole model, nor without validation data.
    """
    dataset = trainer.datamodule._validation_ds  # pyright: ignore[reportAttributeAccessIssue]
    if dataset is None or parallel_state.get_pipeline_model_parallel_world_size() > 1:
        return {}
    tokens, labels = dataset_tokens(dataset, sequences)
    choices: dict[str, Choice] = {"parent": None}
    elastic = isinstance(model, ElasticMambaModel)
    core = None if elastic else unwrap_model(model.module)
    if elastic:
        names = [b.name for b in model.elastic_config.budgets]
        choices = {names[0]: None}
        if model.members.found:
            choices = dict(zip(names, [None, *model.members.get()[1:]], strict=True))
    was_training = model.training
    model.eval()
    out = {}
    for name, choice in choices.items():
        total = 0.0
        for t, y in zip(tokens.split(8), labels.split(8), strict=True):
            output = model.output(t, choice) if elastic else (core, hidden_states(core, t))
            total += float(distill_loss(CROSS_ENTROPY, output, None, y)[0])
        out[name] = total / labels.numel()
    model.train(was_training)
    return out
