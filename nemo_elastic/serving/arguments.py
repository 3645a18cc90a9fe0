# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's settings for a family: of its server, so that members are model names, of its engine, and nemo-elastic's
settings.

Ours are passed through vLLM's `--additional-config`. `open_family` has all checks that need no vLLM: the plugin makes
them in each of vLLM's processes, and `nemo-elastic serve` before vLLM starts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nemo_elastic.core.kinds.attention import KV_HEADS, KV_STRIPES
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.formats.hf.quant_config import quantization_of
from nemo_elastic.formats.tokenizer import FamilyTokenizer, has_template
from nemo_elastic.io.fields import Between, read

from .names import Names, family_names
from .pairs import find_end

if TYPE_CHECKING:
    from nemo_elastic.core.family import Parent

#: our name for the model's architecture, so that vLLM's stays registered as it is
ARCHITECTURE = "NemotronElasticForCausalLM"
MIDDLEWARE, GATE = "nemo_elastic.serving.middleware.MemberMiddleware", "nemo_elastic.serving.gate.Gate"
_ENGINE = "nemo_elastic.serving.engine"
#: the key in vLLM's `additional_config`
KEY = "nemo_elastic"
#: default maximum bytes of a request's body: some millions of token ids
MOST_OF_BODY = 2**25
#: where a family has no chat template: to its operator, and to a client
NO_TEMPLATE = "no chat template: without --chat-template it takes prompts at /v1/completions, and no messages"
#: default maximum bytes of cache on a CPU
CPU_CACHE = 4 * 2**30
#: engine setting -> the only value that works with a family, and why
_ONLY: Mapping[str, tuple[Any, str]] = {
    "tensor_parallel_size": (1, "a family takes 1: members are views of whole matrices"),
    "pipeline_parallel_size": (1, "a family takes 1: members have separate layers"),
    "speculative_config": (
        None,
        "a family is served without it: members draft only in the runtime, as in `nemo-elastic chat --draft`",
    ),
    "quantization": (None, "a family is served without it: members are views of the weights as they are stored"),
    "enable_lora": (None, "a family is served without it: adapters are not made for members"),
    "kv_transfer_config": (None, "a family is served without it: members share the pages of the largest"),
    "use_replayssm": (None, "a family is served without it: members share the pages of the largest"),
    "async_scheduling": (None, "a family is served without it: one member runs at a time"),
    "scheduler_cls": (None, "a family sets it"),
    "worker_cls": ("auto", "a family sets it"),
}


@dataclass(frozen=True)
class Settings:
    """Settings that a server's command line passes to the engine's plugin.

    Attributes:
        end_ids: token ids that end the thinking of a pair; that of `</think>`, if there is one, when the server
            starts.
        auto: the cost setting of the model `auto` where a request has none; None for the usual.
        max_body: most bytes of a request's body.
    """

    end_ids: tuple[Annotated[int, Between(0)], ...] = ()
    auto: Annotated[float, Between(0, 1)] | None = None
    max_body: Annotated[int, Between(1)] = MOST_OF_BODY

    @classmethod
    def read(cls, additional: Any) -> Settings:
        """From vLLM's `additional_config`."""
        given = additional.get(KEY, {}) if isinstance(additional, Mapping) else {}
        return read(cls, given, f"additional_config.{KEY}")

    def within(self, additional: Mapping[str, Any] | None) -> dict[str, Any]:
        """`additional_config` with these settings in it, but for those that are as by default."""
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        return {**(additional or {}), KEY: {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}}


def open_family(
    model: str | Path, additional: Any, tokenizer: str | None = None, served: str | Sequence[str] | None = None
) -> tuple[Names, dict[str, Any]] | None:
    """The names of a family that is to be served, and `additional_config` with the token ids that end its thinking.

    Reads everything but the weights, and raises `ElasticError` for families that cannot be served. None for other
    models.
    `served` are more names of the largest member, as `--served-model-name` has them.
    """
    settings = Settings.read(additional)
    names = family_names(model, settings.auto, [served] if isinstance(served, str) else served or ())
    if names is None:
        return None
    _check_layers(model)
    if settings.auto is not None and names.calibration is None:
        raise bad("--auto", settings.auto, f"run `nemo-elastic eval {model} --data DIR --calibrate` first")
    folder, ends = Path(tokenizer or model), settings.end_ids
    if not ends and (folder / "tokenizer.json").is_file():
        ends = find_end(FamilyTokenizer.read(folder))
    return names, replace(settings, end_ids=ends).within(additional)


def _check_layers(folder: str | Path) -> None:
    """Check that a family is in full precision, and that its members share pages of the cache."""
    shapes = read_shapes(folder)
    if (low := quantization_of(shapes.config, shapes.folder)) is not None:
        scheme = low.scheme.precision
        allowed = f"a family in full precision, to share weights; slice members in {scheme} and serve each"
    elif shapes.parent.has(KV_STRIPES):
        allowed = f"a family whose members keep all {KV_HEADS}, to share pages; slice a member and serve its folder"
    else:
        return
    raise bad("folder", str(folder), allowed)


