# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic rank`: importance of every axis of a parent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import counting, stream_line
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.data.eval_data import training_rows
from nemo_elastic.formats.folders import open_source
from nemo_elastic.io.outputs import check_output
from nemo_elastic.ranking import RANKING, RankOptions

#: sequences that are read where no block says it
SAMPLES = 64

_CONFIG = typer.Option(
    "--config",
    help="YAML file with the `elastic:` block: `importance` says what the ranking reads and measures, and `axes` give "
    f"the smallest depth and Mamba head of a member. If left out, the command reads {SAMPLES} sequences and measures "
    "the drop of every layer.",
)


def command(
    parent: Annotated[Path, typer.Argument(help="A Hugging Face folder of a Nemotron-H.")],
    data: Annotated[Path, typer.Option("--data", help=options.TRAINING)],
    out: Annotated[Path, options.out("The ranking folder to write.")],
    config: Annotated[Path | None, _CONFIG] = None,
    length: Annotated[int, options.SEQ_LENGTH] = 256,
    device: Annotated[str, options.device("the parent runs")] = "cpu",
    force: Annotated[bool, options.force("an existing ranking")] = False,
    json: Annotated[bool, options.as_json("the digest and the depth order")] = False,
) -> None:
    """Measure the importance of channels, heads and layers with forward passes only.

    The layers of the parent are read from its files one by one, so it may be larger than the memory.

    Example: `nemo-elastic rank parent/ --data data/ --config elastic.yaml --out ranking/`
    """
    from nemo_elastic.runtime.storage import check_device
    from nemo_elastic.slicing.streamed import Sequences, rank_streamed

    check_output(out, force, parent, data, config, kind=RANKING)
    block = None if config is None else ElasticConfig.load(config)
    samples = SAMPLES if block is None else block.importance.samples
    check_device(device, "--device")
    source = open_source(parent)
    how = RankOptions.of(block, source.parent)
    rows, provenance = training_rows(data, source, samples, length)
    with counting("ranking", json) as bar:
        sequences = Sequences(rows, provenance, device, lambda phase, done, total: bar(done, total, phase))
        ranking = rank_streamed(source, sequences, how)
    ranking.save(out, force, [path for path in (parent, data, config) if path is not None])
    if json:
        options.print_json({"digest": ranking.digest, "depth": list(ranking.depth)})
        return
    typer.echo(f"{out}: digest {ranking.digest}; {stream_line(how.hidden, source.parent)}", err=True)
    typer.echo(f"{out}: layers from least important: {list(ranking.depth)}", err=True)
