# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of the `elastic:` block, made from its dataclasses. Editors read it: `conf/elastic.schema.json`.

A schema sees one value at a time: what holds between values (order of budgets, choices against the parent)
`ElasticConfig` checks.
"""

from __future__ import annotations

from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.io.fields import schema_of


def json_schema() -> dict[str, Any]:
    """Schema of a YAML file with an `elastic:` key; other keys are the recipe's and anything goes."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nemo-elastic",
        "description": "A run file of nemo-elastic, or one that holds its `elastic:` block beside overrides.",
        "type": "object",
        "properties": {"elastic": schema_of(ElasticConfig)},
        "required": ["elastic"],
    }
