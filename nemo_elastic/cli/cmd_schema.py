# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic schema`: what editors complete and check an `elastic:` block with."""

from __future__ import annotations

from nemo_elastic.cli import options
from nemo_elastic.config.block import json_schema


def command() -> None:
    """Print the JSON schema of a YAML file with an `elastic:` block.

    An editor with a YAML language server uses it when the file's first line is
    `# yaml-language-server: $schema=elastic.schema.json`.

    Example: `nemo-elastic schema > elastic.schema.json`
    """
    options.print_json(json_schema())
