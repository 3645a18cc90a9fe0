# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic specialize`: the shape inside a trained family that is best for the user's own text."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_elastic.cli.within import BATCH, TOKENS, within

if TYPE_CHECKING:
    from nemo_elastic.cli.sizes import Found, Request
    from nemo_elastic.core.budget import Budget
    from nemo_elastic.core.cost import MemorySpec
    from nemo_elastic.core.family import Subnet
    from nemo_elastic.core.manifest import Family
    from nemo_elastic.evaluation import Halves, Specialized
    from nemo_elastic.formats.source import Source
    from nemo_elastic.search import Trial

__all__ = ["command"]

#: name of the budget in the search; no file has it
TASK = "task"

_DATA = typer.Option(
    "--data", help="Text of the task: files or a folder of them, or a data folder (its held-out part)."
)
_OUT = typer.Option("--out", help="File to write the shape to, for `slice --subnet`.")
_ADD = typer.Option("--add", help="Name under which the family's elastic.json keeps the shape, for `slice --budget`.")
_PARAMS = typer.Option("--params", help="Shapes of at most so many parameters: 7e9, 7B.")
_ACTIVE = typer.Option("--active-params", help="Shapes in which a token meets at most so many: 2.8e9, 2.8B.")
_RATIO = typer.Option("--ratio", help="Shapes of at most this share of the parent's parameters: 0.6.")
_MEMORY = typer.Option("--memory", help="Shapes that are served in so much memory: 14GiB.")
_TOKENS = "Most tokens of the half that is searched on; the other half is read to four times as many."


