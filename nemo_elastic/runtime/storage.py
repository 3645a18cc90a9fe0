# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of the largest member, stored so that every member is a corner of every matrix.

In a folder a width keeps the first part of each of several blocks: heads of a Mamba group, stripes of an MLP, the
parts of [z | x | B | C | dt]. Such a slice is no strided matrix, so it would be copied for each member, or multiplied
block by block. Here dimensions that members cut are stored in nested order: first the channels of the smallest member,
then those that the next one adds, and so on. Every member of the family is then the top left corner, a view that one
product reads in place. Activations are moved instead: a layer's few thousand channels are gathered into the model's
order and back (`LayerWeights.linear`).

A shape between the members runs as well. It reads up to the last channel that it keeps, which along one axis is
exactly what it keeps, and never more than what the next larger member reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nemo_elastic.core import layout
from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.record import Row
from nemo_elastic.core.layout import by_name, keys, named, original, selection
from nemo_elastic.core.prefix import Chain, Selection, nested_order
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.nn.functional import cast_dtype, count_not_finite
from nemo_elastic.nn.weights import LayerWeights, StoredOrder, Weights, scaled

#: in which a model computes
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
Made = dict[tuple[Selection, Chain | None], torch.Tensor | None]
Device = str | torch.device | None


def check_device(device: Any, name: str = "device") -> torch.device:
    """A device on which tensors can be made; `name` is the option that an error names."""
    try:
        made = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as exc:  # an unknown word, or a device that is not there
        raise bad(
            name, device, f"a device of this machine, such as cpu or cuda ({str(exc).splitlines()[0]})"
        ) from None
    if device is None or made.type == "meta":
        raise bad(name, device, "a device that computes, such as cpu or cuda")
    return made


