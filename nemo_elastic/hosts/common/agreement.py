# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What an elastic block, its files and a teacher must agree on with a parent, before anything starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.config.sections import RouterConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import by_name, tensors
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.formats.megatron.context_files import read_context
from nemo_elastic.formats.megatron.infer import infer
from nemo_elastic.formats.megatron.shape import FIELDS, config_fields
from nemo_elastic.formats.megatron.stored import ELASTIC, Stored
from nemo_elastic.ranking import Ranking
from nemo_elastic.slicing.family_folder import read_members

from .token_files import is_there

__all__ = [
    "absent",
    "check_files",
    "check_no_file",
    "check_teacher",
    "check_vocabulary",
    "router_warnings",
    "vocabulary_rows",
]


#: steps in which a router of the defaults decides (docs: method), and those defaults
DECIDED, PAPERS = 200, RouterConfig()
#: most rows that padding adds to a vocabulary: Megatron fills up 128 times the tensor-parallel ranks, 8 of a node
PADDING = 1024


def absent(paths: Mapping[str, Sequence[str | None]]) -> list[str]:
    """Checkpoints, folders and token files, by field, that are not on this machine, which may not be the one that
    trains: a line for each.
    """
    there = [
        (name, path) for name, given in paths.items() for path in given if path is not None and not is_there(path)
    ]
    return [f"{name}: {path} is not on this machine: nothing of it was checked" for name, path in there]


def check_files(config: ElasticConfig, parent: Parent) -> None:
    """Raise where a ranking or shapes that the block names are there and do not fit the parent."""
    if parent.vocab == 1:  # it is not known
        return
    if config.ranking is not None and Path(config.ranking).exists():
        Ranking.load(config.ranking, parent).check_block(config, parent)
    if config.shapes_file is not None and Path(config.shapes_file).exists():
        read_members(config.shapes_file, parent, config)


def vocabulary_rows(teacher: str | Path | None) -> int | None:
    """Rows of a teacher's vocabulary, which are those of the run, padding included; None where it is not there."""
    if teacher is None or not Path(teacher).exists():
        return None
    size = _stored(teacher).sizes.get(by_name("embedding").megatron)
    return size[0] if size else None  # what has none is no model, see `check_teacher`


def check_vocabulary(size: int, rows: int, tensor: int, where: str, ranks: str) -> None:
    """Raise for a vocabulary that is not the teacher's, which is never cut and never filled up.

    Args:
        size: tokens that the recipe has.
        rows: of the teacher's vocabulary: its tokens, and what they were padded with.
        tensor: tensor-parallel ranks, which share the rows.
        where, ranks: fields of the size and of the ranks.
    """
    if not max(rows // 2, rows - PADDING) < size <= rows:
        raise bad(where, size, f"the teacher's {rows} rows, because data and model take the teacher's tokenizer")
    if rows % tensor:
        raise bad(ranks, tensor, f"a size that divides the {rows} rows of the teacher's vocabulary")


def _stored(teacher: str | Path) -> Stored:
    try:
        return Stored(teacher)
    except ElasticError as error:
        raise error.of("teacher") from None


def check_teacher(teacher: str | None, parent: Parent, where: str, pattern: str = FIELDS["pattern"]) -> None:
    """Raise where the teacher is there and is another model than the recipe's, with every field in which they differ.

    A cluster's paths are not seen. `where` is the recipe's model, `pattern` its field of layers.
    """
    if teacher is None or not Path(teacher).exists():
        return
    sizes = {name: size for name, size in _stored(teacher).sizes.items() if not name.startswith(ELASTIC)}
    with inside("teacher"):
        said = read_context(Path(teacher)).settings
    ours = config_fields(parent)
    shape, held, _ = infer(sizes, ours | {name: said[name] for name in ours if name in said}, "teacher")
    if held != shape.full:
        raise bad("teacher", teacher, "a whole parent, whose layers have one width")
    parent = parent.laid_out_as(shape)
    if [t.shape for t in tensors(shape, held)] != [t.shape for t in tensors(parent, parent.full)]:
        ours |= {"num_layers": parent.num_layers, "vocab_size": parent.vocab}
        theirs = config_fields(shape) | {"num_layers": shape.num_layers, "vocab_size": shape.vocab}
        differ = [
            f"{pattern if name == FIELDS['pattern'] else name} {theirs[name]}, not {ours.get(name)}"
            for name in theirs
            if theirs[name] != ours.get(name)
        ]
        allowed = f"a checkpoint of the recipe's own model; in this checkpoint {where} has {'; '.join(differ)}"
        raise bad("teacher", teacher, allowed)


def router_warnings(config: ElasticConfig, steps: int) -> list[str]:
    """What a router's settings make of a long stage 1.

    The defaults are the paper's. At their rate a logit moves by 0.25 in a step, so with their scale the choices are
    one-hot after `DECIDED` steps, from which no gradient comes (docs: method, when it decides).
    """
    router = config.router
    if router is None or router.freeze_step(steps) < 5 * DECIDED:
        return []
    if router.lr < PAPERS.lr or router.scale[1] < PAPERS.scale[1]:
        return []
    return [f"elastic.router: lr {router.lr} and scale to {router.scale[1]} decide nearly all within {DECIDED} of the "
            f"{router.freeze_step(steps)} steps before shapes are frozen, so later steps teach it nothing; a lower "
            "lr (3e-3) and a lower scale (to 3) take longer"]  # fmt: skip


def check_no_file(where: str, folder: str | None) -> None:
    """Raise where a file lies in the way of a folder that a run writes."""
    place = Path(folder) if folder is not None else Path()
    file = next((part for part in (place, *place.parents) if os.path.isfile(part)), None)
    if file is not None:
        raise bad(where, folder, f"a folder; {file} is a file")
