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
    how = RankOptions.of(block, source.parent)
    text = read_eval_data(data, source, "train", samples * length)
    windows = _windows(data, text, samples, length)
    with counting("ranking", json) as bar:
        ranking = _ranked(source, windows, text.digest, length, how, device, bar)
    ranking.save(out, force, [path for path in (parent, data, config) if path is not None])
    if json:
        options.print_json({"digest": ranking.digest, "depth": list(ranking.depth)})
        return
    tied = " (its head is tied to the embedding)" if source.parent.tied else ""
    typer.echo(f"{out}: digest {ranking.digest}; residual stream by {how.hidden}{tied}", err=True)
    typer.echo(f"{out}: layers from least important: {list(ranking.depth)}", err=True)


def _ranked(
    source: Source, windows: list[Rows], digest: str, length: int, how: RankOptions, device: str,
    bar: Callable[..., None],
) -> Ranking:  # fmt: skip
    """The parent's ranking on some sequences of the data."""
    from nemo_elastic.nn.forward import Layers
    from nemo_elastic.ranking.measure import rank
    from nemo_elastic.runtime import load_family

    model = load_family(source, device=device).model
    return rank(
        Layers(model.weights()),
        model.parent,
        _batches(windows, device),
        how,
        progress=lambda phase, done, total: bar(done, total or None, phase),
        provenance={"data": digest, "sequences": len(windows), "length": length},
    )


def _windows(data: Path, text: EvalData, samples: int, length: int) -> list[Rows]:
    """The sequences that are looked at: windows of conversations, in which the answers count, or pieces of text."""
    from nemo_elastic.nn.rows import Rows

    pieces = text.sample(length + 1, samples)
    windows = [*islice((w for each in pieces for w in Rows.windows(each.ids, each.counts, length)), samples)]
    found = sum(text.is_chat or rows.ids_bl.shape[1] > length for rows in windows)
    if found < samples:
        allowed = (
            f"text with {samples} sequences of {length} tokens, as elastic.importance.samples asks; it has {found}"
        )
        raise bad("--data", str(data), allowed)
    return windows


def _batches(windows: list[Rows], device: str) -> Iterator[Rows]:
    from nemo_elastic.nn.rows import Rows

    for at in range(0, len(windows), BATCH):
        rows = Rows.joined(windows[at : at + BATCH]).inputs()
        counts = rows.counts_bl
        yield Rows(rows.ids_bl.to(device), None if counts is None else counts.to(device))
