# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic slice`: cut members out, by name or at any size, without training and without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import size, size_line, stripes_line, writing
from nemo_elastic.core.cost import MemorySpec
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.folders import CHECKPOINT, open_source
from nemo_elastic.io.outputs import check_file, check_output
from nemo_elastic.slicing.by_size import Fit, family_of, largest_within, read_limits, read_subnet
from nemo_elastic.slicing.card import serving_spec
from nemo_elastic.slicing.slicer import GGUF, HF, MEMBER, MEMBERS, Cut, slice_checkpoint, slice_members

#: types of numbers of weights
Dtype = Enum("Dtype", {"bf16": "bf16", "fp16": "fp16", "fp32": "fp32", "q8_0": "q8_0"}, type=str)

_SOURCE = typer.Argument(help="A family, a larger member, any plain Nemotron-H folder, or its id on the hub.")
_MEMBER = typer.Option(
    "--member", metavar="NAME", rich_help_panel=options.SHAPE, help="A member, or several: 6b,9b, cut into OUT/NAME."
)
_RATIO = typer.Option(
    "--ratio", metavar="SHARE", rich_help_panel=options.SHAPE,
    help="Largest shape with at most this share of the parent's parameters: 0.6.",
)  # fmt: skip
_MEMORY = typer.Option(
    "--memory", metavar="SIZE", rich_help_panel=options.SHAPE,
    help="Largest shape within this memory in service: 14GiB.",
)  # fmt: skip
_SUBNET = typer.Option(
    "--subnet", metavar="FILE", rich_help_panel=options.SHAPE, help="JSON file with your own shape inside the source."
)
_OUT = typer.Option("--out", help="The folder to write, or the file of --format gguf. Required without --dryrun.")
_DRYRUN = typer.Option("--dryrun", help="Print the shape and its memory, and write nothing.")
_FORMAT = typer.Option(
    "--format", metavar=options.FORMATS,
    help="hf for transformers and vLLM, gguf for llama.cpp, nemo for a NeMo checkpoint, megatron for Megatron-Bridge.",
)  # fmt: skip
_DTYPE = typer.Option(
    "--dtype",
    help="Type of the stored weights, except biases of experts, which stay in fp32. For --format hf and gguf; q8_0 "
    "(8 bits, one scale for 32 weights) for gguf.",
)
_ANEW = typer.Option(
    "--requantize", help="Round weights in low precision again where the cut goes through their blocks."
)


