# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's settings for a family: of its server, so that members are model names, and of its engine; and our own.

Our own travel through vLLM's `--additional-config`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_elastic.core.kinds.attention import KV_HEADS, KV_STRIPES
from nemo_elastic.core.kinds.moe import MOE
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.formats.hf.quant_config import low_of
from nemo_elastic.io.values import integer
from nemo_elastic.serving.calibration import check_cost

from .names import Names, family_names
from .pairs import find_end

if TYPE_CHECKING:
    from nemo_elastic.core.family import Parent

#: our own name for the model, so that the one that vLLM has stays as it is
ARCHITECTURE = "NemotronElasticForCausalLM"
MIDDLEWARE, GATE = "nemo_elastic.serving.middleware.MemberMiddleware", "nemo_elastic.serving.gate.Gate"
_ENGINE = "nemo_elastic.serving.engine"
#: the key in vLLM's `additional_config`
KEY = "nemo_elastic"
#: most bytes of a request's body where nobody says: some millions of token ids
MOST_OF_BODY = 2**25
#: where a family has no chat template: to its operator, and to a client
NO_TEMPLATE = "no chat template: without --chat-template it takes prompts at /v1/completions, and no messages"
#: most bytes of cache on a CPU unless asked for
CPU_CACHE = 4 * 2**30
#: settings of the engine that a family does not go with -> what else to do
_ALONE = {
    "tensor_parallel_size": "1: members are views of whole matrices",
    "pipeline_parallel_size": "1: members have layers of their own",
}
_WITHOUT = {
    "speculative_config": "members draft in the runtime alone, as in `nemo-elastic chat --draft`",
    "quantization": "members are views of the weights as they are stored",
    "enable_lora": "adapters are not made for members",
    "kv_transfer_config": "members share the pages of the largest",
    "use_replayssm": "members share the pages of the largest",
}


@dataclass(frozen=True)
class Settings:
    """What the command line of a server says to our part of the engine.

    Attributes:
        end_of_thinking: the text that ends the thinking of a pair, None for `</think>`.
        end_ids: its token ids; read from the text when the server starts.
        auto: the cost setting of the model `auto` where a request has none; None for the usual.
        max_body: most bytes of a request's body; None for the usual.
    """

    end_of_thinking: str | None = None
    end_ids: tuple[int, ...] = ()
    auto: float | None = None
    max_body: int | None = None

    @property
    def most_of_body(self) -> int:
        """Most bytes of a request's body."""
        return MOST_OF_BODY if self.max_body is None else self.max_body

    @classmethod
    def read(cls, additional: Any) -> Settings:
        """From `additional_config`.

        Raises:
            ElasticError: an unknown field or a wrong value.
        """
        given = additional.get(KEY, {}) if isinstance(additional, Mapping) else {}
        if not isinstance(given, Mapping):
            raise bad(f"additional_config.{KEY}", given, "a JSON object")
        unknown = sorted(set(map(str, given)) - {field.name for field in fields(cls)})
        if unknown:
            raise ElasticError(f"additional_config.{KEY}: unknown field {unknown[0]!r}")
        text = given.get("end_of_thinking")
        if text is not None and not isinstance(text, str):
            raise bad(f"additional_config.{KEY}.end_of_thinking", text, "a text")
        ids = given.get("end_ids", ())
        if not isinstance(ids, (list, tuple)):
            raise bad(f"additional_config.{KEY}.end_ids", ids, "a list of token ids")
        ends = tuple(integer(f"additional_config.{KEY}.end_ids", i, 0, "a list of token ids") for i in ids)
        auto = given.get("auto")
        if auto is not None:
            auto = check_cost(auto, f"additional_config.{KEY}.auto")
        most = given.get("max_body")
        if most is not None:
            most = integer(f"additional_config.{KEY}.max_body", most, 1, "a number of bytes")
        return cls(text, ends, auto, most)

    def within(self, additional: Mapping[str, Any] | None) -> dict[str, Any]:
        """`additional_config` with these settings in it."""
        own = {k: v for k, v in asdict(self).items() if v not in (None, ())}
        return {**(additional or {}), KEY: {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}}


def server_names(args: Any) -> Names | None:
    """The names of the family that a server's arguments are about; None where they are about another model."""
    names = family_names(args.model, Settings.read(getattr(args, "additional_config", None)).auto)
    if names is None:
        return None
    given = getattr(args, "served_model_name", None) or []
    given = [given] if isinstance(given, str) else list(given)
    more = [*(n for n in given if n not in names.listed), *names.aliases]
    return Names(names.members, more, names.unlisted, names.calibration, names.cost, names.extras)


def name_members(args: Any) -> Names | None:
    """Let a server's arguments name every member of the family that they are about.

    Returns:
        The names; None where nobody serves a family.

    Raises:
        ElasticError: a front end without our middleware: it would take a member's name for the family's.
    """
    names = server_names(args) if hasattr(args, "middleware") else None
    if names is None:  # another model, or a command of vLLM's that serves nobody
        return None
    if getattr(args, "grpc", False):
        raise bad("--grpc", True, "members are served over HTTP only")
    if os.environ.get("VLLM_USE_RUST_FRONTEND", "0").lower() not in ("", "0", "false"):
        raise bad(
            "VLLM_USE_RUST_FRONTEND", os.environ["VLLM_USE_RUST_FRONTEND"], "members need vLLM's server in Python"
        )
    args.served_model_name = list(names.listed)
    # the last one is the first that a request meets
    args.middleware = [MIDDLEWARE, *(m for m in args.middleware if m not in (MIDDLEWARE, GATE)), GATE]
    if not takes_messages(args):
        logging.getLogger("vllm.nemo_elastic").warning("%s has %s", args.model, NO_TEMPLATE)
    args.additional_config = with_end(args.additional_config, args.tokenizer or args.model)
    return names


