# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Writing a Hugging Face folder from words: weights in shards, config, tokenizer, model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from nemo_elastic import layout
from nemo_elastic.errors import ElasticError
from nemo_elastic.family import Parent, Subnet
from nemo_elastic.files import read_json

from .hf import check_tensors
from .hf_config import PUZZLE, to_hf_config
from .pieces import Pieces
from .safetensors_io import Entry, Raw, plan_shards, write_shard

__all__ = ["SHARD_BYTES", "Progress", "copy_files", "entries_of", "write_model", "write_text"]

#: Called with (bytes written, bytes in all).
Progress = Callable[[int, int], None]

SHARD_BYTES = 5 * 10**9  # the hub's own habit
#: What goes along with a model: its tokenizer, its defaults for generation, its licence.
COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json",
    "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.txt",
)  # fmt: skip
_REMOTE_CODE = ("configuration_nemotron_h_puzzle.py", "modeling_nemotron_h_puzzle.py")


def write_model(
    folder: Path,
    parent: Parent,
    member: Subnet,
    entries: Sequence[Entry],
    *,
    base: Mapping[str, Any] | None = None,
    files_from: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write weights, `config.json`, `generation_config.json` and what goes along.

    Args:
        folder: An existing folder, usually the temporary one of `files.atomic_dir`.
        parent: Shape of the parent.
        member: The member that the entries are.
        entries: Its tensors, in storage order.
        base: `config.json` of the source, see `to_hf_config`.
        files_from: Folder whose tokenizer, generation settings and licence are copied.
        shard_bytes: Largest file of weights.
        progress: Told after every piece.

    Returns:
        The `config.json` that was written.
    """
    entries = list(entries)
    if parent.tied:
        # No loader ties a Nemotron-H by itself: transformers and vLLM both read the head from the file.
        embedding = next(e for e in entries if e.name == "backbone.embeddings.weight")
        entries.append(Entry("lm_head.weight", embedding.dtype, embedding.shape, embedding.chunks))
    config = to_hf_config(parent, member, dtype=entries[0].dtype, base=base)
    _write_weights(folder, entries, shard_bytes, progress)
    _write_json(folder / "config.json", config)
    if config["model_type"] == PUZZLE:
        for name in _REMOTE_CODE:
            template = files("nemo_elastic.export") / "puzzle" / f"{name}.txt"
            (folder / name).write_bytes(template.read_bytes())
    if files_from is not None:
        copy_files(files_from, folder)
    _write_generation(folder / "generation_config.json", config)
    return config


def _write_generation(path: Path, config: Mapping[str, Any]) -> None:
    """Write the defaults of generation, or adapt those that were copied."""
    if path.exists() and config["use_cache"]:
        return
    ids = {k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id") if config[k] is not None}
    copied = read_json(path) if path.exists() else ids
    if not isinstance(copied, dict):
        raise ElasticError(f"{path.name}: not a JSON object")
    _write_json(path, copied if config["use_cache"] else copied | {"use_cache": False})


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with one newline at the end, on every system."""
    path.write_bytes((text.rstrip("\n") + "\n").encode())


def copy_files(source: Path, folder: Path) -> None:
    """Copy the tokenizer, the generation settings and the licence of a model, as far as it has them."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)  # the content, also of a symbolic link into the hub's cache


def entries_of(parent: Parent, member: Subnet, tensors: Mapping[str, Any], where: str = "tensors") -> list[Entry]:
    """Make entries from arrays in memory.

    Args:
        parent: Shape of the parent.
        member: The member that the tensors are.
        tensors: Name in a Hugging Face folder -> `Raw`, numpy array or torch tensor.
        where: What the tensors are, for errors.

    Raises:
        ElasticError: Tensors that are not exactly those of the member.
    """
    raw = {name: Raw.of(value, name) for name, value in tensors.items()}
    check_tensors(parent, member, raw, where)
    return [Entry(t.hf, raw[t.hf].dtype, t.shape, Pieces(raw[t.hf].words)) for t in layout.tensors(parent, member)]


def _write_weights(folder: Path, entries: list[Entry], shard_bytes: int, progress: Progress | None) -> None:
    total = sum(e.nbytes for e in entries)
    written = 0

    def done(count: int) -> None:
        nonlocal written
        written += count
        if progress is not None:
            progress(written, total)

    shards = plan_shards(entries, shard_bytes)
    if len(shards) == 1:
        write_shard(folder / "model.safetensors", shards[0], done)
        return
    weight_map = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / name, shard, done)
        weight_map |= {e.name: name for e in shard}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_json(path: Path, value: Any) -> None:
    try:
        write_text(path, json.dumps(value, indent=2, allow_nan=False))
    except ValueError:
        raise ElasticError(f"{path.name}: a setting of the source is not a finite number") from None
