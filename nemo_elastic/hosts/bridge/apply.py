# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""apply_elastic for Megatron-Bridge: a stock `ConfigContainer` becomes a training of a nested family.

>>> from megatron.bridge.recipes.nemotronh.nemotron_nano_v2 import nemotron_nano_12b_v2_pretrain_config
>>> from nemo_elastic.hosts.bridge.apply import apply_elastic
>>> config = nemotron_nano_12b_v2_pretrain_config()
>>> apply_elastic(config, "elastic.yaml", teacher="/checkpoints/12b").pretrain()
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.bridge.training.pretrain import pretrain
from megatron.bridge.utils.common_utils import get_rank_safe

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import INTERRUPTED, STOPPED
from nemo_elastic.hosts.common import rules
from nemo_elastic.hosts.common.agreement import vocabulary_rows
from nemo_elastic.hosts.common.changes import settings
from nemo_elastic.hosts.common.checkpoints import BRIDGE, newest_of, step_of
from nemo_elastic.hosts.common.stage import StageOptions
from nemo_elastic.io.terminal import say
from nemo_elastic.io.write import absolute_if_there
from nemo_elastic.megatron.models import check_overlaps, refused_overlaps
from nemo_elastic.megatron.spec import elastic_stack_spec
from nemo_elastic.train.training import Rates

from .autobridge import register_layers
from .callbacks import ElasticCallback
from .checks import PLACEHOLDER, BridgeRecipe
from .optim import ElasticOverrides, own_groups
from .platform import bridge_on_this_machine, lines_to_logs
from .resume import check_start, use_our_manager
from .step import ElasticStep


@dataclass
class ElasticRun:
    """What `megatron.bridge.training.pretrain.pretrain` is called with.

    Attributes:
        config: the container, changed.
        forward_step: of the family.
        callbacks: the family's, beside which others may be added.
        changes: what has become of the container, in words.
    """

    config: Any
    forward_step: ElasticStep
    callbacks: list[Any]
    changes: str = ""

    @property
    def family_callback(self) -> ElasticCallback:
        return next(callback for callback in self.callbacks if isinstance(callback, ElasticCallback))

    @property
    def ended(self) -> bool:
        """Whether a whole checkpoint of its own holds the end of the training, or of the ranking."""
        checkpoint = self.config.checkpoint
        if checkpoint.load is None or checkpoint.ckpt_step is not None:
            return False
        fields = BRIDGE.choose(Path(checkpoint.load))[0]
        if fields is None:
            return False
        return self.family_callback.rank_only or step_of(fields) >= self.config.train.train_iters

    def settings(self) -> dict[str, Any]:
        """Every setting: the container's, and what its forward step and its callback were given."""
        step, callback = self.forward_step, self.family_callback
        fields = {
            "stage": step.family.stage,
            "steps": step.family.steps,
            "teacher": step.teacher,
            "previous": callback.previous,
            "out": str(callback.out),
            "metrics": str(callback.file),
            "label": callback.label,
            "rank_only": callback.rank_only,
            "callbacks": ", ".join(type(one).__name__ for one in self.callbacks),
        }
        return (
            settings(self.config) | fields | {f"rates.{name}": value for name, value in vars(callback.rates).items()}
        )

    def pretrain(self, stopped: int = STOPPED) -> None:
        """Train on this machine; a run whose folder has a checkpoint goes on from it, one that has ended does nothing.

        SIGTERM, which Slurm sends before the time of a job is over, and Ctrl-C end it after the step under way, with a
        checkpoint and a line that names it.

        Args:
            stopped: exit code after SIGTERM; with 0, jobs that depend on this one start.

        Raises:
            ElasticError: its checkpoints are all damaged, or of another block.
            SystemExit: it was stopped before its end: INTERRUPTED by Ctrl-C, `stopped` by SIGTERM.
        """
        if self.ended:  # Bridge would write the last checkpoint over itself
            self.forward_step.before()
            if get_rank_safe() == 0:
                say(f"{self.config.checkpoint.load}: has the end of this run; nothing is left to train")
            return
        self.config.train.exit_signal_handler, ctrl_c = True, self.family_callback.ctrl_c
        try:
            with bridge_on_this_machine(self.config), own_groups():  # its own last checkpoint, too
                pretrain(self.config, self.forward_step, callbacks=self.callbacks)
        except SystemExit as end:
            if end.code or self.ended:  # Bridge leaves with exit code 0 after a signal
                raise
            code, save = INTERRUPTED if ctrl_c.pressed else stopped, self.config.checkpoint.save
            if get_rank_safe() == 0:
                rest = BRIDGE.newest(Path(save)) if save else "no checkpoints are written"
                where = f"step {self.forward_step.host.step} of {self.config.train.train_iters}"
                print(f"stopped: after {where}, exit code {code}; {rest}", file=sys.stderr, flush=True)
            raise SystemExit(code) from None
        finally:
            ctrl_c.stop()

    def pretrain_to_logs(self, stopped: int = STOPPED) -> None:
        """`pretrain` for commands: Bridge's own lines go to log files beside the run's metrics."""
        with lines_to_logs(self.family_callback.file.parent):
            self.pretrain(stopped)


