# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic rank`: importance of every axis of a parent."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    parent: Annotated[Path, typer.Argument(help="A Hugging Face folder of a Nemotron-H.")],
    data: Annotated[Path, typer.Option("--data", help="A data folder (nemo-elastic data) of the parent's tokenizer.")],
    out: Annotated[Path, typer.Option("--out", help="The ranking folder to write.")],
    samples: Annotated[int, typer.Option(help="Training sequences to look at.")] = 64,
    length: Annotated[int, typer.Option(help="Tokens per sequence.")] = 256,
    depth: Annotated[str, typer.Option(help="mse: iterative, drops layer after layer; cosine: one pass.")] = "mse",
    ffn: Annotated[
        str, typer.Option(help="activation: what enters the second linear; first: the first's output.")
    ] = "activation",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing ranking.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print digest and depth order as JSON.")] = False,
) -> None:
    """Measure the importance of channels, heads and layers with forward passes only.

    Example: `nemo-elastic rank parent/ --data data/ --out ranking/`
    """
    import numpy as np
    import torch
    from rich.console import Console

    from nemo_elastic.config import ImportanceConfig
    from nemo_elastic.data.folder import DataFolder
    from nemo_elastic.errors import bad
    from nemo_elastic.ranking import RankOptions, rank
    from nemo_elastic.runtime import load_family

    if out.exists() and not force:
        raise bad("--out", str(out), "a new folder; --force replaces it")
    ImportanceConfig(samples=samples, ffn=ffn, depth=depth)  # refuses what the elastic block would refuse
    model = load_family(parent).model
    folder = DataFolder.open(data)
    if folder.vocab_size > model.parent.vocab:
        raise bad("--data", folder.vocab_size, f"a vocabulary of at most the parent's {model.parent.vocab} tokens")
    tokens = folder.tokens("train")
    if length < 1 or len(tokens) < samples * length:
        raise bad("--samples", samples, f"samples x length of at most the data's {len(tokens)} tokens")
    batch = torch.from_numpy(np.array(tokens[: samples * length], dtype=np.int64)).view(samples, length)
    console = Console(stderr=True)

    def tell(phase: str, done: int, total: int) -> None:
        console.print(f"{phase}: {done}/{total or '?'}", markup=False)

    with torch.no_grad():
        ranking = rank(
            model,
            model.parent,
            list(batch.split(8)),
            RankOptions(ffn=ffn, depth=depth, depth_samples=min(8, samples)),
            progress=None if json else tell,
            provenance={"data": folder.digest, "sequences": samples, "length": length},
        )
    ranking.save(out, force=force)
    if json:
        typer.echo(json_module.dumps({"digest": ranking.digest, "depth": list(ranking.depth)}))
        return
    console.print(f"{out}: digest {ranking.digest}; layers from least important: {list(ranking.depth)}", markup=False)
