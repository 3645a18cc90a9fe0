# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic convert`: a whole model from one format to the other."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import writing
from nemo_elastic.core.cost import parameters
from nemo_elastic.errors import ElasticError
from nemo_elastic.extras import require
from nemo_elastic.formats.folders import CHECKPOINT, open_source
from nemo_elastic.io.outputs import check_file, check_output
from nemo_elastic.slicing.family_folder import FAMILY, write_family
from nemo_elastic.slicing.slicer import GGUF, HF, MEMBER, slice_checkpoint

_SOURCE = "A checkpoint of NeMo or Megatron-Bridge, the folder of a training, or any Nemotron-H folder."
_FORMAT = (
    "hf for transformers and vLLM, gguf for llama.cpp, nemo for NeMo's stock classes, megatron for Megatron-Bridge."
)


def command(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help=_SOURCE)],
    out: Annotated[Path, options.out("The folder to write, or the file of --format gguf.")],
    format: Annotated[str, typer.Option("--format", metavar=options.FORMATS, help=_FORMAT)],
    pre: Annotated[str | None, options.PRE] = None,
    force: Annotated[bool, options.force()] = False,
    json: Annotated[bool, options.as_json("the result")] = False,
) -> None:
    """Convert a whole model between the formats of Hugging Face, llama.cpp, NeMo and Megatron, offline, with the same
    weights.

    The shape comes from config.json or from the checkpoint's tensors, so pruned models convert, too. In Hugging Face's
    format a trained elastic checkpoint becomes a family folder with all members; in the other formats it becomes the
    parent alone. From the folder of a training the command takes the newest whole checkpoint. `--format nemo` also
    rewrites a checkpoint of ModelOpt with stock classes and with a layer pattern that fits its layers.

    Examples: `nemo-elastic convert checkpoint/ --format hf --out hf/` and
    `nemo-elastic convert hf/ --format nemo --out checkpoint/`. To read a checkpoint, install the extra `[runtime]`.
    `--format nemo` needs `[nemo]`, and `--format megatron` needs `[nemo]` or `[bridge]`.
    """
    if format != GGUF:
        options.refuse(context, "is for --format gguf", "pre")
    if (source / "checkpoints").is_dir():
        source = _newest(source)
    opened = open_source(source)
    if format == HF and (opened.folder / "config.json").is_file():
        raise ElasticError(f"{source}: is in Hugging Face's format already; `nemo-elastic slice` cuts members out")
    kind = CHECKPOINT if format != HF else MEMBER if opened.family is None else FAMILY
    if format == GGUF:
        check_file(out, force, source)
    else:
        check_output(out, force, source, kind=kind)
    members = opened.members if format == HF else {"model": opened.subnet}
    with writing(f"writing {out}", quiet=json) as progress:
        if format == HF and opened.family is not None:
            write_family(
                out, opened.parent, opened.tensors, opened.family, opened.companions, base=opened.config,
                force=force, progress=progress,
            )  # fmt: skip
        else:
            slice_checkpoint(opened, out, subnet=opened.subnet, format=format, pre=pre, force=force, progress=progress)
    counts = {name: parameters(opened.parent, subnet) for name, subnet in members.items()}
    if json:
        record = {"out": str(out), "format": format, "pattern": opened.subnet.pattern, "members": counts}
        options.print_json(record)
        return
    for name, count in counts.items():
        typer.echo(f"{out}: {name}, {count:,} parameters")


def _newest(training: Path) -> Path:
    """The newest whole checkpoint of a training; what is passed over is said on stderr."""
    require("torch")
    from nemo_elastic.hosts.common.checkpoints import newest_of

    with redirect_stdout(sys.stderr):
        return Path(newest_of(training, "source") or training)