def takes_messages(args: Any) -> bool:
    """Whether a server has a chat template; vLLM has none of its own for those that do not."""
    folder = Path(getattr(args, "tokenizer", None) or args.model)
    if getattr(args, "chat_template", None) or not folder.is_dir():
        return True
    from nemo_elastic.formats.tokenizer import has_template

    return has_template(folder)


def prepare_engine(args: Any) -> None:
    """Let an engine's arguments (`EngineArgs`) run every member of the family that they are about.

    Raises:
        ElasticError: a setting that does not go with a family.
    """
    names = family_names(args.model)
    if names is None:
        return
    from vllm.platforms import current_platform

    parent = check_layers(args.model)
    _check_settings(args)
    if isinstance(args.hf_overrides, Mapping):
        args.hf_overrides = {**args.hf_overrides, "architectures": [ARCHITECTURE]}
    elif args.hf_overrides:
        raise ElasticError("hf_overrides: a family takes a mapping, no function")
    cpu = current_platform.is_cpu()
    args.scheduler_cls = f"{_ENGINE}.scheduler.FamilyScheduler"
    args.worker_cls = f"{_ENGINE}.worker.FamilyWorker"
    args.async_scheduling = False
    args.additional_config = with_end(args.additional_config, args.tokenizer or args.model)
    if cpu:
        if parent.recalling:
            _check_heads(parent)
        if args.enable_prefix_caching is None:
            args.enable_prefix_caching = False  # on a CPU this vLLM fails with it on prompts of some hundred tokens
        if not _asks_for_memory(args):
            args.kv_cache_memory_bytes = cpu_cache_bytes()
    else:
        from vllm.config import CUDAGraphMode

        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # the other runner was not tried
        # a graph of the whole model would be one member's, whoever's turn it is
        args.compilation_config.cudagraph_mode = CUDAGraphMode.NONE


def check_layers(folder: str | Path) -> Parent:
    """The shape of a family, if it has no layers of a kind, and no precision, that is not served.

    Raises:
        ElasticError: it has.
    """
    shapes = read_shapes(folder)
    parent = shapes.parent
    if shapes.family is not None and (low := low_of(shapes.config, shapes.folder)) is not None:
        own = low.scheme.precision
        raise bad(
            "folder", str(folder), f"a family in full precision, to share weights; of {own} slice members to serve"
        )
    if MOE in parent.types:
        raise bad("folder", str(folder), "a family without experts; `nemo-elastic chat` runs one")
    if parent.has(KV_STRIPES):
        allowed = (
            f"a family whose members keep all {KV_HEADS}, as their pages are shared; slice a member and serve that"
        )
        raise bad("folder", str(folder), allowed)
    return parent


def _check_heads(parent: Parent) -> None:
    """Ask vLLM's kernels for a CPU for attention of these heads: vLLM does it at the first request, and dies of it.

    Its list of what they have is shorter than what they have.
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
    """Whether somebody has said how much memory an engine takes."""
    said = args.gpu_memory_utilization != type(args).gpu_memory_utilization
    return said or args.kv_cache_memory_bytes is not None or bool(os.environ.get("VLLM_CPU_KVCACHE_SPACE"))


def cpu_cache_bytes() -> int:
    """Bytes of cache on a CPU where nobody says how many.

    vLLM takes 92 % of the machine's memory there, whatever else runs, and does not start where less is free.
    """
    import psutil

    return min(CPU_CACHE, psutil.virtual_memory().available // 4)


def with_end(additional: Any, tokenizer: str) -> dict[str, Any]:
    """`additional_config` with the token ids that end the thinking of a pair."""
    from nemo_elastic.formats.tokenizer import FamilyTokenizer

    settings = Settings.read(additional)
    if settings.end_ids:
        return dict(additional)
    folder = Path(tokenizer)
    if not (folder / "tokenizer.json").is_file():
        if settings.end_of_thinking is not None:
            raise bad("--end-of-thinking", settings.end_of_thinking, f"nothing where {folder} has no tokenizer.json")
        return settings.within(additional)
    ids = find_end(FamilyTokenizer.read(folder), settings.end_of_thinking)
    return replace(settings, end_ids=ids).within(additional)


def _check_settings(args: Any) -> None:
    for name, only in _ALONE.items():
        if getattr(args, name, 1) != 1:
            raise bad(f"--{name.replace('_', '-')}", getattr(args, name), f"a family takes {only}")
    for name, why in _WITHOUT.items():
        if getattr(args, name, None):
            raise bad(f"--{name.replace('_', '-')}", getattr(args, name), f"a family is served without it: {why}")
    if args.async_scheduling:
        raise bad("--async-scheduling", True, "a family is served without it: one member runs at a time")
    for name, own in (("scheduler_cls", None), ("worker_cls", "auto")):
        value = getattr(args, name)
        if value not in (own, None) and not str(value).startswith(_ENGINE):
            raise bad(f"--{name.replace('_', '-')}", value, "a family brings its own")
