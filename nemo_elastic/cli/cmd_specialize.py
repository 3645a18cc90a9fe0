# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic specialize`: the shape inside a trained family that is best for the user's own text."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.options import (
    BATCH_SERVED,
    CONTEXT_SERVED,
    SEQ_LENGTH,
    as_json,
    check_sizes,
    print_json,
)
from nemo_elastic.cli.show import counting, size, size_line
from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import MemorySpec
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.limits import Limit
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.data.eval_data import read_eval_data
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checksums import family_digest
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.source import Source
from nemo_elastic.io.outputs import check_file
from nemo_elastic.io.write import atomic_write
from nemo_elastic.search import Trial
from nemo_elastic.slicing.by_size import Fit, in_words, largest_within, read_limits
from nemo_elastic.slicing.card import serving_spec
from nemo_elastic.slicing.family_folder import add_extra

if TYPE_CHECKING:
    from nemo_elastic.evaluation import Halves, Specialized

__all__ = ["command"]

#: name of the budget in the search; no file has it
TASK = "task"
#: shapes that are measured, most tokens of the half that is searched on, and the seed of the search and of the halves
CANDIDATES, TOKENS, SEED = 128, 32_768, 0

_DATA = typer.Option("--data", help=f"Data of the task. {options.DATA}")
_OUT = options.out("File for the shape, which `slice --subnet` reads.")
_ADD = typer.Option("--add", help="Name of the shape in the family's elastic.json, for `slice --member`.")
_PARAMS, _ACTIVE, _RATIO, _MEMORY, _LATENCY = options.size_options("Shapes")


def command(
    family: Annotated[Path, typer.Argument(help="A trained family, or its id on the hub.")],
    data: Annotated[Path, _DATA],
    out: Annotated[Path | None, _OUT] = None,
    add: Annotated[str | None, _ADD] = None,
    params: Annotated[str | None, _PARAMS] = None,
    ratio: Annotated[str | None, _RATIO] = None,
    active_params: Annotated[str | None, _ACTIVE] = None,
    memory: Annotated[str | None, _MEMORY] = None,
    latency: Annotated[str | None, _LATENCY] = None,
    batch: Annotated[int, BATCH_SERVED] = 1,
    context: Annotated[int, CONTEXT_SERVED] = 8192,
    seq_length: Annotated[int, SEQ_LENGTH] = 512,
    device: Annotated[str, options.device()] = "cpu",
    force: Annotated[bool, options.force("an existing file, or an extra shape")] = False,
    json: Annotated[bool, as_json("the found shape")] = False,
) -> None:
    """Search a trained family for the shape that predicts your text best, within one or several limits of size.

    The search starts at the shape that `slice` would cut within these limits. It reads up to 32768 tokens of one half
    of the text. The other half measures how much better the found shape is. If the found shape is not clearly better,
    the command writes the shape of `slice`.

    Example: `nemo-elastic specialize family/ --data mytask/ --params 7e9 --out task.json`, then
    `nemo-elastic slice family/ --subnet task.json --out 7b-task/`. With `--add task` the family stores the shape:
    `nemo-elastic slice family/ --member task --out 7b-task/`.
    """
    from nemo_elastic.runtime.storage import check_device

    sizes = {"--params": params, "--active-params": active_params, "--ratio": ratio, "--memory": memory}
    sizes |= {"--latency": latency}
    check_sizes("specialize", sizes)
    _check_places(out, add, force, family, data)
    check_device(device, "--device")
    source = open_source(family)
    manifest = _whole_family(source)
    spec = serving_spec(source.precision or source.dtype, batch=batch, length=context)
    start = _start(source, read_limits(spec, sizes))
    budget = Budget(TASK, **{limit.kind.field: limit.value for limit in start.limits})
    digest = None if add is None else _addable(family, add, start.subnet, budget, force)
    halves = _halves(data, source, seq_length, json)
    best = _search(source, device, json, manifest, start.subnet, budget, halves, CANDIDATES, SEED)
    entry = _entry(source, start, budget, best, spec)
    settings = {"data": str(data), "seed": SEED, "seq_length": seq_length}
    entry["specialized"] = settings | _read(halves) | best.to_json(manifest)
    text = json_module.dumps(entry, indent=2, allow_nan=False)
    if out is not None:
        atomic_write(out, text + "\n", replace=force)
    if add is not None:
        _add(family, add, best, budget, force, digest, None if out is not None else text)
    if json:
        print_json({"out": None if out is None else str(out), "extra": add, "request": start.to_json()} | entry)
    else:
        typer.echo("\n".join([*_lines(start, best, halves), *_places(source, best, spec, out, add)]))