def name_members(args: Any) -> Names | None:
    """Let a server's arguments name every member of the family that they are about, and give the names.

    None for another model. A front end without our middleware is refused: it would take a member's name for the
    family's.
    """
    if not hasattr(args, "middleware"):  # a command of vLLM's that serves nobody
        return None
    given = (getattr(args, name, None) for name in ("additional_config", "tokenizer", "served_model_name"))
    if (opened := open_family(args.model, *given)) is None:
        return None
    if getattr(args, "grpc", False):
        raise bad("--grpc", True, "members are served over HTTP only")
    rust = os.environ.get("VLLM_USE_RUST_FRONTEND", "0")
    if rust.lower() not in ("", "0", "false"):
        raise bad("VLLM_USE_RUST_FRONTEND", rust, "members need vLLM's server in Python")
    names, args.additional_config = opened
    args.served_model_name = list(names.listed)
    # the last one is the first that a request meets
    args.middleware = [MIDDLEWARE, *(m for m in args.middleware if m not in (MIDDLEWARE, GATE)), GATE]
    if not takes_messages(args):
        logging.getLogger("vllm.nemo_elastic").warning("%s has %s", args.model, NO_TEMPLATE)
    return names


def takes_messages(args: Any) -> bool:
    """Whether a server has a chat template; vLLM has no default template."""
    folder = Path(getattr(args, "tokenizer", None) or args.model)
    return bool(getattr(args, "chat_template", None)) or not folder.is_dir() or has_template(folder)


def prepare_engine(args: Any) -> None:
    """Let an engine's arguments (`EngineArgs`) run every member of the family that they are about."""
    opened = open_family(args.model, args.additional_config, args.tokenizer)
    if opened is None:
        return
    from vllm.platforms import current_platform

    for name, (only, why) in _ONLY.items():
        value = getattr(args, name, only)
        if value and value != only and not str(value).startswith(_ENGINE):
            raise bad(f"--{name.replace('_', '-')}", value, why)
    if not isinstance(args.hf_overrides or {}, Mapping):
        raise ElasticError("hf_overrides: a family takes a mapping, no function")
    args.hf_overrides = {**(args.hf_overrides or {}), "architectures": [ARCHITECTURE]}
    args.scheduler_cls = f"{_ENGINE}.scheduler.FamilyScheduler"
    args.worker_cls = f"{_ENGINE}.worker.FamilyWorker"
    args.async_scheduling = False
    args.additional_config = opened[1]
    if current_platform.is_cpu():
        parent = read_shapes(args.model).parent
        if parent.attention_layers:
            _check_heads(parent)
        if args.enable_prefix_caching is None:
            args.enable_prefix_caching = False  # on a CPU this vLLM fails with it on prompts of some hundred tokens
        if not _asks_for_memory(args):
            args.kv_cache_memory_bytes = cpu_cache_bytes()
    else:
        from vllm.config import CUDAGraphMode

        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # the other runner is not tested
        # a graph of the whole model would be one member's, whoever's turn it is; pieces are compiled for each member
        mode, allowed = args.compilation_config.cudagraph_mode, (CUDAGraphMode.PIECEWISE, CUDAGraphMode.NONE)
        if mode is not None and mode not in allowed:
            raise bad("cudagraph_mode", mode.name, "a family takes PIECEWISE, its default, or NONE")
        args.compilation_config.cudagraph_mode = allowed[0] if mode is None else mode


def _check_heads(parent: Parent) -> None:
    """Ask vLLM's kernels for a CPU for attention of these heads, since their list of sizes is not complete.

    vLLM would check at the first request, and crash.
    """
    import torch
    from vllm import _custom_ops as ops
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, _get_attn_isa

    size, ends = parent.attention_head_dim, torch.tensor([0, 1], dtype=torch.int32)
    block = max(multiple.base for multiple in CPUAttentionBackend.get_supported_kernel_block_sizes())
    try:
        ops.cpu_attn_get_scheduler_metadata(
            num_reqs=1, num_heads=parent.attention_heads, num_kv_heads=parent.kv_heads, head_dim=size,
            seq_lens=ends[1:], dtype=torch.float32, query_start_loc=ends, causal=True, sliding_window_size=-1,
            isa=_get_attn_isa(torch.float32, block, size), enable_kv_split=False,
        )  # fmt: skip
    except (RuntimeError, ValueError) as exc:
        reason = str(exc).splitlines()[0]
        raise bad("attention_head_dim", size, f"vLLM on a CPU has no attention of that size ({reason})") from None


def _asks_for_memory(args: Any) -> bool:
    """Whether the user set the engine's memory."""
    share = args.gpu_memory_utilization != type(args).gpu_memory_utilization
    return share or args.kv_cache_memory_bytes is not None or bool(os.environ.get("VLLM_CPU_KVCACHE_SPACE"))


def cpu_cache_bytes() -> int:
    """Bytes of cache on a CPU by default; vLLM's default is 92 % of the machine's memory, free or not."""
    import psutil

    return min(CPU_CACHE, psutil.virtual_memory().available // 4)
