# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Code that names 'cuda', run on a CPU-only build of torch.

NeMo's and megatron-core's training loop writes ``device="cuda"``, ``.cuda()``, ``pin_memory=True`` and
``torch.cuda.current_device()`` literally, in places that no option reaches. This file has one job: inside
`cuda_as_cpu` such code gets the CPU instead. Where CUDA exists it does nothing at all.

Two mechanisms do it: a `torch.overrides.TorchFunctionMode`, torch's public way to see every call of a torch function
or tensor method that the current thread makes, and, for the few functions of ``torch.cuda`` that take no tensor and
raise in a CPU build, a replacement for the duration of the context.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
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
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    _CudaAsCpu.active = True
    try:
        for owner, name, replacement in places:
            setattr(owner, name, replacement)
        with _CudaAsCpu():
            yield
    finally:
        for owner, name, original in reversed(saved):
            setattr(owner, name, original)
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
