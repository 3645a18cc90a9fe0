# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic quantize`: a family in low precision that members are cut from as bytes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import advancing, writing
from nemo_elastic.data.eval_data import drawn_pieces, read_eval_data
from nemo_elastic.errors import bad
from nemo_elastic.extras import require
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.schemes import COMPRESSED, MODELOPT, Scheme, scheme_of
from nemo_elastic.io.outputs import check_output

if TYPE_CHECKING:
    from nemo_elastic.quantize.activations import Ranges

#: pieces of the data that every member reads, and tokens of a piece
PIECES, PIECE = 64, 1024


#: precisions: of weights and activations, or of weights alone
To = Enum("To", {"nvfp4": "nvfp4", "fp8": "fp8", "w4a16": "w4a16"}, type=str)

#: whose files are written
Layout = Enum("Layout", {"modelopt": MODELOPT, "compressed": COMPRESSED}, type=str)

_TO = typer.Option("--to", help="nvfp4 or fp8 for weights and activations, w4a16 for weights in NVFP4 alone.")
_LAYOUT = typer.Option(
    "--layout", help="Layout of the files: modelopt for vLLM and TensorRT-LLM, or compressed-tensors."
)
_DATA = typer.Option(
    "--data", help=f"{options.DATA} {PIECES} pieces of {PIECE} tokens, drawn from it, give the scales of activations."
)


def command(
    source: Annotated[Path, typer.Argument(help="A family, a member or any plain Nemotron-H folder.")],
    context: typer.Context,
    to: Annotated[To, _TO],
    out: Annotated[Path, options.out()],
    data: Annotated[Path | None, _DATA] = None,
    layout: Annotated[Layout, _LAYOUT] = Layout.modelopt,
    device: Annotated[str, options.device()] = "cpu",
    force: Annotated[bool, options.force()] = False,
    json: Annotated[bool, options.as_json("the result")] = False,
) -> None:
    """Write a family in low precision, from which `slice` cuts every member by copying bytes. No GPU is needed.

    Each weight of Mamba, MLP and expert layers gets codes and one scale, which all members share. Attention layers,
    the Mamba layer before each attention layer, embeddings, head, convolutions, routers and norms keep their
    precision. The scale of an activation is the same in all members: it comes from the largest input of any member on
    the data.

    Examples: `nemo-elastic quantize family/ --to nvfp4 --data text/ --out nvfp4/`, then
    `nemo-elastic slice nvfp4/ --member 6b --out 6b/`.
    """
    scheme = _scheme(to, layout, data)
    if data is None:
        options.refuse(context, "belongs to --data, which is not given", "device")
    require("torch")
    from nemo_elastic.quantize import writing as low

    opened = open_source(source)
    check_output(out, force, source, data, kind=low.MEMBER_LOW if opened.family is None else low.FAMILY_LOW)
    torn = low.torn_members(opened, scheme, low.quantized_weights(opened, scheme))
    ranges = None if data is None else _ranges(opened, data, device, json)
    with writing(f"writing {out}", quiet=json) as progress:
        weights = low.quantize_folder(opened, out, scheme, ranges=ranges, force=force, progress=progress)
    sizes = [sum(raw.nbytes for raw in each.tensors.values()) for each in (opened, open_source(out))]
    record: dict[str, Any] = {"out": str(out), "to": to.value, "layout": layout.value, "weights": len(weights)}
    record |= {"bytes": sizes[1], "bytes_before": sizes[0], "torn": torn}
    if json:
        options.print_json(record)
        return
    typer.echo(f"{out}: {len(weights)} weights in {to.value}, {sizes[1] / 1e6:,.1f} MB of {sizes[0] / 1e6:,.1f} MB")
    for member, names in torn.items():
        typer.echo(f"{out}: {member} cuts blocks of {', '.join(names)}: slice it with --requantize")


def _scheme(to: To, layout: Layout, data: Path | None) -> Scheme:
    """How weights are stored; raises where the data does not go with it."""
    scheme = scheme_of("nvfp4" if to is To.w4a16 else to.value, layout.value)
    if to is To.w4a16:
        if data is not None:
            raise bad("--data", str(data), f"leave it out: {to.value} leaves activations in full precision")
    elif data is None and (scheme.block or layout is not Layout.compressed):
        other = "--to w4a16" if scheme.block else f"--layout {COMPRESSED}, which scales each token at run time"
        raise bad("--data", None, f"give text or conversations for the scales of activations, or {other}")
    return scheme


def _ranges(opened: Checkpoint, data: Path, device: str, quiet: bool) -> Ranges:
    """Largest inputs of the products of all members, on pieces of the data."""
    import torch

    from nemo_elastic.quantize.activations import largest_inputs
    from nemo_elastic.runtime import load_family
    from nemo_elastic.runtime.storage import check_device

    check_device(device, "--device")
    given = read_eval_data(data, opened, most=PIECES * PIECE)
    for line in () if quiet else given.notes:
        typer.echo(line, err=True)
    if not len(given.tokens):
        raise bad("--data", str(data), "at least one token")
    pieces = [torch.as_tensor(ids.astype("int64"))[None] for ids in drawn_pieces(given.tokens, PIECE, PIECES)]
    family = load_family(opened, device=device)
    with advancing("activations", len(pieces) * len(family.path), quiet) as done:
        return largest_inputs(family, pieces, lambda: done(1))
