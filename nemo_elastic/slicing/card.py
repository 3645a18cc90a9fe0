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
from nemo_elastic.core.kinds.moe import EXPERT_FFN, EXPERTS, LATENT
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN, KINDS, layer_axes
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.core.member import limits_used, why_not_nested
from nemo_elastic.formats.hf.precision import precision_of
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.formats.quantized import COMPRESSED, Stored
from nemo_elastic.formats.source import Origin
from nemo_elastic.io.values import human_bytes, three_digits

from .lineage import Lineage
from .loads import OTHERS, loads

__all__ = [
    "CPU_HEADS", "axis_title", "extras_inside", "family_card", "human", "human_bytes", "member_card",
    "needs_eager_experts", "runs_in", "served_as", "serving_spec", "vllm_heads", "width", "with_extras",
]  # fmt: skip

#: axes that vLLM keeps one width of for all layers
_ONE_STATE = ("mamba_heads", "mamba_head_dim")
#: of which the converter of llama.cpp, `GraniteHybridModel.set_gguf_parameters`, wants the Mamba inner size a multiple
_INNER = 64
#: channels of attention heads that vLLM's kernels for a CPU have: more than its own list of them; `serve` asks them
CPU_HEADS = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
_CPU = "a CPU"
#: symbols of layers that vLLM, llama.cpp and NeMo were tried with
_TRIED = set("M-*")
#: around the part; a reader of the card does not see them
_BEGIN, _END = "<!-- extra shapes -->", "<!-- end of extra shapes -->"
_TITLES = {HIDDEN: "hidden size", DEPTH: "layers"}


def axis_title(axis: str) -> str:
    """What tables call an axis."""
    return _TITLES[axis] if axis in _TITLES else layer_axes()[axis][1].words


