# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layers behind a model that predict further tokens (multi-token prediction, MTP), as a shape of their own.

A step reads the model's last hidden states and the embedding of the token that came after, projects both into the
stream, and runs layers as the model has them; the model's head reads its end. No member chooses their widths: the
stream is the member's, and every other axis has the largest width of the member's own layers, as `config.json` has
one size for both. So they are nested where members are. Sources: megatron-core 0.19's `MultiTokenPredictionLayer`,
Megatron-Bridge's `nemotron_h` mapping, vLLM's `nemotron_h_mtp`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nemo_elastic.core.family import Layer, Parent, Subnet, largest, size_names
from nemo_elastic.core.kinds.record import HF_LAYER, MEGATRON_LAYER, Row
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.core.layout import Tensor, by_megatron, named, shape, tensors
from nemo_elastic.errors import bad

__all__ = ["PREFIX", "Prediction"]

#: with which the names of their tensors start
PREFIX = "mtp."
_STEP, _HIDDEN = "mtp.layers.{i}.", (HIDDEN,)
#: a step's own tensors: of its first layer, and of its last. megatron-core numbers steps, Hugging Face layers.
_START = (
    Row("prediction.enorm", None, _STEP + "enorm.weight", _STEP + "enorm.weight", ((_HIDDEN,),)),
    Row("prediction.hnorm", None, _STEP + "hnorm.weight", _STEP + "hnorm.weight", ((_HIDDEN,),)),
    Row("prediction.eh_proj", None, _STEP + "eh_proj.weight", _STEP + "eh_proj.weight",
        ((_HIDDEN,), (_HIDDEN, _HIDDEN)), 0),
)  # fmt: skip
_END = (
    Row("prediction.norm", None, _STEP + "final_layernorm.weight", _STEP + "final_layernorm.weight", ((_HIDDEN,),)),
)


@dataclass(frozen=True)
class Prediction:
    """Which layers there are.

    Attributes:
        pattern: one symbol for each layer of a step, as `Parent.pattern` has them.
        steps: steps with layers of their own. One step may be run several times.
    """

    pattern: str
    steps: int = 1

    def behind(self, parent: Parent) -> Parent:
        """Their layers as a parent of its own, with the sizes of the model's."""
        pattern = self.pattern * self.steps
        for symbol in pattern:
            if symbol not in parent.pattern:
                raise bad("mtp_hybrid_override_pattern", self.pattern, f"layers as the model has: {parent.pattern}")
        sizes = {name: parent.size(name) for name in size_names(pattern, parent.sizes) if name in parent.sizes}
        return replace(parent, pattern=pattern, sizes=sizes)

    def member(self, parent: Parent, member: Subnet) -> Subnet | None:
        """What a member has of `behind`; None where no layer of the member says a width of theirs."""
        own = self.behind(parent)
        widest = largest((layer.type, layer.widths) for layer in member.layers)
        kinds = {layer.type for layer in member.layers}
        if not kinds >= set(own.types):
            return None
        layers = tuple(
            Layer(i, name, {axis: widest[axis] for axis in own.kind(name).widths}) for i, name in enumerate(own.types)
        )
        return Subnet(member.hidden, layers).validate(own)

    def tensors(self, parent: Parent, member: Subnet) -> list[Tensor]:
        """Their tensors in a member, in storage order; of one that has none an empty list. See `layout.tensors`."""
        held = self.member(parent, member)
        if held is None:
            return []
        own, size, out = self.behind(parent), len(self.pattern), []
        for t in tensors(own, held):
            if t.layer is None:
                continue
            step, at = divmod(t.layer.index, size)
            if not out or out[-1].layer != t.layer:
                for row in (*(_START if at == 0 else ()), *(_END if at == size - 1 else ())):
                    hf, megatron = named(row.hf, t.layer.index), named(row.megatron, step)
                    out.append(Tensor(row, t.layer, hf, megatron, shape(own, row, held)))
            inner = f"mtp.layers.{step}.mtp_model_layer.layers.{at}."
            hf = t.hf.replace(named(HF_LAYER, t.layer.index), named(_STEP, t.layer.index), 1)
            megatron = t.megatron.replace(named(MEGATRON_LAYER, t.layer.index), inner, 1)
            out.append(replace(t, hf=hf, megatron=megatron))
        return out

    def megatron_tensors(self, parent: Parent, member: Subnet) -> dict[str, list[Tensor]]:
        """By name in megatron-core's model, what each holds; see `layout.megatron_tensors`."""
        return by_megatron(self.tensors(parent, member))

    def parameters(self, parent: Parent, member: Subnet) -> int:
        """How many parameters they have in a member; no budget counts them."""
        return sum(math.prod(t.shape) for t in self.tensors(parent, member))
