# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic eval`: how good the members of a family are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.options import BATCH_SIZE, CONTEXT, TOKENS, as_json, print_json, within
from nemo_elastic.errors import ElasticError, printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from nemo_elastic.evaluation.questions import Asking, Question

__all__ = ["command"]


_SOURCES = typer.Argument(metavar="SOURCE", help="Families, members or HF folders.")
_PROBLEMS = within(0, TOKENS, "--problems", "Held-out problems of a data folder to solve; 0 for none.")
_QUESTIONS = typer.Option(
    help="Questions with answers to ask: a .jsonl file of conversations, whose last message, or whose field `answer`, "
    "has the answer."
)


def command(
    sources: Annotated[list[Path] | None, _SOURCES] = None,
    data: Annotated[Path | None, typer.Option(help=options.DATA)] = None,
    member: Annotated[list[str] | None, typer.Option(help="Only this member; may be given several times.")] = None,
    problems: Annotated[int, _PROBLEMS] = 64,
    tokens: Annotated[int, within(1, TOKENS, "--tokens", "Tokens to predict.")] = 20_000,
    seq_length: Annotated[int, CONTEXT] = 512,
    batch: Annotated[int, BATCH_SIZE] = 8,
    tasks: Annotated[str | None, typer.Option(help="lm-eval tasks, separated by commas.")] = None,
    tasks_from: Annotated[Path | None, typer.Option(help="Folder with lm-eval task files of your own.")] = None,
    limit: Annotated[
        int | None, within(1, TOKENS, "--limit", "Documents of each lm-eval task, and questions.")
    ] = None,
    questions: Annotated[Path | None, _QUESTIONS] = None,
    samples: Annotated[int, within(1, 1024, "--samples", "Answers to each question, for pass@k.")] = 1,
    temperature: Annotated[float, within(0.0, 100.0, "--temperature", "Of these answers; 0 samples nothing.")] = 0.0,
    max_new_tokens: Annotated[int, within(1, TOKENS, "--max-new-tokens", "Of an answer, its thinking too.")] = 1024,
    endpoint: Annotated[
        str | None, typer.Option(help="Ask a server instead: the URL of an OpenAI-compatible one, with its /v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of what answers at --endpoint, such as a member.")] = None,
    device: Annotated[str, typer.Option(help="Where models run: cpu, cuda, cuda:1.")] = "cpu",
    json: Annotated[bool, as_json("the figures")] = False,
) -> None:
    """Perplexity, right answers and lm-eval tasks, per member.

    Each source is loaded once and all its members run on slices of it. The loss is over text, or over the answers of
    conversations, in the family's own tokens. Problems come from a data folder of `nemo-elastic data`. Questions are
    right where the answer that stands in what was said, in a box, behind `answer:`, or all of it, is the known one.
    lm-eval tasks need lm-eval and a tokenizer in the source (or in the data folder).

    Example: `nemo-elastic eval family/ --data data`, or
    `nemo-elastic eval family/ --questions sums.jsonl --samples 4 --temperature 0.6`, or
    `nemo-elastic eval family/ other-9b/ --member 9b --tasks arc_easy --limit 100 --json`.
    """
    names = [name for name in (tasks or "").split(",") if name]
    if data is None and not names and questions is None:
        raise ElasticError("eval: nothing to measure; give --data, --questions, --tasks or several of them")

    from rich.console import Console
    from rich.progress import Progress

    from nemo_elastic.evaluation.questions import Asking, read_questions

    asking = Asking(samples, temperature, max_new_tokens, batch=batch)
    asked = [] if questions is None else read_questions(questions, limit)
    bars = Progress(console=Console(stderr=True), disable=json, transient=True)
    if endpoint is not None:
        rows = [_of_server(endpoint, model, asked, asking, bars)]
    else:
        rows = _of_members(
            sources or [], data, member or (), names, tasks_from, device, bars, quiet=json, problems=problems,
            tokens=tokens, seq_length=seq_length, batch=batch, limit=limit, questions=asked, asking=asking,
        )  # fmt: skip
    if json:
        print_json(rows)
        return
    for table in _tables(rows):
        Console(markup=False).print(table)


