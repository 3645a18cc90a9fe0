# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Writing Hugging Face folders from words: weights in shards, config, tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checksums import CHECKSUMS_FILE, Checksums, digest, write_checksums
from nemo_elastic.formats.low_precision import Weights, has_cache
from nemo_elastic.formats.schemes import Stored
from nemo_elastic.formats.source import check_tensors
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.formats.tokenizer import TOKENIZER_FILES
from nemo_elastic.io.read import read_bytes, read_json

from .config import PUZZLE, to_hf_config
from .quant_config import KEY, QUANT_FILE, described
from .shards import INDEX, SHARD_BYTES, SINGLE, Progress, write_weights

__all__ = [
    "CONFIG", "FILES", "GENERATION", "REMOTE_CODE", "Model", "remote_code", "tensors_of", "write_models", "write_text",
]  # fmt: skip

CONFIG, GENERATION = "config.json", "generation_config.json"
#: What goes along with a model: its tokenizer, its defaults for generation, its licence.
COMPANIONS = (*TOKENIZER_FILES, GENERATION, "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.txt")
REMOTE_CODE = ("configuration_nemotron_h_puzzle.py", "modeling_nemotron_h_puzzle.py")
#: regular expression of all that a folder written here holds, with the card that each has
FILES = "|".join(
    (
        *map(re.escape, (*COMPANIONS, *REMOTE_CODE, CONFIG, QUANT_FILE, "README.md", CHECKSUMS_FILE, SINGLE, INDEX)),
        r"model-\d+-of-\d+\.safetensors",
    )
)


@dataclass(frozen=True)
class Model:
    """A model that is going to be written.

    Attributes:
        folder: an existing folder, usually (in) the temporary one of `atomic_dir`.
        parent: shape of the parent.
        member: the member that the tensors are.
        tensors: by name, in storage order.
        base: `config.json` of the source, see `to_hf_config`.
        files_from: folder whose tokenizer, generation settings and licence are copied.
        prediction: tensors of layers that predict more than one token, which `base` describes.
        quantized: weights of low precision among the tensors, by their names in the member: how they are stored.
    """

    folder: Path
    parent: Parent
    member: Subnet
    tensors: Mapping[str, Tensor]
    base: Mapping[str, Any] | None = None
    files_from: Path | None = None
    prediction: Mapping[str, Tensor] = field(default_factory=dict)
    quantized: Mapping[str, Stored] = field(default_factory=dict)


def write_models(
    models: Sequence[Model], *, shard_bytes: int = SHARD_BYTES, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Write weights, `config.json`, `generation_config.json`, checksums and what goes along, for some models at once.

    Args:
        models: What to write, each into a folder of its own. Their tensors are read in one pass.
        shard_bytes: Largest file of weights.
        progress: Called after every piece.

    Returns:
        The `config.json` of each.

    Raises:
        ElasticError: Not enough room on the disk, a source that is damaged, or a setting of the source that is
            no JSON.
    """
    along = [_along(m.files_from) for m in models]
    weights = {m.folder: _with_head(m) for m in models}
    checksums = write_weights(weights, shard_bytes, progress)
    return [_write_around(m, sums, files) for m, sums, files in zip(models, checksums, along, strict=True)]


def _with_head(model: Model) -> dict[str, Tensor]:
    tensors = {**model.tensors, **model.prediction}
    if model.parent.tied:
        # No loader ties a Nemotron-H by itself: transformers and vLLM both read the head from the file.
        tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"]
    return tensors


def _write_around(model: Model, checksums: Mapping[str, str], along: Sequence[Path]) -> dict[str, Any]:
    """Write everything but the weights; the config is last, so that nothing takes half a model for one."""
    folder = model.folder
    dtype, predicts = model.tensors["backbone.embeddings.weight"].dtype, bool(model.prediction)
    config = to_hf_config(model.parent, model.member, dtype=dtype, base=model.base, prediction=predicts)
    if config["model_type"] == PUZZLE:
        for name in REMOTE_CODE:
            (folder / name).write_bytes(remote_code(name))
    for path in along:
        (folder / path.name).write_bytes(read_bytes(path))  # of a link in the hub's cache the content
    _write_generation(folder / GENERATION, config)
    if model.quantized:
        cache = has_cache((model.base or {}).get(KEY), model.tensors)
        config[KEY], file = described(model.parent, model.member, model.quantized, list(model.prediction), cache)
        if file is not None:
            write_text(folder / QUANT_FILE, _json_text(QUANT_FILE, file))
    written = {*REMOTE_CODE, *(path.name for path in along), GENERATION, QUANT_FILE}
    digests = {name: digest((folder / name).read_bytes()) for name in sorted(written) if (folder / name).is_file()}
    text = _json_text(CONFIG, config)
    write_checksums(folder, Checksums(checksums, digests | {CONFIG: digest(text.encode())}))
    write_text(folder / CONFIG, text)
    return config


def remote_code(name: str) -> bytes:
    """One of the files of `REMOTE_CODE`, as a member whose layers differ has it."""
    return (files("nemo_elastic.formats.hf") / "puzzle" / f"{name}.txt").read_bytes()


def _write_generation(path: Path, config: Mapping[str, Any]) -> None:
    """Write the defaults of generation, or adapt those that were copied."""
    if path.exists() and config["use_cache"]:
        return
    ids = {k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id") if config[k] is not None}
    copied = read_json(path) if path.exists() else ids  # `_along` has read it
    settings = copied if config["use_cache"] else copied | {"use_cache": False}
    write_text(path, _json_text(path.name, settings))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with one newline at the end, on every system."""
    path.write_bytes((text.rstrip("\n") + "\n").encode())


def _along(folder: Path | None) -> list[Path]:
    """The tokenizer, the generation settings and the licence of a model, as far as it has them.

    Raises:
        ElasticError: The generation settings are none.
    """
    if folder is None:
        return []
    paths = [folder / name for name in COMPANIONS if (folder / name).is_file()]
    for path in paths:
        if path.name == GENERATION and not isinstance(read_json(path), dict):
            raise ElasticError(f"{path}: not a JSON object")
    return paths


def tensors_of(parent: Parent, member: Subnet, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Arrays in memory as tensors of a member, in storage order.

    Args:
        parent: Shape of the parent.
        member: The member that the tensors are.
        tensors: Name in a Hugging Face folder -> `Tensor`, numpy array or torch tensor.

    Raises:
        ElasticError: Tensors that are not exactly those of the member.
    """
    own = {name: Tensor.of(value, name) for name, value in tensors.items()}
    check_tensors(parent, member, Weights(own), "tensors")
    return {t.hf: own[t.hf] for t in layout.tensors(parent, member)}


def _json_text(name: str, value: Any) -> str:
    try:
        return json.dumps(value, indent=2, allow_nan=False) + "\n"
    except ValueError:
        raise ElasticError(f"{name}: a setting of the source is not a finite number") from None
