# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One GPU of many that is not there: fake CUDA tensors, fake ranks, and the calls of `torch.cuda` that take no tensor.

`install` changes torch for the whole process, which `device.cpp` has to be preloaded into.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch._subclasses.fake_impls as fake_impls
import torch.cuda.random
import torch.distributed as dist
import torch.distributed._meta_registrations as meta
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.workers import ROOT

#: bytes of an H100, as CUDA reports them
MEMORY = 85_028_765_696
TOLIST = FakeTensor.tolist
#: function that reads a tensor -> what it gets, over and over; other reads get 1
ANSWERS: dict[str, Iterator[Any]] = {"positive_on_any_rank": itertools.cycle((False, True))}
#: storage -> a tensor of it, and its numbers
KNOWN: dict[int, tuple[torch.Tensor, Sequence[int]]] = {}
#: places that wait for the GPU to read a number from it -> how often
WAITS: Counter[str] = Counter()


class Stream:
    """A stream or an event: everything on it is done."""

    cuda_stream, device = 0, torch.device("cuda", 0)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def done(self, *_: Any, **__: Any) -> None: ...

    wait_stream = wait_event = wait = record = synchronize = done

    def record_event(self, event: Any = None) -> Stream:
        return event or Stream()

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: Any) -> float:
        return 0.0


PROPERTIES = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3", major=9, minor=0, total_memory=MEMORY, multi_processor_count=132
)


def always(value: Any = None) -> Any:
    """A new function that returns the value, whatever it is called with; dynamo knows functions by identity."""
    return lambda *_, **__: value


def replace_calls() -> None:
    """What `torch.cuda` says of its device; the state of random numbers never changes."""
    state = torch.get_rng_state()
    values: dict[str, Any] = {
        "is_available": always(True),
        "is_initialized": always(True),
        "is_bf16_supported": always(True),
        "is_current_stream_capturing": always(False),
        "current_device": always(0),
        "device_count": always(8),
        "get_device_name": always(PROPERTIES.name),
        "get_device_capability": always((PROPERTIES.major, PROPERTIES.minor)),
        "get_device_properties": always(PROPERTIES),
        "mem_get_info": always((MEMORY, MEMORY)),
        "Stream": Stream,
        "Event": Stream,
        "stream": contextlib.nullcontext,
        "current_stream": Stream,
        "default_stream": Stream,
        "get_rng_state": always(state),
        "default_generators": tuple(torch.Generator() for _ in range(8)),
        "memory_stats": always(Counter()),
    }
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        values[name] = always(0)
    for name in ("synchronize", "set_device", "set_rng_state", "_lazy_init", "empty_cache", "ipc_collect",
                 "manual_seed", "manual_seed_all", "reset_peak_memory_stats", "nvtx.range_push",
                 "nvtx.range_pop"):  # fmt: skip
        values[name] = always()
    for name, value in values.items():
        *inside, last = name.split(".")
        setattr(getattr(torch.cuda, inside[0]) if inside else torch.cuda, last, value)
    torch.cuda.random.get_rng_state, torch.cuda.random.set_rng_state = values["get_rng_state"], always()
    torch._C._cuda_getDevice, torch._C._cuda_setDevice = always(0), always()  # type: ignore[attr-defined]
    torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[method-assign]


def here() -> str:
    """The innermost lines of code that is not torch's, innermost first."""
    frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename and "fake_gpu" not in f.filename]
    return " < ".join(f"{short(f.filename)}:{f.lineno}" for f in frames[-3:][::-1])


def short(path: str) -> str:
    """A path from its package on."""
    return path.rpartition("site-packages/")[2].removeprefix(f"{ROOT}/")


def read_all(self: FakeTensor) -> Any:
    """In place of `.tolist()`, one wait for all of the numbers."""
    if stored := KNOWN.get(self.untyped_storage()._cdata):
        WAITS.update([here()] if self.device.type == "cuda" else [])
        return shaped(list(stored[1]), self.shape)
    if self.device.type != "cuda":
        return TOLIST(self)
    numbers = [read(None, None, self)]
    for _ in range(self.numel() - 1):
        numbers.append(answer(self))
    return shaped(numbers, self.shape)


def shaped(numbers: list[Any], shape: Sequence[int]) -> Any:
    """Nested lists of a shape."""
    for size in reversed(shape[1:]):
        numbers = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    return numbers if shape else numbers[0]


def known(*numbers: int) -> torch.Tensor:
    """A tensor on the host whose numbers and those of its views can be read."""
    tensor = torch.zeros(len(numbers), dtype=torch.long)
    tell(tensor, numbers)
    return tensor


def tell(tensor: torch.Tensor, numbers: Sequence[int]) -> None:
    """Say which numbers a tensor has."""
    KNOWN[tensor.untyped_storage()._cdata] = tensor, numbers  # which keeps it, so that no other takes its place


def answer(tensor: torch.Tensor) -> Any:
    """A number in place of the tensor's."""
    for frame in reversed(traceback.extract_stack()):
        if frame.name in ANSWERS:
            return next(ANSWERS[frame.name])
    return tensor.dtype == torch.bool or (1.0 if tensor.dtype.is_floating_point else 1)