def command(
    source: Annotated[Path, _SOURCE],
    out: Annotated[Path | None, _OUT] = None,
    member: Annotated[list[str] | None, _MEMBER] = None,
    params: Annotated[str | None, options.PARAMS] = None,
    active_params: Annotated[str | None, options.ACTIVE_PARAMS] = None,
    memory: Annotated[str | None, _MEMORY] = None,
    ratio: Annotated[str | None, _RATIO] = None,
    latency: Annotated[str | None, options.LATENCY] = None,
    subnet: Annotated[Path | None, _SUBNET] = None,
    batch: Annotated[int, options.BATCH_SERVED] = 1,
    context: Annotated[int, options.CONTEXT_SERVED] = 8192,
    format: Annotated[str, _FORMAT] = HF,
    dtype: Annotated[Dtype | None, _DTYPE] = None,
    pre: Annotated[str | None, options.PRE] = None,
    requantize: Annotated[bool, _ANEW] = False,
    dryrun: Annotated[bool, _DRYRUN] = False,
    force: Annotated[bool, options.force()] = False,
    json: Annotated[bool, options.as_json("the cut members")] = False,
) -> None:
    """Cut members out of a family, at a member's size or between two members. Weights are copied, nothing is trained.

    If you give several limits, the shape meets all of them. A shape between two members is nested like a member, but
    was not trained itself: evaluate it before use. --dryrun says which shape fits.

    Examples: `nemo-elastic slice family/ --member 6b --out 6b/`, or for the memory of a GPU
    `nemo-elastic slice family/ --memory 14GiB --context 32768 --out small/`, and as one file for llama.cpp
    `nemo-elastic slice family/ --ratio 0.6 --format gguf --dtype q8_0 --out small.gguf`.
    """
    names = [name for given in member or [] for name in given.split(",")]
    precision = None if dtype is None else dtype.value
    sizes = {"--params": params, "--active-params": active_params, "--memory": memory, "--ratio": ratio}
    sizes |= {"--latency": latency}
    _check_ways(names, subnet, sizes)
    if out is None and not dryrun:
        raise bad("--out", None, "give the folder to write, or --dryrun")
    opened = open_source(source)
    kind = MEMBERS if len(names) > 1 else MEMBER if format == HF else CHECKPOINT
    if out is not None and format == GGUF and len(names) < 2:
        check_file(out, force, source, subnet)
    elif out is not None:
        check_output(out, force, source, subnet, kind=kind)
    spec = serving_spec(precision or opened.precision or opened.dtype, batch=batch, length=context)
    shape, fit = None, None
    if subnet is not None:
        shape = read_subnet(subnet, opened.parent)
    elif not names:
        fit = largest_within(opened, read_limits(spec, sizes))
        shape = fit.subnet
    how: dict[str, Any] = {"format": format, "dtype": precision, "pre": pre, "requantize": requantize}
    how |= {"force": force}
    written = None if dryrun else out
    with writing(f"writing {out}", quiet=json or dryrun) as progress:
        if len(names) > 1:
            members = {name: family_of(opened).member(name).subnet for name in names}
            cuts = slice_members(opened, written, members, progress=progress, **how)
        else:
            name = names[0] if names else None
            cuts = [slice_checkpoint(opened, written, member=name, subnet=shape, progress=progress, **how)]
    if json:
        rows = [_record(cut, opened, spec, fit) for cut in cuts]
        options.print_json(rows if len(cuts) > 1 else rows[0])
        return
    if fit is not None:
        typer.echo(str(fit))
    for cut in cuts:
        for line in _lines(cut, opened, spec, fit):
            typer.echo(line if cut.out is None else f"{cut.out}: {line}")


def _check_ways(names: list[str], subnet: Path | None, sizes: Mapping[str, str | None]) -> None:
    """Raise unless one way to name a size was taken, and no member is named twice. Limits hold together."""
    alone = [way for way, value in (("--member", names or None), ("--subnet", subnet)) if value is not None]
    limits = [name for name, text in sizes.items() if text is not None]
    if len(alone) + bool(limits) != 1:
        wrong = f", not {' and '.join(alone + limits)}" if alone else ""
        raise ElasticError(f"slice: give --member, or --subnet, or one or several of {', '.join(sizes)}{wrong}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ElasticError(f"--member: {twice!r} is given twice")


def _record(cut: Cut, opened: Checkpoint, spec: MemorySpec, fit: Fit | None) -> dict[str, Any]:
    """What was cut; `fit` is a size that was looked for."""
    notes = {"left_out": cut.left_out, "underflowed": cut.underflowed or None, "requantized": cut.requantized}
    return (
        {"out": cut.out and str(cut.out), "member": cut.member}
        | size(opened.parent, cut.subnet, spec)
        | {name: value for name, value in notes.items() if value is not None}
        | {"subnet": cut.subnet.to_json(), "request": fit and fit.to_json()}
    )


def _lines(cut: Cut, opened: Checkpoint, spec: MemorySpec, fit: Fit | None) -> Iterator[str]:
    """The same in words."""
    name = cut.member or (fit.name if fit is not None else "a shape of your own")
    yield f"{name}, {size_line(opened.parent, cut.subnet, spec)}"
    if opened.origin.family is None:
        yield stripes_line(opened.parent)
    if cut.left_out is not None:
        yield f"without {cut.left_out}"
    if cut.requantized is not None:
        yield f"rounding codes again changes their weights by {cut.requantized:.1%} (root mean square)"
    if cut.underflowed:
        yield f"{cut.underflowed:,} numbers are too small for this dtype, and are 0 now"
