# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tests of nemo_elastic.hosts.nemo.platform and nemo_elastic.hosts.nemo.tiny.recipe."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from nemo_elastic.megatron.cpu import cuda_as_cpu

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="the mode does nothing where CUDA exists")


def names_cuda():
    """What the stack does, literally; returns the tensors."""
    index = torch.cuda.current_device()
    linear = torch.nn.Linear(2, 2).cuda(index)
    with torch.cuda.stream(torch.cuda.Stream()):
        tensors = [
            torch.zeros(2, device="cuda"),
            torch.zeros(2, device=torch.device("cuda", 0)),
            torch.empty(2, device=index),
            torch.tensor(1.0, pin_memory=True).to("cuda", non_blocking=True),
            torch.ones(1).to(index),
            torch.ones(1).to(device="cuda", dtype=torch.float64),
            torch.ones(1).to("cuda", torch.float16),
            torch.ones(1).cuda(non_blocking=True),
            torch.ones(1).pin_memory(),
            torch.empty_like(torch.ones(1), device="cuda:0"),
            linear.weight,
        ]
    torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
    torch.cuda.synchronize()
    return tensors


@without_cuda
def test_inside_cuda_means_the_cpu_and_all_else_is_left_alone():
    with cuda_as_cpu():
        tensors = names_cuda()
        assert torch.ones(1).type() == "torch.cuda.FloatTensor"
        assert torch.ones(1).type(torch.float64).dtype == torch.float64
        assert not torch.cuda.is_available()
        assert torch.empty(2, device="meta").device.type == torch.ones(2).to("meta").device.type == "meta"
    assert {t.device.type for t in tensors} == {"cpu"}
    assert (tensors[5].dtype, tensors[6].dtype) == (torch.float64, torch.float16)


@without_cuda
def test_outside_all_is_as_before_even_after_nesting_and_errors():
    before = {name: getattr(torch.cuda, name) for name in dir(torch.cuda)}
    with contextlib.suppress(ValueError), cuda_as_cpu():
        with cuda_as_cpu():
            names_cuda()
        names_cuda()
        raise ValueError
    assert {name: getattr(torch.cuda, name) for name in dir(torch.cuda)} == before
    assert torch.ones(1).type() == "torch.FloatTensor"
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")


@without_cuda
def test_inside_nothing_is_compiled_and_outside_all_is_as_before():
    compiled = []
    double = torch.compile(lambda x: x * 2, backend=lambda module, _: compiled.append(module) or module)
    with cuda_as_cpu(), cuda_as_cpu():
        assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0))
    assert not compiled
    double(torch.ones(2))
    assert len(compiled) == 1


def test_it_does_nothing_where_cuda_exists(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.cuda.current_device
    with cuda_as_cpu():
        assert torch.cuda.current_device is before
        assert torch.overrides._len_torch_function_stack() == 0


@pytest.mark.nemo
def test_the_strategy_fits_the_machine(monkeypatch):
    from nemo import lightning as nl

    from nemo_elastic.hosts.nemo.platform.strategy import CPUMegatronStrategy, strategy_class

    for available, expected in ((False, CPUMegatronStrategy), (True, nl.MegatronStrategy)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert strategy_class() is expected


@pytest.mark.nemo
@pytest.mark.parametrize("decoupled", [True, False])
def test_the_adam_of_the_distributed_optimizer_is_that_of_torch_bit_for_bit(decoupled):
    from nemo_elastic.megatron.cpu import GroupStepAdam

    start = torch.randn(9, 5)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    how: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-6}
    stock = (torch.optim.AdamW if decoupled else torch.optim.Adam)([theirs], **how)
    own = GroupStepAdam([{"params": [ours]}, {"params": []}], adam_w_mode=decoupled, **how)
    for i in range(20):
        ours.grad = torch.randn(start.shape, generator=torch.Generator().manual_seed(i))
        theirs.grad = ours.grad.clone()
        stock.step()
        own.step()
        if i == 9:
            own.load_state_dict(own.state_dict())
    assert torch.equal(ours, theirs)
    assert {k: v.shape for k, v in own.state[ours].items()} == dict.fromkeys(("exp_avg", "exp_avg_sq"), (9, 5))
    assert [group.get("step") for group in own.param_groups] == [20, None]


@pytest.mark.nemo
def test_a_parameter_whose_gradients_come_late_is_corrected_by_its_groups_steps():
    from nemo_elastic.megatron.cpu import GroupStepAdam

    early, late = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    own = GroupStepAdam([early, late], lr=1e-2)
    for i in range(6):
        early.grad, late.grad = torch.ones(3), torch.ones(3) if i == 5 else None
        own.step()
    wanted = -1e-2 * (0.1 / (1 - 0.9**6)) / ((1e-3 / (1 - 0.999**6)) ** 0.5 + 1e-8)
    assert torch.allclose(late.detach(), torch.full((3,), wanted))


@pytest.mark.nemo
def test_megatron_core_takes_our_adam_inside_alone():
    from megatron.core import optimizer as mcore
    from megatron.core.optimizer import distrib_optimizer

    from nemo_elastic.megatron.cpu import GroupStepAdam, group_step_adam

    before = mcore.Adam, mcore.USING_PYTORCH_OPTIMIZER, distrib_optimizer.HAVE_APEX_OR_TE
    with group_step_adam():
        with group_step_adam():
            pass
        assert mcore.Adam is distrib_optimizer.Adam is GroupStepAdam
        assert distrib_optimizer.HAVE_APEX_OR_TE and not mcore.USING_PYTORCH_OPTIMIZER
    assert (mcore.Adam, mcore.USING_PYTORCH_OPTIMIZER, distrib_optimizer.HAVE_APEX_OR_TE) == before


@pytest.mark.nemo
def test_the_tiny_config_captures_its_arguments_even_after_a_stock_one():
    from nemo.collections.llm.gpt.model.ssm import NemotronHConfigBase

    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH

    shape = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "num_query_groups": 1}
    NemotronHConfigBase(**shape, apply_rope_fusion=False)  # wraps the base first
    tiny = TinyNemotronH(seq_length=64)
    assert tiny.__io__.__fn_or_cls__ is TinyNemotronH
    assert tiny.__io__.seq_length == 64
    assert len(tiny.hybrid_override_pattern) == tiny.num_layers
