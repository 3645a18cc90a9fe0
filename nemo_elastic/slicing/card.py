# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The README.md of written folders: shape, engines that run the model, and its memory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nemo_elastic.core.cost import DTYPE_BYTES, MemorySpec, active_parameters, has_inactive, memory, parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.mamba import MAMBA_HEAD_DIM, MAMBA_HEADS
from nemo_elastic.core.kinds.moe import EXPERT_FFN, EXPERTS, LATENT
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN, KINDS, layer_axes
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.core.member import limits_used
from nemo_elastic.core.prediction import is_mtp
from nemo_elastic.formats.checkpoint import Checkpoint, Origin
from nemo_elastic.formats.gguf.metadata import why_not
from nemo_elastic.formats.hf.quant_config import precision_of
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.formats.schemes import MODELOPT, Quantization
from nemo_elastic.formats.tokenizer import find_tokenizer
from nemo_elastic.io.values import human_bytes, three_digits

from .lineage import MTP_TRAINED, Lineage

__all__ = [
    "axis_title", "config_dtype", "family_card", "human", "human_bytes", "member_card", "needs_eager_experts",
    "served_as", "serving_spec", "width",
]  # fmt: skip

_TITLES = {HIDDEN: "hidden size", DEPTH: "layers"}
_LINE = "\n"  # Python 3.10 has no backslash in an f-string's braces

_GGUF = "nemo-elastic convert . --format gguf --out ../model.gguf"
#: with a tokenizer, and without one
_PYTHON = (
    """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".", dtype="auto"{code}{eager})
tokenizer = AutoTokenizer.from_pretrained("."{code})
tokens = tokenizer("The first", return_tensors="pt")
print(tokenizer.decode(model.generate(**tokens, max_new_tokens=32)[0]))""",
    """\
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(".", dtype="auto"{code}{eager})
tokens = torch.tensor([[1, 2, 3]])  # tokens of the parent's tokenizer
print(model.generate(tokens, max_new_tokens=32)[0].tolist())""",
)


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


def member_card(model: Checkpoint, lineage: Lineage = Lineage(), left_out: str | None = None) -> str:
    """Give the model card of one member; `left_out`: parts of the source that it lacks, in words."""
    parent, member, origin = model.parent, model.subnet, model.origin
    predicting = sum(math.prod(model.shape(name)) for name in model.names if is_mtp(name))
    count = parameters(parent, member)
    known = () if origin.family is None else (*origin.family, *origin.family.extras)
    limits = limits_used(parent, (replace(m, name="this model") for m in known if m.name == origin.name))
    kinds = [kind for kind in KINDS.values() if kind.always or kind.symbol in parent.pattern]
    kinds.sort(key=lambda kind: kind.symbol != "M")
    title = f"{origin.name}: {human(count)} parameters" if origin.name else f"A member of {human(count)} parameters"
    notes = _notes(origin, member == parent.full, predicting, left_out)
    return f"""\
---
{_front_matter(lineage, model.quantization)}
---

# {title}

This model is one member of a nested Nemotron-H family. nemo-elastic cut it out of the family's weights. {notes}

{_table(parent, {"this model": member, "parent": parent.full}, model, limits)}

Layers ({", ".join(f"{kind.symbol} {kind.words}" for kind in kinds)}): `{member.pattern}`

## Use

{_usage(model)}

## Configuration

The exact shape, with the layer numbers of the parent. {MEMBER_FILE} has the same shape, so that smaller members
can be cut from this folder.

{_json(member.to_json())}

{_provenance(origin.ranking, origin.provenance)}"""


def family_card(model: Checkpoint, family: Family, lineage: Lineage = Lineage()) -> str:
    """Give the model card of a family folder, whose weights are the model's."""
    whole, parent = family.members[0], family.parent
    commands = (f"nemo-elastic slice . --member {m.name} --out ../{m.name}" for m in family.members[1:])
    members = {m.name: m.subnet for m in family}
    return f"""\
---
{_front_matter(lineage, model.quantization)}
---

# A nested family of {len(family.members)} models, up to {human(whole.parameters)} parameters

The weights in this folder are the largest member, {whole.name}. The other members lie inside these weights, and
{FILE} says where. They are cut out without training:

```bash
{_LINE.join(commands)}
```

{_table(parent, members, model, limits_used(parent, family))}

## Use

{_usage(model, family=True)}

{_provenance(family.ranking_digest, family.provenance)}"""


def _notes(origin: Origin, whole: bool, predicting: int, left_out: str | None) -> str:
    notes = [
        "The model is the parent itself."
        if whole
        else "The weights are a part of the parent's weights, copied without training."
    ]
    extra = origin.family is not None and origin.name in origin.family.extra_names
    if not whole and (origin.name is None or extra):
        notes.append(
            "**This shape is not a member of the family and was not trained. Evaluate the model before use.**"
        )
    if predicting:
        layers = f"layers that predict more than one token (MTP, {predicting:,} parameters)"
        trained = ", which were trained behind this member" if MTP_TRAINED in origin.provenance else ""
        notes.append(
            f"The folder also has {layers}{trained}, with which engines may draft. The counts below leave them out."
        )
    if left_out is not None:
        notes.append(f"Left out: {left_out}.")
    return "\n\n".join(notes)


