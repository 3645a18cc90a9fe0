# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One set of weights, many models: the largest member is in memory, every smaller one runs on views of it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import torch

from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.moe import MOE
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.tokenizer import FamilyTokenizer
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.weights import check_nested

from .member_model import Companions, MemberModel
from .storage import CutLayers, Storage, check_device

#: layer with experts -> the first matrices of all of them [e, i, k], and the second [e, k, i]
Stacks = Mapping[int, tuple[torch.Tensor, torch.Tensor]]
#: name of the only member of a folder without names
FULL = "full"


class ReadWeights(NamedTuple):
    """Weights of an opened folder, each read on access."""

    parent: Parent
    member: Subnet
    tensors: Mapping[str, torch.Tensor]


class FamilyRuntime:
    """Weights of the largest member, and every smaller one as views of them.

    Selecting a member needs almost no time and memory: its first forward makes the views of its layers. Any number
    of them can be in use at once, each at the cost of its size; see `storage.py`.

    Threads may select, run and release members at the same time: weights are never written, what is made on first use
    is the same whoever makes it, and a selection beside a `release` may be one from before it or a new one, which
    compute the same. A `Cache` is for one thread at a time.

    Args:
        model: holds the weights, or reads them. Matrices that need another order than the model's are copied, the
            others are shared: they must not change while members are in use.
        members: nested in the model's member, largest first; only that one by default. Other shapes can be
            selected too, and cost up to as much as the member above them.
        extras: further shapes by name, each nested in what the model holds but not in each other. The order in which
            weights are stored depends only on the members.
        dtype, device, copy: see `Storage`.
        companions: files for text (tokenizer, template); none by default.

    Attributes:
        parent: shape in which layers are counted.
        held: member whose weights are in memory.
        members: shapes by name, largest first, then extra shapes.
        path: names of the members without extra shapes, largest first.

    Raises:
        ElasticError: a member is not nested in the model's.
    """

    def __init__(
        self,
        model: NemotronH | ReadWeights,
        members: Mapping[str, Subnet] | None = None,
        *,
        extras: Mapping[str, Subnet] | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        copy: bool = False,
        companions: Companions | None = None,
    ) -> None:
        self._companions = companions or Companions()
        self.parent, self.held = model.parent, model.member
        nested = dict(members or {FULL: model.member})
        self.members = nested | dict(extras or {})
        self.path = tuple(nested)
        for name, subnet in self.members.items():
            with inside(f"member {name!r}"):
                check_nested(model.parent, model.member, subnet)
        tensors = model.tensors if isinstance(model, ReadWeights) else dict(model.named_parameters())
        self._storage = Storage(self.parent, self.held, nested.values(), tensors, dtype, device, copy)
        self._selected: dict[Subnet, MemberModel] = {}

    @property
    def model(self) -> NemotronH:
        """The weights in the order of the folder, as a model: it shares tensors that are stored in that order and
        copies the others.
        """
        return NemotronH(self.parent, self._storage.in_order(), self.held, trainable=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members, largest first, then extra shapes."""
        return tuple(self.members)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {parameters(self.parent, subnet):,}" for name, subnet in self.members.items())
        return f"FamilyRuntime({sizes} parameters)"

    def select(self, which: str | Subnet | None = None) -> MemberModel:
        """The model of one member; the same one each time, until `release`.

        Args:
            which: a member's name, any shape nested in `held`, or None for the largest member.

        Raises:
            ElasticError: no member of that name, or a shape that is not inside.
        """
        name = which if isinstance(which, str) else None
        if isinstance(which, str):
            if which not in self.members:
                near = get_close_matches(which, self.names, 1, 0.4)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ElasticError(
                    f"{which!r} is not in this family; {hint}its members are {', '.join(self.names)}", "member"
                )
            subnet = self.members[which]
        elif which is not None and not isinstance(which, Subnet):
            raise bad("member", which, "the name of a member, a Subnet, or None for the largest member")
        else:
            subnet = self.held if which is None else check_nested(self.parent, self.held, which)
            name = next((n for n, s in self.members.items() if s == subnet), None)
        model = self._selected.get(subnet)  # looked up once: another thread may release between two looks
        return model or self._selected.setdefault(subnet, self._model(name, subnet))

    def _model(self, name: str | None, subnet: Subnet) -> MemberModel:
        return MemberModel(name, self._storage.weights(subnet), self._companions, self.select)

    @property
    def tokenizer(self) -> FamilyTokenizer:
        """The folder's tokenizer, with its chat template.

        Raises:
            ElasticError: the folder has none that the tokenizers library reads, or the family was made in memory.
        """
        return self._companions.tokenizer

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer, by the folder's generation config or config."""
        return self._companions.end_ids

    def release(self) -> None:
        """Drop cached members; models that are still in use are not changed."""
        self._selected.clear()

    def stack_experts(self) -> Stacks:
        """Put the experts of each layer of `held` into one block of memory, for engines that multiply by all at once.

        Before a member is selected. It needs the memory of one layer's experts twice.
        """
        stacked, experts = self._storage.stacked, [layer for layer in self.held.layers if layer.type == MOE]
        return {layer.index: (stacked("up", layer), stacked("down", layer)) for layer in experts}

    @property
    def nbytes(self) -> int:
        """Bytes of the weights in memory."""
        return sum(t.nbytes for t in self._storage.tensors.values())

    @property
    def underflowed(self) -> int:
        """Number of nonzero weights that are 0 in the requested dtype."""
        return self._storage.underflowed

    @property
    def slice_bytes(self) -> int:
        """Further bytes of selected members: gathered vectors, and indices of stored channels."""
        owned, kept = self._storage.owned, {}
        for model in self._selected.copy().values():  # other threads may select meanwhile
            w = model.weights
            assert isinstance(w.layers, CutLayers)
            tensors = [w.embedding, w.final_norm, w.head, *w.layers.in_use()]
            kept |= {p: t for t in tensors if (p := t.untyped_storage().data_ptr()) not in owned}
        return sum(t.untyped_storage().nbytes() for t in kept.values())


def path_of(source: Checkpoint) -> dict[str, Subnet]:
    """Names and shapes of an opened folder's members, largest first; it has one where there is no `elastic.json`."""
    if source.family is not None:
        return source.members
    return {source.origin.name or FULL: source.subnet}


def members_of(source: Checkpoint) -> dict[str, Subnet]:
    """Names and shapes that can be selected of an opened folder: its members, then extra shapes."""
    return path_of(source) | source.extras


def load_family(
    folder: str | Path | Checkpoint,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    mmap: bool = False,
) -> FamilyRuntime:
    """Load a family, a member or any plain Nemotron-H folder.

    Example::

        family = load_family("family/")
        small = family.select("6b")
        answer = small.generate("The first", max_new_tokens=32)
        logits = small(tokens)

    Args:
        folder: what `nemo-elastic init`, `train` or `slice` wrote, or a `nemotron_h` folder of another origin; or one
            that `open_source` opened.
        dtype: of the weights in memory, one of `DTYPES`; that of the files by default, and bfloat16 of weights of low
            precision, whose codes are multiplied out.
        device: where they go.
        mmap: leave weights of the right dtype and order in the mapped files, to be read when they are used. Those are
            all of a single model, and of a family what its members cut along no other axis than depth and hidden.

    Returns:
        The family; a folder without `elastic.json` is a family of one.

    Raises:
        ElasticError: not such a folder, one that contradicts itself, weights that are no numbers, a dtype in which no
            model computes or that cannot hold them, or a device that is not here.
    """
    check_device(device)
    source = folder if isinstance(folder, Checkpoint) else open_source(folder)
    try:
        # read one by one, from mapped files: nothing is in memory twice
        return FamilyRuntime(
            ReadWeights(source.parent, source.subnet, source.as_torch(dtype)), path_of(source),
            extras=source.extras, dtype=dtype, device=device, copy=not mmap, companions=Companions.of(source),
        )  # fmt: skip
    except ElasticError as exc:
        raise exc if exc.at[:1] == ("dtype",) else exc.within(source.folder) from None
