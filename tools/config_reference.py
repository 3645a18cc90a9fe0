# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Print docs/config.md from the dataclasses of the `elastic:` block.

`.venv/bin/python tools/config_reference.py > docs/config.md`; a test compares. Every word about a field is its
docstring's, so that is the place to change it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from nemo_elastic.config.block import WAYS, ElasticConfig
from nemo_elastic.config.sections import (
    DataConfig,
    DistillConfig,
    ImportanceConfig,
    NonfiniteConfig,
    RouterConfig,
    SearchConfig,
)
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.kinds.registry import all_axes, per_layer_axes
from nemo_elastic.core.limits import LatencyField, MemoryField
from nemo_elastic.io.fields import attributes, default_of, schema_of, summary

ROOT = Path(__file__).parents[1]
#: class -> where it stands in the block, in the order of the page
PLACES: dict[type, str] = {
    ElasticConfig: "elastic",
    Budget: "elastic.budgets[]",
    MemoryField: "elastic.budgets[].memory",
    LatencyField: "elastic.budgets[].latency",
    AxisConfig: "elastic.axes.NAME",
    ImportanceConfig: "elastic.importance",
    SearchConfig: "elastic.search",
    RouterConfig: "elastic.router",
    DistillConfig: "elastic.distill",
    DataConfig: "elastic.data",
    NonfiniteConfig: "elastic.nonfinite",
}


def _link(place: str) -> str:
    return f"[`{place}`](#{''.join(c for c in place.lower() if c.isalnum())})"


LINKS = {summary(cls): _link(place) for cls, place in PLACES.items()}
#: what a schema does not tell
TYPES = {
    "axes": f"mapping of {LINKS[summary(AxisConfig)]}",
    "shapes": f"{', '.join(f'`{way}`' for way in WAYS)} or a path",
    "table": "a path",
}


def listed(names: Iterable[str]) -> str:
    """Names as code, the last behind an "and"."""
    *most, last = (f"`{name}`" for name in names)
    return f"{', '.join(most)} and {last}"


NOTES = {
    AxisConfig: f"NAME is one of {listed(all_axes())}. A list stands for its `choices`: descending, absolute, the "
    f"parent's own width first. `per_layer` is for {listed(per_layer_axes())}.",
    NonfiniteConfig: "fp16 is left to its loss scale, which finds infinities by itself.",
}
HEAD = """\
# The `elastic:` block

Made from the dataclasses by `tools/config_reference.py`; a test keeps it up to date. Every value is plain JSON. An
unknown name or a wrong value is an error that names the field and says what is allowed, before anything starts.

**What stands beside `elastic:`** in a file is the recipe's. `nemo elastic train` reads it: fields of the recipe,
and the other arguments of `apply_elastic` (`teacher`, `stage`, `previous`, `total_steps`, `out`,
`mock_data`); any other name is refused, with the nearest that there is. Entry points that read only the block
(`apply_elastic("run.yaml")`, `ElasticPlugin`, `plan`, `init`) ignore all other keys, including misspelled ones. A file
without `elastic:` is the block itself, so `elastc:` is refused everywhere.

Editors with a YAML language server complete and check a block whose file begins with
`# yaml-language-server: $schema=elastic.schema.json`; `nemo-elastic doctor --schema` prints that schema. The files in
`conf/` have it in their folder. This is `conf/elastic_12b.yaml`:

```yaml
{example}```
"""


def main() -> None:
    """Print the page."""
    print(page(), end="")


def page() -> str:
    """The whole page, as Markdown."""
    lines = [HEAD.format(example=(ROOT / "conf" / "elastic_12b.yaml").read_text(encoding="utf-8"))]
    for cls, place in PLACES.items():
        lines += [f"## `{place}`", "", _sentence(summary(cls)), ""]
        if cls in NOTES:
            lines += [NOTES[cls], ""]
        lines += ["| Field | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
        schemas, words = schema_of(cls)["properties"], attributes(cls)
        for f in fields(cls):
            cells = (f"`{f.name}`", TYPES.get(f.name) or _type(schemas[f.name], f.name), _default(f), words[f.name])
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _sentence(text: str) -> str:
    if text == "The whole block. See the attributes' own classes.":
        return "The whole block. The sections have tables of their own below."
    return text if text.endswith((".", ":")) else text + "."


def _type(schema: dict[str, Any], name: str = "") -> str:
    """What a schema takes, as the YAML has it."""
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    plain = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
    if schema["type"] in plain:
        return plain[schema["type"]]
    if schema["type"] == "array":
        item, count = _type(schema["items"]), schema.get("minItems")
        items = {"integer": "integers", "number": "numbers"}.get(item, item)
        return f"list of {count} {items}" if count and count == schema.get("maxItems") else f"list of {items}"
    own = f"elastic.{name}"
    named = _link(own) if own in PLACES.values() else "mapping of numbers"
    return LINKS.get(schema.get("description", ""), named)


def _default(field: Field) -> str:
    value = default_of(field)
    if value is MISSING:
        return "must be given"
    if isinstance(value, dict) and value:
        return "its defaults"
    return "empty" if value in ([], {}) else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    main()
