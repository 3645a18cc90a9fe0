# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Families with random weights for vLLM: members to be cut out, a family to be served, and prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nemo_elastic.core.family import PARENT_WIDTH, Parent, Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.build import EOS_ID, PAD_ID, save_tokenizer, train_tokenizer
from nemo_elastic.nn.weights import random_state
from nemo_elastic.runtime import load_family
from nemo_elastic.serving.calibration import fit, write_calibration
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.serving.calibrated import signals_of
from tests.workers import ROOT

TEXT = (ROOT / "LICENSE").read_text(encoding="utf-8")
# Attention heads of 32 channels: vLLM's CPU backend has no smaller ones.
PARENT = Parent(
    pattern="M-M*-M-*-", hidden=128, vocab=512, ffn=256, mamba_heads=8, mamba_head_dim=16, mamba_groups=2, state=16,
    attention_heads=8, kv_heads=2, attention_head_dim=32, ffn_stripes=4, norm=PARENT_WIDTH,
)  # fmt: skip
#: With experts that read the stream, and with some in a latent width.
EXPERTS = replace(PARENT, pattern="MEM*E", ffn=1, ffn_stripes=1, experts=8, expert_ffn=96, shared_ffn=160,
                  top_k=2, routed_scaling=2.5, experts_stripes=2)  # fmt: skip
LATENT = replace(EXPERTS, latent=64)
IDS = {"bos_token_id": EOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}


def with_widths(member: Subnet, axis: str, by_layer: dict[int, int]) -> Subnet:
    """The member with other widths in some layers, counted in the parent."""
    layers = tuple(
        replace(x, widths={**x.widths, axis: by_layer[x.index]}) if x.index in by_layer else x for x in member.layers
    )
    return replace(member, layers=layers).validate(PARENT)


# ------------------------------------------------------------------ members by themselves


@dataclass(frozen=True)
class Case:
    """A member; `refused` is a part of vLLM's error where it cannot serve it."""

    member: Subnet
    refused: str | None = None
    parent: Parent = PARENT


_WITH_EXPERTS = {"hidden": 96, "experts": 6, "expert_ffn": 64, "shared_ffn": 96, "mamba_heads": 6}
#: What vLLM 0.32.0 says on a CPU of experts without a gate: model_executor/layers/fused_moe/config.py, line 1402.
NO_GATE = "is_act_and_mul=False is supported only for CUDA"
_CUT = PARENT.uniform(
    [0, 1, 2, 3, 4, 5, 6, 8], hidden=96, ffn=160, mamba_heads=6, mamba_head_dim=12, attention_heads=6
)
CASES = {
    "family": Case(PARENT.full),
    "uniform": Case(_CUT),
    "attentionless": Case(PARENT.uniform([0, 1, 2, 4, 5, 6], hidden=112, ffn=192)),
    "ffn per layer": Case(with_widths(_CUT, "ffn", {1: 240, 4: 128, 6: 192, 8: 64})),
    "attention heads per layer": Case(with_widths(PARENT.full, "attention_heads", {3: 4, 7: 6})),
    # The first layer is the narrow one: vLLM, given its width for all, would silently run a part of the others.
    "Mamba heads per layer": Case(with_widths(PARENT.full, "mamba_heads", {0: 6}), "needs one mamba_num_heads"),
    "experts": Case(EXPERTS.uniform(**_WITH_EXPERTS), NO_GATE, EXPERTS),
    "latent experts": Case(LATENT.uniform(**_WITH_EXPERTS, latent=32), NO_GATE, LATENT),
}
#: the last is longer than a chunk of Mamba's scan (128 tokens)
TEXTS = ["The first", "licence: 42-25\nsteps:", " of the Work and any", TEXT[:1200]]


def write_member(place: Path, case: Case) -> Path:
    """The member's folder; the whole parent's is its family's."""
    tokenizer = train_tokenizer([TEXT], PARENT.vocab)
    assert tokenizer.get_vocab_size() == PARENT.vocab
    save_tokenizer(tokenizer, place / "tokenizer")
    state = random_state(case.parent, case.parent.full, seed=0)
    family = Family.of(case.parent, {"full": case.parent.full})
    folder = write_family(place / "family", case.parent, state, family, place / "tokenizer", base=IDS)
    if case.member == case.parent.full:
        return folder
    return slice_checkpoint(folder, place / "member", subnet=case.member).out


