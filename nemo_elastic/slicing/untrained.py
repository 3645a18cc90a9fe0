# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family of a parent without training: of even cuts, of members that others published, and a tiny one to try
commands on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_elastic import __version__
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import NAME
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.mamba import MAMBA_HEADS, SHARDS
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.formats.checkpoint import Checkpoint, Origin
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.config import from_hf_config
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.formats.hf.writing import CONFIG, SHARD_BYTES, Progress, write_checkpoints
from nemo_elastic.io.outputs import atomic_dir, check_file, check_output
from nemo_elastic.io.write import atomic_write

from .beside import Check
from .cutting import cut
from .family_folder import FAMILY, QUANTIZED, read_members, write_manifest
from .lineage import PUBLISHED, lineage_of, provenance_in
from .published import find_members, narrower, read_child
from .verification import cut_check

if TYPE_CHECKING:
    from nemo_elastic.ranking import Ranking
    from nemo_elastic.search import Space

    from .streamed import Sequences

__all__ = ["SEARCHED", "UNTRAINED", "Joined", "init_family", "join_family"]


def _is_untrained(path: Path) -> bool:
    """Whether `init` wrote a family, according to its manifest's provenance."""
    provenance = provenance_in(path)
    # one in low precision may be all that is left of a family, and published weights are nobody's to replace
    return provenance.get("training", ...) is None and not {QUANTIZED, PUBLISHED} & provenance.keys()


def _is_joined(path: Path) -> bool:
    """Whether `init` wrote a manifest into a folder that others published."""
    provenance = provenance_in(path)
    return PUBLISHED in provenance and QUANTIZED not in provenance


#: in a manifest's provenance: losses of members whose shapes were searched
SEARCHED = "untrained_loss"
#: what `init` replaces: weeks of training are not in it
UNTRAINED = replace(FAMILY, name="an untrained family", says=_is_untrained)


