# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family to serve: members cut on every axis, layers that differ, a chat template, a token that ends thinking."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.build import EOS_ID, PAD_ID, save_tokenizer, train_tokenizer
from nemo_elastic.nn.weights import random_state
from nemo_elastic.runtime import load_family
from nemo_elastic.serving.calibration import fit, write_calibration
from nemo_elastic.slicing.family_folder import write_family
from tests.serving.calibrated import signals_of

from .cases import PARENT, ROOT, with_widths

TEMPLATE = """\
{%- for message in messages %}<{{ message['role'] }}>
{{ message['content'] }}
{% endfor %}{% if add_generation_prompt %}<assistant>
{% endif %}"""


def _between() -> Subnet:
    member = PARENT.full
    for axis, by_layer in {
        "ffn": {1: 240, 4: 256, 6: 192, 8: 160},
        "attention_heads": {3: 4, 7: 6},
        "mamba_heads": {0: 6},  # cut out, no server takes it: vLLM reads one width for all layers from a config
    }.items():
        member = with_widths(member, axis, by_layer)
    return member


#: by name, largest first; each is inside of the one before it
MEMBERS = {
    "12b": PARENT.full,
    "9b": _between(),
    "6b": PARENT.uniform(
        [0, 1, 2, 3, 4, 5, 6, 8], hidden=96, ffn=160, mamba_heads=6, mamba_head_dim=12, attention_heads=4
    ),
}
#: beside the path: neither inside of `9b` nor around `6b`, and without attention
EXTRAS = {"code": with_widths(PARENT.uniform([0, 1, 2, 4, 5, 6], hidden=112, ffn=192), "mamba_head_dim", {2: 8})}
SHAPES = MEMBERS | EXTRAS


def write_served(place: Path) -> Path:
    """Write the family into `place`."""
    place.mkdir(parents=True, exist_ok=True)
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    tokenizer = train_tokenizer([text], PARENT.vocab - 2)
    tokenizer.add_tokens(["<think>", "</think>"])
    assert tokenizer.get_vocab_size() == PARENT.vocab
    save_tokenizer(tokenizer, place / "tokenizer")
    (place / "tokenizer" / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    ids = {"bos_token_id": EOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    state = random_state(PARENT, PARENT.full, seed=0)
    family = Family.of(PARENT, MEMBERS)
    for name, shape in EXTRAS.items():
        family = family.with_extra(name, shape)
    folder = write_family(place / "family", PARENT, state, family, place / "tokenizer", base=ids)
    _calibrate(folder, text)
    return folder


def _calibrate(folder: Path, text: str) -> None:
    """Let it choose by itself. Random members are equally good, so what a larger one gains is made up of signals."""
    family, random = load_family(folder), np.random.default_rng(0)
    starts, lengths = random.integers(len(text) - 900, size=64), random.integers(4, 900, size=64)
    prompts = [family.tokenizer.encode(text[a : a + n]) for a, n in zip(starts, lengths, strict=True)]
    names = family.path[::-1]
    signals_ns = np.array([signals_of(family.select(names[0]), ids) for ids in prompts])
    z_ns = (signals_ns - signals_ns.mean(0)) / signals_ns.std(0)
    quality_nm = np.stack([0 * z_ns[:, 0], 2 * z_ns[:, 0], 2 * z_ns[:, 0] + z_ns[:, 2]], 1)
    sizes = [family.select(name).parameters for name in names]
    write_calibration(folder, fit(signals_ns, quality_nm, names, sizes))
