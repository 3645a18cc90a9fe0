# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of vLLM's server and engine for a family, on objects of the same fields."""

from __future__ import annotations

import enum
import sys
from argparse import Namespace
from types import ModuleType, SimpleNamespace

import pytest

from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.serving.arguments import (
    CPU_CACHE,
    GATE,
    KEY,
    MIDDLEWARE,
    Settings,
    name_members,
    open_family,
    prepare_engine,
    takes_messages,
)  # fmt: skip
from nemo_elastic.serving.names import family_names
from nemo_elastic.serving.plugin import name_answers
from tests.runtime.talking import talking_family


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return talking_family(tmp_path_factory.mktemp("arguments"))


@pytest.fixture
def vllm(monkeypatch):
    """As much of vLLM as is asked for its platform; `tests/vllm/test_serve.py` has the whole."""
    package, platforms = ModuleType("vllm"), ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: True)
    ops, models, llm, attention = (ModuleType(name) for name in ("ops", "models", "llm", "attention"))

    def metadata(head_dim, **_):
        if head_dim in package.without:
            raise RuntimeError(f"Unsupported: head_dim={head_dim}\nmore")

    package.without, package._custom_ops, ops.cpu_attn_get_scheduler_metadata = (), ops, metadata
    models.OpenAIServingModels = type("OpenAIServingModels", (), {"model_name": lambda self, lora=None: "theirs"})
    llm.AsyncLLM = type("AsyncLLM", (), {"generate": lambda self, *more: "outputs"})
    package.models, package.llm = models.OpenAIServingModels, llm.AsyncLLM
    attention._get_attn_isa = lambda dtype, block, size: "vec"
    blocks = [SimpleNamespace(base=32)]
    attention.CPUAttentionBackend = SimpleNamespace(get_supported_kernel_block_sizes=lambda: blocks)
    for name, module in (
        ("vllm", package), ("vllm.platforms", platforms), ("vllm.v1.attention.backends.cpu_attn", attention),
        ("vllm.entrypoints.openai.models.serving", models), ("vllm.v1.engine.async_llm", llm),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    return package


def engine(model, **given):
    fields = {
        "tensor_parallel_size": 1, "worker_cls": "auto", "hf_overrides": {}, "additional_config": {},
        "tokenizer": None, "enable_prefix_caching": None, "kv_cache_memory_bytes": None,
    }  # fmt: skip
    return Engine(model=str(model), **(fields | given))


class Engine(SimpleNamespace):
    gpu_memory_utilization = 0.92


def test_members_become_names(folder, vllm):
    args = Namespace(
        model=str(folder), served_model_name=["mine", "6b"], middleware=[GATE, "theirs"], tokenizer=None,
        additional_config={},
    )  # fmt: skip
    names = name_members(args)
    assert names is not None and names.members == ("12b", "9b", "6b") and names.aliases == ("mine", "family")
    assert args.served_model_name == ["12b", "9b", "6b", "mine", "family", "9b>12b", "6b>12b", "6b>9b"]
    assert args.middleware == [MIDDLEWARE, "theirs", GATE], "the last one is the first that a request meets"
    before = dict(vars(args))
    name_members(args)
    assert vars(args) == before, "each process of a server does it"


def test_a_server_refuses_what_names_nobody(folder, vllm):
    names = family_names(folder)
    assert names is not None
    name_answers(names)
    assert vllm.models().model_name() == "theirs", "nobody was asked"
    sampling = SimpleNamespace(extra_args={"thinking_token_budget": "abc"})
    with pytest.raises(ElasticError, match=r"^thinking_token_budget: "):
        vllm.llm().generate("a", sampling, "r")
    assert vllm.llm().generate("a", SimpleNamespace(extra_args=None), "r") == "outputs"


def test_a_family_without_a_chat_template_is_reported(tmp_path, vllm, caplog):
    bare = talking_family(tmp_path, template=None)
    args = Namespace(model=str(bare), served_model_name=None, middleware=[], tokenizer=None, additional_config={})
    name_members(args)
    assert f"{bare} has no chat template: without --chat-template it takes prompts" in caplog.text
    assert not takes_messages(args)
    args.chat_template = "some.jinja"
    assert takes_messages(args) and takes_messages(Namespace(model=str(bare), tokenizer="a/hub-id"))


def test_heads_that_the_kernels_do_not_have_are_refused_at_the_start(folder, vllm):
    size = Family.load(folder).parent.attention_head_dim
    vllm.without = (size,)
    with pytest.raises(ElasticError, match=f"^attention_head_dim: {size} ") as caught:
        prepare_engine(engine(folder))
    assert "more" not in str(caught.value)


def test_other_models_are_left_alone(tmp_path):
    args = Namespace(model="nvidia/some-model", served_model_name=None, middleware=[])
    name_members(args)
    assert (args.served_model_name, args.middleware) == (None, [])
    made = engine(tmp_path)
    before = dict(vars(made))
    prepare_engine(made)
    assert vars(made) == before


def test_front_ends_without_our_middleware(folder, vllm, monkeypatch):
    bench = Namespace(model=str(folder), served_model_name=None)
    name_members(bench)
    assert bench.served_model_name is None, "it serves nobody, and members are no names there"
    fields = {"model": str(folder), "served_model_name": None, "middleware": [], "tokenizer": None}
    with pytest.raises(ElasticError, match=r"^--grpc: "):
        name_members(Namespace(**fields, grpc=True))
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(ElasticError, match=r"^VLLM_USE_RUST_FRONTEND: "):
        name_members(Namespace(**fields))


def test_an_engine_gets_our_parts(folder, vllm):
    args = engine(folder, hf_overrides={"a": 1})
    prepare_engine(args)
    assert args.hf_overrides == {"a": 1, "architectures": ["NemotronElasticForCausalLM"]}
    assert args.scheduler_cls == "nemo_elastic.serving.engine.scheduler.FamilyScheduler"
    assert args.worker_cls == "nemo_elastic.serving.engine.worker.FamilyWorker"
    assert args.enable_prefix_caching is False and args.async_scheduling is False
    asked = engine(folder, enable_prefix_caching=True)
    prepare_engine(asked)
    assert asked.enable_prefix_caching is True


def test_a_cpus_memory_is_not_taken_whole(folder, vllm, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    args = engine(folder)
    prepare_engine(args)
    assert 0 < args.kv_cache_memory_bytes <= CPU_CACHE
    for asked in ({"gpu_memory_utilization": 0.5}, {"kv_cache_memory_bytes": 77}):
        args = engine(folder, **asked)
        prepare_engine(args)
        assert args.kv_cache_memory_bytes == asked.get("kv_cache_memory_bytes")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    args = engine(folder)
    prepare_engine(args)
    assert args.kv_cache_memory_bytes is None


def test_a_gpu_has_cuda_graphs_of_pieces_which_are_each_one_members(folder, vllm, monkeypatch):
    monkeypatch.setattr(sys.modules["vllm.platforms"], "current_platform", SimpleNamespace(is_cpu=lambda: False))
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    config, modes = ModuleType("config"), enum.Enum("CUDAGraphMode", ["NONE", "PIECEWISE", "FULL"])
    config.CUDAGraphMode = modes
    monkeypatch.setitem(sys.modules, "vllm.config", config)
    for given, wanted in ((None, modes.PIECEWISE), (modes.PIECEWISE, modes.PIECEWISE), (modes.NONE, modes.NONE)):
        args = engine(folder, compilation_config=SimpleNamespace(cudagraph_mode=given))
        prepare_engine(args)
        assert args.compilation_config.cudagraph_mode is wanted
    with pytest.raises(ElasticError, match=r"^cudagraph_mode: 'FULL' .*PIECEWISE"):
        prepare_engine(engine(folder, compilation_config=SimpleNamespace(cudagraph_mode=modes.FULL)))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("tensor_parallel_size", 2, "--tensor-parallel-size: "),
        ("async_scheduling", True, "--async-scheduling: "),
        ("hf_overrides", len, "hf_overrides: "),
    ],
)
def test_what_a_family_does_not_go_with(folder, vllm, name, value, says):
    with pytest.raises(ElasticError, match=f"^{says}"):
        prepare_engine(engine(folder, **{name: value}))


def opened(folder, additional):
    """`additional_config` of a server for a family."""
    found = open_family(folder, additional)
    assert found is not None
    return found[1]


def test_settings_are_kept_beside_others(folder):
    assert opened(folder, {"theirs": 1}) == {"theirs": 1, KEY: {}}
    assert opened(folder, {KEY: {"end_ids": [7]}}) == {KEY: {"end_ids": [7]}}


@pytest.mark.parametrize("given", [{KEY: 1}, {KEY: {"end_ids": [-1]}}, {KEY: {"max_body": 0}}, {KEY: {"auto": 1.5}}])
def test_damaged_settings(given):
    with pytest.raises(ElasticError, match=rf"^additional_config\.{KEY}"):
        Settings.read(given)
