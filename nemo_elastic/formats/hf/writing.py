# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Writing Hugging Face folders from words: weights in shards, config, tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checkpoint import Checkpoint, unreplaced
from nemo_elastic.formats.checksums import CHECKSUMS_FILE, Checksums, digest, hexadecimal, write_checksums
from nemo_elastic.formats.dtypes import ITEMSIZE
from nemo_elastic.formats.places import Place, Progress, write_places
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.formats.tokenizer import TOKENIZER_FILES, own_files
from nemo_elastic.io.read import read_bytes, read_json
from nemo_elastic.io.values import integer

from .config import PUZZLE, to_hf_config
from .quant_config import KEY, QUANT_FILE, described

__all__ = [
    "COMPANIONS", "CONFIG", "FILES", "GENERATION", "INDEX", "REMOTE_CODE", "SHARD_BYTES", "SINGLE",
    "Progress", "plan_shards", "remote_code", "write_checkpoints", "write_text", "write_weights",
]  # fmt: skip

CONFIG, GENERATION = "config.json", "generation_config.json"
#: What goes along with a model: its tokenizer, its defaults for generation, its licence.
COMPANIONS = (*TOKENIZER_FILES, GENERATION, "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.txt")
REMOTE_CODE = ("configuration_nemotron_h_puzzle.py", "modeling_nemotron_h_puzzle.py")
SHARD_BYTES = 5 * 10**9  # as on the hub
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
#: regular expression of all files of a written folder, the card included
FILES = "|".join(
    (
        *map(re.escape, (*COMPANIONS, *REMOTE_CODE, CONFIG, QUANT_FILE, "README.md", CHECKSUMS_FILE, SINGLE, INDEX)),
        r"model-\d+-of-\d+\.safetensors",
    )
)


def write_checkpoints(
    models: Mapping[Path, Checkpoint], *, shard_bytes: int = SHARD_BYTES, progress: Progress | None = None
) -> None:
    """Write weights, `config.json`, `generation_config.json`, checksums and companions of some models at once.

    Args:
        models: Existing folder, usually (in) the temporary one of `atomic_dir` -> its content. Their
            tensors are read in one pass.
        shard_bytes: Largest file of weights.
        progress: Called after every piece.
    """
    with ExitStack() as same:
        for folder in {m.companions for m in models.values() if m.companions is not None}:
            same.enter_context(unreplaced(folder))
        companions = [_companions(m.companions) for m in models.values()]
        checksums = write_weights({folder: _with_head(m) for folder, m in models.items()}, shard_bytes, progress)
        for (folder, model), sums, paths in zip(models.items(), checksums, companions, strict=True):
            _write_others(folder, model, sums, paths)


def _with_head(model: Checkpoint) -> Mapping[str, Tensor]:
    if not model.parent.tied:
        return model.tensors
    # No loader ties a Nemotron-H by itself: transformers and vLLM both read the head from the file.
    return {**model.tensors, "lm_head.weight": model.tensors["backbone.embeddings.weight"]}


def _write_others(folder: Path, model: Checkpoint, checksums: Mapping[str, str], companions: Sequence[Path]) -> None:
    """Write everything but the weights; the config is last, so that half a folder is not taken for a model."""
    config = to_hf_config(model.parent, model.subnet, dtype=model.dtype, base=model.config, prediction=bool(model.mtp))
    if config["model_type"] == PUZZLE:
        for name in REMOTE_CODE:
            (folder / name).write_bytes(remote_code(name))
    for path in companions:
        (folder / path.name).write_bytes(read_bytes(path))  # of a link in the hub's cache the content
    _write_generation(folder / GENERATION, config)
    if model.storage:
        config[KEY], file = described(model)
        if file is not None:
            write_text(folder / QUANT_FILE, _json_text(QUANT_FILE, file))
    written = {*REMOTE_CODE, *(path.name for path in companions), GENERATION, QUANT_FILE}
    digests = {name: digest((folder / name).read_bytes()) for name in sorted(written) if (folder / name).is_file()}
    text = _json_text(CONFIG, config)
    write_checksums(folder, Checksums(checksums, digests | {CONFIG: digest(text.encode())}))
    write_text(folder / CONFIG, text)