def human(count: float) -> str:
    """Parameters in three digits: 6.01B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
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
    count = parameters(parent, member)
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
        _front_matter(lineage),
        f"# {title}",
        "",
        f"One member of a nested Nemotron-H family, cut out by nemo-elastic. {notes[0]}",
        *notes[1:],
        "",
        *_table(parent, {"this model": member, "parent": parent.full}, _precision(dtype, low), limits),
        "",
        f"Layers ({', '.join(f'{k.symbol} {k.words}' for k in kinds)}): `{member.pattern}`",
        "",
        *_usage(member, parent, tokenizer, low),
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
    lines = [
        _front_matter(lineage),
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
        *_usage(whole.subnet, family.parent, tokenizer, low, family=True),
        *extras_section(family.parent, extras_inside(family, whole.subnet)),
        *_provenance(family.ranking_digest, family.provenance),
    ]
    return "\n".join(lines)


def _precision(dtype: str, low: Stored | None) -> str:
    return dtype if low is None else low.scheme.precision


def _front_matter(lineage: Lineage) -> str:
    own = ("library_name: transformers", "pipeline_tag: text-generation", "tags: [nemotron_h, nemo-elastic]")
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
    dtype = str(config.get("torch_dtype", config.get("dtype")))
    named = precision_of(config) if low is None else low.scheme.precision
    name = named or {"float32": "F32", "float16": "F16"}.get(dtype, "BF16")
    return serving_spec(name, batch=batch, length=length)


def _usage(
    member: Subnet, parent: Parent, tokenizer: bool, low: Stored | None = None, family: bool = False
) -> list[str]:
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
    lines = ["## Use", "", f"Runs in {runs_in(member, parent, low)}.", ""]
    limits = None if low is None else loads(low, bool(member.widths(EXPERTS)))
    if not tokenizer:
        lines += ["This folder has no tokenizer: its tokens are those of the parent's.", ""]
        flag += " --tokenizer PARENT"
    if limits is None or limits.transformers is None:
        needs = (
            "transformers 5.6 or newer:" if limits is None else "transformers 5.6 or newer, and compressed-tensors:"
        )
        lines += [needs, "", "```python", *(with_text if tokenizer else with_ids), "```", ""]
    else:
        lines += [limits.transformers, ""]
    lines += [OTHERS, ""] if low is not None else []
    if low is not None and family:
        lines += ["Slice members and serve each: `nemo-elastic serve` takes a family in full precision.", ""]
    elif member.widths(EXPERTS):
        lines += ["vLLM 0.32 on a CPU refuses experts without a gate; on a GPU no member with experts was tried.", ""]
    elif not vllm_heads(member, parent):
        lines += [f"vLLM has no attention for heads of {parent.attention_head_dim} channels and cannot serve it.", ""]
    elif all(len(set(member.widths(axis))) <= 1 for axis in ("mamba_heads", "mamba_head_dim")):
        where = "vLLM:" if limits is None or limits.cpu else "vLLM on a GPU, as 0.32 has no kernels for it on a CPU:"
        if limits is not None and limits.emulated:
            where = "vLLM; on a CPU with nemo-elastic's plugin, which lets it emulate NVFP4, slowly:"
        lines += [where, "", "```bash", f"vllm serve .{flag}", "```", ""]
    else:
        lines += ["vLLM needs the same Mamba heads in all layers and cannot serve it.", ""]
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


# ------------------------------------------------------------------ where a member runs


def runs_in(member: Subnet, parent: Parent, low: Stored | None = None) -> str:
    """Software that runs a member as it is written, with what each needs.

    Args:
        member: its shape.
        parent: whose it is.
        low: how its weights of low precision are stored, where it has some.

    Returns:
        E.g. "transformers, vLLM, NeMo", with needs in brackets. llama.cpp's converter knows tokenizers by a
        fingerprint, of which no shape says anything: that is always such a need.
    """
    code = "" if member.is_uniform else "its own code"
    attends = bool(member.widths("attention_heads"))
    served = all(len(set(member.widths(axis))) <= 1 for axis in _ONE_STATE)
    slow = "" if attends else "no cache, so slow"
    eager = "eager experts" if needs_eager_experts(member) else ""
    limits = None if low is None else loads(low, bool(member.widths(EXPERTS)))
    software = []
    if limits is None or limits.transformers is None:
        software.append(_with("transformers", code, slow, eager, "" if low is None else COMPRESSED))
    tried = set(member.pattern) <= _TRIED
    devices = vllm_heads(member, parent)
    if limits is not None and not (limits.cpu or limits.emulated):
        devices = [device for device in devices if device != _CPU]
    if served and tried and devices:
        plugin = "our plugin on a CPU" if limits is not None and limits.emulated and _CPU in devices else ""
        software.append(_with("vLLM", code, f"on {devices[0]}" if len(devices) == 1 else plugin))
    if member.is_uniform and tried and low is None:
        software += ["llama.cpp (a tokenizer that its converter knows)"] if attends and _is_converted(member) else []
        software.append("NeMo")
    return ", ".join(software) or "nemo-elastic alone"


def vllm_heads(member: Subnet, parent: Parent) -> list[str]:
    """Devices on which vLLM has attention for a member's heads: on a GPU where FlashAttention does."""
    size, free = parent.attention_head_dim, not member.widths("attention_heads")
    has = {_CPU: free or size in CPU_HEADS, "a GPU": free or (size % 8 == 0 and size <= 256)}
    return [device for device, runs in has.items() if runs]


def _is_converted(member: Subnet) -> bool:
    """Whether llama.cpp's converter takes the widths of a uniform member."""
    heads, sizes = (member.widths(axis) for axis in _ONE_STATE)
    return all(h * p % _INNER == 0 for h, p in zip(heads, sizes, strict=True))


def needs_eager_experts(member: Subnet, multiple: int = 8) -> bool:
    """Whether transformers needs `experts_implementation="eager"`: its grouped products want rows of whole 16 bytes.

    Args:
        member: its shape.
        multiple: elements in 16 bytes: 8 in bfloat16, 4 in float32.
    """
    read = member.widths(LATENT) or ((member.hidden,) if member.widths(EXPERTS) else ())
    return any(width % multiple for width in (*read, *member.widths(EXPERT_FFN)))


def _with(name: str, *needs: str) -> str:
    given = "; ".join(n for n in needs if n)
    return f"{name} ({given})" if given else name


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
