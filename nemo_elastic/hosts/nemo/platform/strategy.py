# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo's Megatron strategy, and a recipe, on machines without CUDA."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import nemo_run as run
import torch
from megatron.core.tensor_parallel.random import initialize_rng_tracker
from nemo import lightning as nl
from nemo.lightning.io import pl as checkpoint_io
from nemo.lightning.pytorch.callbacks.progress_printer import ProgressPrinter
from nemo.utils import logging

from nemo_elastic.megatron.cpu import cuda_as_cpu, group_step_adam

#: Methods of MegatronStrategy that run inside `cuda_as_cpu`, and what names CUDA below each (NeMo 2.7.3, megatron-core
#: 0.15.3). With a distributed optimizer they run inside `group_step_adam` too: several build one or read its state.
#: The steps cover forward and backward; the optimizer step runs the training step as a closure.
HOOKS: dict[str, str] = {
    "setup": "gradient buffers on current_device(), built on a side stream; constants of the optimizer on 'cuda'",
    "training_step": "data step .cuda(); token counts of the schedules on 'cuda'; logged values pinned and moved",
    "validation_step": "as training_step",
    "test_step": "as training_step",
    "predict_step": "as training_step",
    "optimizer_state": "nothing, but it reads the optimizer's step",
    "optimizer_step": "clip_grads compares type() with 'torch.cuda.FloatTensor'; gradient norm on 'cuda'",
    "save_checkpoint": "synchronize() before writing; flags exchanged between ranks on current_device()",
    "load_checkpoint": "flags and tensors exchanged between ranks on current_device()",
    "load_model_state_dict": "copies of the weights that the optimizer keeps, on 'cuda'",
    "load_optimizer_state_dict": "state moved to current_device()",
}

#: settings of a model that name kernels of a GPU, as a CPU has them
WITHOUT_KERNELS = {
    "use_cpu_initialization": True,
    "apply_rope_fusion": False,
    "bias_dropout_fusion": False,
    "cross_entropy_loss_fusion": False,
    "gradient_accumulation_fusion": False,
    "masked_softmax_fusion": False,
    "persist_layer_norm": False,
}


class CPUMegatronStrategy(nl.MegatronStrategy):
    """MegatronStrategy whose hooks read 'cuda' as the CPU. All parallelism works, through gloo.

    So does the distributed optimizer, over `GroupStepAdam`. Two settings are changed when a model is connected, and
    the log says so: weights are not gathered during the forward (there is no second stream to do it on), and
    checkpoints are not asynchronous (their callback names CUDA outside of any hook of a strategy).
    """

    def connect(self, model: pl.LightningModule) -> None:
        """Attaches the model; see the class about the settings that change."""
        optimizer = getattr(getattr(model, "optim", None), "config", None)
        for owner, name in (
            (optimizer, "overlap_param_gather"),
            (self.ddp_config, "overlap_param_gather"),
            (self, "async_save"),
        ):
            if getattr(owner, name, False):
                logging.info(f"Without CUDA: {type(owner).__name__}.{name}: True -> False")
                setattr(owner, name, False)
        super().connect(model)

    def setup(self, trainer: pl.Trainer) -> None:
        """Sets up model and optimizer, and what prints progress (also runs inside `cuda_as_cpu`, see HOOKS)."""
        super().setup(trainer)
        for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, ProgressPrinter):
                # rank 0 alone gathers megatron-core's timers from all ranks: NCCL makes nothing of none, gloo waits
                callback.log_megatron_timers = lambda timers: None

    def setup_environment(self) -> None:
        """Starts the process group, and megatron-core's tracker of random states as the one that tracks nothing."""
        # Its other tracker keeps CUDA generators. Here there is one CPU generator, seeded alike on all tensor-parallel
        # ranks: linears are made whole and cut (use_cpu_initialization), and what a rank makes for its shard alone
        # (Mamba's conv1d, A and dt) starts alike on all of them. Replicas agree; the starting weights depend on the
        # layout all the same.
        initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
        super().setup_environment()

    @contextlib.contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """The context of configure_model(): the Mamba mixer and the norms allocate on current_device().

        `llm.distill` reads its teacher's checkpoint there too.
        """
        with cuda_as_cpu(), _tensors_stay(), super().model_sharded_context():
            yield

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a distributed checkpoint (also runs inside `cuda_as_cpu`, as one of HOOKS)."""
        with _tensors_stay():
            return super().load_checkpoint(*args, **kwargs)

    def load_optimizer_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Loads the optimizer's state (also runs inside `cuda_as_cpu`, as one of HOOKS)."""
        # megatron-core copies into leaves, as float32 weights are; its loader of NeMo's default format forgets no_grad
        with torch.no_grad():
            super().load_optimizer_state_dict(*args, **kwargs)


def strategy_class() -> type[nl.MegatronStrategy]:
    """The strategy that fits this machine: the stock one with CUDA, `CPUMegatronStrategy` without."""
    return nl.MegatronStrategy if torch.cuda.is_available() else CPUMegatronStrategy


def without_cuda(recipe: run.Partial) -> None:
    """Let a recipe run on a CPU."""
    recipe.trainer.accelerator = "cpu"
    recipe.trainer.strategy = run.Config(CPUMegatronStrategy, **recipe.trainer.strategy.__arguments__)
    config = recipe.model.config
    for name, value in WITHOUT_KERNELS.items():
        if getattr(config, name, None) != value:  # a tiny one's class has them
            setattr(config, name, value)


@contextlib.contextmanager
def _tensors_stay() -> Iterator[None]:
    """NeMo's checkpoint reader asserts that CUDA is up in a function that has nothing to do without CUDA tensors."""
    original = checkpoint_io._fix_tensors_device
    checkpoint_io._fix_tensors_device = lambda checkpoint: checkpoint
    try:
        yield
    finally:
        checkpoint_io._fix_tensors_device = original


def _as_cpu(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method of a strategy, run inside `cuda_as_cpu`; with a distributed optimizer also `group_step_adam`."""

    @functools.wraps(method)
    def wrapped(self: CPUMegatronStrategy, *args: Any, **kwargs: Any) -> Any:
        sharded = getattr(self.ddp_config, "use_distributed_optimizer", False)
        with cuda_as_cpu(), group_step_adam() if sharded else contextlib.nullcontext():
            return method(self, *args, **kwargs)

    return wrapped


for _name in HOOKS:
    setattr(CPUMegatronStrategy, _name, _as_cpu(getattr(CPUMegatronStrategy, _name)))
