# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic slice`: cut members out, by name or at any size, without training and without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.options import BATCH_SERVED, CONTEXT_SERVED, Dtype, Format, as_json, print_json
from nemo_elastic.cli.show import size, size_line, stripes_line, writing
from nemo_elastic.core.cost import MemorySpec
from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import CHECKPOINT, open_source
from nemo_elastic.formats.source import Source
from nemo_elastic.io.outputs import Output, check_output
from nemo_elastic.slicing.by_size import Fit, largest_within, read_limits, read_subnet
from nemo_elastic.slicing.card import serving_spec
from nemo_elastic.slicing.slicer import MEMBER, MEMBERS, Cut, slice_checkpoint, slice_members

__all__ = ["command"]


_SOURCE = typer.Argument(help="A family, a larger member, any plain Nemotron-H folder, or its id on the hub.")
_MEMBER = typer.Option(
    "--member", help="Name of a member. If given several times, one pass cuts each member into OUT/NAME."
)
_PARAMS, _ACTIVE, _LATENCY = options.size_options("Largest shape")
_RATIO = typer.Option("--ratio", help="Largest shape with at most this share of the parent's parameters: 0.6.")
_MEMORY = typer.Option("--memory", help="Largest shape within this memory in service: 14GiB.")
_SUBNET = typer.Option("--subnet", help="JSON file with your own shape inside the source.")
_FORMAT = typer.Option(
    "--format", help="hf for transformers and vLLM, nemo for a NeMo checkpoint, megatron for Megatron-Bridge."
)
_DTYPE = typer.Option(
    "--dtype", help="Type of the stored weights, except biases of experts, which stay in fp32. Only for --format hf."
)
_ANEW = typer.Option(
    "--requantize", help="Round weights in low precision again where the cut goes through their blocks."
)


def command(
    source: Annotated[Path, _SOURCE],
    out: Annotated[Path, options.out()],
    member: Annotated[list[str] | None, _MEMBER] = None,
    params: Annotated[str | None, _PARAMS] = None,
    active_params: Annotated[str | None, _ACTIVE] = None,
    memory: Annotated[str | None, _MEMORY] = None,
    ratio: Annotated[str | None, _RATIO] = None,
    latency: Annotated[str | None, _LATENCY] = None,
    subnet: Annotated[Path | None, _SUBNET] = None,
    batch: Annotated[int, BATCH_SERVED] = 1,
    context: Annotated[int, CONTEXT_SERVED] = 8192,
    format: Annotated[Format, _FORMAT] = Format.hf,
    dtype: Annotated[Dtype | None, _DTYPE] = None,
    requantize: Annotated[bool, _ANEW] = False,
    force: Annotated[bool, options.force()] = False,
    json: Annotated[bool, as_json("the cut members")] = False,
) -> None:
    """Cut members out of a family, at a member's size or between two members. Weights are copied, nothing is trained.

    If you give several limits, the shape meets all of them. A shape between two members is nested like a member, but
    was not trained itself: evaluate it before use.

    Examples: `nemo-elastic slice family/ --member 6b --out 6b/`, or for the memory of a GPU
    `nemo-elastic slice family/ --memory 14GiB --context 32768 --out small/`.
    """
    names, stored = member or [], None if dtype is None else dtype.value
    sizes = {"--params": params, "--active-params": active_params, "--memory": memory, "--ratio": ratio}
    sizes |= {"--latency": latency}
    _check_ways(names, subnet, sizes)
    how = {"format": format.value, "dtype": stored, "force": force, "requantize": requantize}
    opened = open_source(source)
    check_output(out, force, source, subnet, kind=_kind(format, names))
    spec = serving_spec(stored or opened.precision or opened.dtype, batch=batch, length=context)
    shape, fit = None, None
    if subnet is not None:
        shape = read_subnet(subnet, opened.parent)
    elif not names:
        fit = largest_within(opened, read_limits(spec, sizes))
        shape = fit.subnet
    cuts = _cut(opened, out, names, shape, json, how)
    _print(cuts, opened, spec, fit, json)


def _cut(
    opened: Source, out: Path, names: list[str], shape: Subnet | None, quiet: bool, how: Mapping[str, Any]
) -> list[Cut]:
    """Write several members by their names, or one: a name, or a shape."""
    with writing(f"writing {out}", quiet=quiet) as progress:
        if len(names) > 1:
            return slice_members(opened, out, _members(opened, names), progress=progress, **how)
        member = names[0] if names else None
        return [slice_checkpoint(opened, out, member=member, subnet=shape, progress=progress, **how)]


def _kind(format: str, names: Sequence[str]) -> Output:
    """What is going to be written."""
    return MEMBERS if len(names) > 1 else MEMBER if format == "hf" else CHECKPOINT


def _check_ways(names: list[str], subnet: Path | None, sizes: Mapping[str, str | None]) -> None:
    """Raise unless one way to name a size was taken, and no member is named twice. Limits hold together."""
    limited = any(text is not None for text in sizes.values())
    if bool(names) + (subnet is not None) + limited != 1:
        raise ElasticError(f"slice: give --member, or --subnet, or one or several of {', '.join(sizes)}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ElasticError(f"--member: {twice!r} is given twice")


def _print(cuts: Sequence[Cut], opened: Source, spec: MemorySpec, fit: Fit | None, json: bool) -> None:
    """Print what was cut; `fit` is a size that was looked for."""
    if json:
        rows = [
            {"out": str(cut.out), "member": cut.member}
            | size(opened.parent, cut.subnet, spec, low=opened.low)
            | ({"left_out": cut.left_out} if cut.left_out is not None else {})
            | ({"underflowed": cut.underflowed} if cut.underflowed else {})
            | ({"requantized": cut.requantized} if cut.requantized is not None else {})
            | {"subnet": cut.subnet.to_json(), "request": fit and fit.to_json()}
            for cut in cuts
        ]
        print_json(rows if len(cuts) > 1 else rows[0])
        return
    if fit is not None:
        typer.echo(str(fit))
    for cut in cuts:
        name = cut.member or (fit.name if fit is not None else "a shape of your own")
        typer.echo(f"{cut.out}: {name}, {size_line(opened.parent, cut.subnet, spec, opened.low)}")
        if opened.origin.family is None:
            typer.echo(f"{cut.out}: {stripes_line(opened.parent)}")
        if cut.left_out is not None:
            typer.echo(f"{cut.out}: without {cut.left_out}")
        if cut.requantized is not None:
            typer.echo(
                f"{cut.out}: rounding codes again changes their weights by {cut.requantized:.1%} (root mean square)"
            )
        if cut.underflowed:
            typer.echo(f"{cut.out}: {cut.underflowed:,} numbers are too small for this dtype, and are 0 now")


def _members(source: Source, names: list[str]) -> dict[str, Subnet]:
    """Shapes of several members by name."""
    family = source.origin.family
    if family is None:
        raise ElasticError(f"{source.folder}: is one model, not a family with named members; give one name")
    return {name: family.member(name).subnet for name in names}
