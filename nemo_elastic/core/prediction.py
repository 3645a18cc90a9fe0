# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layers after a model that predict further tokens (multi-token prediction, MTP), as more layers of its parent.

A step reads the model's last hidden states and the embedding of the token that came after, projects both into the
stream, and runs layers as the model has them; the model's head reads its end. No member chooses their widths: the
stream is the member's, and every other axis has the largest width of the member's own layers, as `config.json` has
one size for both. So they are nested where members are. Sources: megatron-core 0.19's `MultiTokenPredictionLayer`,
Megatron-Bridge's `nemotron_h` mapping, vLLM's `nemotron_h_mtp`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nemo_elastic.core.family import Layer, Parent, Subnet, largest
from nemo_elastic.core.kinds.record import HF_LAYER, MEGATRON_LAYER, Row
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.core.layout import Tensor, named, shape, tensors
from nemo_elastic.errors import bad

__all__ = ["PREFIX", "Prediction", "all_tensors", "is_mtp"]

#: with which the names of their tensors start
PREFIX = "mtp."
_STEP, _HIDDEN = "mtp.layers.{i}.", (HIDDEN,)
#: tensors that a step has around its layers, which its first layer and its last one carry. megatron-core numbers
#: steps, Hugging Face layers.
_START = (
    Row("prediction.enorm", None, _STEP + "enorm.weight", _STEP + "enorm.weight", ((_HIDDEN,),)),
    Row("prediction.hnorm", None, _STEP + "hnorm.weight", _STEP + "hnorm.weight", ((_HIDDEN,),)),
    Row("prediction.eh_proj", None, _STEP + "eh_proj.weight", _STEP + "eh_proj.weight",
        ((_HIDDEN,), (_HIDDEN, _HIDDEN)), 0),
)  # fmt: skip
_END = (
    Row("prediction.norm", None, _STEP + "final_layernorm.weight", _STEP + "final_layernorm.weight", ((_HIDDEN,),)),
)


def is_mtp(name: str) -> bool:
    """Whether a tensor's name is of a layer that predicts further tokens."""
    return name.startswith(PREFIX)


@dataclass(frozen=True)
class Prediction:
    """Which layers there are.

    Attributes:
        pattern: one symbol for each layer of a step, as `Parent.pattern` has them.
        steps: steps with layers of their own. One step may be run several times.
    """

    pattern: str
    steps: int = 1

    def extend(self, parent: Parent) -> Parent:
        """The parent with these layers after its own."""
        for symbol in self.pattern:
            if symbol not in parent.pattern:
                raise bad("mtp_hybrid_override_pattern", self.pattern, f"layers as the model has: {parent.pattern}")
        return replace(parent, pattern=parent.pattern + self.pattern * self.steps)

    def extend_member(self, parent: Parent, member: Subnet) -> Subnet:
        """A member with these layers; without them where no layer of the member gives their widths."""
        whole = self.extend(parent)
        widest = largest((layer.type, layer.widths) for layer in member.layers)
        types = [*enumerate(whole.types)][parent.num_layers :]
        if not {name for _, name in types} <= {layer.type for layer in member.layers}:
            return member
        more = (Layer(i, name, {axis: widest[axis] for axis in whole.kind(name).widths}) for i, name in types)
        return Subnet(member.hidden, (*member.layers, *more)).validate(whole)

    def tensors(self, parent: Parent, member: Subnet) -> list[Tensor]:
        """Their tensors in a member, in storage order; see `layout.tensors`."""
        whole, own, size, out = self.extend(parent), self.extend_member(parent, member), len(self.pattern), []
        first = len(member.layers)
        for t in tensors(whole, own):
            if t.layer is None or t.layer.index < parent.num_layers:
                continue
            at = t.layer.index - parent.num_layers
            step, place = divmod(at, size)
            if not out or out[-1].layer != t.layer:
                for row in (*(_START if place == 0 else ()), *(_END if place == size - 1 else ())):
                    hf, megatron = named(row.hf, at), named(row.megatron, step)
                    out.append(Tensor(row, t.layer, hf, megatron, shape(whole, row, own)))
            inner = f"mtp.layers.{step}.mtp_model_layer.layers.{place}."
            hf = t.hf.replace(named(HF_LAYER, first + at), named(_STEP, at), 1)
            out.append(replace(t, hf=hf, megatron=t.megatron.replace(named(MEGATRON_LAYER, first + at), inner, 1)))
        return out

    def parameters(self, parent: Parent, member: Subnet) -> int:
        """How many parameters they have in a member; no budget counts them."""
        return sum(math.prod(t.shape) for t in self.tensors(parent, member))


def all_tensors(parent: Parent, member: Subnet, prediction: Prediction | None) -> list[Tensor]:
    """All tensors of a member in storage order, those of layers that predict further tokens last."""
    return tensors(parent, member) + ([] if prediction is None else prediction.tensors(parent, member))
