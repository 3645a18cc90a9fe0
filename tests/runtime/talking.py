# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny family with a tokenizer, for what has to do with text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from nemo_elastic.core.manifest import Family
from nemo_elastic.data.build import save_tokenizer, train_tokenizer
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.slicing.family_folder import write_family
from tests.shapes import PARENT as SHAPE

PARENT = replace(SHAPE, vocab=300)
MEMBERS = {
    "12b": PARENT.full,
    "9b": PARENT.uniform(keep=(0, 1, 3, 4), hidden=12, ffn=12, mamba_heads=4),
    "6b": PARENT.uniform(keep=(0, 1, 3), hidden=8, ffn=8, mamba_heads=4),
}
TEXTS = ["def f(x):\n    return x + 12  # naïve, 日本語, 😀\n" * 20, "The first of 12 apples and 345 pears"]
#: of characters of one to four bytes, and of tokens of several characters
TOKENIZER = train_tokenizer(TEXTS, PARENT.vocab)
#: with blocks, whitespace control, special tokens and a condition, as templates of real models have them
TEMPLATE = """\
{{ bos_token }}{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('no role ' + message.role) }}
    {%- endif %}
<{{ message['role'] }}>
{{ message['content'] | trim }}
{%- if not loop.last %}{{ '\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '\\n<assistant>\\n' }}{% endif %}"""
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " def f(x): naïve 日本語 "},
]


def overflowing(folder: Path) -> Path:
    """Let a family have weights that are numbers, and logits that are none."""
    state = load_file(folder / "model.safetensors")
    for name in ("lm_head.weight", "backbone.norm_f.weight"):
        state[name] *= 1e30
    save_file(state, folder / "model.safetensors")
    (folder / "elastic_checksums.json").unlink()
    return folder


def talking_family(
    folder: Path, template: str | None = TEMPLATE, generation: Any = None, config: dict[str, Any] | None = None
) -> Path:
    """Write a family with random weights and a tokenizer.

    Args:
        folder: for the family and what it is made of.
        template: chat template, None for none.
        generation: `generation_config.json`, None for none but that which is written by itself.
        config: more fields of `tokenizer_config.json`.
    """
    tokenizer = folder / "tokenizer"
    save_tokenizer(TOKENIZER, tokenizer)
    if template is not None:
        (tokenizer / "chat_template.jinja").write_text(template, encoding="utf-8")
    if config is not None:
        path = tokenizer / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if generation is not None:
        (tokenizer / "generation_config.json").write_text(json.dumps(generation))
    state = NemotronH.random(PARENT, seed=3, scale=1.5).state_dict()
    return write_family(folder / "family", PARENT, state, Family.of(PARENT, MEMBERS), tokenizer)
