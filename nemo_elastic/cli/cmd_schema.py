# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic schema`: what editors complete and check an `elastic:` block with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.config.block import json_schema
from nemo_elastic.io.outputs import check_file
from nemo_elastic.io.write import atomic_write

__all__ = ["command"]


def command(
    out: Annotated[Path | None, options.out("File to write, instead of printing the schema.")] = None,
    force: Annotated[bool, options.force("an existing file")] = False,
) -> None:
    """Print the JSON schema of a YAML file with an `elastic:` block.

    An editor with a YAML language server uses it when the file's first line is
    `# yaml-language-server: $schema=elastic.schema.json`.

    Example: `nemo-elastic schema --out elastic.schema.json`
    """
    text = json.dumps(json_schema(), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
        return
    check_file(out, force)
    atomic_write(out, text)
