# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family to serve: members cut on every axis, layers that differ, a chat template, a token that ends thinking."""

from __future__ import annotations

from pathlib import Path

from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.tokenizer import EOS_ID, PAD_ID, save_tokenizer, train_tokenizer
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing.family_folder import write_family

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


def write_served(place: Path) -> Path:
    """Write the family into `place`."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    tokenizer = train_tokenizer([text], PARENT.vocab - 2)
    tokenizer.add_tokens(["<think>", "</think>"])
    assert tokenizer.get_vocab_size() == PARENT.vocab
    save_tokenizer(tokenizer, place / "tokenizer")
    (place / "tokenizer" / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    ids = {"bos_token_id": EOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    state = random_state(PARENT, PARENT.full, seed=0)
    return write_family(place / "family", PARENT, state, Family.of(PARENT, MEMBERS), place / "tokenizer", base=ids)
