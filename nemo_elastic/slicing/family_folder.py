# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Family folders: an ordinary Hugging Face folder of the sorted parent with `elastic.json`.

Written from the last checkpoint of a curriculum; extra shapes are added later. `untrained` makes one from a parent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent, Subnet, first_difference
from nemo_elastic.core.limits import figure
from nemo_elastic.core.manifest import CALIBRATION, FILE, Family
from nemo_elastic.core.member import why_not_nested
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.formats.checkpoint import Checkpoint, in_memory
from nemo_elastic.formats.dtypes import stored_as
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.config import prediction_config
from nemo_elastic.formats.hf.writing import FILES, SHARD_BYTES, Progress, write_checkpoints, write_text
from nemo_elastic.io.outputs import Output, atomic_dir, check_output
from nemo_elastic.io.read import json_object, read_json

from .card import family_card
from .lineage import CARD, Lineage, is_ours, lineage_of
from .slicer import MEMBERS, slice_members

if TYPE_CHECKING:
    from nemo_elastic.ranking import Ranking

__all__ = ["FAMILY", "QUANTIZED", "read_members", "slice_family", "with_prediction", "write_family"]

#: in a manifest's provenance: how its weights got low precision
QUANTIZED = "quantized"


def _is_family(path: Path) -> bool:
    return {"version", "parent", "axes", "members"} <= set(json_object(path)) and is_ours(path.parent)


FAMILY = Output("a family", f"{FILES}|{re.escape(CALIBRATION)}", FILE, _is_family)


def write_family(
    out: str | Path,
    parent: Parent,
    tensors: Mapping[str, Any],
    family: Family,
    tokenizer_dir: str | Path | None = None,
    *,
    base: Mapping[str, Any] | None = None,
    lineage: Lineage | None = None,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Path:
    """Write a family folder.

    Args:
        out: The folder to write, whole or not at all.
        parent: Shape of the parent, with its FFN stripes.
        tensors: Its weights, sorted: name in a Hugging Face folder -> `Tensor`, numpy array or torch tensor. Those of
            layers that predict further tokens, which `base` describes, may be among them.
        family: Its members.
        tokenizer_dir: Folder whose tokenizer, generation settings and licence are copied.
        base: `config.json` whose settings without a shape (token ids, context length, ...) are taken over.
        lineage: Licence and base model for the card; what the card in `tokenizer_dir` says when None.
        force: Replace an existing `out`.
        shard_bytes: Largest file of weights.
        progress: Called with (bytes written, bytes in all).

    Returns:
        `out`.
    """
    if family.parent != parent:
        raise ElasticError("family: its parent has another shape than the tensors")
    if tokenizer_dir is not None and not Path(tokenizer_dir).is_dir():
        raise bad("tokenizer_dir", str(tokenizer_dir), "an existing folder")
    files_from = Path(tokenizer_dir) if tokenizer_dir is not None else None
    model = in_memory(parent, parent.full, tensors, base, files_from)
    return write_weights(Path(out), model, family, lineage or lineage_of(files_from), force, shard_bytes, progress)


def write_weights(
    out: Path,
    model: Checkpoint,
    family: Family,
    lineage: Lineage,
    force: bool,
    shard_bytes: int,
    progress: Progress | None,
    kind: Output = FAMILY,
) -> Path:
    """Write a family folder of its largest member; `kind` is the output that may be replaced in its place."""
    with atomic_dir(out, force, [model.companions], kind) as folder:
        write_checkpoints({folder: model}, shard_bytes=shard_bytes, progress=progress)
        write_manifest(folder, model, family, lineage)
    return out


def write_manifest(folder: Path, model: Checkpoint, family: Family, lineage: Lineage) -> None:
    """Make a family of a folder with the weights of its largest member: the manifest and the card."""
    family.save(folder)
    write_text(folder / CARD, family_card(model, family, lineage))


def read_members(path: str | Path, parent: Parent, config: ElasticConfig) -> dict[str, Subnet]:
    """Read the fixed shapes of every budget, from a file {"members": {name: subnet}} as a run writes it.

    An `elastic.json` is one, too; its members are those of its parent alone.
    """
    data = read_json(path)
    members = data.get("members") if isinstance(data, dict) else None
    if not isinstance(members, dict):
        raise bad("elastic.shapes", str(path), 'a JSON file {"members": {name: subnet}}')
    if "parent" in data:
        with inside(path):
            theirs = replace(Parent.from_json(data["parent"]), norm=parent.norm)
        if (name := first_difference(theirs, parent)) is not None:
            value = theirs.to_json().get(name)
            raise bad(f"{path}: parent.{name}", value, f"the parent of this block has {parent.to_json().get(name)}")
        members = {name: m.get("subnet") if isinstance(m, dict) else m for name, m in members.items()}
    config.targets(parent)
    out: dict[str, Subnet] = {}
    for budget in config.budgets:
        where = f"{path}: members.{budget.name}"
        if budget.is_parent:
            out[budget.name] = parent.full
            continue
        if budget.name not in members:
            raise ElasticError(f"{where}: missing")
        member = Subnet.from_json(members[budget.name], parent, where)
        for limit in budget.limits:
            cost, most = limit.cost(parent, member), limit.most(parent)
            if cost > most:
                raise bad(where, f"a cost of {figure(cost)}", f"its budget is {figure(most)}")
        why = why_not_nested(member, next(reversed(out.values())))
        if why is not None:
            raise ElasticError(f"{where}: not nested in the member before it: {why}")
        out[budget.name] = member
    return out


def slice_family(checkpoint: str, out: str, ranking: str | None = None, parent: str | None = None) -> None:
    """Write a trained checkpoint as a family folder, and every member as a separate folder.

    Args:
        checkpoint: what stage 2 left.
        out: gets `family/` and `members/NAME/`, in Hugging Face's format; earlier ones are replaced.
        ranking: folder of the ranking that sorted the weights, and so sorts the layers that come along.
        parent: model that was ranked. Its layers that predict further tokens (MTP), which no host trains, come along.
    """
    for name, kind in (("family", FAMILY), ("members", MEMBERS)):
        check_output(Path(out, name), True, checkpoint, ranking, parent, kind=kind)
    source = open_source(checkpoint)
    if source.family is None:
        raise bad("checkpoint", checkpoint, "an elastic checkpoint")
    family, folder = source.family, Path(out)
    if ranking is not None and parent is not None:
        from nemo_elastic.ranking import Ranking

        source = with_prediction(source, open_source(parent), Ranking.load(ranking, family.parent))
    write_family(folder / "family", family.parent, source.tensors, family, source.companions,
                 base=source.config, force=True)  # fmt: skip
    members = {member.name: member.subnet for member in family}
    for cut in slice_members(folder / "family", folder / "members", members, force=True):
        print(f"{cut.out}: {cut.parameters:,} parameters", flush=True)


def with_prediction(source: Checkpoint, parent: Checkpoint, ranking: Ranking) -> Checkpoint:
    """A trained checkpoint with the MTP layers of its parent, sorted as the weights were before training."""
    if parent.prediction is None or source.mtp:
        return source
    from .sorting import sorted_prediction

    sort = sorted_prediction(parent, source.parent, ranking)
    mtp = {name: tensor.cast(stored_as(name, source.dtype), name) for name, tensor in sort}
    config = prediction_config(parent.prediction, parent.config["num_nextn_predict_layers"])
    tensors = {**source.tensors, **mtp}
    return replace(source, tensors=tensors, prediction=parent.prediction, config={**source.config, **config})