def _halves(data: Path, source: Source, seq_length: int, quiet: bool) -> Halves:
    """The task's text in two halves."""
    from nemo_elastic.evaluation import halves_of

    text = read_eval_data(data, source)
    for line in () if quiet else text.notes:
        typer.echo(line, err=True)
    return halves_of(text.documents, seq_length, TOKENS, SEED, f"--data: {data}")


def _check_places(out: Path | None, add: str | None, force: bool, *inputs: Path) -> None:
    """Refuse a command that names no place for the shape, or one that is taken."""
    if out is None and add is None:
        raise ElasticError("specialize: no place for the shape; give --out FILE, --add NAME or both")
    if out is not None:
        check_file(out, force, *inputs)


def _search(source: Source, device: str, quiet: bool, *what: Any) -> Specialized:
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


def _whole_family(source: Source) -> Family:
    """The manifest of a source that holds all of a family."""
    family = source.family
    if family is None:
        raise ElasticError(f"{source.folder}: is one model, not a family; it has no shapes to search")
    return family


def _addable(folder: Path, name: str, start: Subnet, budget: Budget, force: bool) -> str:
    """Refuse before the search what would be refused after it; gives the digest of the family that is searched."""
    if not (folder / FILE).is_file():
        raise ElasticError(f"--add: {folder} has no {FILE}, which stores the shape; give --out FILE instead")
    add_extra(folder, name, start, budget, force, write=False)
    return family_digest(folder)


def _add(
    folder: Path, name: str, best: Specialized, budget: Budget, force: bool, digest: str | None, entry: str | None
) -> None:
    """Keep the chosen shape in the family itself; where that fails, print `entry`: the search took long."""
    try:
        add_extra(folder, name, best.shape, budget, force, digest)
    except ElasticError:
        if entry is not None:
            typer.echo(entry)
        raise


def _start(source: Source, limits: tuple[Limit, ...]) -> Fit:
    """The path's shape within limits, below the parent."""
    fit = largest_within(source, limits)
    if fit.whole:
        asked = f"{' and '.join(x.name for x in limits)}: {in_words(source.parent, limits)}"
        raise ElasticError(f"{asked} is enough for the whole parent; a search needs a smaller limit")
    return fit


def _read(halves: Halves) -> dict[str, Any]:
    """How much was read."""
    read: dict[str, Any] = {"one_document": halves.of_one}
    for name, half in (("searched", halves.search), ("held_out", halves.held_out)):
        read |= {f"{name}_tokens": half.tokens, f"{name}_documents": half.documents}
    return read


def _entry(source: Source, start: Fit, budget: Budget, best: Specialized, spec: MemorySpec) -> dict[str, Any]:
    """The chosen shape as `inspect --json` prints a member, good for `slice --subnet`."""
    kept = not best.wins
    return {
        "member": start.name if kept and start.between is None else None,
        "between": list(start.between) if kept and start.between is not None else None,
        "budget": budget.to_json(),
        **size(source.parent, best.shape, spec, low=source.low),
        "subnet": best.shape.to_json(),
    }


def _lines(start: Fit, best: Specialized, halves: Halves) -> Iterator[str]:
    """What was found, in words."""
    (path, own), held_out = best.held_out, halves.held_out
    yield f"start: {start}"
    if halves.of_one:
        yield "the text is one document: its halves are the text before and behind its middle"
    yield (
        f"{best.trials} shapes on {halves.search.tokens:,} tokens: loss {best.searched[1]:.4f} for the best, "
        f"{best.searched[0]:.4f} for the start"
    )
    if best.candidate == best.path:
        yield "no shape is better than the start on the half that was searched"
        return
    gain = best.gain
    documents = "one document" if gain is None else f"{gain.count} documents"
    interval = "no interval" if gain is None else f"95% over documents: {gain.low:.4f} to {gain.high:.4f}"
    yield (
        f"on the other half, {held_out.tokens:,} tokens of {documents}: loss {own:.4f} against {path:.4f}, "
        f"gain {path - own:.4f} nats a token ({interval})"
    )
    if gain is None:
        yield "one document has no interval, so no gain shows and the start's shape is kept; give more documents"
    elif gain.holds_zero:
        yield "the interval includes 0: no gain that shows, so the start's shape is kept"
    elif not best.wins:
        yield "the found shape is worse there, so the start's shape is kept"


def _places(source: Source, best: Specialized, spec: MemorySpec, out: Path | None, add: str | None) -> Iterator[str]:
    """Where the shape is now."""
    what = "the found shape" if best.wins else "the start's shape"
    line = f"{what}, {size_line(source.parent, best.shape, spec, source.low)}"
    if out is not None:
        yield f"{out}: {line}"
    if add is not None:
        yield f"{source.folder}: {add}, {line}"
