# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A byte-level BPE tokenizer of a folder as llama.cpp reads it.

llama.cpp has no pre-tokenizer in the file: `tokenizer.ggml.pre` names one of those that it was built with. The name is
found from the patterns of the folder's pre-tokenizer (`PRE`), not by a fingerprint of one model's vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.tokenizer import load_tokenizer, read_settings, template_of
from nemo_elastic.io.read import read_text

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["PRE", "add_tokenizer", "pre_of"]

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
#: GPT-2's pattern, built into byte-level pre-tokenizers
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
#: patterns that cut a text before BPE, in order -> llama.cpp's name. Digits one by one are `\p{N}`.
PRE: dict[tuple[str, ...], str] = {
    (GPT2,): "gpt-2",
    (r"\p{N}", GPT2): "smollm",
    (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_END}",): "llama-bpe",
    (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_END}",): "qwen2",
    (rf"{_CASED}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",): "tekken",
}
#: of a token id, in llama.cpp's metadata -> its name in tokenizer_config.json
_SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unk": "unk_token", "pad": "pad_token"}


def add_tokenizer(writer: GGUFWriter, folder: Path, config: Mapping[str, Any], vocab: int, pre: str | None) -> None:
    """Add the tokenizer of a folder to a file.

    Args:
        writer: of the file.
        folder: with `tokenizer.json`.
        config: the model's `config.json`, for ids that the tokenizer's settings do not name.
        vocab: rows of the embedding; rows without a token are unused ones.
        pre: llama.cpp's name of the pre-tokenizer; None finds it.

    Raises:
        ElasticError: The tokenizer is not a byte-level BPE, or llama.cpp has no such pre-tokenizer.
    """
    from gguf import TokenType

    path = folder / "tokenizer.json"  # `load_tokenizer` reports a missing one
    tokenizer, file = load_tokenizer(folder), json.loads(read_text(path))
    model = file["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or not model["merges"]:
        raise ElasticError("GGUF is written with byte-level BPE tokenizers that have merges only", path)
    added = {token["id"]: token for token in file.get("added_tokens") or ()}
    names = {i: name for name, i in tokenizer.get_vocab().items()}
    if max(names) >= vocab:
        raise ElasticError(f"has the id {max(names)}, and the model has {vocab} rows", path)

    def kind(i: int) -> int:
        if i not in names:
            return TokenType.UNUSED
        if i not in added:
            return TokenType.NORMAL
        return TokenType.CONTROL if added[i]["special"] else TokenType.USER_DEFINED

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre or pre_of(file, path))
    writer.add_token_list([names.get(i, f"[PAD{i}]") for i in range(vocab)])
    writer.add_token_types([kind(i) for i in range(vocab)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    settings = read_settings(folder)
    ids = {}
    for name, token in _SPECIAL.items():
        setting = settings.get(token)
        text = setting.get("content") if isinstance(setting, dict) else setting
        ids[name] = tokenizer.token_to_id(text) if isinstance(text, str) else config.get(f"{token}_id")
        if isinstance(ids[name], int):
            getattr(writer, f"add_{name}_token_id")(ids[name])
    around = tokenizer.encode("a", add_special_tokens=True).ids
    writer.add_add_bos_token(ids["bos"] is not None and around[0] == ids["bos"])
    writer.add_add_eos_token(ids["eos"] is not None and around[-1] == ids["eos"])
    template, _ = template_of(folder)
    if template is not None:
        writer.add_chat_template(template)


def pre_of(file: Mapping[str, Any], path: Path) -> str:
    """llama.cpp's name of the pre-tokenizer of a `tokenizer.json`."""
    patterns = _patterns(file.get("pre_tokenizer"))
    normalizer = file.get("normalizer")
    name = None if patterns is None or normalizer is not None else PRE.get(patterns)
    if name is None:
        known = ", ".join(PRE.values())
        what = "no pre-tokenizer of llama.cpp is known to cut text as this file does"
        raise bad("--pre", None, f"{what}; give its name in llama.cpp, such as {known} ({path})")
    return name


def _patterns(pre: Any) -> tuple[str, ...] | None:
    """Patterns that a pre-tokenizer cuts by, in order; None where it does something else."""
    if not isinstance(pre, dict):
        return None
    kind = pre.get("type")
    if kind == "Sequence":
        each = [_patterns(part) for part in pre.get("pretokenizers", ())]
        return None if None in each else tuple(pattern for part in each if part for pattern in part)
    if kind == "ByteLevel" and not pre.get("add_prefix_space"):
        return (GPT2,) if pre.get("use_regex", True) else ()
    if kind == "Digits" and pre.get("individual_digits"):
        return (r"\p{N}",)
    if kind == "Split" and pre.get("behavior") == "Isolated" and not pre.get("invert"):
        pattern = pre.get("pattern", {}).get("Regex")
        return None if pattern is None else (pattern,)
    return None
