# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The family that is served, its members, and the prompts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.tokenizer import EOS_ID, PAD_ID, save_tokenizer, train_tokenizer
from nemo_elastic.nn.weights import random_state
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint

ROOT = Path(__file__).parents[2]
# Attention heads of 32 channels: vLLM's CPU backend has no smaller ones.
PARENT = Parent(
    pattern="M-M*-M-*-", hidden=128, vocab=512, ffn=256, mamba_heads=8, mamba_head_dim=16, mamba_groups=2, state=16,
    attention_heads=8, kv_heads=2, attention_head_dim=32, ffn_stripes=4,
)  # fmt: skip


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


_CUT = PARENT.uniform(
    [0, 1, 2, 3, 4, 5, 6, 8], hidden=96, ffn=160, mamba_heads=6, mamba_head_dim=12, attention_heads=6
)
#: name of the folder -> member; the first is the family's own folder
CASES = {
    "family": Case("the family folder, uncut", PARENT.full),
    "uniform": Case("uniform, cut on every axis", _CUT),
    "attentionless": Case("uniform, no attention layer", PARENT.uniform([0, 1, 2, 4, 5, 6], hidden=112, ffn=192)),
    "ffn": Case("FFN width per layer, cut on every axis", with_widths(_CUT, "ffn", {1: 240, 4: 128, 6: 192, 8: 64})),
    "heads": Case("attention heads per layer", with_widths(PARENT.full, "attention_heads", {3: 4, 7: 6})),
    # The first layer is the narrow one: vLLM, told its width for all, would silently run a part of the others.
    "mamba": Case(
        "Mamba heads per layer", with_widths(PARENT.full, "mamba_heads", {0: 6}), "needs one mamba_num_heads"
    ),
}


def prompts(longest: int) -> list[str]:
    """The prompts; the last, of so many characters, is longer than a chunk of Mamba's scan (128 tokens)."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    return ["The first", "licence: 42-25\nsteps:", " of the Work and any", text[:longest]]


def copy_folders(members: Path, place: Path) -> dict[str, Case]:
    """Copy members that were cut before, as NAME/hf, into `place`; name of the copy -> member."""
    cases = {}
    for config in sorted(members.glob("*/hf/config.json")):
        name = config.parts[-3]
        shutil.copytree(config.parent, place / name)
        loaded = load_family(config.parent).select()
        cases[name] = Case(name, loaded.subnet, parent=loaded.parent)
    if not cases:
        raise SystemExit(f"{members}: no folder NAME/hf of a member here")
    return cases


def write_folders(place: Path) -> list[str]:
    """Write the family and every member into `place`; returns the prompts."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    tokenizer = train_tokenizer([text], PARENT.vocab)
    assert tokenizer.get_vocab_size() == PARENT.vocab
    save_tokenizer(tokenizer, place / "tokenizer")
    family = Family.of(PARENT, {"full": PARENT.full, "uniform": CASES["uniform"].member})
    ids = {"bos_token_id": EOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    state = random_state(PARENT, PARENT.full, seed=0)
    write_family(place / "family", PARENT, state, family, place / "tokenizer", base=ids)
    for name, case in CASES.items():
        if name != "family":
            slice_checkpoint(place / "family", place / name, subnet=case.member)
    return prompts(1200)
