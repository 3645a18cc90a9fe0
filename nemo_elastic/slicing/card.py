# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The README.md of what we write: what the model is, exactly, where it runs, and what it needs there.

docs/deploy.md has the table of what was tried.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nemo_elastic.core.cost import DTYPE_BYTES, MemorySpec, active_parameters, counts, has_inactive, memory, parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN, KINDS, layer_axes
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.core.member import limits_used, why_not_nested
from nemo_elastic.formats.hf.quant_config import precision_of
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.formats.quantized import Stored
from nemo_elastic.formats.source import Origin
from nemo_elastic.io.values import human_bytes, three_digits

from .lineage import Lineage
from .loads import OTHERS, TRANSFORMERS, VLLM, Runs, needs_eager_experts, where_it_runs

__all__ = [
    "axis_title", "extras_inside", "family_card", "human", "human_bytes", "member_card", "served_as", "serving_spec",
    "width", "with_extras",
]  # fmt: skip

#: around the part; a reader of the card does not see them
_BEGIN, _END = "<!-- extra shapes -->", "<!-- end of extra shapes -->"
_TITLES = {HIDDEN: "hidden size", DEPTH: "layers"}


def axis_title(axis: str) -> str:
    """What tables call an axis."""
    return _TITLES[axis] if axis in _TITLES else layer_axes()[axis][1].words


