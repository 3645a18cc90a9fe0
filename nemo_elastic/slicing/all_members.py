# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a curriculum ends with: its checkpoint as a family folder, and every member of it cut out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nemo_elastic.errors import bad
from nemo_elastic.formats.registry import open_source
from nemo_elastic.io.outputs import check_output
from nemo_elastic.ranking import Ranking

from .family_folder import FAMILY, write_family
from .slicer import MEMBERS, slice_members

__all__ = ["slice_family"]


def slice_family(checkpoint: str, out: str, ranking: str | None = None) -> None:
    """Write a trained checkpoint as a family folder, and every member of it as a folder of its own.

    Args:
        checkpoint: what stage 2 left.
        out: gets `family/` and `members/NAME/`, in Hugging Face's format; earlier ones are replaced.
        ranking: folder of the ranking that sorted the weights, for the family's record.
    """
    for name, kind in (("family", FAMILY), ("members", MEMBERS)):
        check_output(Path(out, name), True, checkpoint, ranking, kind=kind)
    source = open_source(checkpoint)
    if source.family is None:
        raise bad("checkpoint", checkpoint, "an elastic checkpoint")
    family, folder = source.family, Path(out)
    if ranking is not None:
        family = replace(family, ranking_digest=Ranking.load(ranking, family.parent).digest)
    write_family(folder / "family", family.parent, source.tensors, family, source.companions,
                 base=source.config, force=True)  # fmt: skip
    members = {member.name: member.subnet for member in family}
    for cut in slice_members(folder / "family", folder / "members", members, force=True):
        print(f"{cut.out}: {cut.parameters:,} parameters", flush=True)
