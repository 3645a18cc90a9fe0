# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What stands beside the weights and changes what a model says or runs: its config, its tokenizer, its code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.core.manifest import CALIBRATION
from nemo_elastic.core.manifest import FILE as FAMILY_FILE
from nemo_elastic.errors import ElasticError, shown
from nemo_elastic.formats.cache_scales import has_cache
from nemo_elastic.formats.checksums import CHECKSUMS_FILE, digest, read_digests
from nemo_elastic.formats.hf.config import PUZZLE, to_hf_config
from nemo_elastic.formats.hf.quant_config import KEY, OURS, described
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.formats.hf.shards import INDEX
from nemo_elastic.formats.hf.writing import CONFIG, GENERATION, REMOTE_CODE, remote_code
from nemo_elastic.formats.quantized import stored_of
from nemo_elastic.formats.source import Source
from nemo_elastic.formats.tokenizer_files import TOKENIZER_FILES
from nemo_elastic.io.bounded import read_bytes
from nemo_elastic.io.read import read_json

__all__ = ["Check", "beside_checks"]

#: what no digest is of: these change after a folder was written, say what they are of, or are for people
_OWN = {CHECKSUMS_FILE, FAMILY_FILE, MEMBER_FILE, CALIBRATION, INDEX}
#: ends of names that loaders look for, and what transformers reads templates from
_READ = {".json", ".py", ".jinja", ".safetensors", ".model", ".bin", ".pt", ".pth"}
_TEMPLATES = "additional_chat_templates"
_ABSENT = object()


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what is checked.
        ok: None where it was skipped.
        figure: what was measured, in words.
    """

    name: str
    ok: bool | None
    figure: str


def beside_checks(source: Source, parent: Source | None) -> Iterator[Check]:
    """Check what stands beside the weights of a folder; nothing where that is a checkpoint of NeMo's.

    Args:
        source: The folder.
        parent: The family that it is a cut of, or the model that it was made from.
    """
    if not (source.folder / CONFIG).is_file():
        return
    yield _config(source, parent)
    yield _files(source)
    yield from _code(source)
    if parent is not None and _is_ours(source.folder) and (parent.companions / CONFIG).is_file():
        yield _companions(source.folder, parent.companions)


def _is_ours(folder: Path) -> bool:
    return (folder / FAMILY_FILE).is_file() or (folder / MEMBER_FILE).is_file()


def _config(source: Source, parent: Source | None) -> Check:
    """Hold `config.json` against what is written for this shape, numerics and code included."""
    if not _is_ours(source.folder):
        return Check("config", None, f"skipped: neither {FAMILY_FILE} nor {MEMBER_FILE} says what it has to be")
    # settings without a shape are the source's: those of the family, where a member of it has it for a parent
    cut = parent is not None and (source.folder / MEMBER_FILE).is_file() and _is_ours(parent.folder)
    base = parent.config if parent is not None and cut else source.config
    wanted = to_hf_config(
        source.parent, source.held, dtype=source.dtype, base=base, prediction=bool(source.prediction)
    )
    stored = stored_of(source.tensors)
    if stored and (source.config.get(KEY) or {}).get("producer", OURS) == OURS:  # others word it in their own way
        cache = has_cache(source.config.get(KEY), source.cache_scales)
        wanted[KEY], _ = described(source.parent, source.held, stored, _names_behind(source), cache)
    elif KEY in source.config:
        wanted[KEY] = source.config[KEY]
    wrong = _differing(source.config, wanted)
    if not wrong:
        return Check("config", True, f"{len(wanted)} settings as they are written for this shape")
    first, more = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    actual, right = (shown(c[first]) if first in c else "absent" for c in (source.config, wanted))
    return Check("config", False, f"{first} is {actual}, not {right}{more}")


def _names_behind(source: Source) -> list[str]:
    return [own for name, tensor in source.prediction.items() for own in tensor.stored(name)]


def _differing(actual: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    names = sorted(actual.keys() | wanted.keys())
    return [name for name in names if actual.get(name, _ABSENT) != wanted.get(name, _ABSENT)]


def _files(source: Source) -> Check:
    """Hold every file that a loader reads against its digest; one that was not written is as wrong."""
    folder = source.folder
    written = read_digests(folder)
    if written is None:
        return Check("files", None, f"skipped: there are no digests of them in {CHECKSUMS_FILE}, or there is none")
    changed = [name for name, right in written.items() if _digest(folder / name) != right]
    weights = {raw.extent.path.name for raw in source.stored.values() if raw.extent is not None}
    known = written.keys() | weights | _OWN
    read = (p.name for p in folder.iterdir() if p.suffix in _READ or p.name in (*TOKENIZER_FILES, _TEMPLATES))
    strange = sorted(name for name in read if name not in known)
    if changed or strange:
        count, first = len(changed) + len(strange), (*changed, *strange)[0]
        what = "not what was written" if changed else "of those that were not written"
        return Check("files", False, f"{first} is {what}" + (f" (and {count - 1} more)" if count > 1 else ""))
    return Check("files", True, f"{len(written)} as they were written: {', '.join(written)}")


def _digest(path: Path) -> str | None:
    return digest(read_bytes(path)) if path.is_file() else None


def _code(source: Source) -> Iterator[Check]:
    """Whether code that a loader would run is ours."""
    folder, ours = source.folder, source.config.get("model_type") == PUZZLE
    if not ours:
        names = [name for name in (CONFIG, "tokenizer_config.json") if _names_code(folder / name)]
        if names:
            yield Check("code", None, f"{names[0]} names code; read it before you let a loader run it")
        return
    wrong = [n for n in REMOTE_CODE if not (folder / n).is_file() or read_bytes(folder / n) != remote_code(n)]
    if wrong:
        yield Check("code", False, f"{wrong[0]} is not nemo-elastic's: do not let a loader run it")
    else:
        yield Check("code", True, f"{' and '.join(REMOTE_CODE)}: nemo-elastic's")


def _names_code(path: Path) -> bool:
    return path.is_file() and b'"auto_map"' in read_bytes(path)


def _companions(folder: Path, parent: Path) -> Check:
    """Compare tokenizer and settings of generation with those that they were copied from."""
    wrong = [name for name in TOKENIZER_FILES if _digest(folder / name) != _digest(parent / name)]
    if (parent / GENERATION).is_file() and _generation(folder) != _generation(parent):
        wrong.append(GENERATION)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return Check("files of the parent", False, f"{wrong[0]} is another one{more}")
    return Check("files of the parent", True, "tokenizer and settings of generation are the same")


def _generation(folder: Path) -> Any:
    """Settings of generation but for the cache, which only models with attention have."""
    path = folder / GENERATION
    settings = read_json(path) if path.is_file() else None
    if settings is not None and not isinstance(settings, dict):
        raise ElasticError("not a JSON object", path)
    return {k: v for k, v in (settings or {}).items() if k != "use_cache"}