def command(
    family: Annotated[Path, typer.Argument(help="A trained family, or its id on the hub.")],
    data: Annotated[Path, _DATA],
    out: Annotated[Path | None, _OUT] = None,
    add: Annotated[str | None, _ADD] = None,
    params: Annotated[str | None, _PARAMS] = None,
    ratio: Annotated[str | None, _RATIO] = None,
    active_params: Annotated[str | None, _ACTIVE] = None,
    memory: Annotated[str | None, _MEMORY] = None,
    batch: Annotated[int, within(1, BATCH, "--batch", "Sequences served at once, for the memory.")] = 1,
    length: Annotated[int, within(1, TOKENS, "--length", "Tokens that each of them may have, for the memory.")] = 8192,
    candidates: Annotated[int, within(1, 10**6, "--candidates", "How many shapes are measured.")] = 128,
    tokens: Annotated[int, within(1, TOKENS, "--tokens", _TOKENS)] = 32_768,
    seq_length: Annotated[int, within(1, TOKENS, "--seq-length", "Tokens that are predicted in one context.")] = 512,
    seed: Annotated[int, within(0, 2**53, "--seed", "Of the search, and of how the text is halved.")] = 0,
    device: Annotated[str, typer.Option(help="Where the family runs: cpu, cuda, cuda:1.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file, or an extra shape.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Search all shapes inside a trained family for the one that predicts your text best, within a size.

    The search starts at the shape that `slice` would cut at that size. It looks at one half of the text; the other
    half says how much better the found shape is. Where that does not show, the shape of `slice` is what is written.

    Example: `nemo-elastic specialize family/ --data mytask/ --params 7e9 --out task.json`, then
    `nemo-elastic slice family/ --subnet task.json --out 7b-task/`. With `--add task` the family keeps the shape:
    `nemo-elastic slice family/ --budget task --out 7b-task/`.
    """
    from nemo_elastic.cli.sizes import read_request
    from nemo_elastic.cli.task import read_task
    from nemo_elastic.evaluation import halves_of
    from nemo_elastic.formats.registry import open_source
    from nemo_elastic.io.atomic import atomic_write
    from nemo_elastic.io.outputs import check_file
    from nemo_elastic.runtime.devices import check_device
    from nemo_elastic.slicing.card import serving_spec

    sizes = {"--params": params, "--active-params": active_params, "--ratio": ratio, "--memory": memory}
    _check_options(sizes, out, add)
    if out is not None:
        check_file(out, force, family, data)
    check_device(device, "--device")
    source = open_source(family)
    manifest = _whole_family(source)
    spec = serving_spec(source.dtype, batch=batch, length=length)
    start = _start(source, read_request(source.parent, spec, params, memory, ratio, active_params))
    budget = start.request.budget(TASK)
    digest = None if add is None else _addable(family, add, start.subnet, budget, force)
    halves = halves_of(read_task(data, source), seq_length, tokens, seed, f"--data: {data}")
    found = _search(source, device, json, manifest, start.subnet, budget, halves, candidates, seed)
    entry = _entry(source, start, budget, found, spec)
    entry["specialized"] = {"data": str(data), "seed": seed, **_read(halves)} | found.to_json(manifest)
    if out is not None:
        atomic_write(out, json_module.dumps(entry, indent=2, allow_nan=False) + "\n", replace=force)
    if add is not None:
        _add(family, add, found, budget, force, digest, None if out is not None else entry)
    if json:
        written = {"out": None if out is None else str(out), "extra": add, "request": start.to_json()}
        typer.echo(json_module.dumps(written | entry, indent=2, allow_nan=False))
    else:
        typer.echo("\n".join([*_lines(start, found, halves), *_places(source, found, spec, out, add)]))


def _search(source: Source, device: str, quiet: bool, *what: Any) -> Specialized:
    """Load the family and search it; `what` goes to `evaluation.specialize`."""
    from nemo_elastic.evaluation import specialize
    from nemo_elastic.runtime import load_family

    with _counting(quiet) as told:
        return specialize(load_family(source, device=device), *what, progress=told)


def _check_options(sizes: dict[str, str | None], out: Path | None, add: str | None) -> None:
    """Raise unless there is one size, and a place for what is found."""
    from nemo_elastic.errors import ElasticError

    given = [name for name, value in sizes.items() if value is not None]
    if len(given) != 1:
        told = f", not {' and '.join(given)}" if given else ""
        raise ElasticError(f"specialize: give exactly one of {', '.join(sizes)}{told}")
    if out is None and add is None:
        raise ElasticError("specialize: nowhere to put the shape; give --out FILE, --add NAME or both")


def _whole_family(source: Source) -> Family:
    """The manifest of a source that holds all of a family."""
    from nemo_elastic.errors import ElasticError

    family = source.family
    if family is None:
        raise ElasticError(f"{source.folder}: is one model, not a family; there are no shapes to search in it")
    return family


def _addable(folder: Path, name: str, start: Subnet, budget: Budget, force: bool) -> str:
    """Refuse before the search what would be refused after it; gives the digest of the family that is searched."""
    from nemo_elastic.core.manifest import FILE
    from nemo_elastic.errors import ElasticError
    from nemo_elastic.formats.checksums import family_digest
    from nemo_elastic.slicing.extra_shapes import add_extra

    if not (folder / FILE).is_file():
        raise ElasticError(f"--add: {folder} has no {FILE} of its own to add to; give --out FILE instead")
    add_extra(folder, name, start, budget, force, write=False)
    return family_digest(folder)


def _add(
    folder: Path, name: str, found: Specialized, budget: Budget, force: bool, digest: str | None, entry: Any
) -> None:
    """Keep the found shape in the family itself; where that fails, print `entry`: the search took long."""
    from nemo_elastic.errors import ElasticError
    from nemo_elastic.slicing.extra_shapes import add_extra

    try:
        add_extra(folder, name, found.shape, budget, force, digest)
    except ElasticError:
        if entry is not None:
            typer.echo(json_module.dumps(entry, indent=2, allow_nan=False))
        raise


def _start(source: Source, request: Request) -> Found:
    """The path's shape within a limit, below the parent."""
    from nemo_elastic.cli.sizes import find
    from nemo_elastic.errors import ElasticError

    found = find(source, request)
    if found.whole:
        raise ElasticError(f"{request.option}: {request.asked} holds the whole parent; nothing is to choose")
    return found


@contextmanager
def _counting(quiet: bool) -> Iterator[Callable[[int, int, Trial], None]]:
    """A bar over the candidates with the lowest loss so far."""
    from rich.console import Console
    from rich.progress import Progress

    console, best = Console(stderr=True), float("inf")
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("searching", total=None)

        def told(number: int, candidates: int, trial: Trial) -> None:
            nonlocal best
            best = min(best, trial.loss)
            bar.update(task, completed=number, total=candidates, description=f"lowest loss {best:.4f}")

        yield told


def _read(halves: Halves) -> dict[str, Any]:
    """How much was read."""
    length = halves.search_sl.shape[1] - 1
    return {"seq_length": length, "searched_tokens": halves.search_tokens, "held_out_tokens": halves.held_out_tokens}


def _entry(source: Source, start: Found, budget: Budget, found: Specialized, spec: MemorySpec) -> dict[str, Any]:
    """The chosen shape as `inspect --json` prints a member, good for `slice --subnet`."""
    from nemo_elastic.cli.show import size

    kept = not found.wins
    return {
        "member": start.name if kept and start.between is None else None,
        "between": list(start.between) if kept and start.between is not None else None,
        "budget": budget.to_json(),
        **size(source.parent, found.shape, spec),
        "subnet": found.shape.to_json(),
    }


def _lines(start: Found, found: Specialized, halves: Halves) -> Iterator[str]:
    """What was found, in words."""
    gain, (path, own) = found.gain, found.held_out
    yield f"start: {start}"
    yield (
        f"{found.trials} shapes on {halves.search_tokens:,} tokens: loss {found.searched[1]:.4f} for the best, "
        f"{found.searched[0]:.4f} for the start"
    )
    if found.found == found.path:
        yield "no shape is better than the start on the half that was searched"
        return
    yield (
        f"on the other half, {halves.held_out_tokens:,} tokens in {gain.count} sequences: loss {own:.4f} against "
        f"{path:.4f}, gain {gain.mean:.4f} nats a token (95%: {gain.low:.4f} to {gain.high:.4f})"
    )
    if gain.holds_zero:
        yield "the interval includes 0: no gain that shows, so the start's shape is kept"
    elif not found.wins:
        yield "the found shape is worse there, so the start's shape is kept"


def _places(source: Source, found: Specialized, spec: MemorySpec, out: Path | None, add: str | None) -> Iterator[str]:
    """Where the shape is now."""
    from nemo_elastic.cli.show import size_line

    what = "the found shape" if found.wins else "the start's shape"
    told = f"{what}, {size_line(source.parent, found.shape, spec)}"
    if out is not None:
        yield f"{out}: {told}"
    if add is not None:
        yield f"{source.folder}: {add}, {told}"
