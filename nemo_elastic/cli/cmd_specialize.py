# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic specialize`: the shape inside a trained family that is best for the user's own text; with `--mtp` the
member's MTP layers.
"""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import counting, size, size_line
from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import MemorySpec
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.data.eval_data import read_eval_data
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.folders import open_source
from nemo_elastic.io.outputs import check_file, check_place
from nemo_elastic.io.write import atomic_write
from nemo_elastic.search import Trial
from nemo_elastic.slicing.by_size import Fit, in_words, largest_within, read_limits
from nemo_elastic.slicing.card import serving_spec

if TYPE_CHECKING:
    from nemo_elastic.evaluation import Halves, Specialized

#: name of the budget in the search; no file has it
TASK = "task"
#: shapes that are measured, most tokens of the half that is searched on, tokens of one context, and the seed of the
#: search and of the halves
CANDIDATES, TOKENS, LENGTH, SEED = 128, 32_768, 512, 0

_DATA = typer.Option("--data", help=f"Data of the task. {options.DATA} With --mtp the training part is read.")
_OUT = options.out("File for the shape, which `slice --subnet` reads; with --mtp the folder for the member.")
_ADD = typer.Option("--add", help="Name of the shape in the family's elastic.json, for `slice --member`.")
_MTP = typer.Option("--mtp", help="Train the layers that predict further tokens (MTP) of a cut member, instead.")


def command(
    context: typer.Context,
    family: Annotated[Path, typer.Argument(help="A trained family, or its id on the hub; with --mtp a cut member.")],
    data: Annotated[Path, _DATA],
    out: Annotated[Path | None, _OUT] = None,
    add: Annotated[str | None, _ADD] = None,
    params: Annotated[str | None, options.PARAMS] = None,
    active_params: Annotated[str | None, options.ACTIVE_PARAMS] = None,
    latency: Annotated[str | None, options.LATENCY] = None,
    mtp: Annotated[bool, _MTP] = False,
    device: Annotated[str, options.device()] = "cpu",
    force: Annotated[bool, options.force("an existing output, or an extra shape")] = False,
    json: Annotated[bool, options.as_json("the result")] = False,
) -> None:
    """Search a trained family for the shape that predicts your text best, within one or several limits of size.

    The search starts at the shape that `slice` would cut within these limits. It reads up to 32768 tokens of one half
    of the text, in contexts of 512. The other half measures how much better the found shape is. If the found shape is
    not clearly better, the command writes the shape of `slice`.

    Example: `nemo-elastic specialize family/ --data mytask/ --params 7e9 --out task.json`, then
    `nemo-elastic slice family/ --subnet task.json --out 7b-task/`. With `--add task` the family stores the shape:
    `nemo-elastic slice family/ --member task --out 7b-task/`.

    With --mtp the command trains the first MTP layer of a cut member, with which engines draft, and writes the member
    with this layer. All other weights stay as they are. The loss is the divergence of a draft from the member's own
    prediction, over 200 steps of 8 contexts of 512. Other contexts of the data measure how many drafts the member
    accepts.

    Example: `nemo-elastic specialize 6b/ --mtp --data mytask/ --out 6b-mtp/`.
    """
    if mtp:
        from nemo_elastic.cli.drafting import train_drafts

        options.refuse(context, "is not allowed with --mtp", "add", "params", "active_params", "latency")
        train_drafts(family, data, out, device, force, json)
        return
    from nemo_elastic.runtime.storage import check_device

    sizes = {"--params": params, "--active-params": active_params, "--latency": latency}
    if all(text is None for text in sizes.values()):
        raise ElasticError(f"specialize: give one or several of {', '.join(sizes)}")
    if out is None and add is None:
        raise ElasticError("specialize: no place for the shape; give --out FILE, --add NAME or both")
    if out is not None:
        check_file(out, force, family, data)
    check_device(device, "--device")
    source = open_source(family)
    if source.family is None:
        raise ElasticError(f"{source.folder}: is one model, not a family; it has no shapes to search")
    spec = serving_spec(source.precision or source.dtype)
    start = _start(source, sizes, spec)
    budget = Budget(TASK, **{limit.field: limit.value for limit in start.limits})
    if add is not None:
        _check_addable(family, add, start, budget, force)
    halves = _halves(data, source, json)
    best = _search(source, device, json, source.family, start.subnet, budget, halves, CANDIDATES, SEED)
    entry = {
        "member": None if best.wins or start.between is not None else start.name,
        "between": None if best.wins or start.between is None else list(start.between),
        "budget": budget.to_json(),
        **size(source.parent, best.shape, spec),
        "subnet": best.shape.to_json(),
        "specialized": {"data": str(data), "seed": SEED, "seq_length": LENGTH}
        | _read(halves)
        | best.to_json(source.family),
    }
    if out is not None:
        atomic_write(out, json_module.dumps(entry, indent=2, allow_nan=False) + "\n", replace=force)
    if add is not None:
        # read again: the search took long, and another shape may have come meanwhile
        Family.load(family).with_extra(add, best.shape, budget, force).save(family)
    if json:
        options.print_json(
            {"out": None if out is None else str(out), "extra": add, "request": start.to_json()} | entry
        )
        return
    for line in _lines(start, best, halves):
        typer.echo(line)
    what = "the found shape" if best.wins else "the start's shape"
    for place in ([] if out is None else [str(out)]) + ([] if add is None else [f"{source.folder}: {add}"]):
        typer.echo(f"{place}: {what}, {size_line(source.parent, best.shape, spec)}")


def _start(source: Checkpoint, sizes: dict[str, str | None], spec: MemorySpec) -> Fit:
    """The path's shape within the limits, below the parent."""
    limits = read_limits(spec, sizes)
    fit = largest_within(source, limits)
    if fit.whole:
        asked = f"{' and '.join(x.name for x in limits)}: {in_words(source.parent, limits)}"
        raise ElasticError(f"{asked} is enough for the whole parent; a search needs a smaller limit")
    return fit