class Storage:
    """Tensors of `held` with every matrix in the nested order of `members`.

    Args:
        tensors: by HF name, in the order of the model. Read one by one, never written.
        dtype: of the stored tensors, one of `DTYPES`; by default that of each tensor, and bfloat16 for float8, with
            which torch does not compute. What no cast may round gets at least float32 (`nn.functional.cast_dtype`).
        copy: also copy tensors that need no other order, dtype or device, instead of sharing their memory.

    Attributes:
        underflowed: numbers that are not 0 in the tensors, and 0 in this dtype.
    """

    def __init__(
        self,
        parent: Parent,
        held: Subnet,
        members: Iterable[Subnet],
        tensors: Mapping[str, torch.Tensor],
        dtype: torch.dtype | None = None,
        device: Device = None,
        copy: bool = False,
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise bad("dtype", dtype, f"one of {', '.join(map(str, DTYPES))}")
        self.parent, self.held = parent, held
        self.tensors: dict[str, torch.Tensor] = {}
        self.underflowed = 0
        self._position = {index: i for i, index in enumerate(held.kept)}
        self._chains: dict[tuple[str, int], Chain] = {}  # of dimensions that are stored in another order
        self._places: dict[Chain, torch.Tensor] = {}  # positions of channels in the order
        members = tuple(members)
        for t in layout.tensors(parent, held):
            given = tensors[t.hf].detach()
            if not given.is_floating_point():
                raise bad(f"dtype of {t.hf}", given.dtype, "weights are floating-point numbers")
            wanted = dtype or (torch.bfloat16 if given.dtype.itemsize == 1 else given.dtype)
            stored = given.to(cast_dtype(t.hf, wanted))
            if copy or stored is not given:  # shared tensors are read on use
                self.underflowed += _check_values(t.hf, given, stored)
            for dim in (0, 1) if len(t.shape) == 2 else ():  # vectors are small: every member gathers them
                stored = self._reorder(stored, t, dim, members, device)
            stored = stored.to(device=device)
            if copy and stored.untyped_storage().data_ptr() == given.untyped_storage().data_ptr():
                stored = stored.clone()
            self.tensors[t.hf] = stored

    def _reorder(
        self, stored: torch.Tensor, t: layout.Tensor, dim: int, members: Sequence[Subnet], device: Device
    ) -> torch.Tensor:
        """`stored` with dimension `dim` in nested order (remembered); unchanged if it already is."""
        index = None if t.layer is None else t.layer.index
        users = [m for m in members if index is None or index in m.by_index]
        chain = tuple(dict.fromkeys(selection(self.parent, t.row, dim, self.held, m, index) for m in users))
        order = nested_order(chain)
        if order is None:
            return stored
        self._chains[t.hf, dim] = chain
        if chain not in self._places:
            self._places[chain] = torch.from_numpy(np.argsort(order)).to(device or stored.device)
        return stored.index_select(dim, torch.from_numpy(order).to(stored.device))

    def in_order(self) -> dict[str, torch.Tensor]:
        """The tensors in the model's order; shares the memory of those that are stored in it."""
        out = dict(self.tensors)
        for (name, dim), chain in self._chains.items():
            out[name] = out[name].index_select(dim, self._places[chain])
        return out

    def stacked(self, name: str, layer: Layer) -> torch.Tensor:
        """The tensors of one row of a layer of `held` as one, [number, out, in]: each of them becomes a view of it.

        For products over all experts at once. Members that are cut later have views of it, too.
        """
        row = by_name(f"{self.parent.kind(layer.type).name}.{name}")
        names = [named(row.hf, self._position[layer.index], number) for _, number in keys(row, layer)]
        stack = torch.stack([self.tensors[hf] for hf in names])
        self.tensors |= zip(names, stack, strict=True)
        return stack

    @property
    def owned(self) -> dict[int, torch.Tensor]:
        """Address in memory -> stored tensor."""
        return {t.untyped_storage().data_ptr(): t for t in (*self.tensors.values(), *self._places.values())}

    def weights(self, member: Subnet) -> Weights:
        """Weights of `member`, nested in `held`, for its forward. Layers are cut when they first run."""
        head = by_name("embedding" if self.parent.tied else "head")
        embedding, norm, head = (self.cut(member, r)[0] for r in (by_name("embedding"), by_name("final_norm"), head))
        return Weights(self.parent, member, embedding, CutLayers(self, member), norm, head)

    def cut(
        self,
        member: Subnet,
        row: Row,
        layer: Layer | None = None,
        number: int | None = None,
        made: Made | None = None,
    ) -> tuple[torch.Tensor, StoredOrder | None]:
        """One tensor of `member`: a matrix is a view, with its places if it is not in order; a vector may be a copy.

        `layer` is None for tensors outside the layers; `number` is the tensor's in `member` where a row has several;
        `made` are places that layers of the member share.
        """
        index = None if layer is None else layer.index
        first = original(self.parent, row, number, self.held, member, index)
        name = named(row.hf, None if index is None else self._position[index], first)
        t, places = self.tensors[name], []
        for dim in range(t.dim()):
            part = selection(self.parent, row, dim, self.held, member, index)
            chain = self._chains.get((name, dim))
            if t.dim() != 2 or (chain is None and (part.is_full or part.is_prefix)):
                t, at = part.take(t, dim), None
            else:
                at = self._find(part, chain, {} if made is None else made, t.device)
                t = t.narrow(dim, 0, part.kept_size if at is None else int(at.max()) + 1)
            places.append(at)
        t = scaled(self.parent, self.held, member, row, t)
        return t, StoredOrder(*places) if any(at is not None for at in places) else None

    def _find(self, part: Selection, chain: Chain | None, made: Made, device: torch.device) -> torch.Tensor | None:
        """Where the channels of `part` are stored; None if they are the first, in order."""
        if chain is not None and part.is_full:
            return self._places[chain]
        if (part, chain) not in made:
            kept = torch.from_numpy(part.indices).to(device)
            at = kept if chain is None else self._places[chain][kept]
            made[part, chain] = None if torch.equal(at, torch.arange(len(at), device=device)) else at
        return made[part, chain]


class CutLayers(Sequence[LayerWeights]):
    """The layers of a member, each cut when it is first read. Two threads may cut one at once: both get the same."""

    def __init__(self, storage: Storage, member: Subnet) -> None:
        self._storage, self._member = storage, member
        self._made: Made = {}
        self.cut: list[LayerWeights | None] = [None] * len(member.layers)

    def __len__(self) -> int:
        return len(self.cut)

    def __iter__(self) -> Iterator[LayerWeights]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> LayerWeights:  # pyright: ignore[reportIncompatibleMethodOverride]
        layer = self.cut[i]
        if layer is None:
            layer = self.cut[i] = self._cut(self._member.layers[i])
        return layer

    def in_use(self) -> Iterator[torch.Tensor]:
        """Tensors of the layers that were read, and their places."""
        for layer in filter(None, self.cut):
            yield from layer.tensors.values()
            for at in layer.orders.values():
                yield from (t for t in (at.rows, at.columns) if t is not None)

    def _cut(self, layer: Layer) -> LayerWeights:
        taken = {
            key: self._storage.cut(self._member, row, layer, number, self._made)
            for row in self._storage.parent.kind(layer.type).rows
            for key, number in keys(row, layer)
        }
        tensors = {name: t for name, (t, _) in taken.items()}
        places = {name: at for name, (_, at) in taken.items() if at is not None}
        for name in [name for name in places if "up" in name]:
            up, down = places[name], places.get(name.replace("up", "down"))
            whole = up.rows is not None and len(up.rows) == len(tensors[name])
            if whole and down is not None and down.columns is up.rows:  # `down` reads the order in which `up` writes
                del places[name], places[name.replace("up", "down")]
        return LayerWeights(layer, tensors, places)


def _check_values(name: str, given: torch.Tensor, stored: torch.Tensor) -> int:
    """Check that all values are numbers, and as `stored` still are; gives how many have become 0.

    A member whose weights are not can say something all the same: a state that decays at once is a number.
    """
    if wrong := count_not_finite(stored):
        if bool(given.to(torch.float64).isfinite().all()):
            raise bad("dtype", str(stored.dtype), f"tensor {name!r} has {wrong} numbers that it cannot hold")
        raise ElasticError(f"{wrong} values are infinite or not a number; nemo-elastic verify finds damage", name)
    before, after = (torch.finfo(t.dtype) for t in (given, stored))
    if after.smallest_normal * after.eps <= before.smallest_normal * before.eps:
        return 0
    return int(torch.count_nonzero(given) - torch.count_nonzero(stored))
