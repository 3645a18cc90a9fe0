# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The family that is served, its members, and the prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nemo_elastic.core.family import PARENT_WIDTH, Parent, Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.build import EOS_ID, PAD_ID, save_tokenizer, train_tokenizer
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint

ROOT = Path(__file__).parents[2]
# Attention heads of 32 channels: vLLM's CPU backend has no smaller ones.
PARENT = Parent(
    pattern="M-M*-M-*-", hidden=128, vocab=512, ffn=256, mamba_heads=8, mamba_head_dim=16, mamba_groups=2, state=16,
    attention_heads=8, kv_heads=2, attention_head_dim=32, ffn_stripes=4, norm=PARENT_WIDTH,
)  # fmt: skip
#: With experts that read the stream, and with some in a latent width.
EXPERTS = replace(PARENT, pattern="MEM*E", ffn=1, ffn_stripes=1, experts=8, expert_ffn=96, shared_ffn=160,
                  top_k=2, routed_scaling=2.5, experts_stripes=2)  # fmt: skip
LATENT = replace(EXPERTS, latent=64)
#: parent -> folder of its family
FAMILIES = {PARENT: "family", EXPERTS: "family_experts", LATENT: "family_latent"}


@dataclass(frozen=True)
class Case:
    """A member; `refused` is a part of what vLLM says where it cannot serve it."""

    title: str
    member: Subnet
    refused: str | None = None
    parent: Parent = PARENT

    @property
    def remote(self) -> bool:
        """Its folder brings code of its own."""
        return not self.member.is_uniform


def with_widths(member: Subnet, axis: str, by_layer: dict[int, int]) -> Subnet:
    """The member with other widths in some layers, counted in the parent."""
    layers = tuple(
        replace(x, widths={**x.widths, axis: by_layer[x.index]}) if x.index in by_layer else x for x in member.layers
    )
    return replace(member, layers=layers).validate(PARENT)


_WITH_EXPERTS = {"hidden": 96, "experts": 6, "expert_ffn": 64, "shared_ffn": 96, "mamba_heads": 6}
#: What vLLM 0.32.0 says on a CPU of experts without a gate: model_executor/layers/fused_moe/config.py, line 1402.
_NO_GATE = "is_act_and_mul=False is supported only for CUDA"
_CUT = PARENT.uniform(
    [0, 1, 2, 3, 4, 5, 6, 8], hidden=96, ffn=160, mamba_heads=6, mamba_head_dim=12, attention_heads=6
)
#: name of the folder -> member; the first is its family's own folder
CASES = {
    "family": Case("the family folder, uncut", PARENT.full),
    "uniform": Case("uniform, cut on every axis", _CUT),
    "attentionless": Case("uniform, no attention layer", PARENT.uniform([0, 1, 2, 4, 5, 6], hidden=112, ffn=192)),
    "ffn": Case("FFN width per layer, cut on every axis", with_widths(_CUT, "ffn", {1: 240, 4: 128, 6: 192, 8: 64})),
    "heads": Case("attention heads per layer", with_widths(PARENT.full, "attention_heads", {3: 4, 7: 6})),
    # The first layer is the narrow one: vLLM, given its width for all, would silently run a part of the others.
    "mamba": Case(
        "Mamba heads per layer", with_widths(PARENT.full, "mamba_heads", {0: 6}), "needs one mamba_num_heads"
    ),
    "experts": Case("experts, cut on every axis", EXPERTS.uniform(**_WITH_EXPERTS), _NO_GATE, EXPERTS),
    "latent": Case(
        "experts in a latent width, cut on every axis", LATENT.uniform(**_WITH_EXPERTS, latent=32), _NO_GATE, LATENT
    ),
}


def write_folders(place: Path) -> list[str]:
    """Write the families and every member into `place`; returns the prompts.

    The last prompt is longer than a chunk of Mamba's scan (128 tokens).
    """
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    tokenizer = train_tokenizer([text], PARENT.vocab)
    assert tokenizer.get_vocab_size() == PARENT.vocab
    save_tokenizer(tokenizer, place / "tokenizer")
    ids = {"bos_token_id": EOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    for parent, name in FAMILIES.items():
        state = random_state(parent, parent.full, seed=0)
        family = Family.of(parent, {"full": parent.full})
        write_family(place / name, parent, state, family, place / "tokenizer", base=ids)
    for name, case in CASES.items():
        if case.member != case.parent.full:
            slice_checkpoint(place / FAMILIES[case.parent], place / name, subnet=case.member)
    return ["The first", "licence: 42-25\nsteps:", " of the Work and any", text[:1200]]
