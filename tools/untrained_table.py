# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""docs/tables/untrained.md: how far sizes of a family without training are from their parent.

python -m tools.untrained_table runs/demo FOLDER > docs/tables/untrained.md

The parent and the text are of `make demo`, in runs/demo; families go into FOLDER. Divergences are on held-out text.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.sizes import path
from nemo_elastic.data.eval_data import read_eval_data, training_rows
from nemo_elastic.formats.folders import open_source
from nemo_elastic.hosts.common.checkpoints import newest_of
from nemo_elastic.nn.rows import Rows
from nemo_elastic.slicing.streamed import Sequences, untrained_loss
from nemo_elastic.slicing.untrained import init_family

CONFIG = Path(__file__).parents[1] / "conf" / "elastic_tiny.yaml"
SHARES = (0.9, 0.8, 0.72, 0.6, 0.5)
LENGTH, TOKENS = 256, 20480


def main(demo: str, out: str) -> None:
    block, told = ElasticConfig.load(CONFIG), {}
    for hidden in ("basis", "magnitude"):
        config = replace(block, importance=replace(block.importance, hidden=hidden))
        told[hidden] = divergences(Path(demo), Path(out) / hidden, config)
    print("| of the parent | rotated: parameters | nats per token | channels chosen: parameters | nats per token |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for share, *cells in zip(SHARES, *told.values(), strict=True):
        print(f"| {share:.0%} | " + " | ".join(f"{size:,} | {kl:.4f}" for size, kl in cells) + " |")


def divergences(demo: Path, out: Path, config: ElasticConfig) -> list[tuple[int, float]]:
    """Parameters of the largest shape within each share, and KL(parent || shape)."""
    source = open_source(str(newest_of(demo / "parent", "parent")))
    rows, provenance = training_rows(demo / "data", source, config.importance.samples, LENGTH)
    sizes = path(init_family(source.folder, config, out, sequences=Sequences(rows, provenance)))
    pieces = read_eval_data(demo / "data", source).sample(LENGTH + 1, TOKENS // LENGTH)
    held_out = Sequences([Rows(torch.from_numpy(piece.ids).long()[None]) for piece in pieces])
    loss, whole = untrained_loss(open_source(out), held_out, TOKENS), parameters(source.parent, source.held)
    found = []
    for share in SHARES:
        at = sizes.fit(share * whole)
        assert at is not None, share
        found.append((parameters(sizes.family.parent, sizes[at]), loss(sizes[at])))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
