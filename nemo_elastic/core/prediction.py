# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Multi-token prediction (MTP) layers after a model's last layer, as further layers of its parent.

A step projects the model's last hidden states and the embedding of the next token into the residual stream and runs
layers of the model's kinds; the model's head reads the result. Members do not choose widths of these layers: they have
the member's residual width and otherwise the largest widths of the member's layers, as `config.json` has one size for
both. So they are nested if the members are. Sources: megatron-core 0.19's `MultiTokenPredictionLayer`,
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

#: prefix of the tensors' names
PREFIX = "mtp."
_STEP, _HIDDEN = "mtp.layers.{i}.", (HIDDEN,)
#: tensors at the start and end of a step, named after its first and its last layer in Hugging Face's format and after
#: the step in megatron-core's
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
    """Whether a tensor's name is that of an MTP layer."""
    return name.startswith(PREFIX)


@dataclass(frozen=True)
class Prediction:
    """The MTP layers of a model.

    Attributes:
        pattern: one symbol for each layer of a step, as in `Parent.pattern`.
        steps: number of steps with separate weights; one step may run several times.
    """

    pattern: str
    steps: int = 1

    def extend(self, parent: Parent) -> Parent:
        """The parent with these layers appended."""
        for symbol in self.pattern:
            if symbol not in parent.pattern:
                raise bad("mtp_hybrid_override_pattern", self.pattern, f"layers as the model has: {parent.pattern}")
        return replace(parent, pattern=parent.pattern + self.pattern * self.steps)

    def extend_member(self, parent: Parent, member: Subnet) -> Subnet:
        """A member with these layers appended; unchanged if it has no layer of their kind to give the widths."""
        whole = self.extend(parent)
        widest = largest((layer.type, layer.widths) for layer in member.layers)
        types = [*enumerate(whole.types)][parent.num_layers :]
        if not {name for _, name in types} <= {layer.type for layer in member.layers}:
            return member
        more = (Layer(i, name, {axis: widest[axis] for axis in whole.kind(name).widths}) for i, name in types)
        return Subnet(member.hidden, (*member.layers, *more)).validate(whole)

    def tensors(self, parent: Parent, member: Subnet) -> list[Tensor]:
        """Tensors of these layers in a member, in storage order; see `layout.tensors`."""
        whole, extended, size, out = self.extend(parent), self.extend_member(parent, member), len(self.pattern), []
        first = len(member.layers)
        for t in tensors(whole, extended):
            if t.layer is None or t.layer.index < parent.num_layers:
                continue
            at = t.layer.index - parent.num_layers
            step, place = divmod(at, size)
            if not out or out[-1].layer != t.layer:
                for row in (*(_START if place == 0 else ()), *(_END if place == size - 1 else ())):
                    hf, megatron = named(row.hf, at), named(row.megatron, step)
                    out.append(Tensor(row, t.layer, hf, megatron, shape(whole, row, extended)))
            inner = f"mtp.layers.{step}.mtp_model_layer.layers.{place}."
            hf = t.hf.replace(named(HF_LAYER, first + at), named(_STEP, at), 1)
            out.append(replace(t, hf=hf, megatron=t.megatron.replace(named(MEGATRON_LAYER, first + at), inner, 1)))
        return out

    def parameters(self, parent: Parent, member: Subnet) -> int:
        """Number of parameters of these layers in a member; budgets do not count them."""
        return sum(math.prod(t.shape) for t in self.tensors(parent, member))


def all_tensors(parent: Parent, member: Subnet, prediction: Prediction | None) -> list[Tensor]:
    """All tensors of a member in storage order, MTP layers last."""
    return tensors(parent, member) + ([] if prediction is None else prediction.tensors(parent, member))