def apply_elastic(
    recipe: Any,
    elastic: ElasticConfig | Mapping[str, Any] | str | Path,
    *,
    teacher: str | None = None,
    stage: int = 1,
    previous: str | None = None,
    total_steps: int | None = None,
    out: str | None = None,
    mock_data: bool = False,
    ranked: str | None = None,
    rank_only: bool = False,
    verbose: bool = True,
) -> ElasticRun:
    """Turn a recipe of Megatron-Bridge's into one that trains a nested family. The container is changed in place.

    What the recipe and the block must agree on is checked first; a recipe that is refused is left as it was.

    Args:
        recipe: a `ConfigContainer` with a `HybridModelProvider`.
        elastic: the elastic block, or a YAML file with one.
        teacher, stage, previous, total_steps, out, mock_data: see `StageOptions`.
        ranked: stage 1: the checkpoint that a run with `rank_only` left.
        rank_only: rank, sort and search, write that down as a checkpoint, and train nothing.
        verbose: print every setting that changes, and warnings.

    Returns:
        A run: call its `pretrain()`.

    Raises:
        ElasticError: the recipe trains something else than a Nemotron-H, a stage lacks what it starts from, or
            recipe and block do not fit.
    """
    options = StageOptions(
        teacher=newest_of(teacher), stage=stage, previous=absolute_if_there(previous), total_steps=total_steps,
        out=out, mock_data=mock_data,
    )  # fmt: skip
    block = ElasticConfig.of(elastic).with_absolute_paths()
    fields = BridgeRecipe(recipe, ranked=ranked)
    parent = rules.check(fields, block, options)
    register_layers()
    rules.tell(fields, block, options, parent, trains=not rank_only)
    rates = Rates(**rules.rates_of(fields, block, options))
    _model(fields, block, vocabulary_rows(options.teacher))
    _precision(fields, block)
    _checkpoints(fields)
    overrides = ElasticOverrides(recipe.optimizer_config_override_provider, elastic=block.to_dict())
    fields.put("optimizer_config_override_provider", overrides)
    if rank_only:
        recipe.checkpoint.save_optim = False
        fields.put("validation.eval_iters", 0, "a ranking validates nothing")
    else:
        members = (recipe.validation.eval_iters or 0) * len(block.budgets)
        fields.put("validation.eval_iters", members, "every member is validated")
    run = _run(fields, block, options, rates, rank_only)
    run.changes = fields.changes.text(recipe)
    if verbose and get_rank_safe() == 0:
        print(run.changes, flush=True)
    return run


def _model(fields: BridgeRecipe, block: ElasticConfig, rows: int | None) -> None:
    model = fields.made.model
    use_our_layers(model)
    fields.changes.reasons["model.moe_router_force_load_balancing"] = "the router chooses experts"
    if rows is not None:  # as Bridge pads the tokenizer's, other ranks would have another padding
        fields.put("model.vocab_size", rows, "the teacher's")
        fields.put("model.should_pad_vocab", False, "the teacher's is whole")
        fields.put("tokenizer.use_tokenizer_vocab_size", False, "the model takes the teacher's vocabulary")
        if fields.get("tokenizer.tokenizer_type") == PLACEHOLDER:
            fields.put("tokenizer.vocab_size", rows, "the teacher's; NullTokenizer stands for none")
    fields.put("model.seq_length", fields.get("length"), "that of the data")
    _mark_stages(fields)
    if fields.ranks("pipeline") > 1 and block.distill.has_teacher:
        why = "stages pass on the teacher's hidden states beside the student's"
        fields.put("model.variable_seq_lengths", True, why)
        model.moe_token_dispatcher_type = "alltoall"  # megatron-core asks for it, experts or not


