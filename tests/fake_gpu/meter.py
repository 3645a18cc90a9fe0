# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a GPU would hold and do: bytes alive, launches, copies, collectives."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tests.fake_gpu.gpu import here

#: operations that only describe a tensor, or take memory
NO_LAUNCH = ("empty", "detach", "alias", "lift", "_local_scalar_dense", "set_", "resize", "record_stream", "is_pinned",
             "device", "_unsafe_view", "_reshape_alias", "sym_")  # fmt: skip
COPIES = ("clone", "copy_", "_to_copy", "index_select")


class Meter(TorchDispatchMode):
    """Args: of `add`, as counted since the last `clear`.

    Attributes:
        live, peak: bytes on the GPU now, and at most since the last `clear`.
        launches: operation -> how often it ran on the GPU.
        copies: place -> bytes that a copy wrote on the GPU.
        crossed: place -> copies between GPU and host.
        sent: collective -> bytes of its larger side, as this rank has it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.sizes: dict[int, int] = {}
        self.clear()

    def clear(self) -> None:
        self.peak = self.live
        self.launches: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.crossed: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    def now(self) -> tuple[int, int]:
        """Bytes on the GPU: now, and at most since the last `clear`."""
        return self.live, self.peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        made = [t for t in tree_iter(out) if isinstance(t, torch.Tensor)]
        given = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
        for t in made:
            if t.device.type == "cuda":
                self.add(t)
        if func.namespace == "c10d":
            self.collective(name, args, given)
        elif func.is_view or name.startswith(NO_LAUNCH):
            pass
        else:
            devices = {t.device.type for t in (*made, *given)}
            if devices == {"cuda", "cpu"} and name.startswith(COPIES):
                self.crossed[here()] += 1
            elif "cuda" in devices:
                self.launches[name] += 1
                if name.startswith(COPIES):
                    self.copies[here()] += sum(t.nbytes for t in made)
        return out

    def collective(self, name: str, args: Any, given: list[torch.Tensor]) -> None:
        off = [t for t in given if t.device.type != "cuda"]
        if off and name not in ("barrier", "monitored_barrier_"):
            raise AssertionError(f"NCCL: {name} of a tensor on {off[0].device}, by {here()}")
        sides = ([t for t in tree_iter(side) if isinstance(t, torch.Tensor)] for side in args)
        self.sent[name] += max(sum(t.nbytes for t in side) for side in sides)

    def add(self, t: torch.Tensor) -> None:
        storage = t.untyped_storage()
        if storage._cdata in self.sizes:
            return
        self.sizes[storage._cdata] = size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.gone, storage._cdata)

    def held(self) -> dict[str, int]:
        """Bytes alive by what they are: parameters, with sums of gradients; what is neither is the optimizer's."""
        kinds: dict[int, str] = {}
        for each in gc.get_objects():
            if not issubclass(type(each), torch.Tensor) or not isinstance(each, torch.nn.Parameter):
                continue
            if each.device.type == "cuda":
                kinds[each.untyped_storage()._cdata] = "weights" if each.requires_grad else "teacher"
                sums = getattr(each, "main_grad", None)
                if isinstance(sums, torch.Tensor):
                    kinds[sums.untyped_storage()._cdata] = "gradients"
        out: dict[str, int] = dict.fromkeys(("weights", "teacher", "gradients", "optimizer"), 0)
        for key, size in self.sizes.items():
            out[kinds.get(key, "optimizer")] += size
        return out

    def gone(self, key: int) -> None:
        self.live -= self.sizes.pop(key, 0)
