# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family behind vLLM's server, talked to by PyPI's `openai` client: every member, pairs, streams, errors.

Runs in vLLM's environment, where this project is installed: the server finds the plugin by its entry point. No part of
the default suite: `make test-vllm` runs

    .venv-vllm/bin/python -m tests.vllm.serve [--seconds 60] [--markdown FILE] [-- flags of vLLM]

The family has random weights in float32. Every token is compared with what our own runtime gives. The exit code is 1
unless every check holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from nemo_elastic.io.write import atomic_write
from nemo_elastic.slicing.slicer import slice_checkpoint

from .answers import check_auto, check_members, check_mixed, check_names, check_who_answered
from .engines import check_engine
from .expected import COST, LARGE, LENGTH, PAIR, SMALL, Checks, Expected
from .refusals import check_errors, check_gate, check_gone
from .served import SHAPES, write_served
from .server import KEY, Talk, serving

PLACES, EAGER = 16, "--enforce-eager"  # compiling takes minutes
FLAGS = ["--dtype=float32", f"--max-model-len={LENGTH}", f"--max-num-seqs={PLACES}"]
#: fewer pages than the clients ask for, so that requests wait for memory
TIGHT = "--num-gpu-blocks-override=26"
VLLM = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]


def check_own_command(place: Path, folder: Path, expected: Expected, checks: Checks, args: argparse.Namespace) -> None:
    """`nemo-elastic serve`, with a key and an end of thinking of its own."""
    end = expected.ending()
    command = [str(Path(sys.executable).with_name("nemo-elastic")), "serve", str(folder)]
    own = json.dumps({"nemo_elastic": {"end_ids": [end], "auto": COST}})
    log = place / "serve.log"
    flags = [*FLAGS, f"--additional-config={own}", EAGER, TIGHT, *args.flags]
    with serving(place, command, ["--", *flags], log, {"VLLM_API_KEY": KEY}) as address:
        talk = Talk(address)
        message = "MiB of weights" in log.read_text(errors="replace")
        checks.tell("the log says what the weights take", message, "yes" if message else "no")
        check_names(talk, checks)
        check_members(talk, expected, checks)
        check_errors(talk, log, checks)
        check_auto(talk, expected, checks)
        check_who_answered(talk, expected, checks)
        check_gate(talk, log, checks)
        check_mixed(talk, expected, end, checks, args.seconds)
        check_gone(talk, expected, checks)


def check_vllm_alone(place: Path, folder: Path, expected: Expected, checks: Checks, flags: list[str]) -> None:
    """vLLM's own server finds the family by itself; compiled, as it is by default."""
    with serving(place, [*VLLM, "--model", str(folder)], [*FLAGS, *flags], place / "vllm.log") as address:
        talk = Talk(address)
        got = [talk.complete(m, expected.ids[3]) for m in (*SHAPES, str(folder))]
        checks.equal("vLLM's own server, compiled", got, [expected.tokens[m][3] for m in (*SHAPES, LARGE)])
        got = [talk.complete(PAIR, expected.ids[0], thinking_token_budget=9)]
        checks.equal("its pairs", got, [expected.pair(0, None, 9)])
        report = talk.error(model=PAIR)
        checks.tell("a pair without an end or a budget", report[0] == 200, report[0])  # </think> is a token


def check_plain(place: Path, folder: Path, expected: Expected, checks: Checks, flags: list[str]) -> None:
    """A folder that is no family is vLLM's own model."""
    member, log = place / "plain", place / "plain.log"
    slice_checkpoint(folder, member, member=SMALL)
    with serving(
        place, [*VLLM, "--model", str(member)], [*FLAGS, EAGER, "--no-enable-prefix-caching", *flags], log
    ) as address:
        talk = Talk(address)
        listed = [m.id for m in talk.api.models.list().data]
        checks.tell("a plain folder's names", listed == [str(member)], len(listed))
        got = [talk.complete(str(member), ids) for ids in expected.ids]
        checks.equal("a plain folder, the plugin installed", got, expected.tokens[SMALL])
    text = log.read_text(errors="replace")
    stock = "Resolved architecture: NemotronHForCausalLM" in text and "FamilyScheduler" not in text
    checks.tell("a plain folder has vLLM's own model and scheduler", stock, "yes" if stock else "no")


def main() -> int:
    own, flags = sys.argv[1:], []
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long mixed clients ask")
    parser.add_argument("--markdown", type=Path, help="write the table to this file if all is well")
    args = parser.parse_args(own, argparse.Namespace(flags=flags))
    checks = Checks()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary).resolve()
        folder = write_served(place)
        expected = Expected(folder)
        check_own_command(place, folder, expected, checks, args)
        check_engine(place, folder, expected, checks)
        check_vllm_alone(place, folder, expected, checks, flags)
        check_plain(place, folder, expected, checks, flags)
    if checks.faults:
        print("\n".join(checks.faults), file=sys.stderr)
    elif args.markdown:
        atomic_write(args.markdown, checks.table())
    return 1 if checks.faults else 0


if __name__ == "__main__":
    sys.exit(main())
