# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a micro-batch runs: an immutable snapshot of the choice, taken once per forward and passed to every layer.

The choice must not be read from a module during the forward: pipeline schedules interleave micro-batches and
recomputation runs a layer again when another micro-batch is in force. So `ElasticState` is written by the step
function, read once by the embedding, the stack and the head, and all else gets the `ForwardChoice` as an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch

from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.registry import layer_axes
from nemo_elastic.core.layout import megatron_selection
from nemo_elastic.core.prefix import Grid, Selection
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.functional import rms_norm, work_dtype
from nemo_elastic.nn.gates import Choice, Gates, LayerGates, Probe, gated_norm

from .rounding import Rounding


@dataclass(frozen=True)
class ForwardChoice:
    """One forward's choice, with gates already local to this tensor-parallel rank.

    Attributes:
        parent: shape of the whole model; None in a model that is not elastic.
        subnet: the member that runs as a slice; None where the model runs at full size.
        hidden_gate: [D] or None; layers: gates per parent layer, local width shards, or None.
        probe: watches activations; layers call it through `watch`.
        documents: of the micro-batch, where its rows hold several; no layer reads over their bounds.
        rounding: of the weights, where they run as low precision has them.
    """

    parent: Parent | None = None
    subnet: Subnet | None = None
    hidden_gate: torch.Tensor | None = None
    layers: tuple[LayerGates, ...] | None = None
    probe: Probe | None = None
    world: int = 1
    documents: Documents | None = None
    rounding: Rounding | None = None

    @property
    def is_whole(self) -> bool:
        """The model itself runs: no member, no gates."""
        return self.subnet is None and self.layers is None

    def hidden_selection(self) -> Selection | None:
        """Kept channels of the residual stream; None for all."""
        if self.subnet is None or self.parent is None or self.subnet.hidden == self.parent.hidden:
            return None
        return first_channels(self.parent.hidden, self.subnet.hidden)

    def norm(self, x_sbd: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """RMSNorm over the residual stream at the width of the run, gated."""
        if self.parent is not None and self.hidden_gate is not None:
            return gated_norm(self.parent, x_sbd, weight, self.hidden_gate, eps)
        if self.parent is not None and self.subnet is not None and self.subnet.hidden < weight.shape[0]:
            factor = self.parent.norm_factor(weight.shape[0], self.subnet.hidden)
            weight = weight[: self.subnet.hidden]
            weight = weight if factor == 1 else weight.to(work_dtype(weight)) * factor
        return rms_norm(x_sbd, weight, eps)

    def kept(self, index: int) -> bool:
        return self.subnet is None or index in self.subnet.by_index

    def layer(self, index: int) -> Layer | None:
        """Widths of a layer that runs as a slice; None at full size."""
        return None if self.subnet is None else self.subnet.by_index[index]

    def gates(self, index: int) -> LayerGates | None:
        return None if self.layers is None else self.layers[index]

    def select(self, row: str, dim: int, index: int, world: int | None = None) -> Selection | None:
        """What the run keeps on this rank of the Megatron tensor that holds a row; None for all of it.

        Args:
            world: ranks that share the dimension; None for the tensor-parallel ones.
        """
        if self.subnet is None or self.parent is None:
            return None
        world = self.world if world is None else world
        known, key = self._known, (row, dim, index, world)
        if key not in known:
            tensor = self.parent.kind(self.parent.types[index]).tensors[row.partition(".")[2]]
            kept = megatron_selection(self.parent, tensor, dim, self.parent.full, self.subnet, index).shard(world)
            known[key] = None if kept.is_full else kept
        return known[key]

    def rounded(self, row: str, index: int, weight: torch.Tensor, group: Any = None) -> torch.Tensor | None:
        """What stands for a whole weight in products, see `Rounding.of`; None for itself."""
        return None if self.rounding is None else self.rounding.of(row, index, weight, group)

    @cached_property
    def _known(self) -> dict[_Key, Selection | None]:
        assert self.subnet is not None and self.parent is not None
        return _selections(self.parent, self.subnet)

    def watch(self, site: str, index: int, x_sb: torch.Tensor) -> None:
        """Show [s, b, ...] to the probe as [b, s, ...]."""
        if self.probe is not None:
            self.probe(site, index, x_sb.transpose(0, 1))


#: row, dimension, layer, ranks
_Key = tuple[str, int, int, int]


@lru_cache(maxsize=256)
def _selections(parent: Parent, subnet: Subnet) -> dict[_Key, Selection | None]:
    """What a member keeps, as far as it was asked for: no step builds an index that an earlier one has built."""
    return {}


@lru_cache(maxsize=4096)
def first_channels(size: int, kept: int) -> Selection:
    """The first `kept` of all channels of the residual stream."""
    return Selection((Grid((size,), (kept,)),))


#: a model at full size without gates: what stock NeMo runs
WHOLE = ForwardChoice()

_recomputing = False


@contextmanager
def recomputing() -> Iterator[None]:
    """The body runs layers again, for their gradients: what counts tokens has counted them."""
    global _recomputing
    _recomputing = True
    try:
        yield
    finally:
        _recomputing = False


def is_recomputing() -> bool:
    """Whether a forward is one of `recomputing`."""
    return _recomputing


@dataclass
class ElasticState:
    """Shared by the modules of one model; the step function sets `choice` before each micro-batch's forward."""

    parent: Parent
    choice: Choice = None
    rounding: Rounding | None = None
    _full: Subnet = field(init=False)

    def __post_init__(self) -> None:
        self._full = self.parent.full

    def run(self, tp_group: Any, sequence_parallel: bool) -> ForwardChoice:
        """Snapshot of the choice for one forward on this rank."""
        world = tp_group.size() if tp_group is not None else 1
        choice, alike = self.choice, {"world": world, "rounding": self.rounding}
        if isinstance(choice, Subnet):
            subnet = None if choice == self._full else choice
            return ForwardChoice(self.parent, subnet, **alike)
        if choice is None:
            return ForwardChoice(self.parent, **alike)
        hidden, layers = _localise(choice, tp_group, sequence_parallel)
        return ForwardChoice(self.parent, hidden_gate=hidden, layers=layers, **alike)


def _localise(gates: Gates, group: Any, sequence_parallel: bool) -> tuple[torch.Tensor, tuple[LayerGates, ...]]:
    """Gates as this rank needs them, with gradients summed over ranks wherever a rank sees only a part of the model.

    A gate of a sharded axis is used on one shard per rank, and under sequence parallelism every gate meets only a part
    of the tokens: both pass through copy_to_tensor_model_parallel_region, whose backward sums over ranks. A hidden
    gate without sequence parallelism meets everything on every rank and must not be summed.
    """
    if group is None or group.size() == 1:
        return gates.hidden, gates.layers
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region as shared

    def replicated(g: torch.Tensor) -> torch.Tensor:
        return shared(g, group=group) if sequence_parallel else g

    def sharded(axis: str, g: torch.Tensor) -> torch.Tensor:
        """This rank's blocks; an axis without blocks lies whole in every block of another."""
        whole, record = shared(g, group=group), layer_axes()[axis][1]
        ranks = parallel_state.get_expert_tensor_parallel_group() if record.shared_by == "expert tensor" else group
        assert ranks is not None
        if record.blocks is None or record.shared_by is None:
            return whole
        n = g.shape[0] // ranks.size()
        return whole[ranks.rank() * n : (ranks.rank() + 1) * n]

    layers = tuple(
        LayerGates(
            replicated(g.keep),
            {axis: sharded(axis, gate) for axis, gate in g.widths.items()},
        )
        for g in gates.layers
    )
    return replicated(gates.hidden), layers
