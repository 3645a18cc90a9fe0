# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What megatron-core lacks to train on a CPU: code that names 'cuda' gets the CPU, and an Adam that can be saved.

NeMo's and megatron-core's training loop writes ``device="cuda"``, ``.cuda()``, ``pin_memory=True`` and
``torch.cuda.current_device()`` literally, in places that no option reaches. Inside `cuda_as_cpu` such code gets the
CPU instead. Where CUDA exists it does nothing at all. Two mechanisms do it: a `torch.overrides.TorchFunctionMode`,
torch's public way to see every call of a torch function or tensor method that the current thread makes, and, for the
few functions of ``torch.cuda`` that take no tensor and raise in a CPU build, a replacement for as long as it lasts.

What megatron-core compiles runs uncompiled there. torch turns modes off in the backward pass, and compiles a function
once with the mode and once without it: where recomputation finds torch's limit of compiled versions reached, it would
keep other tensors than the forward pass did, which torch refuses.

megatron-core takes the layout of an optimizer's state from what it finds installed. Over torch's AdamW, whose steps
are tensors among the moments, its distributed optimizer trains, but can neither save nor load (megatron-core 0.15.3).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


@contextlib.contextmanager
def cuda_as_cpu() -> Iterator[None]:
    """Runs the body with every 'cuda' meaning the CPU; without effect where CUDA is available.

    May be nested; only the outermost context does anything. For the thread that enters it, and not for a body that
    hands the context to another thread.
    """
    if torch.cuda.is_available() or _CudaAsCpu.active:
        yield
        return
    places = [(torch.cuda, name, value) for name, value in _REPLACED.items()]
    if _HYBRID in sys.modules and _DISPATCHER in sys.modules:
        places += [(torch.cuda, "current_device", lambda: CPU), (sys.modules[_DISPATCHER], _TO_CPU, _numbers)]
    _CudaAsCpu.active = True
    try:
        with torch.compiler.set_stance("force_eager"), _replaced(places), _CudaAsCpu():
            yield
    finally:
        _CudaAsCpu.active = False


class _CudaAsCpu(TorchFunctionMode):
    """Rewrites devices on the way into torch functions."""

    active = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        special = _SPECIAL.get(func)
        if special is not None:
            return special(*args, **(kwargs or {}))
        if not kwargs:
            return func(*args)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _device(kwargs["device"])}
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}  # pinning needs a CUDA runtime
        return func(*args, **kwargs)


def _device(value: Any) -> Any:
    """The CPU for whatever denotes a CUDA device (a name, a device, an ordinal), all else unchanged."""
    is_cuda = (
        (isinstance(value, str) and value.startswith("cuda"))
        or (isinstance(value, torch.device) and value.type == "cuda")
        or (isinstance(value, int) and not isinstance(value, bool))  # torch.cuda.current_device()
    )
    return CPU if is_cuda else value


def _stay(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """``tensor.cuda(...)`` and ``tensor.pin_memory()``: it is where it should be."""
    return tensor


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """``tensor.to(...)``, which also takes the device by position."""
    if "device" in kwargs:
        kwargs["device"] = _device(kwargs["device"])
    return tensor.to(*(_device(a) for a in args), **kwargs)


def _type(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """``tensor.type()``, spelled torch.cuda.FloatTensor: so megatron-core's optimizers sort and check parameters."""
    if args or kwargs:
        return tensor.type(*args, **kwargs)
    return tensor.type().replace("torch.", "torch.cuda.", 1)


_SPECIAL: dict[Any, Callable[..., Any]] = {
    torch.Tensor.cuda: _stay,
    torch.Tensor.pin_memory: _stay,
    torch.Tensor.to: _to,
    torch.Tensor.type: _type,
}


class _Stream:
    """A CUDA stream on a device that has only one: everything has happened already."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def synchronize(self) -> None: ...

    def record_event(self, event: Any = None) -> _Stream:
        return _Stream()


#: of megatron-core, where it sends tokens to experts: it makes numbers of a GPU's tensors, which gloo needs always.
#: Its collectives go backward where no mode sees them (torch turns it off in `Tensor.backward`), and make their
#: tensors on the current device: there it has to be one, not an ordinal of one.
_HYBRID = "megatron.core.models.hybrid"
_DISPATCHER, _TO_CPU = "megatron.core.transformer.moe.token_dispatcher", "maybe_move_tensor_to_cpu"


def _numbers(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    return tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor


_REPLACED: dict[str, Any] = {
    "current_device": lambda: 0,
    "synchronize": lambda device=None: None,
    "Stream": _Stream,
    "stream": lambda stream=None: contextlib.nullcontext(stream),
    "current_stream": lambda device=None: _Stream(),
    "default_stream": lambda device=None: _Stream(),
    "get_rng_state": lambda device="cuda": torch.get_rng_state(),  # of which a checkpoint keeps one
    "set_rng_state": lambda state, device="cuda": None,  # it is the CPU's, which is set beside it
}


class GroupStepAdam(torch.optim.AdamW):
    """torch's AdamW, bit for bit, with the state of the fused ones: two moments per parameter, one step per group.

    Args:
        adam_w_mode: decoupled weight decay, else Adam's; the name is that of the fused ones.
    """

    def __init__(self, params: Any, adam_w_mode: bool = True, **more: Any) -> None:
        super().__init__(params, **more)
        self._update = adamw if adam_w_mode else adam

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)  # AdamW's looks for a step among the moments

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; a group without parameters, of which a rank may hold no shard, does not count any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["params"]:
                self._step(group)
        return loss

    def _step(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p] |= {k: torch.zeros_like(p) for k in ("exp_avg", "exp_avg_sq")}
        done = group.get("step", 0)
        self._update(
            params,
            [p.grad for p in params],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [torch.tensor(float(done)) for _ in params],  # each is counted up by itself
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        group["step"] = done + 1


@contextlib.contextmanager
def group_step_adam() -> Iterator[None]:
    """Runs the body with `GroupStepAdam` as megatron-core's fused Adam. May be nested."""
    from megatron.core import optimizer as mcore
    from megatron.core.optimizer import distrib_optimizer

    #: names that say which Adam there is and how its state is laid out
    places = [
        (mcore, "Adam", GroupStepAdam),
        (mcore, "USING_PYTORCH_OPTIMIZER", False),
        (distrib_optimizer, "Adam", GroupStepAdam),
        (distrib_optimizer, "HAVE_APEX_OR_TE", True),
        (distrib_optimizer, "USING_APEX_OPTIMIZER", True),
    ]
    with _replaced(places):
        yield


@contextlib.contextmanager
def _replaced(places: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Gives attributes of modules other values, (module, name, value), for the duration of the body."""
    saved = []
    try:
        for owner, name, value in places:
            saved.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, original in reversed(saved):
            setattr(owner, name, original)
