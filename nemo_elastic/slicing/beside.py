# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the files next to the weights that change a model's output: config, tokenizer, code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.core.manifest import CALIBRATION
from nemo_elastic.core.manifest import FILE as FAMILY_FILE
from nemo_elastic.errors import ElasticError, shown
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.checksums import CHECKSUMS_FILE, digest, read_checksums
from nemo_elastic.formats.hf.config import PUZZLE, to_hf_config
from nemo_elastic.formats.hf.quant_config import KEY, OURS, described
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.formats.hf.writing import CONFIG, GENERATION, INDEX, REMOTE_CODE, remote_code
from nemo_elastic.formats.tokenizer import TOKENIZER_FILES
from nemo_elastic.io.read import read_bytes, read_json

from .lineage import is_ours

__all__ = ["Check", "beside_checks"]

#: without a digest: files that change after a folder was written, or hold the digests
_OWN = {CHECKSUMS_FILE, FAMILY_FILE, MEMBER_FILE, CALIBRATION, INDEX}
#: ends of names that loaders look for, and the folder that transformers reads templates from
_READ = {".json", ".py", ".jinja", ".safetensors", ".model", ".bin", ".pt", ".pth"}
_TEMPLATES = "additional_chat_templates"


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: of the check.
        ok: None if it was skipped.
        figure: result in words.
    """

    name: str
    ok: bool | None
    figure: str


def beside_checks(source: Checkpoint, parent: Checkpoint | None) -> Iterator[Check]:
    """Check the files next to the weights of a folder; nothing for a NeMo checkpoint.

    `parent`: the family that it was cut from, or the model that it was made from.
    """
    if not (source.folder / CONFIG).is_file():
        return
    yield _config(source, parent)
    yield _files(source)
    yield from _code(source)
    companions = None if parent is None else parent.companions
    if companions is not None and _in_family(source.folder) and (companions / CONFIG).is_file():
        yield _companions(source.folder, companions)


def _in_family(folder: Path) -> bool:
    """Whether a folder is a family or a member of one, whoever wrote the weights."""
    return (folder / FAMILY_FILE).is_file() or (folder / MEMBER_FILE).is_file()


def _first(names: Sequence[str], what: str) -> str:
    return f"{names[0]} is {what}" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def _digest(path: Path) -> str | None:
    return digest(read_bytes(path)) if path.is_file() else None


def _config(source: Checkpoint, parent: Checkpoint | None) -> Check:
    """Compare `config.json` with the one that is written for this shape, numerics and code included."""
    if not is_ours(source.folder):
        return Check("config", None, "skipped: others wrote the folder")
    # settings without a shape are the source's: those of the family, where a member of it has it for a parent
    cut = parent is not None and (source.folder / MEMBER_FILE).is_file() and _in_family(parent.folder)
    base = parent.config if parent is not None and cut else source.config
    right = to_hf_config(source.parent, source.subnet, dtype=source.dtype, base=base, prediction=bool(source.mtp))
    low = source.config.get(KEY)
    if source.storage and (low or {}).get("producer", OURS) == OURS:  # other producers word it differently
        right[KEY], _ = described(source)
    elif KEY in source.config:
        right[KEY] = low
    names, given = sorted(source.config.keys() | right.keys()), source.config
    wrong = [name for name in names if (name in given, given.get(name)) != (name in right, right.get(name))]
    if not wrong:
        return Check("config", True, f"{len(right)} settings, all right for this shape")
    actual, wanted = (shown(config[wrong[0]]) if wrong[0] in config else "absent" for config in (given, right))
    return Check("config", False, _first(wrong, f"{actual}, not {wanted}"))


def _files(source: Checkpoint) -> Check:
    """Compare every file that a loader reads with its digest; a file without one is wrong, too."""
    folder = source.folder
    checksums = read_checksums(folder)
    if checksums is None:
        return Check("files", None, f"skipped: the folder has no {CHECKSUMS_FILE}")
    written = checksums.files
    changed = [name for name, right in written.items() if _digest(folder / name) != right]
    weights = {raw.extent.path.name for raw in source.tensors.values() if raw.extent is not None}
    read = {p.name for p in folder.iterdir() if p.suffix in _READ or p.name in (*TOKENIZER_FILES, _TEMPLATES)}
    wrong = changed + sorted(read - written.keys() - weights - _OWN)
    if wrong:
        what = "not the file that was written" if changed else "a file that was not written with the folder"
        return Check("files", False, _first(wrong, what))
    return Check("files", True, f"{len(written)} as they were written: {', '.join(written)}")


def _code(source: Checkpoint) -> Iterator[Check]:
    """Whether code that a loader would run is ours."""
    folder = source.folder
    if source.config.get("model_type") == PUZZLE:
        right = {name: remote_code(name) for name in REMOTE_CODE}
        wrong = [name for name in right if not (folder / name).is_file() or read_bytes(folder / name) != right[name]]
        figure = f"{wrong[0]} is not nemo-elastic's: do not let a loader run it" if wrong else ""
        yield Check("code", not wrong, figure or f"{' and '.join(right)}: nemo-elastic's")
        return
    for path in (folder / CONFIG, folder / "tokenizer_config.json"):
        if path.is_file() and b'"auto_map"' in read_bytes(path):
            yield Check("code", None, f"{path.name} names code; read it before you let a loader run it")
            return


def _companions(folder: Path, parent: Path) -> Check:
    """Compare tokenizer and settings of generation with those that they were copied from."""
    wrong = [name for name in TOKENIZER_FILES if _digest(folder / name) != _digest(parent / name)]
    if (parent / GENERATION).is_file() and _generation(folder) != _generation(parent):
        wrong.append(GENERATION)
    right = "tokenizer and settings of generation are the same"
    return Check("files of the parent", not wrong, _first(wrong, "another one") if wrong else right)


def _generation(folder: Path) -> Any:
    """Settings of generation but for the cache, which only models with attention have."""
    path = folder / GENERATION
    settings = read_json(path) if path.is_file() else {}
    if not isinstance(settings, dict):
        raise ElasticError("not a JSON object", path)
    return {k: v for k, v in settings.items() if k != "use_cache"}