def read(_: Any, __: Any, tensor: torch.Tensor) -> Any:
    """In place of `.item()`: the host would wait here."""
    if tensor.device.type == "cuda":
        WAITS[here()] += 1
    return answer(tensor)


def every(mode: Any, _: Any, mask: torch.Tensor) -> torch.Tensor:
    """In place of the places where a mask is true, for whose number the host waits: all of them."""
    if mask.device.type == "cuda":
        WAITS[here()] += 1
    with mode:
        return torch.zeros((mask.numel(), mask.dim()), dtype=torch.long, device=mask.device)


def moved(self: torch.nn.Module, fn: Any, recurse: bool = True) -> torch.nn.Module:
    """`Module._apply`, which sets `.data`: a fake tensor takes no other dtype or device there."""
    for child in self.children() if recurse else ():
        child._apply(fn)
    for name, param in self._parameters.items():
        if param is not None:
            with torch.no_grad():
                new = fn(param)
            if (new.dtype, new.device) != (param.dtype, param.device):
                self._parameters[name] = other = torch.nn.Parameter(new, param.requires_grad)
                other.__dict__.update({**param.__dict__, **other.__dict__})  # pyright: ignore  # its own device is in there
    self._buffers.update({name: None if b is None else fn(b) for name, b in self._buffers.items()})
    return self


def replace_tensors() -> None:
    """Ways to make a tensor that fake ones do not take."""
    fake_impls.op_implementations_dict[torch.ops.aten._local_scalar_dense.default] = read
    fake_impls.op_implementations_dict[torch.ops.aten.nonzero.default] = every
    torch.nn.Module._apply = moved  # type: ignore[method-assign]
    FakeTensor.__deepcopy__ = lambda self, _: self.detach().clone()  # pyright: ignore
    made, to, taken = torch.tensor, torch.Tensor.to, torch.Tensor.__getitem__

    def tensor(data: Any, *args: Any, device: Any = None, pin_memory: bool = False, **more: Any) -> torch.Tensor:
        if isinstance(data, (list, tuple)) and data and isinstance(data[0], torch.Tensor):
            return torch.stack([each.reshape(()) for each in data]).to(device or data[0].device)
        out = made(data, *args, **more)
        on_cpu = device is None or torch.device(device).type == "cpu"
        return out if on_cpu else torch.zeros(out.shape, dtype=out.dtype, device=device)

    def moved_to(self: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        constant = isinstance(self, FakeTensor) and getattr(self, "constant", None) is not None
        if constant and any("cuda" in str(word) for word in (*args, *more.values())):
            self = torch.zeros(self.shape, dtype=self.dtype)
        return to(self, *args, **more)

    def at(self: torch.Tensor, index: Any) -> torch.Tensor:
        return taken(self, torch.tensor(index, device=self.device) if isinstance(index, list) else index)

    torch.Tensor.__getitem__ = at  # type: ignore[method-assign]  # torch copies a list of positions by itself
    torch.tensor, FakeTensor.tolist = tensor, read_all  # type: ignore[method-assign]
    torch.Tensor.to = moved_to  # type: ignore[method-assign]
    torch.Tensor.record_stream = always()  # type: ignore[method-assign]
    torch.Tensor.cuda = lambda self, *_, **__: self.to("cuda:0")  # type: ignore[method-assign]


def replace_ranks(rank: int, world: int, local: int) -> None:
    """Every process group is torch's fake one: what a rank gathers is its own; `local` is its GPU."""
    own = {"RANK": rank, "WORLD_SIZE": world, "NODE_RANK": rank // 8, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": 8}
    os.environ.update({name: str(value) for name, value in own.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT="29512")
    new_group = dist.new_group
    dist.new_group = lambda *args, **more: new_group(*args, **{**more, "backend": "fake"})
    start = dist.init_process_group

    def init(*_: Any, **__: Any) -> None:
        if not dist.is_initialized():
            start("fake", store=FakeStore(), rank=rank, world_size=world)

    def gather(every: list[Any], own: Any, group: Any = None) -> None:
        every[:] = [own] * len(every)

    dist.init_process_group, dist.all_gather_object, dist.broadcast_object_list = init, gather, always()
    for name in ("allreduce_coalesced_", "allgather_coalesced_", "allgather_into_tensor_coalesced_",
                 "reduce_scatter_tensor_coalesced_"):  # fmt: skip
        done = lambda _, __, *args, **___: meta.create_fakework(args, return_first_arg=False)  # noqa: E731
        fake_impls.op_implementations_dict[getattr(torch.ops.c10d, name).default] = done


def tensors(real: bool) -> contextlib.AbstractContextManager[Any]:
    """Where tensors are made: with numbers on a GPU that is there."""
    return contextlib.nullcontext() if real else FakeTensorMode(allow_non_fake_inputs=True)


def install(rank: int, world: int) -> None:
    """Make this process one rank of so many, with a GPU."""
    ctypes.CDLL(None).register_guard()
    replace_calls()
    replace_tensors()
    replace_ranks(rank, world, rank % 8)