def _front_matter(lineage: Lineage, quantization: Quantization | None) -> str:
    library = "vllm" if quantization is not None and quantization.scheme.layout == MODELOPT else "transformers"
    lines = (f"library_name: {library}", "pipeline_tag: text-generation", "tags: [nemotron_h, nemo-elastic]")
    return "\n".join((*lines, *lineage.lines()))


def _table(parent: Parent, members: dict[str, Subnet], model: Checkpoint, limits: Mapping[str, str]) -> str:
    spec = serving_spec(model.precision or model.dtype)
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
    return "\n".join((*out, *(f"| {title} | " + " | ".join(cells) + " |" for title, cells in rows.items())))


def serving_spec(dtype: str, **other: Any) -> MemorySpec:
    """The memory spec of serving weights in a dtype, with a bf16 cache unless `other` fields of the spec say so.

    Args:
        dtype: its name in a safetensors header or in `DTYPE_BYTES`; every other name counts as bf16.
    """
    name = {"F32": "fp32", "F16": "fp16", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}.get(dtype, dtype)
    return MemorySpec(weights=name if name in DTYPE_BYTES else "bf16", **other)


def served_as(
    config: Mapping[str, Any], batch: int = 1, length: int = 8192, quantization: Quantization | None = None
) -> MemorySpec:
    """The memory spec of serving a Hugging Face folder as it is: its weights in the dtype that its config names.

    One rule for `inspect` and a report: the same family has the same figure. Who knows how weights of low precision
    are stored gives `quantization`.
    """
    named = precision_of(config) if quantization is None else quantization.scheme.precision
    return serving_spec(named or config_dtype(config), batch=batch, length=length)


def config_dtype(config: Mapping[str, Any]) -> str:
    """Dtype of the weights by `config.json`: fp32, fp16, or bf16 for any other value."""
    named = str(config.get("torch_dtype", config.get("dtype")))
    return {"float32": "fp32", "float16": "fp16"}.get(named, "bf16")


def _usage(model: Checkpoint, family: bool = False) -> str:
    member, quantization, tokenizer = model.subnet, model.quantization, find_tokenizer(model.companions) is not None
    code, parts, options = not member.is_uniform, [], ""
    if not tokenizer:
        parts.append("This folder has no tokenizer. The model uses the parent's tokenizer.")
        options = " --tokenizer PARENT"
    if code:
        parts.append("The layers differ in width: the folder has two small files of code for `trust_remote_code`.")
    if quantization is None or quantization.scheme.layout != MODELOPT:
        eager = ', experts_implementation="eager"' if needs_eager_experts(member) else ""
        trust = ", trust_remote_code=True" if code else ""
        python = _PYTHON[0 if tokenizer else 1].format(code=trust, eager=eager)
        parts.append(f"transformers 5.6 or newer{'' if quantization is None else ', and compressed-tensors'}:")
        parts.append(f"```python\n{python}\n```")
    if quantization is not None:
        parts.append("Other software may refuse these weights, or load them and compute something else.")
    if quantization is not None and family:
        parts.append(
            "For vLLM, slice members and serve each: `nemo-elastic serve` takes families in full precision only."
        )
    elif any(len({*member.widths(axis)}) > 1 for axis in (MAMBA_HEADS, MAMBA_HEAD_DIM)):
        parts.append("vLLM reads one number of Mamba heads and channels for all layers, and refuses this model.")
    else:
        parts += ["vLLM:", f"```bash\nvllm serve .{' --trust-remote-code' if code else ''}{options}\n```"]
    why = why_not(model)
    if why is None:
        parts += ["llama.cpp, Ollama and LM Studio, as one file:", f"```bash\n{_GGUF}\n```"]
    else:
        parts.append(f"Not llama.cpp: this model {why}.")
    return "\n\n".join((*parts, "The pages of nemo-elastic say which software was tried with which shapes."))


def needs_eager_experts(member: Subnet) -> bool:
    """Whether transformers needs `experts_implementation="eager"`: its grouped GEMM wants rows of a multiple of 16
    bytes, 8 elements in bfloat16.
    """
    inputs = member.widths(LATENT) or ((member.hidden,) if member.widths(EXPERTS) else ())
    return any(width % 8 for width in (*inputs, *member.widths(EXPERT_FFN)))


def _provenance(ranking: str | None, provenance: Any) -> str:
    line = f"## Provenance\n\nRanking that sorted the parent: {f'`{ranking}`' if ranking else 'none'}\n"
    return f"{line}\n{_json(dict(provenance))}\n" if provenance else line


def _json(value: Any) -> str:
    return f"```json\n{json.dumps(value, indent=None if len(json.dumps(value)) < 100 else 1)}\n```"
