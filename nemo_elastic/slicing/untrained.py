# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family of a parent without training, and one of a tiny parent with random weights to try commands on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic import __version__
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.writing import SHARD_BYTES, Model, Progress, tensors_of, write_models
from nemo_elastic.formats.low_precision import Weights
from nemo_elastic.formats.source import Source
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.io.outputs import check_output
from nemo_elastic.io.read import json_object

from .family_folder import FAMILY, QUANTIZED, read_members, write_weights
from .lineage import lineage_of
from .pieces import cut_behind, cut_weights

if TYPE_CHECKING:
    from nemo_elastic.ranking import Ranking

__all__ = ["UNTRAINED", "init_family", "write_example"]


def _is_untrained(path: Path) -> bool:
    """Whether `init` wrote a family, by what its manifest says of where it comes from."""
    provenance = json_object(path).get("provenance")
    # one in low precision may be all that is left of a family
    return isinstance(provenance, dict) and provenance.get("training", ...) is None and QUANTIZED not in provenance


#: what `init` replaces: weeks of training are not in it
UNTRAINED = replace(FAMILY, name="an untrained family", says=_is_untrained)


def init_family(
    parent_folder: str | Path,
    config: ElasticConfig,
    out: str | Path,
    ranking: str | Path | None = None,
    *,
    license: str | None = None,
    base_model: str | None = None,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Family:
    """Make a family of a parent without training.

    Members have the shapes that `config.shapes` gives, else the most even ones that meet the budgets. The weights are
    sorted if there is a ranking, and stored as they are otherwise: then members keep the front of each width, unless
    the block gives stripes.

    Args:
        parent_folder: A plain Nemotron-H in Hugging Face's format.
        config: The `elastic:` block; its budgets and axes count, its training settings do not.
        out: The folder to write, whole or not at all.
        ranking: Folder of a ranking (`nemo-elastic rank`), instead of `config.ranking`. Needs torch installed.
        license: Id of the licence for the card, instead of the parent's.
        base_model: Id of the parent on the hub for the card, instead of what it says itself.
        force: Replace an existing `out`.
        shard_bytes: Largest file of weights.
        progress: Called with (bytes written, bytes in all).

    Returns:
        The family.
    """
    source = open_source(parent_folder)
    lineage = lineage_of(source.companions, source.config).over(license, base_model)
    ranking = ranking or config.ranking
    check_output(out, force, source.folder, ranking, config.shapes_file, kind=UNTRAINED)
    if source.held != source.parent.full or source.family is not None or source.origin.name is not None:
        raise ElasticError(f"{parent_folder}: is a family or a member of one; a plain Nemotron-H is needed")
    parent = config.parent_shape(source.parent, sorts=ranking is not None)
    axes = config.resolve_axes(parent)
    order, digest, weights, behind = _ranked(source, parent, ranking, axes[DEPTH].choices[-1])
    subnets, order = _members(parent, config, order)
    family = Family.of(
        parent,
        subnets,
        axes=axes,
        budgets=config.budgets,
        ranking_digest=digest,
        provenance=_provenance(source, digest),
        drop_order=order,
    )
    model = Model(Path(out), parent, parent.full, weights, source.config, source.companions, behind)
    write_weights(model, family, lineage, force, shard_bytes, progress, UNTRAINED)
    return family


def _members(
    parent: Parent, config: ElasticConfig, order: Sequence[int] | None
) -> tuple[dict[str, Subnet], Sequence[int] | None]:
    """Shapes of the block, else the most even ones for its budgets; and the order in which layers go, if any may."""
    if config.shapes_file is not None:
        return read_members(config.shapes_file, parent, config), order
    from nemo_elastic.search import Space, uniform_family

    axes = config.resolve_axes(parent)
    if len(axes[DEPTH].choices) > 1 and order is None:
        order = tuple(range(parent.num_layers - 1, -1, -1))  # unranked: the last layers go first
    config.targets(parent)
    space = Space(parent, axes, order or ())
    return uniform_family(space, config.budgets), space.whole_drop_order if order is not None else None


def _ranked(
    source: Source, parent: Parent, ranking: str | Path | None, smallest: int
) -> tuple[tuple[int, ...] | None, str | None, Weights, Weights]:
    """Order in which layers go, digest, the parent's weights in sorted order, and those of layers behind it."""
    if ranking is None:
        return None, None, cut_weights(source, source.held), cut_behind(source, source.held)
    from nemo_elastic.ranking import Ranking

    if source.precision is not None:
        raise ElasticError(f"{source.folder}: weights in {source.precision} cannot be sorted; sort, then quantize")
    read = Ranking.load(ranking, parent).check_depth(smallest, str(ranking))
    weights = _sorted(layout.tensors(parent, parent.full), source.tensors, parent, read)
    behind: dict[str, Tensor] = {}
    if source.predicts is not None:
        shape = source.predicts.behind(parent)
        own = source.predicts.tensors(parent, parent.full)
        behind = _sorted(own, source.prediction, shape, Ranking.of_stream(shape, read.orders[HIDDEN]))
    return tuple(read.depth), read.digest, Weights(weights), Weights(behind)


def _sorted(
    tensors: Sequence[layout.Tensor], stored: Mapping[str, Tensor], parent: Parent, ranking: Ranking
) -> dict[str, Tensor]:
    from nemo_elastic.ranking import number_before, permutation

    names = {(t.row.name, t.index, t.number): t.hf for t in tensors}
    out = {}
    for t in tensors:
        orders = [permutation(ranking, parent, t.row, dim, t.index, t.number) for dim in range(len(t.shape))]
        was = None if t.number is None else number_before(ranking, parent, t.row, t.index, t.number)
        out[t.hf] = stored[names[t.row.name, t.index, was]].permute(orders)
    return out


def _provenance(source: Source, digest: str | None) -> dict[str, Any]:
    """Where a family comes from, and what it is without: layers behind it that nobody knows, if it is sorted."""
    provenance = {"made_by": f"nemo-elastic {__version__}", "training": None, "parent": source.folder.resolve().name}
    if digest is None or not source.prediction or source.predicts is not None:
        return provenance
    left = f"multi-token prediction layers ({len(source.prediction)} tensors): the weights were sorted"
    return provenance | {"left_out": left}


# ------------------------------------------------------------------ a family to try commands on

#: the parent, 1.6M parameters
PARENT = Parent("M-M*-M-M*-M-", 128, 1024, 512, 16, 16, 4, 16, 4, 8, 2, 16, ffn_stripes=4)
BLOCK = {
    "budgets": [{"name": "large"}, {"name": "medium", "ratio": 0.75}, {"name": "small", "ratio": 0.5}],
    "axes": {
        "hidden": [128, 112, 96, 80],
        "ffn": {"choices": [512, 384, 256], "stripes": 4},
        "mamba_heads": [16, 12, 8],
        "attention_heads": [8, 6, 4],
        "depth": [12, 11, 10],
    },
}


def _matrix(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape) / np.sqrt(shape[-1])


def _step(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    dt = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), shape))
    return dt + np.log(-np.expm1(-dt))  # the inverse of softplus


#: `Tensor.random` -> numbers of a tensor: tamer than `nn.weights`, which tests want without anything degenerate
RANDOM: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "matrix": _matrix,
    "taps": _matrix,
    "norm": lambda rng, shape: np.ones(shape),
    "skip": lambda rng, shape: np.ones(shape),
    "bias": lambda rng, shape: np.zeros(shape),
    "decay": lambda rng, shape: np.log(rng.uniform(1, 16, shape)),
    "step": _step,
}


def write_example(out: str | Path, seed: int = 0, *, force: bool = False, progress: Progress | None = None) -> Family:
    """Write a family of three members with random weights.

    Returns:
        The family.
    """
    rng = np.random.default_rng(seed)
    arrays = {t.hf: RANDOM[t.random](rng, t.shape).astype(np.float32) for t in layout.tensors(PARENT, PARENT.full)}
    with tempfile.TemporaryDirectory() as place:
        write_models([Model(Path(place), PARENT, PARENT.full, tensors_of(PARENT, PARENT.full, arrays))])
        return init_family(place, ElasticConfig.from_dict(BLOCK), out, force=force, progress=progress)
