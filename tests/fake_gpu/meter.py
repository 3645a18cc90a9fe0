# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a GPU would hold and do: bytes alive, and launches; collectives are of its tensors."""

from __future__ import annotations

import weakref
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
        launches: operations that ran on the GPU since then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.sizes: dict[int, int] = {}
        self.clear()

    def clear(self) -> None:
        self.peak = self.live
        self.launches = 0

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
            self.collective(name, given)
        elif not func.is_view and not name.startswith(NO_LAUNCH):
            devices = {t.device.type for t in (*made, *given)}
            between = devices == {"cuda", "cpu"} and name.startswith(COPIES)
            self.launches += "cuda" in devices and not between
        return out

    def collective(self, name: str, given: list[torch.Tensor]) -> None:
        off = [t for t in given if t.device.type != "cuda"]
        if off and name not in ("barrier", "monitored_barrier_"):
            raise AssertionError(f"NCCL: {name} of a tensor on {off[0].device}, by {here()}")

    def add(self, t: torch.Tensor) -> None:
        storage = t.untyped_storage()
        if storage._cdata in self.sizes:
            return
        self.sizes[storage._cdata] = size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.gone, storage._cdata)

    def gone(self, key: int) -> None:
        self.live -= self.sizes.pop(key, 0)
