# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One set of weights, many models: the largest member is held, every other one runs on slices of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import torch

from nemo_elastic import layout
from nemo_elastic.cost import parameters
from nemo_elastic.errors import ElasticError
from nemo_elastic.export.hf import Source, open_source
from nemo_elastic.export.torch_io import to_torch
from nemo_elastic.family import Parent, Subnet
from nemo_elastic.nn.forward import forward
from nemo_elastic.nn.generate import generate
from nemo_elastic.nn.model import NemotronH
from nemo_elastic.nn.weights import Weights, check_nested

#: name of the only member of a folder that gives itself none
FULL = "full"


class MemberModel:
    """One member, ready to run; `FamilyRuntime.select` makes it.

    Attributes:
        name: its name in the family, None for a shape of its own.
        subnet: its shape.
        weights: views of the family's weights where a width is a prefix, gathered copies elsewhere.
    """

    def __init__(self, name: str | None, weights: Weights) -> None:
        self.name, self.weights = name, weights
        self.parent, self.subnet = weights.parent, weights.member

    def __call__(self, tokens_bl: torch.Tensor) -> torch.Tensor:
        """Logits [b, l, v] of token ids [b, l], without gradients."""
        with torch.no_grad():
            return forward(self.weights, tokens_bl.to(self.weights.embedding.device))

    def generate(
        self,
        prompts: torch.Tensor | Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        stop_ids: Iterable[int] = (),
    ) -> list[list[int]]:
        """New tokens for each prompt, greedily, with the stop token where one came; see `nn.generate.generate`."""
        return generate(self.weights, prompts, max_new_tokens, stop_ids)

    @property
    def parameters(self) -> int:
        """Parameters of this member."""
        return parameters(self.parent, self.subnet)

    def __repr__(self) -> str:
        return f"MemberModel({self.name or 'unnamed'}: {self.parameters:,} parameters)"


class FamilyRuntime:
    """Weights of the largest member, and every smaller one as slices of them.

    Args:
        model: holds the weights. They must not change while members are in use: gathered slices are copies.
        members: names of members nested in what the model holds, largest first; only the held one by default.
        lean: gather each layer's slices anew in every forward instead of keeping them: the family then takes the
            memory of its largest member and of one layer, and decoding is slower.

    Raises:
        ElasticError: a member is not nested in what the model holds.
    """

    def __init__(self, model: NemotronH, members: Mapping[str, Subnet] | None = None, lean: bool = False) -> None:
        self.model, self.lean = model, lean
        self.members = dict(members or {FULL: model.member})
        for name, subnet in self.members.items():
            try:
                check_nested(model.parent, model.member, subnet)
            except ElasticError as exc:
                raise ElasticError(f"member {name!r}: {exc}") from None
        self._selected: dict[Subnet, MemberModel] = {}

    @property
    def parent(self) -> Parent:
        """Shape in which layers are counted."""
        return self.model.parent

    @property
    def held(self) -> Subnet:
        """The member whose weights are in memory."""
        return self.model.member

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members, largest first."""
        return tuple(self.members)

    def select(self, which: str | Subnet | None = None) -> MemberModel:
        """The model of one member. Its slices are made on first use and kept until `release`.

        Args:
            which: a member's name, any shape nested in what is held, or None for all that is held.

        Raises:
            ElasticError: no member of that name, or a shape that is not inside.
        """
        name = which if isinstance(which, str) else None
        if isinstance(which, str):
            if which not in self.members:
                near = get_close_matches(which, self.names, 1, 0.4)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ElasticError(f"member: {which!r} is not in this family; {hint}it has {', '.join(self.names)}")
            subnet = self.members[which]
        else:
            subnet = self.held if which is None else which
            name = next((n for n, s in self.members.items() if s == subnet), None)
        if subnet not in self._selected:
            with torch.no_grad():
                self._selected[subnet] = MemberModel(name, self.model.weights(subnet, self.lean))
        return self._selected[subnet]

    def release(self) -> None:
        """Forget the slices that were made; models that are still in use keep theirs."""
        self._selected.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that are held."""
        return sum(p.nbytes for p in self.model.parameters())

    @property
    def slice_bytes(self) -> int:
        """Bytes of the gathered slices that selected members keep beside the weights (views take none)."""
        held = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept: dict[int, int] = {}
        for model in self._selected.values() if not self.lean else ():
            w = model.weights
            for t in (w.embedding, w.final_norm, w.head, *(t for layer in w.layers for t in layer.tensors.values())):
                storage = t.untyped_storage()
                if storage.data_ptr() not in held:
                    kept[storage.data_ptr()] = storage.nbytes()
        return sum(kept.values())


def members_of(source: Source) -> dict[str, Subnet]:
    """Names and shapes of what an opened folder has; a folder without `elastic.json` has one member."""
    if source.family is not None:
        return {m.name: m.subnet for m in source.family}
    return {source.origin.name or FULL: source.held}


def load_family(
    folder: str | Path | Source,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    lean: bool = False,
    mmap: bool = False,
) -> FamilyRuntime:
    """Load a family, a member or any plain Nemotron-H folder.

    Example::

        family = load_family("family/")
        small = family.select("6b")
        logits = small(tokens)

    Args:
        folder: what `nemo-elastic init`, `train` or `slice` wrote, or a `nemotron_h` folder of another origin; or one
            that `open_source` opened.
        dtype: of the weights in memory; that of the files by default.
        device: where they go.
        lean: see `FamilyRuntime`.
        mmap: leave weights of the right dtype in the mapped files, to be read when they are used. Writing to them
            ends the process, so this is for models that only run.

    Returns:
        The family; a folder without `elastic.json` is a family of one.

    Raises:
        ElasticError: not such a folder, or one that contradicts itself.
    """
    source = folder if isinstance(folder, Source) else open_source(folder)
    state: dict[str, torch.Tensor] = {}
    for t in layout.tensors(source.parent, source.held):  # a tied head may be in the files as well: it is not needed
        tensor = to_torch(source.tensors[t.hf], copy=not mmap)
        state[t.hf] = tensor.to(device=device, dtype=dtype or _computable(tensor.dtype))
    model = NemotronH(source.parent, state, source.held, trainable=False)
    return FamilyRuntime(model, members_of(source), lean)


def _computable(dtype: torch.dtype) -> torch.dtype:
    """Torch stores float8 but does not compute with it."""
    return torch.bfloat16 if dtype.itemsize == 1 else dtype
