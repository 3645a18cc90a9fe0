# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Print docs/config.md from the dataclasses of the `elastic:` block.

`.venv/bin/python tools/config_reference.py > docs/config.md`; a test compares. Every word about a field is its
docstring's, so that is the place to change it.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from nemo_elastic.config.block import WAYS
from nemo_elastic.config.schema import REQUIRED, SECTIONS, WORDS, attributes, default_of, summary
from nemo_elastic.core.kinds.registry import all_axes, per_layer_axes

ROOT = Path(__file__).parents[1]
#: class -> where it stands in the block
PLACES = {
    "ElasticConfig": "elastic",
    "Budget": "elastic.budgets[]",
    "MemorySpec": "elastic.budgets[].memory",
    "AxisConfig": "elastic.axes.NAME",
    "ImportanceConfig": "elastic.importance",
    "SearchConfig": "elastic.search",
    "HalvingConfig": "elastic.halving",
    "RouterConfig": "elastic.router",
    "DistillConfig": "elastic.distill",
    "DataConfig": "elastic.data",
    "NonfiniteConfig": "elastic.nonfinite",
}
#: what annotations do not tell
MAPPINGS = {
    "axes": "mapping of [`elastic.axes.NAME`](#elasticaxesname)",
    "memory": "[`elastic.budgets[].memory`](#elasticbudgetsmemory) or null",
    "sampling": "mapping of numbers",
    "shapes": f"{', '.join(f'`{way}`' for way in WAYS)} or a path",
    "terms": "mapping of numbers or null",
}


def listed(names: Iterable[str]) -> str:
    """Names as code, the last behind an "and"."""
    *most, last = (f"`{name}`" for name in names)
    return f"{', '.join(most)} and {last}"


NOTES = {
    "MemorySpec": "Beside these it has `size`, which must be given: the limit, in bytes or as text such as `18GiB`.",
    "AxisConfig": f"NAME is one of {listed(all_axes())}. A list stands for its `choices`: descending, absolute, the "
    f"parent's own width first. `per_layer` is for {listed(per_layer_axes())}.",
    "NonfiniteConfig": "fp16 is left to its loss scale, which finds infinities by itself.",
}
HEAD = """\
# The `elastic:` block

Made from the dataclasses by `tools/config_reference.py`; a test keeps it up to date. Every value is plain JSON. An
unknown name or a wrong value is an error that names the field and says what is allowed, before anything starts.

**What stands beside `elastic:`** in a file is the recipe's. `nemo elastic train` reads it: fields of the recipe,
and the other arguments of `apply_elastic` (`teacher`, `stage`, `previous`, `done_steps`, `total_steps`, `out`); any
other name is refused, with the nearest that there is. Whoever asks for the block alone,
`apply_elastic("run.yaml")`, `ElasticPlugin`, `plan` and `init`, passes over it, typos included. A file without
`elastic:` is the block itself, so `elastc:` is refused everywhere.

Editors with a YAML language server complete and check a block whose file begins with
`# yaml-language-server: $schema=elastic.schema.json`; `nemo-elastic schema` prints that schema. The files in `conf/`
have it beside them. This is `conf/elastic_12b.yaml`:

```yaml
{example}```
"""


def main() -> None:
    """Print the page."""
    print(page(), end="")


def page() -> str:
    """The whole page, as Markdown."""
    lines = [HEAD.format(example=(ROOT / "conf" / "elastic_12b.yaml").read_text(encoding="utf-8"))]
    for cls in SECTIONS:
        lines += [f"## `{PLACES[cls.__name__]}`", "", _sentence(summary(cls)), ""]
        if cls.__name__ in NOTES:
            lines += [NOTES[cls.__name__], ""]
        lines += ["| Field | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
        hints, words = get_type_hints(cls), attributes(cls)
        for f in fields(cls):
            cells = (f"`{f.name}`", _type(cls, f.name, hints[f.name]), _default(cls, f), words[f.name])
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _sentence(text: str) -> str:
    if text == "The whole block. See the attributes' own classes.":
        return "The whole block. The sections have tables of their own below."
    return text if text.endswith((".", ":")) else text + "."


def _type(cls: type, name: str, hint: Any) -> str:
    """A field's type as the YAML has it."""
    if (cls, name) in WORDS:
        null = " or null" if type(None) in get_args(hint) else ""
        return ", ".join(f"`{w}`" for w in WORDS[cls, name]) + null
    if name in MAPPINGS:
        return MAPPINGS[name]
    return _word(hint)


def _word(hint: Any) -> str:
    plain = {int: "integer", float: "number", str: "text", bool: "true or false"}
    if hint in plain:
        return plain[hint]
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _word(a) for a in get_args(hint))
    if get_origin(hint) is tuple:
        item, *rest = get_args(hint)
        listed = {"integer": "integers", "number": "numbers"}.get(_word(item), _word(item))
        return f"list of {listed}" if rest == [Ellipsis] else f"list of {1 + len(rest)} {listed}"
    place = PLACES.get(getattr(hint, "__name__", ""))
    return f"[`{place}`](#{_anchor(place)})" if place else "mapping"


def _anchor(place: str) -> str:
    return "".join(c for c in place.lower() if c.isalnum() or c in "-_")


def _default(cls: type, field: Field) -> str:
    value = default_of(field)
    if value is MISSING or (cls, field.name) in REQUIRED:
        return "must be given"
    if isinstance(value, dict) and value:
        return "its defaults"
    return "empty" if value in ([], {}) else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    main()
