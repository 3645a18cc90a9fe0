# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What vLLM's functions do once the plugin is there, on classes of the same form; `tests/vllm` has vLLM's."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any

import pydantic
import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.serving import arguments, plugin
from nemo_elastic.serving.arguments import ARCHITECTURE
from nemo_elastic.serving.plugin import emulate_nvfp4, register


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """As much of vLLM as the plugin takes hold of; it writes down what its own functions were called with."""
    calls: list[tuple[Any, ...]] = []

    class EngineArgs:
        @classmethod
        def from_cli_args(cls, args: Any, *more: Any, **named: Any) -> Any:
            calls.append(("read", cls, args, more, named))
            return cls()

        def create_engine_config(self, *more: Any, **named: Any) -> str:
            calls.append(("make", self, more, named))
            return "config"

    class AsyncEngineArgs(EngineArgs):
        pass

    registered: dict[str, str] = {}
    fake = SimpleNamespace(
        calls=calls, registered=registered, EngineArgs=EngineArgs, AsyncEngineArgs=AsyncEngineArgs,
        configs={"NemotronHForCausalLM": object()}, kernels=[],
        platform=SimpleNamespace(is_cpu=lambda: True),
    )  # fmt: skip
    has = {
        "vllm": {"ModelRegistry": SimpleNamespace(register_model=registered.__setitem__)},
        "vllm.engine.arg_utils": {"EngineArgs": EngineArgs},
        "vllm.model_executor.models.config": {"MODELS_CONFIG_MAP": fake.configs},
        "vllm.platforms": {"PlatformEnum": SimpleNamespace(CPU="cpu"), "current_platform": fake.platform},
        "vllm.model_executor.kernels.linear": {
            "EmulationNvFp4LinearKernel": "emulation",
            "register_linear_kernel": lambda *what: fake.kernels.append(what),
        },
    }
    for name, content in has.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(plugin, "version", lambda name: f"{plugin.SUPPORTED}0")
    register()
    return fake


def test_the_family_is_a_model_of_its_own_with_the_settings_of_vllms(vllm: SimpleNamespace) -> None:
    assert vllm.registered == {ARCHITECTURE: "nemo_elastic.serving.engine.family_model:FamilyForCausalLM"}
    assert vllm.configs[ARCHITECTURE] is vllm.configs["NemotronHForCausalLM"]


def test_arguments_name_members_before_vllm_reads_them(vllm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, however often vLLM calls the plugin."""
    monkeypatch.setattr(arguments, "name_members", lambda args: args.append("named"))
    register()
    args = ["given"]
    made = vllm.AsyncEngineArgs.from_cli_args(args, 1, two=2)
    assert vllm.calls == [("read", vllm.AsyncEngineArgs, ["given", "named"], (1,), {"two": 2})]
    assert type(made) is vllm.AsyncEngineArgs


def test_what_does_not_go_with_a_family_ends_a_server_in_one_line(
    vllm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(args: Any) -> None:
        raise ElasticError("--grpc: no")

    monkeypatch.setattr(arguments, "name_members", refuse)
    with pytest.raises(SystemExit) as ended:
        vllm.EngineArgs.from_cli_args([])
    assert ended.value.code == 2 and capsys.readouterr().err == "error: --grpc: no\n" and vllm.calls == []


@pytest.mark.parametrize("by", ["ours", "vllms"])
def test_flags_that_do_not_go_together_end_a_server_in_one_line(
    vllm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    def refuse(number: int) -> int:
        raise ValueError("above the window")

    def prepare(args: Any) -> None:
        if by == "ours":
            raise ElasticError("above the window", "vLLM")
        pydantic.TypeAdapter(Annotated[int, pydantic.AfterValidator(refuse)]).validate_python(7)

    monkeypatch.setattr(arguments, "name_members", lambda args: object())
    monkeypatch.setattr(plugin, "name_answers", lambda names: None)
    monkeypatch.setattr(arguments, "prepare_engine", prepare)
    with pytest.raises(SystemExit, match="2"):
        vllm.EngineArgs.from_cli_args([]).create_engine_config()
    assert capsys.readouterr().err == "error: vLLM: above the window\n"
    with pytest.raises(ValueError, match="above the window"):  # an engine in Python
        vllm.EngineArgs().create_engine_config()


def test_an_engine_is_prepared_before_its_settings_are_made(
    vllm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[tuple[Any, int]] = []
    monkeypatch.setattr(arguments, "prepare_engine", lambda args: prepared.append((args, len(vllm.calls))))
    engine = vllm.EngineArgs()
    assert engine.create_engine_config("server", headless=True) == "config"
    assert prepared == [(engine, 0)] and vllm.calls == [("make", engine, ("server",), {"headless": True})]


def test_a_cpu_runs_nvfp4_by_emulation_and_a_gpu_by_its_kernels(vllm: SimpleNamespace) -> None:
    assert vllm.kernels == [("emulation", "cpu", "nvfp4")]
    vllm.platform.is_cpu = lambda: False
    emulate_nvfp4()
    assert len(vllm.kernels) == 1
