# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic chat`: talk with the members of a family, in one memory."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_elastic.cli import options
from nemo_elastic.errors import ElasticError, bad, printable
from nemo_elastic.formats.folders import open_source

if TYPE_CHECKING:
    from nemo_elastic.runtime.conversation import Conversation

HELP = """\
/member        list the members, with the answering member in brackets
/member NAME   let another member answer from now on, without loading
/reset         forget the conversation
/help          show this help
/quit          end, as Ctrl-D does; Ctrl-C ends an answer
//…            send a text that begins with a slash"""

_PROMPT = typer.Argument(help="Text to answer; - reads all of stdin. Without PROMPT, each line of stdin is a prompt.")
_MEMBER = typer.Option("--member", help="Name of the member that answers; the largest if left out.")
_MOST = options.number("--max-new-tokens", "Most tokens of an answer; an end token ends the answer earlier.")
_TEMPERATURE = options.number(
    "--temperature", "0 takes the most likely token; above 0 tokens are sampled.", 0.0, 100.0
)
_DRAFT = typer.Option(
    "--draft", help="Name of a smaller member that drafts tokens, which the larger member accepts or replaces."
)


def command(
    family: Annotated[Path, typer.Argument(help="A family folder, a member, or any plain Nemotron-H folder.")],
    prompt: Annotated[str | None, _PROMPT] = None,
    member: Annotated[str | None, _MEMBER] = None,
    draft: Annotated[str | None, _DRAFT] = None,
    max_new_tokens: Annotated[int, _MOST] = 96,
    temperature: Annotated[float, _TEMPERATURE] = 0.0,
    seed: Annotated[int, options.number("--seed", "Seed of the sampling.", low=0, high=2**53)] = 0,
    device: Annotated[str, options.device()] = "cpu",
    json: Annotated[bool, options.as_json("the answer to PROMPT")] = False,
) -> None:
    """Talk with the members of a family, which share the memory of the largest member.

    If the family has a chat template, the lines are messages of one conversation. Otherwise each line is added to the
    text so far, and the member continues this text. `/member 9b` lets another member answer, and `/help` lists all
    such commands. With `--draft 6b` the member 6b drafts tokens for larger members, which answer faster: with the same
    tokens at temperature 0, and from the same distribution above 0.

    Example: `nemo-elastic chat family/ --member 6b`, or for one answer
    `nemo-elastic chat family/ --member 6b "def f(" --temperature 0.7`.
    """
    if json and prompt is None:
        raise ElasticError("--json: give PROMPT, or - to read it from stdin")
    how = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    if prompt == "-":
        prompt = "".join(_stdin()).removesuffix("\n")  # `echo` ends with one
    talk = _open(family, member, draft, device, how)
    if prompt is None:
        _lines(talk)
        return
    if json:
        talk.answer(prompt, lambda piece: None)
        options.print_json({"source": str(family)} | talk.report())
        return
    talk.answer(prompt, _show)
    typer.echo()
    typer.echo(talk.summary(), err=True)


def _open(folder: Path, member: str | None, draft: str | None, device: str, how: dict[str, Any]) -> Conversation:
    """Check everything that can be checked before the weights are read, then read them."""
    from nemo_elastic.runtime import load_family
    from nemo_elastic.runtime.conversation import Conversation
    from nemo_elastic.runtime.family_runtime import members_of
    from nemo_elastic.runtime.storage import check_device

    check_device(device, "--device")
    source = open_source(folder)
    members = members_of(source)
    for option, name in (("--member", member), ("--draft", draft)):
        if name is not None and name not in members:
            raise bad(option, name, f"one of {', '.join(members)}")
    return Conversation(load_family(source, device=device), member, how, draft)


def _lines(talk: Conversation) -> None:
    """Answer line after line until there are no more."""
    typing = sys.stdin.isatty()
    if typing:
        kind = "" if talk.is_chat else "The family has no chat template: the member continues your text. "
        typer.echo(f"{talk.members()}\n{kind}/help lists the commands; Ctrl-D ends.", err=True)
    with closing(_typed(talk) if typing else _stdin()) as lines:
        for line in lines:
            text = line.rstrip("\r\n")
            try:
                if text.startswith("/") and not text.startswith("//"):
                    if text.split()[0] == "/quit":
                        return
                    typer.echo(_obey(talk, text.split()), err=True)
                elif text.strip():
                    _turn(talk, text[1:] if text.startswith("//") else text, typing)
            except ElasticError as exc:
                if not typing:
                    raise
                typer.echo(f"error: {printable(str(exc))}", err=True)


def _turn(talk: Conversation, text: str, typing: bool) -> None:
    """One answer; Ctrl-C ends it, and what came of it stays in the conversation."""
    try:
        talk.answer(text, _show)
        typer.echo()
    except KeyboardInterrupt:
        if not typing:
            raise
        typer.echo()
        typer.echo("interrupted", err=True)
    if talk.report():  # it may not have begun
        typer.echo(talk.summary(), err=True)


def _obey(talk: Conversation, words: list[str]) -> str:
    """What a line that begins with a slash does; gives what to show."""
    match words:
        case ["/help"]:
            return HELP
        case ["/reset"]:
            talk.reset()
            return "forgotten"
        case ["/member"]:
            return talk.members()
        case ["/member", name]:
            talk.select(name)
            return talk.members()
    allowed = "use /member, /member NAME, /reset, /help or /quit, or //… for a text that begins with a slash"
    raise bad("line", " ".join(words), allowed)


def _typed(talk: Conversation) -> Generator[str, None, None]:
    """Lines that somebody types, edited as in a shell."""
    with suppress(ModuleNotFoundError):
        import readline  # noqa: F401  # `input` uses it once it is there

    while True:
        mark = f"{talk.name}> "
        if not sys.stdout.isatty():  # `input` would write it where the answers go
            typer.echo(mark, nl=False, err=True)
            mark = ""
        try:
            yield input(mark)
        except EOFError:
            typer.echo(err=True)
            return


def _stdin() -> Generator[str, None, None]:
    """Lines that another program wrote."""
    try:
        yield from sys.stdin
    except UnicodeDecodeError:
        raise ElasticError("stdin: not UTF-8 text") from None


def _show(piece: str) -> None:
    """Text of a model, for a terminal: what would move the cursor or change colours is spelled out."""
    safe = "".join(c if c in "\n\t" else printable(c) for c in piece)
    encoding = sys.stdout.encoding or "utf-8"
    typer.echo(safe.encode(encoding, "backslashreplace").decode(encoding), nl=False)
