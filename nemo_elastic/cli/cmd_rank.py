# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic rank`: importance of every axis of a parent."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import counting
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.data.eval_data import EvalData, read_eval_data
from nemo_elastic.errors import bad
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.source import Source
from nemo_elastic.io.outputs import check_output
from nemo_elastic.ranking import RANKING, Ranking, RankOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nemo_elastic.nn.rows import Rows

#: sequences that run through the model together
BATCH = 8
#: sequences that are read where no block says it
SAMPLES = 64

_DATA = typer.Option("--data", help=options.DATA.replace("held-out", "training"))
_CONFIG = typer.Option(
    "--config",
    help="YAML file with the `elastic:` block: `importance` says what the ranking reads and measures, and `axes` give "
    f"the smallest depth and Mamba head of a member. If left out, the command reads {SAMPLES} sequences and measures "
    "the drop of every layer.",
)


def command(
    parent: Annotated[Path, typer.Argument(help="A Hugging Face folder of a Nemotron-H.")],
    data: Annotated[Path, _DATA],
    out: Annotated[Path, options.out("The ranking folder to write.")],
    config: Annotated[Path | None, _CONFIG] = None,
    length: Annotated[int, options.number("--seq-length", "Tokens per sequence.")] = 256,
    device: Annotated[str, options.device("the parent runs")] = "cpu",
    force: Annotated[bool, options.force("an existing ranking")] = False,
    json: Annotated[bool, options.as_json("the digest and the depth order")] = False,
) -> None:
    """Measure the importance of channels, heads and layers with forward passes only.

    Example: `nemo-elastic rank parent/ --data data/ --config elastic.yaml --out ranking/`
    """
    from nemo_elastic.runtime.storage import check_device

    check_output(out, force, parent, data, config, kind=RANKING)
    block = None if config is None else ElasticConfig.load(config)
    samples = SAMPLES if block is None else block.importance.samples
    check_device(device, "--device")
    source = open_source(parent)
    how = RankOptions() if block is None else RankOptions.of(block, source.parent)
    text = _read(data, source, samples, length)
    with counting("ranking", json) as bar:
        ranking = _ranked(source, text, samples, length, how, device, bar)
    ranking.save(out, force, [path for path in (parent, data, config) if path is not None])
    if json:
        options.print_json({"digest": ranking.digest, "depth": list(ranking.depth)})
        return
    typer.echo(f"{out}: digest {ranking.digest}; layers from least important: {list(ranking.depth)}", err=True)


def _ranked(
    source: Source, text: EvalData, samples: int, length: int, how: RankOptions, device: str, bar: Callable[..., None]
) -> Ranking:
    """The parent's ranking on some sequences of the text."""
    from nemo_elastic.nn.forward import Layers
    from nemo_elastic.ranking.measure import rank
    from nemo_elastic.runtime import load_family

    model = load_family(source, device=device).model
    return rank(
        Layers(model.weights()),
        model.parent,
        _batches(text, samples, length, device),
        how,
        progress=lambda phase, done, total: bar(done, total or None, phase),
        provenance={"data": text.digest, "sequences": samples, "length": length},
    )


def _read(data: Path, source: Source, samples: int, length: int) -> EvalData:
    """The data; raises where they have fewer sequences than are looked at."""
    text = read_eval_data(data, source, "train", samples * length)
    found = sum(1 for _ in islice(_windows(text, length), samples)) if text.is_chat else len(text.tokens) // length
    if found < samples:
        allowed = (
            f"text with {samples} sequences of {length} tokens, as elastic.importance.samples asks; it has {found}"
        )
        raise bad("--data", str(data), allowed)
    return text


def _windows(text: EvalData, length: int) -> Iterator[Rows]:
    """Windows of each conversation by itself, in which the answers count."""
    from nemo_elastic.nn.rows import Rows

    return (rows for each in text.documents for rows in Rows.windows(each.ids, each.counts, length))


def _batches(text: EvalData, samples: int, length: int, device: str) -> Iterator[Rows]:
    """Windows of conversations, or text end to end."""
    import numpy as np
    import torch

    from nemo_elastic.nn.rows import Rows

    windows = _windows(text, length)
    for first in range(0, samples, BATCH):
        last = min(first + BATCH, samples)
        if text.is_chat:
            rows = Rows.joined([*islice(windows, last - first)]).inputs()
            counts = rows.counts_bl
            yield Rows(rows.ids_bl.to(device), None if counts is None else counts.to(device))
        else:
            part = np.array(text.tokens[first * length : last * length], dtype=np.int64)
            yield Rows(torch.from_numpy(part).view(-1, length).to(device))
