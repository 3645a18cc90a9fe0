# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which software runs a member as it is written, and what it needs there: decided once for cards and commands.

docs/deploy.md and docs/tables/low_precision_loads.md have what was tried. Software that loads weights of low precision
and computes something else does not run them: it says nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.moe import EXPERT_FFN, EXPERTS, LATENT
from nemo_elastic.formats.low_precision import COMPRESSED, MODELOPT, Stored

__all__ = [
    "CPU_HEADS", "OTHERS", "TRANSFORMERS", "VLLM", "Runs", "needs_eager_experts", "runs_in", "where_it_runs",
]  # fmt: skip

TRANSFORMERS, VLLM = "transformers", "vLLM"
#: what else reads members in full precision
OTHERS = (
    "llama.cpp and NeMo read no weights in low precision: cut the member from the family in full precision for them."
)
_LAYOUT = (
    "transformers 5.19 does not read ModelOpt's layout: it refuses NVFP4, and loads FP8 without its scales, which is "
    "wrong."
)
_EXPERTS = "transformers 5.19 leaves out a scale of each expert in NVFP4, and computes something else."
#: axes that vLLM keeps one width of for all layers
_ONE_STATE = ("mamba_heads", "mamba_head_dim")
#: of which the converter of llama.cpp, `GraniteHybridModel.set_gguf_parameters`, wants the Mamba inner size a multiple
_INNER = 64
#: channels of attention heads that vLLM's kernels for a CPU have: more than its own list of them; `serve` asks them
CPU_HEADS = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
_CPU, _GPU = "a CPU", "a GPU"
#: symbols of layers that vLLM, llama.cpp and NeMo were tried with
_TRIED = set("M-*")


@dataclass(frozen=True)
class Runs:
    """Where a member runs as it is written.

    Attributes:
        needs: software -> what it needs, in words.
        lacks: why transformers or vLLM does not run it, a sentence for its card.
    """

    needs: Mapping[str, str]
    lacks: Mapping[str, str]

    def __str__(self) -> str:
        return ", ".join(map(self.named, self.needs)) or "nemo-elastic alone"

    def named(self, name: str) -> str:
        """A software with what it needs."""
        return f"{name} ({self.needs[name]})" if self.needs[name] else name


def where_it_runs(member: Subnet, parent: Parent, low: Stored | None = None) -> Runs:
    """Software that runs a member as it is written, with what each needs.

    Args:
        member: its shape.
        parent: whose it is.
        low: how its weights of low precision are stored, where it has some.

    Returns:
        E.g. "transformers, vLLM, NeMo", with needs in brackets. llama.cpp's converter knows tokenizers by a
        fingerprint, of which no shape says anything: that is always such a need.
    """
    code, attends = "" if member.is_uniform else "its own code", bool(member.widths("attention_heads"))
    tried, experts = set(member.pattern) <= _TRIED, bool(member.widths(EXPERTS))
    blocks, modelopt = (False, False) if low is None else (low.scheme.block > 0, low.scheme.layout == MODELOPT)
    needs: dict[str, str] = {}
    lacks: dict[str, str] = {}
    if modelopt or (blocks and experts):
        lacks[TRANSFORMERS] = _LAYOUT if modelopt else _EXPERTS
    else:
        slow, eager = "" if attends else "no cache, so slow", "eager experts" if needs_eager_experts(member) else ""
        needs[TRANSFORMERS] = _words(code, slow, eager, "" if low is None else COMPRESSED)
    emulated = low is not None and blocks and low.activations
    kernels = low is None or (modelopt and not blocks)  # on a CPU
    size = parent.attention_head_dim
    # on a GPU where FlashAttention has the heads
    heads = {_CPU: not attends or size in CPU_HEADS, _GPU: not attends or (size % 8 == 0 and size <= 256)}
    devices = [_CPU] if heads[_CPU] and (kernels or emulated) else []
    devices += [_GPU] if heads[_GPU] else []
    if experts:
        lacks[VLLM] = "vLLM 0.32 on a CPU refuses experts without a gate; on a GPU no member with experts was tried."
    elif not tried:
        lacks[VLLM] = "vLLM was not tried with its layers."
    elif not devices:
        where = " on a GPU, and no kernels for its weights on a CPU," if heads[_CPU] else ""
        lacks[VLLM] = f"vLLM has no attention for heads of {size} channels{where} and cannot serve it."
    elif any(len(set(member.widths(axis))) > 1 for axis in _ONE_STATE):
        lacks[VLLM] = "vLLM needs the same Mamba heads in all layers and cannot serve it."
    else:
        plugin = "our plugin on a CPU" if emulated and _CPU in devices else ""
        needs[VLLM] = _words(code, f"on {devices[0]}" if len(devices) == 1 else plugin)
    if member.is_uniform and tried and low is None:
        if attends and _is_converted(member):
            needs["llama.cpp"] = "a tokenizer that its converter knows"
        needs["NeMo"] = ""
    return Runs(needs, lacks)


def runs_in(member: Subnet, parent: Parent, low: Stored | None = None) -> str:
    """See `where_it_runs`."""
    return str(where_it_runs(member, parent, low))


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


def _words(*needs: str) -> str:
    return "; ".join(n for n in needs if n)
