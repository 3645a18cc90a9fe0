# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic data`: text to tokenizer and token files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.options import SEEDS, TOKENS, as_json, print_json, within

if TYPE_CHECKING:
    from nemo_elastic.data.folder import DataFolder

__all__ = ["command"]


def command(
    out: Annotated[Path, options.out()],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            show_default="the standard library of this Python",
            help="Text: .txt, .md, .rst or .py files, .jsonl files with a field `text`, or folders of them.",
        ),
    ] = None,
    vocab: Annotated[int, within(1, TOKENS, "--vocab", "Size of the tokenizer's vocabulary.")] = 1024,
    reasoning: Annotated[
        float, within(0.0, 0.9, "--reasoning", "Share of tokens that are worked reasoning problems.")
    ] = 0.25,
    seed: Annotated[int, within(0, SEEDS, "--seed", "Seed of the problems and of every order.")] = 0,
    force: Annotated[bool, options.force()] = False,
    json: Annotated[bool, as_json("the folder's manifest")] = False,
) -> None:
    """Prepare text: train a tokenizer, mix in worked reasoning problems, write Megatron token files.

    Example: `nemo-elastic data --out data`, or with text of your own:
    `nemo-elastic data books/ notes.jsonl --out data --vocab 4096`.
    """
    from nemo_elastic.data.build import build_data

    started = time.monotonic()
    with _progress(quiet=json) as tell:
        folder = build_data(
            out, sources or (), vocab=vocab, reasoning=reasoning, seed=seed, force=force, progress=tell
        )
    if json:
        print_json(folder.to_json())
        return
    _print(out, folder, time.monotonic() - started)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """A bar for each step, called with (its name, the share that is done); a step begins when it is first named."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True), disable=quiet
    )
    tasks: dict[str, TaskID] = {}

    def tell(what: str, share: float) -> None:
        bars.start()  # not before: what is refused at once gets no empty bar
        if what not in tasks:
            for task in tasks.values():  # a step says when it begins; the one before it has then ended
                bars.update(task, total=1.0, completed=1.0)
                bars.stop_task(task)
            tasks[what] = bars.add_task(what, total=None)
        bars.update(tasks[what], total=1.0 if share else None, completed=share)

    try:
        yield tell
    finally:
        if tasks:
            bars.stop()


def _print(out: Path, folder: DataFolder, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{out}: {folder.vocab_size} tokens of vocabulary, {folder.corpus.documents} texts")
    for header in ("split", "tokens", "documents", "problems", "problem share"):
        table.add_column(header, justify="left" if header == "split" else "right")
    for name, info in folder.splits.items():
        share = f"{info.problem_tokens / info.tokens:.0%}"
        table.add_row(name, f"{info.tokens:,}", f"{info.documents:,}", f"{info.problems:,}", share)
    console = Console(markup=False)
    console.print(table)
    console.print(f"{folder.held_out_problems} problems held out; {seconds:.1f} s")
