# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic rank`: importance of every axis of a parent."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.options import BATCH as MOST
from nemo_elastic.cli.options import TOKENS, as_json, print_json, within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nemo_elastic.core.family import Parent
    from nemo_elastic.data.eval_data import EvalData
    from nemo_elastic.formats.source import Source
    from nemo_elastic.nn.rows import Rows

__all__ = ["command"]

#: sequences that run through the model together
BATCH = 8


_DATA = typer.Option("--data", help=options.DATA.replace("held-out", "training"))
_DEPTH = typer.Option(help="mse: iterative, drops layer after layer; cosine: one pass.")
_FFN = typer.Option(help="activation: what enters the second linear; first: the first's output.")
_EXPERTS = typer.Option(help="Of weight times output, over its tokens. mean: REAP; l2: root of the mean square.")
_MIN_DEPTH = within(
    1, MOST, "--min-depth", "Fewest layers a member will keep, as in axes.depth: drops beyond are not measured."
)
_MIN_HEAD_DIM = within(
    1,
    MOST,
    "--min-mamba-head-dim",
    "Fewest channels of a Mamba head that a member will have, as in axes.mamba_head_dim: so many of its best "
    "score a head. All of the parent's by default.",
)


def command(
    parent: Annotated[Path, typer.Argument(help="A Hugging Face folder of a Nemotron-H.")],
    data: Annotated[Path, _DATA],
    out: Annotated[Path, options.out("The ranking folder to write.")],
    samples: Annotated[int, within(1, TOKENS, "--samples", "Training sequences to look at.")] = 64,
    length: Annotated[int, within(1, TOKENS, "--seq-length", "Tokens per sequence.")] = 256,
    depth: Annotated[str, _DEPTH] = "mse",
    ffn: Annotated[str, _FFN] = "activation",
    experts: Annotated[str, _EXPERTS] = "mean",
    min_depth: Annotated[int | None, _MIN_DEPTH] = None,
    min_head_dim: Annotated[int | None, _MIN_HEAD_DIM] = None,
    force: Annotated[bool, options.force("an existing ranking")] = False,
    json: Annotated[bool, as_json("digest and depth order")] = False,
) -> None:
    """Measure the importance of channels, heads and layers with forward passes only.

    Example: `nemo-elastic rank parent/ --data data/ --out ranking/`
    """
    from rich.console import Console

    from nemo_elastic.config.sections import ImportanceConfig
    from nemo_elastic.formats.folders import open_source
    from nemo_elastic.io.outputs import check_output
    from nemo_elastic.nn.forward import Layers
    from nemo_elastic.ranking import RANKING, RankOptions
    from nemo_elastic.ranking.measure import rank
    from nemo_elastic.runtime import load_family

    check_output(out, force, parent, data, kind=RANKING)
    # refuses what the elastic block would refuse
    ImportanceConfig(samples=samples, ffn=ffn, experts=experts, depth=depth)
    source = open_source(parent)
    _check_shape(source.parent, min_depth, min_head_dim)
    text = _read(data, source, samples, length)
    model = load_family(source).model
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    options = RankOptions(
        ffn=ffn,
        experts=experts,
        depth=depth,
        depth_samples=min(8, samples),
        depth_exact=None if min_depth is None else model.parent.num_layers - min_depth,
        head_channels=min_head_dim,
    )

    ranking = rank(
        Layers(model.weights()),
        model.parent,
        _batches(text, samples, length),
        options,
        progress=None if json else (lambda phase, done, total: say(f"{phase}: {done}/{total or '?'}")),
        provenance={"data": text.digest, "sequences": samples, "length": length},
    )
    ranking.save(out, force, [parent, data])
    if json:
        print_json({"digest": ranking.digest, "depth": list(ranking.depth)})
        return
    say(f"{out}: digest {ranking.digest}; layers from least important: {list(ranking.depth)}")


def _check_shape(parent: Parent, min_depth: int | None, min_head_dim: int | None) -> None:
    """Raise where members of such sizes are no members of the parent."""
    from nemo_elastic.errors import bad

    layers = parent.num_layers
    if min_depth is not None and not 1 <= min_depth < layers:
        raise bad("--min-depth", min_depth, f"from 1 to {layers - 1}: at least one of the parent's layers goes")
    if min_head_dim is not None and min_head_dim > parent.mamba_head_dim:
        raise bad("--min-mamba-head-dim", min_head_dim, f"from 1 to the parent's {parent.mamba_head_dim}")


def _read(data: Path, source: Source, samples: int, length: int) -> EvalData:
    """The data; raises where they have too few tokens."""
    from nemo_elastic.data.eval_data import read_eval_data
    from nemo_elastic.errors import bad

    text = read_eval_data(data, source, "train", samples * length)
    if text.is_chat:
        windows = sum(1 for _ in islice(_windows(text, length), samples))
        if windows < samples:
            raise bad("--samples", samples, f"at most the data's {windows} conversations, or windows of --seq-length")
        return text
    if length < 1 or len(text.tokens) < samples * length:
        raise bad("--samples", samples, f"samples x length of at most the data's {len(text.tokens)} tokens")
    return text


def _windows(text: EvalData, length: int) -> Iterator[Rows]:
    """Windows of each conversation by itself, in which the answers count."""
    from nemo_elastic.nn.rows import Rows

    return (rows for each in text.documents for rows in Rows.windows(each.ids, each.counts, length))


def _batches(text: EvalData, samples: int, length: int) -> Iterator[Rows]:
    """Windows of conversations, or text end to end."""
    import numpy as np
    import torch

    from nemo_elastic.nn.rows import Rows

    windows = _windows(text, length)
    for first in range(0, samples, BATCH):
        last = min(first + BATCH, samples)
        if text.is_chat:
            yield Rows.joined([*islice(windows, last - first)]).inputs()
        else:
            part = np.array(text.tokens[first * length : last * length], dtype=np.int64)
            yield Rows(torch.from_numpy(part).view(-1, length))
