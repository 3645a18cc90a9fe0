# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic serve`: vLLM's server, with every member of a family as a model."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.extras import require

_AUTO = "Cost setting of the model `auto` for requests without a setting; 0.3 if left out."


def command(
    family: Annotated[Path, typer.Argument(help="A family folder, a member, or any plain Nemotron-H folder.")],
    flags: Annotated[list[str] | None, typer.Argument(help="Flags of `vllm serve`, after --.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; only this machine can reach the default.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, options.number("--port", "Port to listen on.", high=65535)] = 8000,
    auto: Annotated[float | None, options.number("--auto", _AUTO, low=0.0, high=1.0)] = None,
) -> None:
    """Serve a family with vLLM from one copy of its weights: OpenAI's interface, each member a model.

    A client names the member as its `model`: `6b`; `6b>12b` for a pair, in which 6b thinks and 12b answers; or `auto`,
    if the family was calibrated. Install vLLM and this package in the same environment. If VLLM_API_KEY is set,
    clients must send this key on every path except /health.

    Example: `nemo-elastic serve family/ --port 8000`, or with flags of vLLM
    `nemo-elastic serve family/ -- --max-model-len 8192`.
    """
    if find_spec("torch") is None:
        require("vllm")  # its extra brings torch too, which is imported first
    from nemo_elastic.serving.arguments import Settings
    from nemo_elastic.serving.command import Server, check_installed

    server = Server(family, host, port, Settings(auto=auto), flags or [])
    server.check()
    argv = server.argv(check_installed(os.environ.get("VLLM_PLUGINS")))
    if server.is_open:
        typer.echo(
            f"note: everybody who reaches {host} may use this server, because VLLM_API_KEY is not set", err=True
        )
    # nothing of this process is needed any more, and signals reach the server
    os.execve(argv[0], argv, server.environment(os.environ))