def remote_code(name: str) -> bytes:
    """One of the files of `REMOTE_CODE`, as a member whose layers differ has it."""
    return (files("nemo_elastic.formats.hf") / "puzzle" / f"{name}.txt").read_bytes()


def _write_generation(path: Path, config: Mapping[str, Any]) -> None:
    """Write the defaults of generation, or adapt those that were copied."""
    if path.exists() and config["use_cache"]:
        return
    ids = {k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id") if config[k] is not None}
    copied = read_json(path) if path.exists() else ids  # `_companions` has read it
    settings = copied if config["use_cache"] else copied | {"use_cache": False}
    write_text(path, _json_text(path.name, settings))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with one newline at the end, on every system."""
    path.write_bytes((text.rstrip("\n") + "\n").encode())


def _companions(folder: Path | None) -> list[Path]:
    """Tokenizer, generation settings and licence of a model, if it has them."""
    if folder is None:
        return []
    paths = own_files(folder, COMPANIONS)
    for path in paths:
        if path.name == GENERATION and not isinstance(read_json(path), dict):
            raise ElasticError(f"{path}: not a JSON object")
    return paths


def _json_text(name: str, value: Any) -> str:
    try:
        return json.dumps(value, indent=2, allow_nan=False) + "\n"
    except ValueError:
        raise ElasticError(f"{name}: a setting of the source is not a finite number") from None


# ------------------------------------------------------------------ weights


def plan_shards(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Distribute tensors over files of at most `limit` bytes, in their order; a larger tensor is alone in its file."""
    shards: list[dict[str, Tensor]] = [{}]
    held = 0
    for name, tensor in tensors.items():
        if shards[-1] and held + tensor.nbytes > limit:
            shards.append({})
            held = 0
        shards[-1][name] = tensor
        held += tensor.nbytes
    return shards


def write_weights(
    folders: Mapping[Path, Mapping[str, Tensor]], shard_bytes: int = SHARD_BYTES, progress: Progress | None = None
) -> list[dict[str, str]]:
    """Write the weights of some folders: `model.safetensors`, or shards with an index.

    Args:
        folders: Existing folder -> its tensors by name, in storage order. Shards follow that order.
        shard_bytes: Largest file of weights; a larger tensor is alone in its file.
        progress: Called after every piece, by one thread at a time.

    Returns:
        For each folder, tensor name -> CRC-32 of its bytes.
    """
    shard_bytes = integer("shard_bytes", shard_bytes, 1, "a number of bytes above 0")
    planned = [[*_plan(folder, tensors, shard_bytes)] for folder, tensors in folders.items()]
    sums = iter(write_places([place for places in planned for place in places], progress))
    return [dict(sorted((place.name, hexadecimal(next(sums))) for place in places)) for places in planned]


def _plan(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int) -> Iterator[Place]:
    """Write the headers and the index, and give every tensor its place."""
    shards = plan_shards(tensors, shard_bytes)
    names = [SINGLE]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        weight_map = {tensor_name: name for name, shard in zip(names, shards, strict=True) for tensor_name in shard}
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
            "weight_map": dict(sorted(weight_map.items())),
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for name, shard in zip(names, shards, strict=True):
        starts = _write_header(folder / name, shard)
        yield from (Place(own, tensor, folder / name, starts[own]) for own, tensor in shard.items())


def _write_header(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Write the beginning of one file; give the first byte of each tensor.

    The layout depends on the names, dtypes and shapes alone, so that equal tensors make equal files: larger elements
    first (that keeps every tensor aligned), then by name; the header is padded to eight bytes.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, t in sorted(tensors.items(), key=lambda item: (-ITEMSIZE[item[1].dtype], item[0])):
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return {name: 8 + len(text) + header[name]["data_offsets"][0] for name in tensors}