# ------------------------------------------------------------------ a family behind a server

TEMPLATE = """\
{%- for message in messages %}<{{ message['role'] }}>
{{ message['content'] }}
{% endfor %}{% if add_generation_prompt %}<assistant>
{% endif %}"""
_BETWEEN = with_widths(
    with_widths(PARENT.full, "ffn", {1: 240, 4: 256, 6: 192, 8: 160}), "attention_heads", {3: 4, 7: 6}
)
#: by name, largest first; each is inside of the one before it
MEMBERS = {
    "12b": PARENT.full,
    # cut out, no server takes it: vLLM reads one width of Mamba's layers from a config
    "9b": with_widths(_BETWEEN, "mamba_heads", {0: 6}),
    "6b": PARENT.uniform(
        [0, 1, 2, 3, 4, 5, 6, 8], hidden=96, ffn=160, mamba_heads=6, mamba_head_dim=12, attention_heads=4
    ),
}
#: neither inside of `9b` nor around `6b`, and without attention
EXTRA = with_widths(PARENT.uniform([0, 1, 2, 4, 5, 6], hidden=112, ffn=192), "mamba_head_dim", {2: 8})
SHAPES = MEMBERS | {"code": EXTRA}


def write_served(place: Path) -> Path:
    """A family with members cut on every axis, a chat template, and a token that ends thinking."""
    place.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer([TEXT], PARENT.vocab - 2)
    tokenizer.add_tokens(["<think>", "</think>"])
    assert tokenizer.get_vocab_size() == PARENT.vocab
    save_tokenizer(tokenizer, place / "tokenizer")
    (place / "tokenizer" / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    state = random_state(PARENT, PARENT.full, seed=0)
    family = Family.of(PARENT, MEMBERS).with_extra("code", EXTRA)
    folder = write_family(place / "family", PARENT, state, family, place / "tokenizer", base=IDS)
    _calibrate(folder)
    return folder


def write_experts(place: Path, parent: Parent) -> Path:
    """A family of a parent with experts, of three members and a shape between them."""
    save_tokenizer(train_tokenizer([TEXT], parent.vocab), place / "tokenizer")
    narrow = {"latent": 32} if parent is LATENT else {}
    members = {
        "12b": parent.full,
        "9b": parent.uniform(hidden=112, experts=6, expert_ffn=64, shared_ffn=120, mamba_heads=6, **narrow),
        "6b": parent.uniform(hidden=96, experts=4, expert_ffn=32, shared_ffn=80, mamba_heads=6, **narrow),
    }
    extra = parent.uniform(hidden=104, experts=6, expert_ffn=48, **narrow)
    family = Family.of(parent, members).with_extra("code", extra)
    state = random_state(parent, parent.full, seed=0)
    return write_family(place / "family", parent, state, family, place / "tokenizer", base=IDS)


def _calibrate(folder: Path) -> None:
    """Let it choose by itself. Random members are equally good, so what a larger one gains is made up of signals."""
    family, random = load_family(folder), np.random.default_rng(0)
    starts, lengths = random.integers(len(TEXT) - 900, size=64), random.integers(4, 900, size=64)
    prompts = [family.tokenizer.encode(TEXT[a : a + n]) for a, n in zip(starts, lengths, strict=True)]
    names = family.path[::-1]
    signals_ns = np.array([signals_of(family.select(names[0]), ids) for ids in prompts])
    z_ns = (signals_ns - signals_ns.mean(0)) / signals_ns.std(0)
    quality_nm = np.stack([0 * z_ns[:, 0], 2 * z_ns[:, 0], 2 * z_ns[:, 0] + z_ns[:, 2]], 1)
    sizes = [family.select(name).parameters for name in names]
    write_calibration(folder, fit(signals_ns, quality_nm, names, sizes))