def _of_server(url: str, model: str | None, asked: list[Question], asking: Asking, bars: Progress) -> dict[str, Any]:
    """The figures of a server."""
    from nemo_elastic.evaluation.questions import ask_endpoint, check_url

    check_url(url)
    if model is None or not asked:
        what = "--model, the name of what answers there" if asked else "--questions, which it is asked"
        raise ElasticError(f"--endpoint: give {what}")
    with bars:
        score = ask_endpoint(url, model, asked, asking, _counting(bars, model, len(asked) * asking.samples))
    return {"source": url, "member": model, "questions": score.to_json()}


def _of_members(
    sources: Sequence[Path], data: Path | None, only: Sequence[str], tasks: list[str], tasks_from: Path | None,
    device: str, bars: Progress, *, quiet: bool, asking: Asking, questions: list[Question], **sizes: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """The figures of every wanted member. What can be refused is refused before anything is computed."""
    from nemo_elastic.data.given import read_given
    from nemo_elastic.evaluation.by_member import Measures, measured, tokenizer_of, wanted_members
    from nemo_elastic.evaluation.harness import Harness
    from nemo_elastic.formats.folders import open_source
    from nemo_elastic.runtime.storage import check_device

    if not sources:
        raise ElasticError("eval: no source; name a family, or --endpoint URL")
    opened = [open_source(source) for source in sources]
    wanted = wanted_members(opened, only)
    check_device(device, "--device")
    given = [None if data is None else read_given(data, source, most=sizes["tokens"]) for source in opened]
    tokenizers = [tokenizer_of(s.folder, own) if tasks else None for s, own in zip(opened, given, strict=True)]
    measures = Measures(
        **sizes,
        harness=Harness(tasks, tasks_from) if tasks else None,
        questions=questions,
        asking=asking,
        counting=lambda name: _counting(bars, name, len(questions) * asking.samples),
    )
    for line in dict.fromkeys(note for own in given if own is not None and not quiet for note in own.notes):
        typer.echo(line, err=True)
    each = zip(opened, wanted, given, tokenizers, strict=True)
    with bars:
        return list(measured(each, device, measures, lambda names, what: bars.track(names, description=what)))


def _counting(bars: Progress, what: str, total: int) -> Callable[[int, int], None]:
    """A bar over answers, with how many of them are right so far."""
    task = bars.add_task(what, total=total)

    def tell(done: int, right: int) -> None:
        bars.update(task, completed=done, description=f"{what}: {right} of {done} right", visible=done < total)

    return tell


def _tables(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """Loss and answers of every member; below it the answers by task and level; below that the lm-eval tasks."""
    several = len({row["source"] for row in rows}) > 1

    def label(row: dict[str, Any]) -> list[str]:
        return [row["source"], row["member"]] if several else [row["member"]]

    def table(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> Any:
        from rich.table import Table

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
    scores = [(label(row), row["questions"]) for row in rows if "questions" in row]
    if scores:
        tables.append(table(*_scores(scores)))
    if any("tasks" in row for row in rows):
        heads = [(task, metric) for task, metrics in rows[0]["tasks"].items() for metric in metrics]
        cells = [[*label(r), *(_number(r["tasks"].get(t, {}).get(m)) for t, m in heads)] for r in rows]
        tables.append(table("lm-eval", [f"{t} {m}" for t, m in heads], cells))
    return tables


def _scores(scores: Sequence[tuple[list[str], dict[str, Any]]]) -> tuple[str, list[str], list[list[str]]]:
    """Title, heads and cells of answers to questions."""
    first = scores[0][1]
    ks = list(first["pass_at"])
    cells = [
        [
            *names,
            f"{s['correct']}/{s['questions'] * s['samples']}",
            *(f"{s['pass_at'][k]:.3f}" for k in ks),
            "-" if "interval" not in s else "{:.3f} to {:.3f}".format(*s["interval"]),
        ]
        for names, s in scores
    ]
    title = f"answers to {first['questions']} questions, {first['samples']} of each"
    return title, ["right", *(f"pass@{k}" for k in ks), "95% of pass@1"], cells


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3g}"


def _counts(part: dict[str, Any] | None) -> str:
    return "-" if part is None else f"{part['correct']}/{part['total']}"
