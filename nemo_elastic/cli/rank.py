# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic rank`: importance of every axis of a parent."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli.within import BATCH as MOST
from nemo_elastic.cli.within import TOKENS, within

__all__ = ["command"]

#: sequences that run through the model together
BATCH = 8


def command(
    parent: Annotated[Path, typer.Argument(help="A Hugging Face folder of a Nemotron-H.")],
    data: Annotated[Path, typer.Option("--data", help="A data folder (nemo-elastic data) of the parent's tokenizer.")],
    out: Annotated[Path, typer.Option("--out", help="The ranking folder to write.")],
    samples: Annotated[int, within(1, TOKENS, "--samples", "Training sequences to look at.")] = 64,
    length: Annotated[int, within(1, TOKENS, "--length", "Tokens per sequence.")] = 256,
    depth: Annotated[str, typer.Option(help="mse: iterative, drops layer after layer; cosine: one pass.")] = "mse",
    ffn: Annotated[
        str, typer.Option(help="activation: what enters the second linear; first: the first's output.")
    ] = "activation",
    min_depth: Annotated[
        int | None,
        within(
            1,
            MOST,
            "--min-depth",
            "Fewest layers a member will keep, as in axes.depth: drops beyond are not measured.",
        ),
    ] = None,
    min_head_dim: Annotated[
        int | None,
        within(
            1,
            MOST,
            "--min-mamba-head-dim",
            "Fewest channels of a Mamba head that a member will have, as in axes.mamba_head_dim: so many of its best "
            "score a head. All of the parent's by default.",
        ),
    ] = None,
    save_every: Annotated[
        float,
        within(
            0.0, 1e9, "--save-every", "Seconds between saves of what is measured: a ranking that was killed goes on."
        ),
    ] = 60.0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing ranking, finished or not.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print digest and depth order as JSON.")] = False,
) -> None:
    """Measure the importance of channels, heads and layers with forward passes only.

    What is measured so far lies beside the output, in `ranking.unfinished.safetensors`, until the ranking is done.
    The same command goes on from there.

    Example: `nemo-elastic rank parent/ --data data/ --out ranking/`
    """
    from collections.abc import Iterator

    import numpy as np
    import torch
    from rich.console import Console

    from nemo_elastic.config import ImportanceConfig
    from nemo_elastic.data.folder import DataFolder
    from nemo_elastic.errors import bad
    from nemo_elastic.files import check_output
    from nemo_elastic.nn.forward import Layers
    from nemo_elastic.ranking import OtherRanking, Ranking, RankOptions, Unfinished, rank
    from nemo_elastic.runtime import load_family

    check_output(out, force, parent, data)
    ImportanceConfig(samples=samples, ffn=ffn, depth=depth)  # refuses what the elastic block would refuse
    model = load_family(parent).model
    layers = model.parent.num_layers
    if min_depth is not None and not 1 <= min_depth < layers:
        raise bad("--min-depth", min_depth, f"from 1 to {layers - 1}: at least one of the parent's layers goes")
    if min_head_dim is not None and min_head_dim > model.parent.mamba_head_dim:
        raise bad("--min-mamba-head-dim", min_head_dim, f"from 1 to the parent's {model.parent.mamba_head_dim}")
    folder = DataFolder.open(data)
    if folder.vocab_size > model.parent.vocab:
        raise bad("--data", folder.vocab_size, f"a vocabulary of at most the parent's {model.parent.vocab} tokens")
    tokens = folder.tokens("train")
    if length < 1 or len(tokens) < samples * length:
        raise bad("--samples", samples, f"samples x length of at most the data's {len(tokens)} tokens")
    console = Console(stderr=True)

    def batches() -> Iterator[torch.Tensor]:
        for first in range(0, samples, BATCH):
            part = tokens[first * length : min(first + BATCH, samples) * length]
            yield torch.from_numpy(np.array(part, dtype=np.int64)).view(-1, length)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    unfinished = Unfinished(f"{out}.unfinished.safetensors", model.parameters, save_every, None if json else say)

    def run() -> Ranking:
        return rank(
            Layers(model.weights()),
            model.parent,
            batches(),
            RankOptions(
                ffn=ffn,
                depth=depth,
                depth_samples=min(8, samples),
                depth_exact=None if min_depth is None else layers - min_depth,
                head_channels=min_head_dim,
            ),
            progress=None if json else (lambda phase, done, total: say(f"{phase}: {done}/{total or '?'}")),
            provenance={"data": folder.digest, "sequences": samples, "length": length},
            unfinished=unfinished,
        )

    try:
        ranking = run()
    except OtherRanking as other:
        if not force:
            raise
        say(f"{other}: starting anew")
        unfinished.remove()
        ranking = run()
    ranking.save(out, force, [parent, data])
    unfinished.remove()
    if json:
        typer.echo(json_module.dumps({"digest": ranking.digest, "depth": list(ranking.depth)}))
        return
    say(f"{out}: digest {ranking.digest}; layers from least important: {list(ranking.depth)}")
