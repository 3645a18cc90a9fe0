# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic eval`: how good the members of a family are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import advancing, print_table
from nemo_elastic.data.eval_data import read_eval_data
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source

#: problems of a data folder that a member solves
PROBLEMS = 64

_SOURCES = typer.Argument(metavar="SOURCE", help="Families, members or Hugging Face folders.")
_LIMIT = options.number(
    "--limit",
    "Most documents of each lm-eval task, and most problems of a data folder. If left out, all documents and "
    f"{PROBLEMS} problems.",
)

_CALIBRATE = typer.Option("--calibrate", help="Fit when a larger member pays, and write auto.json, instead.")


def command(
    context: typer.Context,
    sources: Annotated[list[Path], _SOURCES],
    data: Annotated[Path | None, typer.Option(help=options.DATA)] = None,
    member: Annotated[list[str] | None, typer.Option(help="Only this member. May be given several times.")] = None,
    tokens: Annotated[int, options.number("--tokens", "Tokens to predict, drawn from the data.")] = 20_000,
    seq_length: Annotated[int, options.number("--seq-length", "Tokens of one context.")] = 512,
    tasks: Annotated[str | None, typer.Option(help="lm-eval tasks, separated by commas.")] = None,
    tasks_from: Annotated[Path | None, typer.Option(help="Folder with lm-eval task files of your own.")] = None,
    limit: Annotated[int | None, _LIMIT] = None,
    calibrate: Annotated[bool, _CALIBRATE] = False,
    device: Annotated[str, options.device("models run")] = "cpu",
    force: Annotated[bool, options.force("an older auto.json, with --calibrate")] = False,
    json: Annotated[bool, options.as_json("the figures")] = False,
) -> None:
    """Measure perplexity, right answers and lm-eval tasks of every member.

    The command loads each source once, and members run on slices of the source's weights. The loss is over text, or
    over the answers of conversations, in the family's tokens. Problems come from a data folder of `nemo-elastic data`.
    lm-eval tasks need the package lm-eval, and a tokenizer in the source or in the data folder.

    With --calibrate the command measures when a larger member pays, for the model `auto` of `nemo-elastic serve`.
    Every member reads up to 512 prompts and their known answers. Half of the prompts are problems, if the data has
    problems. The command fits the gain of a larger member on the answer to the entropy, margin and surprise of the
    smallest member on the prompt. It writes the fit to auto.json in the family folder and changes no weights. The
    table checks the fit: one half of the prompts decides for the other half, against the best random mixture of
    members at the same cost. If no gain is above 0 by more than its interval, `auto` is no better than chance, and the
    command warns.

    Example: `nemo-elastic eval family/ --data data`, or
    `nemo-elastic eval family/ other-9b/ --member 9b --tasks arc_easy --limit 100 --json`, or
    `nemo-elastic eval family/ --data data --calibrate`, then `nemo-elastic serve family/ --auto 0.3`.
    """
    if calibrate:
        _calibrate(context, sources, data, device, force, json)
        return
    options.refuse(context, "belongs to --calibrate, which is not given", "force")
    names = [name for name in (tasks or "").split(",") if name]
    if data is None and not names:
        raise ElasticError("eval: nothing to measure; give --data, --tasks or both")
    if data is None:
        options.refuse(context, "belongs to --data, which is not given", "tokens", "seq_length")
    if not names:
        options.refuse(context, "belongs to --tasks, which is not given", "tasks_from")
    # What can be refused is refused before anything is computed.
    from nemo_elastic.evaluation.by_member import Measures, measured, tokenizer_of, wanted_members
    from nemo_elastic.evaluation.harness import Harness
    from nemo_elastic.runtime.storage import check_device

    opened = [open_source(source) for source in sources]
    wanted = wanted_members(opened, member or ())
    check_device(device, "--device")
    texts = [None if data is None else read_eval_data(data, source, most=tokens) for source in opened]
    if not names and not any(own and own.folder and own.folder.held_out_problems for own in texts):
        options.refuse(context, "belongs to --tasks, or to a --data folder with problems", "limit")
    tokenizers = [tokenizer_of(s.folder, own) if names else None for s, own in zip(opened, texts, strict=True)]
    harness = Harness(names, tasks_from) if names else None
    measures = Measures(limit or PROBLEMS, tokens, seq_length, harness, limit)
    for line in dict.fromkeys(note for own in texts if own is not None and not json for note in own.notes):
        typer.echo(line, err=True)
    each = zip(opened, wanted, texts, tokenizers, strict=True)
    with advancing("members", sum(map(len, wanted)), json) as done:
        rows = list(measured(each, device, measures, done))
    if json:
        options.print_json(rows)
        return
    print_table("loss in nats per token" if data else "lm-eval", [_cells(row, len(opened) > 1) for row in rows])


def _calibrate(
    context: typer.Context, sources: list[Path], data: Path | None, device: str, force: bool, json: bool
) -> None:
    from nemo_elastic.cli.calibrating import calibrate

    measured = ("member", "tokens", "seq_length", "tasks", "tasks_from", "limit")
    options.refuse(context, "is not allowed with --calibrate", *measured)
    if len(sources) > 1:
        raise ElasticError("--calibrate: takes one family")
    if data is None:
        raise ElasticError("--calibrate: needs --data")
    calibrate(sources[0], data, device, force, json)


def _cells(row: dict[str, Any], several: bool) -> dict[str, str]:
    """The figures of a member as text; `several` says that members are of several sources."""
    out = {"member": f"{row['source']}: {row['member']}" if several else row["member"]}
    counts = ("parameters", "active_parameters", "tokens")
    out |= {name.replace("_", " "): f"{row[name]:,}" for name in counts if name in row}
    out |= {name: _number(row[name]) for name in ("loss", "perplexity") if name in row}
    if "drafts" in row:
        out["drafts accepted"] = _number(row["drafts"]["acceptance"])
    if "answers" in row:
        out["answers"] = f"{row['answers']['correct']}/{row['answers']['total']}"
    for task, metrics in row.get("tasks", {}).items():
        out |= {f"{task} {name}": _number(value) for name, value in metrics.items()}
    return out


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3g}"
