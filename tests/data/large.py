# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A tokenizer of 131,072 entries, made here: words are the highest of them, which 16 bits do not hold."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from nemo_elastic.data.build import save_tokenizer, train_tokenizer

VOCAB, BYTES = 131_072, 258
#: with marks around what an assistant says, as NeMo and Bridge look for them
TEMPLATE = """\
{% for message in messages %}<{{ message['role'] }}>
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<eos>{% endgeneration %}

{% else %}{{ message['content'] }}
{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>
{% endif %}"""


@cache
def _tokenizer() -> str:
    small = json.loads(train_tokenizer(TEXTS, 600).to_str())
    vocab = small["model"]["vocab"]
    moved = VOCAB - len(vocab)
    filler = {f"unused {i}": BYTES + i for i in range(moved)}
    large = {token: i if i < BYTES else i + moved for token, i in vocab.items()}
    return json.dumps(small | {"model": small["model"] | {"vocab": large | filler}})


TEXTS = ["What is 12 + 34? It is 46.\n" * 5, "def f(x):\n    return x + 12  # naïve, 日本語, 😀\n" * 5]


def write_tokenizer(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Write the folder; without a template for None."""
    save_tokenizer(Tokenizer.from_str(_tokenizer()), folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def write_gap(folder: Path, tokenizer: Path) -> Path:
    """Write a tokenizer's folder with one more token, `<far>`, of number 70,000."""
    shutil.copytree(tokenizer, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"]["<far>"] = 70_000
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 70_000, "content": "<far>"})
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def asked(question: str, answer: str) -> str:
    """A line of chat JSONL."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def sums(count: int) -> str:
    """Worked sums as chat JSONL."""
    return "".join(asked(f"What is {i} + {i}?", f"It is {2 * i}.") + "\n" for i in range(count))


__all__ = ["TEMPLATE", "VOCAB", "asked", "sums", "write_gap", "write_tokenizer"]