def _check_addable(folder: Path, name: str, start: Fit, budget: Budget, force: bool) -> None:
    """Refuse before the search what would be refused after it."""
    if not (folder / FILE).is_file():
        raise ElasticError(f"--add: {folder} has no {FILE}, which stores the shape; give --out FILE instead")
    Family.load(folder).with_extra(name, start.subnet, budget, force)
    check_place(folder / FILE)


def _halves(data: Path, source: Checkpoint, quiet: bool) -> Halves:
    """The task's text in two halves."""
    from nemo_elastic.evaluation import halves_of

    text = read_eval_data(data, source)
    for line in () if quiet else text.notes:
        typer.echo(line, err=True)
    return halves_of(text.documents, LENGTH, TOKENS, SEED, f"--data: {data}")


def _search(source: Checkpoint, device: str, quiet: bool, *what: Any) -> Specialized:
    """Load the family and search it; `what` goes to `evaluation.specialize`."""
    from nemo_elastic.evaluation import specialize
    from nemo_elastic.runtime import load_family

    best = float("inf")
    with counting("searching", quiet) as bar:

        def progress(number: int, candidates: int, trial: Trial) -> None:
            nonlocal best
            best = min(best, trial.loss)
            bar(number, candidates, f"lowest loss {best:.4f}")

        return specialize(load_family(source, device=device), *what, progress=progress)


def _read(halves: Halves) -> dict[str, Any]:
    """How much was read."""
    read: dict[str, Any] = {"one_document": halves.of_one}
    for name, half in (("searched", halves.search), ("held_out", halves.held_out)):
        read |= {f"{name}_tokens": half.tokens, f"{name}_documents": half.documents}
    return read


def _lines(start: Fit, best: Specialized, halves: Halves) -> Iterator[str]:
    """What was found, in words."""
    yield f"start: {start}"
    yield (
        f"{best.trials} shapes on {halves.search.tokens:,} tokens: loss {best.searched[1]:.4f} for the best, "
        f"{best.searched[0]:.4f} for the start"
    )
    if best.candidate == best.path:
        yield "no shape is better than the start on the half that was searched"
        return
    (path, own), gain, held_out = best.held_out, best.gain, halves.held_out
    interval = "no interval: too few documents" if gain is None else f"95% interval {gain.low:.4f} to {gain.high:.4f}"
    yield (
        f"on the other half, {held_out.tokens:,} tokens of {held_out.documents} documents: loss {own:.4f} against "
        f"{path:.4f}, gain {path - own:.4f} nats a token ({interval})"
    )
    if not best.wins:
        yield "the gain is not clearly above 0, so the start's shape is kept"