def init_family(
    parent_folder: str | Path,
    config: ElasticConfig,
    out: str | Path,
    ranking: str | Path | None = None,
    *,
    sequences: Sequences | None = None,
    license: str | None = None,
    base_model: str | None = None,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Family:
    """Make a family of a parent without training.

    The weights are sorted if there is a ranking or `sequences`, and stored as they are otherwise: then members keep
    the front of each width, unless the block gives stripes. Members have the shapes of the file that `config.shapes`
    names, or those that a search over `sequences` finds where the block searches, else the most even ones that meet
    the budgets.

    Args:
        parent_folder: A plain Nemotron-H in Hugging Face's format.
        config: The `elastic:` block; its budgets and axes count, its training settings do not.
        out: The folder to write, whole or not at all.
        ranking: Folder of a ranking, such as a run's `elastic/ranking`, instead of `config.ranking`. Needs
            torch installed.
        sequences: What members are searched on, and the parent is ranked on where no ranking is named. Layers are read
            from the files one by one.
        license: Id of the licence for the card, instead of the parent's.
        base_model: Id of the parent on the hub for the card, instead of the one in its card.
        force: Replace an existing `out`.
        shard_bytes: Largest file of weights.
        progress: Called with (bytes written, bytes in all).
    """
    source = open_source(parent_folder)
    lineage = lineage_of(source.companions, source.config).over(license, base_model)
    ranking = ranking or config.ranking
    check_output(out, force, source.folder, ranking, config.shapes_file, kind=UNTRAINED)
    if source.subnet != source.parent.full or source.family is not None or source.origin.name is not None:
        raise ElasticError(f"{parent_folder}: is a family or a member of one; a plain Nemotron-H is needed")
    read = _ranking(source, config, ranking, sequences)
    parent = config.parent_shape(source.parent, sorts=read is not None)
    subnets, space = _members(parent, config, read)
    provenance = _provenance(source, read)
    model = _sorted(source, parent, read)
    with atomic_dir(out, force, [source.companions], UNTRAINED) as folder:
        write_checkpoints({folder: model}, shard_bytes=shard_bytes, progress=progress)
        if sequences is not None and config.searches:
            subnets, provenance[SEARCHED] = _searched(folder, space, config, sequences)
        family = Family.of(
            parent,
            subnets,
            axes=config.resolve_axes(parent),
            budgets=config.budgets,
            ranking_digest=None if read is None else read.digest,
            provenance=provenance,
            drop_order=space.whole_drop_order if space.drop_order else None,
        )
        write_manifest(folder, model, family, lineage)
    return family


def _ranking(
    source: Checkpoint, config: ElasticConfig, ranking: str | Path | None, sequences: Sequences | None
) -> Ranking | None:
    """The ranking that is named, else a new one, after all other checks, since it takes long."""
    if sequences is None and ranking is None:
        return None
    from nemo_elastic.ranking import Ranking, RankOptions

    if source.precision is not None:
        raise ElasticError(f"{source.folder}: weights in {source.precision} cannot be sorted; sort, then quantize")
    if ranking is not None:
        if sequences is not None and not config.searches:
            raise bad("elastic.ranking", str(ranking), "null with data to rank on; or search shapes on the data")
        parent = config.parent_shape(source.parent)
        return Ranking.load(ranking, parent).check_depth(config.resolve_axes(parent)[DEPTH].choices[-1], str(ranking))
    assert sequences is not None
    from nemo_elastic.search import check_block

    from .streamed import rank_streamed

    if config.is_sorted:
        raise bad("elastic.shapes", config.shapes, "another: weights in the order of a family are not ranked again")
    parent = check_block(config, source.parent)
    if config.shapes_file is not None:
        read_members(config.shapes_file, parent, config)
    return rank_streamed(source, sequences, RankOptions.of(config, source.parent))


def _sorted(source: Checkpoint, parent: Parent, ranking: Ranking | None) -> Checkpoint:
    """A parent with its stripes, sorted where there is a ranking."""
    if ranking is None:
        return replace(cut(source, source.subnet), parent=parent, subnet=parent.full)
    from .sorting import sort

    return sort(source, parent, ranking)


def _members(parent: Parent, config: ElasticConfig, ranking: Ranking | None) -> tuple[dict[str, Subnet], Space]:
    """Shapes of the block's file, else the most even ones for its budgets, and the block's space of shapes."""
    from nemo_elastic.search import Space, uniform_family

    axes, order = config.resolve_axes(parent), ()
    if ranking is not None:
        order = ranking.depth
    elif len(axes[DEPTH].choices) > 1:
        order = tuple(range(parent.num_layers - 1, -1, -1))  # unranked: the last layers go first
    space = Space(parent, axes, order)
    if config.shapes_file is not None:
        return read_members(config.shapes_file, parent, config), space
    config.targets(parent)
    return uniform_family(space, config.budgets), space


def _searched(
    folder: Path, space: Space, config: ElasticConfig, sequences: Sequences
) -> tuple[dict[str, Subnet], dict[str, float]]:
    """Shapes of the lowest loss inside of the weights that were written to a folder; and these losses."""
    from nemo_elastic.search import search

    from .streamed import untrained_loss

    tell, whole = sequences.progress, replace(open_source(folder), parent=space.parent, subnet=space.parent.full)
    found = search(
        space,
        config.budgets,
        untrained_loss(whole, sequences, config.search.tokens),
        candidates=config.search.candidates,
        seed=config.seed,
        progress=None if tell is None else lambda done, total, _: tell("search", done, total),
    )
    return found.members, {name: round(loss, 6) for name, loss in found.losses.items() if math.isfinite(loss)}


def _provenance(source: Checkpoint, ranking: Ranking | None) -> dict[str, Any]:
    """Where a family comes from, and which layers that predict further tokens it lacks: sorting needs their names."""
    provenance = {"made_by": f"nemo-elastic {__version__}", "training": None, "parent": source.folder.resolve().name}
    if ranking is None or not source.mtp or source.prediction is not None:
        return provenance
    return provenance | {"left_out": f"multi-token prediction layers ({len(source.mtp)} tensors): weights were sorted"}


# ------------------------------------------------------------------ a family of published members


@dataclass(frozen=True)
class Joined:
    """A family of a parent and members that others published.

    Attributes:
        family: the family.
        checks: of each member that was compared with its cut.
        unsure: members without weights, narrower on an axis on which no weights were compared: how they were cut is a
            guess.
    """

    family: Family
    checks: Mapping[str, Check]
    unsure: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """No check failed."""
        return all(check.ok is not False for check in self.checks.values())


def join_family(
    parent_folder: str | Path,
    members: Mapping[str, str | Path],
    *,
    check: bool = False,
    force: bool = False,
) -> Joined:
    """Write `elastic.json` into a parent's folder, with the smaller models that others cut from it as members.

    The parent's weights are sorted already: a member is the front of each width, or of each of equal parts of it.
    Weights are not copied.

    Args:
        parent_folder: A plain Nemotron-H in Hugging Face's format. A member is the front of each of its widths.
        members: Name -> folder or `config.json` of a smaller model, or a file with its shape.
        check: Compare every tensor of members that have weights with its cut. Nothing is written where one differs.
        force: Replace an earlier family of the same kind; its extra shapes stay.

    Returns:
        The family, and what was compared.

    Raises:
        ElasticError: Another folder than a plain Nemotron-H, an earlier family without `force`, or a member that is no
            cut of the parent, see `published.find_members`.
    """
    source = open_source(parent_folder)
    plain, subnet = from_hf_config(source.config, str(source.folder / CONFIG))
    path = source.folder / FILE
    if subnet != plain.full or (source.folder / MEMBER_FILE).exists() or not (source.folder / CONFIG).is_file():
        raise ElasticError("is a member of a family, or in another format than Hugging Face's", source.folder)
    if source.family is not None and not _is_joined(path):
        raise ElasticError("is not a family of published members; init does not replace it", path)
    check_file(path, force)
    children = {NAME.read(name, "members"): read_child(place) for name, place in members.items()}
    whole = replace(source, parent=plain, subnet=plain.full, family=None, origin=Origin())
    parent, found = find_members(whole, children)
    subnets = dict(sorted(found.items(), key=lambda item: -parameters(parent, item[1])))
    provenance = _provenance(source, None) | {PUBLISHED: list(subnets)}
    family = Family.of(parent, subnets, provenance=provenance)
    if source.family is not None:
        with inside(f"{path}: extras"):
            family = replace(family, extras=source.family.extras)
    whole = replace(whole, parent=parent, subnet=parent.full)
    weights = {name: child for name, child in children.items() if isinstance(child, Checkpoint)}
    if check and not weights:
        raise ElasticError("--check: no member has weights to compare")
    opened = {name: replace(child, parent=parent, subnet=subnets[name]) for name, child in weights.items()}
    checks = {name: cut_check(child, whole) for name, child in opened.items()} if check else {}
    axes = {name: narrower(parent, subnet).keys() for name, subnet in subnets.items()}
    compared = {axis for name in weights for axis in axes[name]} | ({MAMBA_HEADS} if parent.has(SHARDS) else set())
    known = weights.keys() | {name for name, child in children.items() if isinstance(child, Path)}
    unsure = tuple(name for name in subnets if name not in known and axes[name] - compared)
    joined = Joined(family, checks, unsure)
    if joined.ok:
        atomic_write(path, family.text(), replace=source.family is not None)
    return joined