def human(count: float) -> str:
    """Parameters in three digits: 6.01B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= 0.9995 * size:  # 999,950,000 is 1B
            return f"{three_digits(count / size)}{unit}"
    return f"{count:.0f}"


def width(member: Subnet, axis: str) -> str:
    """Width of a member on an axis; a range where its layers differ."""
    if axis == DEPTH:
        return str(len(member.layers))
    widths = (member.hidden,) if axis == HIDDEN else member.widths(axis)
    if not widths:
        return "-"
    low, high = min(widths), max(widths)
    return str(low) if low == high else f"{low}-{high}"


def member_card(
    parent: Parent,
    member: Subnet,
    origin: Origin,
    dtype: str,
    tokenizer: bool,
    lineage: Lineage = Lineage(),
    left_out: str | None = None,
    low: Stored | None = None,
    predicting: int = 0,
) -> str:
    """Give the model card of one member.

    Args:
        parent: Shape of the parent.
        member: The member.
        origin: Where it comes from.
        dtype: Name of the weights' dtype in a safetensors header.
        tokenizer: Whether the folder has one.
        lineage: Its licence, and what it was made of.
        left_out: What its source has and it has not, in words.
        low: How its weights of low precision are stored, where it has some.
        predicting: Parameters of its layers that predict more than one token.
    """
    count, runs = parameters(parent, member), where_it_runs(member, parent, low)
    title = f"{origin.name}: {human(count)} parameters" if origin.name else f"A member of {human(count)} parameters"
    if member == parent.full:
        notes = ["It is the parent itself."]
    else:
        notes = ["Its weights are a subset of the parent's; no training followed."]
        if origin.name is None or (origin.family is not None and origin.name in origin.family.extra_names):
            notes += ["", "**Its shape is none of the family's members and was not trained. Evaluate it before use.**"]
    if predicting:
        own = f"Layers of its widths that predict more than one token (MTP, {predicting:,} parameters)"
        notes += ["", f"{own} are in the folder, and in none of these counts: engines may draft with them."]
    if left_out is not None:
        notes += ["", f"It is without its source's {left_out}."]
    known = () if origin.family is None else (*origin.family, *origin.family.extras)
    limits = limits_used(parent, (replace(m, name="this model") for m in known if m.name == origin.name))
    kinds = [kind for kind in KINDS.values() if kind.always or kind.symbol in parent.pattern]
    kinds.sort(key=lambda kind: kind.symbol != "M")
    lines = [
        _front_matter(lineage, runs),
        f"# {title}",
        "",
        f"One member of a nested Nemotron-H family, cut out by nemo-elastic. {notes[0]}",
        *notes[1:],
        "",
        *_table(parent, {"this model": member, "parent": parent.full}, _precision(dtype, low), limits),
        "",
        f"Layers ({', '.join(f'{k.symbol} {k.words}' for k in kinds)}): `{member.pattern}`",
        "",
        *_usage(member, runs, tokenizer, low),
        "## Configuration",
        "",
        f"The exact shape, layers counted in the parent ({MEMBER_FILE} has it too, so that smaller members can be cut",
        "from this folder):",
        "",
        *_json(member.to_json()),
        *extras_section(parent, extras_inside(origin.family, member)),
        *_provenance(origin.ranking, origin.provenance),
    ]
    return "\n".join(lines)


def family_card(
    family: Family, dtype: str, tokenizer: bool, lineage: Lineage = Lineage(), low: Stored | None = None
) -> str:
    """Give the model card of a family folder; see `member_card`."""
    whole = family.members[0]
    runs = where_it_runs(whole.subnet, family.parent, low)
    lines = [
        _front_matter(lineage, runs),
        f"# A nested family of {len(family.members)} models, up to {human(whole.parameters)} parameters",
        "",
        f"These weights are the largest member, {whole.name}. The others lie inside it ({FILE} says where) and are",
        "cut out without training:",
        "",
        "```bash",
        *(f"nemo-elastic slice . --budget {m.name} --out ../{m.name}" for m in family.members[1:]),
        "```",
        "",
        *_table(
            family.parent,
            {m.name: m.subnet for m in family},
            _precision(dtype, low),
            limits_used(family.parent, family),
        ),
        "",
        *_usage(whole.subnet, runs, tokenizer, low, family=True),
        *extras_section(family.parent, extras_inside(family, whole.subnet)),
        *_provenance(family.ranking_digest, family.provenance),
    ]
    return "\n".join(lines)


def _precision(dtype: str, low: Stored | None) -> str:
    return dtype if low is None else low.scheme.precision


def _front_matter(lineage: Lineage, runs: Runs) -> str:
    library = [f"library_name: {name.lower()}" for name in (TRANSFORMERS, VLLM) if name in runs.needs][:1]
    own = (*library, "pipeline_tag: text-generation", "tags: [nemotron_h, nemo-elastic]")
    return "\n".join(("---", *own, *lineage.lines(), "---", ""))


def _table(parent: Parent, members: dict[str, Subnet], dtype: str, limits: Mapping[str, str] = {}) -> list[str]:
    spec = serving_spec(dtype)
    rows: dict[str, list[str]] = {"parameters": [f"{parameters(parent, m):,}" for m in members.values()]}
    if has_inactive(parent):
        rows["active parameters"] = [f"{active_parameters(parent, m):,}" for m in members.values()]
    if limits:
        rows["of its limits"] = [limits.get(name, "-") for name in members]
    sizes = [human_bytes(memory(parent, m, spec)) for m in members.values()]
    rows[f"memory ({spec.weights}, {spec.batch} x {spec.length} tokens)"] = sizes
    axes = (DEPTH, *(axis for axis in parent.axes if axis != DEPTH))
    rows |= {axis_title(axis): [width(m, axis) for m in members.values()] for axis in axes}
    out = ["| | " + " | ".join(members) + " |", "|---|" + "---:|" * len(members)]
    return out + [f"| {title} | " + " | ".join(cells) + " |" for title, cells in rows.items()]


def serving_spec(dtype: str, **other: Any) -> MemorySpec:
    """The memory spec of serving weights in the dtype that a file has them in (the cache stays in bf16)."""
    name = {"F32": "fp32", "F16": "fp16", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}.get(dtype, dtype)
    name = name if name in DTYPE_BYTES else "bf16"
    assert name in DTYPE_BYTES
    return MemorySpec(weights=name, **other)


def served_as(config: Mapping[str, Any], batch: int = 1, length: int = 8192, low: Stored | None = None) -> MemorySpec:
    """The memory spec of serving a Hugging Face folder as it is: its weights in the dtype that its config names.

    One rule for what `inspect` and a report show: the same family has the same figure.

    Args:
        config: its `config.json`.
        batch, length: see `MemorySpec`.
        low: how weights of low precision are stored, by whoever knows the folder; by default what the config names.
    """
    named = precision_of(config) if low is None else low.scheme.precision
    return serving_spec(named or dtype_of(config), batch=batch, length=length)


def dtype_of(config: Mapping[str, Any]) -> str:
    """The dtype that a `config.json` names, by the name that options have for it: bf16 where it names none of ours."""
    named = str(config.get("torch_dtype", config.get("dtype")))
    return {"float32": "fp32", "float16": "fp16"}.get(named, "bf16")


def _usage(member: Subnet, runs: Runs, tokenizer: bool, low: Stored | None, family: bool = False) -> list[str]:
    plain = member.is_uniform
    trust = "" if plain else ", trust_remote_code=True"
    flag = "" if plain else " --trust-remote-code"
    eager = ', experts_implementation="eager"' if needs_eager_experts(member) else ""
    model = f'model = AutoModelForCausalLM.from_pretrained(".", dtype="auto"{trust}{eager})'
    with_text = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        model,
        f'tokenizer = AutoTokenizer.from_pretrained("."{trust})',
        'tokens = tokenizer("The first", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**tokens, max_new_tokens=32)[0]))",
    ]
    with_ids = [
        "import torch",
        "from transformers import AutoModelForCausalLM",
        "",
        model,
        "tokens = torch.tensor([[1, 2, 3]])  # of the parent's tokenizer",
        "print(model.generate(tokens, max_new_tokens=32)[0].tolist())",
    ]
    lines = ["## Use", "", f"Runs in {runs}.", ""]
    if not tokenizer:
        lines += ["This folder has no tokenizer: its tokens are those of the parent's.", ""]
        flag += " --tokenizer PARENT"
    if TRANSFORMERS in runs.needs:
        needs = "transformers 5.6 or newer" + (", and compressed-tensors:" if low is not None else ":")
        lines += [needs, "", "```python", *(with_text if tokenizer else with_ids), "```", ""]
    else:
        lines += [runs.lacks[TRANSFORMERS], ""]
    lines += [OTHERS, ""] if low is not None else []
    if low is not None and family:
        lines += ["Slice members and serve each: `nemo-elastic serve` takes a family in full precision.", ""]
    elif VLLM in runs.needs:
        lines += [f"{runs.named(VLLM)}:", "", "```bash", f"vllm serve .{flag}", "```", ""]
    else:
        lines += [runs.lacks[VLLM], ""]
    if not member.widths("attention_heads"):
        lines += ["It keeps no attention layer, which transformers' cache needs: decoding there is slow.", ""]
    if not plain:
        lines += ["Its layers differ in width: the folder has two small files of code, hence `trust_remote_code`.", ""]
    return lines


def _provenance(ranking: str | None, provenance: Any) -> list[str]:
    lines = ["## Provenance", "", f"Ranking that sorted the parent: {f'`{ranking}`' if ranking else 'none'}", ""]
    return lines + (_json(dict(provenance)) if provenance else [])


def _json(value: Any) -> list[str]:
    return ["```json", json.dumps(value, indent=None if len(json.dumps(value)) < 100 else 1), "```", ""]


# ------------------------------------------------------------------ extra shapes


def extras_inside(family: Family | None, held: Subnet) -> dict[str, Subnet]:
    """The extra shapes that can be cut by name out of what a folder holds.

    Args:
        family: As the folder knows it; None where it does not.
        held: What the folder holds.
    """
    extras = () if family is None else family.extras
    return {m.name: m.subnet for m in extras if m.subnet != held and why_not_nested(m.subnet, held) is None}


def extras_section(parent: Parent, extras: Mapping[str, Subnet]) -> list[str]:
    """Lines of a card about extra shapes; none where there are none."""
    if not extras:
        return []
    costs = {name: counts(parent, m) for name, m in extras.items()}
    heads = [key.replace("_", " ") for key in counts(parent, parent.full)]
    rows = [
        f"| {name} | {' | '.join(f'{n:,}' for n in costs[name].values())} | {len(m.layers)} "
        f"| `nemo-elastic slice . --budget {name}` |"
        for name, m in extras.items()
    ]
    return [
        _BEGIN,
        "## Extra shapes",
        "",
        "Named shapes beside the members, each found inside the weights after training, for a task perhaps. **None",
        "was trained as it is. Evaluate it before use.**",
        "",
        f"| | {' | '.join(heads)} | layers | cut by |",
        "|---|" + "---:|" * len(heads) + "---:|---|",
        *rows,
        "",
        _END,
        "",
    ]


def with_extras(text: str, family: Family) -> str:
    """The card of a family with the extra shapes that it has now; what else stands there is as it was."""
    section = "\n".join(extras_section(family.parent, extras_inside(family, family.members[0].subnet)))
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if begin and end:
        return before + section.rstrip("\n") + after
    return f"{text.rstrip()}\n\n{section.rstrip()}\n"