def _mark_stages(fields: BridgeRecipe) -> None:
    """Divide the pattern into pipeline stages of equal length, where the recipe divides it in no other way."""
    model, pattern, stages = fields.made.model, fields.get("pattern"), fields.ranks("pipeline")
    uneven = model.num_layers_in_first_pipeline_stage or model.num_layers_in_last_pipeline_stage
    if stages > 1 and pattern and "|" not in pattern and not uneven:
        size = len(pattern) // stages
        parts = (pattern[i : i + size] for i in range(0, len(pattern), size))
        fields.put("pattern", "|".join(parts), "megatron-core deprecates stages that no mark divides")


def use_our_layers(model: Any) -> None:
    """Let a provider build our layers, with the settings that they can have."""
    model.hybrid_stack_spec = elastic_stack_spec
    rules.use_our_layers(model)


def _precision(fields: BridgeRecipe, block: ElasticConfig) -> None:
    """Turn off 8-bit formats and overlaps that no family can have."""
    recipe, low = fields.made, fields.made.mixed_precision
    recipe.comm_overlap = None  # it would turn all on
    if any(word in low if isinstance(low, str) else getattr(low, word, None) for word in ("fp8", "fp4")):
        recipe.mixed_precision = "bf16_mixed"
    half = recipe.mixed_precision is not None or recipe.model.bf16 or recipe.model.fp16
    rules.set_optimizer(fields, block, half)
    # a resumed run has the recipe's rates; Bridge would take the checkpoint's, or fail an assertion
    fields.put("scheduler.override_opt_param_scheduler", True)
    fields.put("scheduler.use_checkpoint_opt_param_scheduler", False)
    if fields.get("distributed"):  # Bridge would do so, and warn
        fields.put("ddp.use_distributed_optimizer", True)


def _checkpoints(fields: BridgeRecipe) -> None:
    if fields.get("checkpoint.load") is None:
        fields.put("checkpoint.load", fields.get("save"), "a run that was stopped resumes")
    # a parent's holds no members, and would be read over the sorted weights
    fields.put("checkpoint.pretrained_checkpoint", absolute_if_there(fields.ranked), "the teacher is the start")
    fields.put("checkpoint.ckpt_format", "torch_dist")
    use_our_manager(fields.made.checkpoint)
    fields.changes.reasons["checkpoint.custom_manager_class"] = "no save that fails half-way"


def _run(
    fields: BridgeRecipe, block: ElasticConfig, options: StageOptions, rates: Rates, rank_only: bool
) -> ElasticRun:
    recipe, stage, folder = fields.made, options.stage, fields.get("save") or "."
    previous = options.previous if stage > 1 else None

    def before() -> Path | None:
        rules.check_refused(fields)  # a script may have set them again
        refused = refused_overlaps(fields.ranks("pipeline"))
        check_overlaps({"ddp": recipe.ddp, "optimizer": recipe.optimizer}, refused)
        rules.check_vocabularies(fields, vocabulary_rows(options.teacher))  # which may not have been there
        first, steps = get_rank_safe() == 0, fields.get("steps")
        start, done = check_start(recipe.checkpoint, block, stage, previous, first, rank_only, steps)
        callback.rates = rates.after(done, steps)
        recipe.optimizer_config_override_provider.done_steps = done  # the next stage reads it
        return start

    step = ElasticStep(
        recipe.model,
        block,
        teacher=options.teacher,
        stage=stage,
        steps=fields.get("steps"),
        before=before,
        rank_only=rank_only,
    )
    recipe.model.register_pre_wrap_hook(step.build)
    callback = ElasticCallback(
        step, rates, options.out or os.path.join(folder, "elastic"), folder, previous,
        label="rank" if rank_only else f"stage{stage}", rank_only=rank_only,
    )  # fmt: skip
    return ElasticRun(recipe, step, [callback])
