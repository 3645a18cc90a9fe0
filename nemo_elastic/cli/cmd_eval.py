# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic eval`: how good the members of a family are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from nemo_elastic.cli import options
from nemo_elastic.cli.options import TOKENS, as_json, print_json, refuse, within
from nemo_elastic.cli.show import counting
from nemo_elastic.data.eval_data import read_eval_data
from nemo_elastic.errors import ElasticError, printable
from nemo_elastic.formats.folders import open_source

__all__ = ["command"]

#: problems of a data folder that a member solves
PROBLEMS = 64

_SOURCES = typer.Argument(metavar="SOURCE", help="Families, members or Hugging Face folders.")
_LIMIT = within(
    1, TOKENS, "--limit",
    "Most documents of each lm-eval task, and most problems of a data folder. If left out, all documents and "
    f"{PROBLEMS} problems.",
)  # fmt: skip


def command(
    context: typer.Context,
    sources: Annotated[list[Path], _SOURCES],
    data: Annotated[Path | None, typer.Option(help=options.DATA)] = None,
    member: Annotated[list[str] | None, typer.Option(help="Only this member. May be given several times.")] = None,
    tokens: Annotated[int, within(1, TOKENS, "--tokens", "Tokens to predict.")] = 20_000,
    seq_length: Annotated[int, within(1, TOKENS, "--seq-length", "Tokens of one context.")] = 512,
    tasks: Annotated[str | None, typer.Option(help="lm-eval tasks, separated by commas.")] = None,
    tasks_from: Annotated[Path | None, typer.Option(help="Folder with lm-eval task files of your own.")] = None,
    limit: Annotated[int | None, _LIMIT] = None,
    device: Annotated[str, typer.Option(help="Device on which models run: cpu, cuda, cuda:1.")] = "cpu",
    json: Annotated[bool, as_json("the figures")] = False,
) -> None:
    """Measure perplexity, right answers and lm-eval tasks of every member.

    The command loads each source once, and members run on slices of the source's weights. The loss is over text, or
    over the answers of conversations, in the family's tokens. Problems come from a data folder of `nemo-elastic data`.
    lm-eval tasks need the package lm-eval, and a tokenizer in the source or in the data folder.

    Example: `nemo-elastic eval family/ --data data`, or
    `nemo-elastic eval family/ other-9b/ --member 9b --tasks arc_easy --limit 100 --json`.
    """
    names = [name for name in (tasks or "").split(",") if name]
    if data is None and not names:
        raise ElasticError("eval: nothing to measure; give --data, --tasks or both")
    if data is None:
        refuse(context, "belongs to --data, which is not given", "tokens", "seq_length")
    if not names:
        refuse(context, "belongs to --tasks, which is not given", "tasks_from")
    rows = _rows(
        sources, data, member or (), names, tasks_from, device, quiet=json,
        problems=limit or PROBLEMS, tokens=tokens, seq_length=seq_length, limit=limit,
    )  # fmt: skip
    if json:
        print_json(rows)
        return
    for table in _tables(rows):
        Console(markup=False).print(table)


def _rows(
    sources: Sequence[Path], data: Path | None, only: Sequence[str], tasks: list[str], tasks_from: Path | None,
    device: str, *, quiet: bool, **sizes: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """The figures of every wanted member. What can be refused is refused before anything is computed."""
    from nemo_elastic.evaluation.by_member import Measures, measured, tokenizer_of, wanted_members
    from nemo_elastic.evaluation.harness import Harness
    from nemo_elastic.runtime.storage import check_device

    opened = [open_source(source) for source in sources]
    wanted = wanted_members(opened, only)
    check_device(device, "--device")
    texts = [None if data is None else read_eval_data(data, source, most=sizes["tokens"]) for source in opened]
    tokenizers = [tokenizer_of(s.folder, own) if tasks else None for s, own in zip(opened, texts, strict=True)]
    measures = Measures(**sizes, harness=Harness(tasks, tasks_from) if tasks else None)
    for line in dict.fromkeys(note for own in texts if own is not None and not quiet for note in own.notes):
        typer.echo(line, err=True)
    each = zip(opened, wanted, texts, tokenizers, strict=True)
    with counting("members", quiet) as bar:

        def track(members: Sequence[str], what: str) -> Iterator[str]:
            for number, name in enumerate(members):
                bar(number, len(members), what)
                yield name

        return list(measured(each, device, measures, track))


def _tables(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """Loss and answers of every member; below it the answers by task and level; below that the lm-eval tasks."""
    several = len({row["source"] for row in rows}) > 1

    def label(row: dict[str, Any]) -> list[str]:
        return [row["source"], row["member"]] if several else [row["member"]]

    def table(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> Any:
        out = Table(title=title)
        for name in (["source"] if several else []) + ["member"]:
            out.add_column(name)
        for name in columns:
            out.add_column(printable(name), justify="right")
        for row in cells:
            out.add_row(*map(printable, row))
        return out

    tables = []
    if any("loss" in row for row in rows):
        active = ["active"] if any("active_parameters" in row for row in rows) else []
        cells = [
            [
                *label(r),
                f"{r['parameters']:,}",
                *(f"{r.get('active_parameters', r['parameters']):,}" for _ in active),
                _number(r["loss"]),
                _number(r["perplexity"]),
                _counts(r.get("answers")),
            ]
            for r in rows
        ]
        title = f"held-out loss over {rows[0]['tokens']:,} tokens" if rows else ""
        tables.append(table(title, ["parameters", *active, "loss", "perplexity", "answers"], cells))
    answers = [row["answers"] for row in rows if "answers" in row]
    for key in ("by_task", "by_level") if answers else ():
        groups = list(answers[0][key])
        cells = [[*label(r), *(_counts(r["answers"][key].get(g)) for g in groups)] for r in rows]
        heads = [g if key == "by_task" else f"level {g}" for g in groups]
        tables.append(table(f"answers {key.replace('_', ' ')}", heads, cells))
    if any("tasks" in row for row in rows):
        heads = [(task, metric) for task, metrics in rows[0]["tasks"].items() for metric in metrics]
        cells = [[*label(r), *(_number(r["tasks"].get(t, {}).get(m)) for t, m in heads)] for r in rows]
        tables.append(table("lm-eval", [f"{t} {m}" for t, m in heads], cells))
    return tables


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3g}"


def _counts(part: dict[str, Any] | None) -> str:
    return "-" if part is None else f"{part['correct']}/{part['total']}"
