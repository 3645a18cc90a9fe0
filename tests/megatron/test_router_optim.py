# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of the distributed optimizer has each weight's own moments, in however many buckets gradients lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .models import build, randomise, start
from .test_overlap import DENSE, wrap

pytestmark = pytest.mark.nemo


def saved(optimizer: Any, model: Any) -> dict[str, torch.Tensor]:
    """Mean gradient of each weight, as it goes into a checkpoint: in the order of the buffers."""
    names = {p: name for name, p in model.named_parameters()}
    order = [names[p] for buffer in optimizer.buffers for p in buffer.param_index_map]
    state = optimizer.sharded_param_state_fully_reshardable(model.sharded_state_dict(), metadata={})
    return {name: state[i]["exp_avg"].data for i, name in enumerate(order)}


@pytest.mark.parametrize("overlap", [False, True], ids=["one bucket", "several"])
def test_each_weight_has_its_own(overlap: bool) -> None:
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.router_optim import save_own_moments

    start()
    model = build(DENSE)
    randomise(model)
    with cuda_as_cpu():
        wrapped = wrap(model, overlap, sharded=True)
        config = OptimizerConfig(optimizer="adam", lr=1e-3, use_distributed_optimizer=True, clip_grad=0.0)
        whole = get_megatron_optimizer(config, [wrapped])
        (optimizer,) = getattr(whole, "chained_optimizers", [whole])
        wrapped(torch.arange(16).view(2, 8), None, None).square().mean().backward()
        wrapped.finish_grad_sync()
        optimizer.step()
        names = {p: name for name, p in model.named_parameters()}
        wanted = {
            names[p]: optimizer._get_main_param_and_optimizer_states(p)["exp_avg"].view(p.shape) for p in names
        }  # fmt: skip
        mixed_up = saved(optimizer, model)
        save_own_moments(whole)
        actual = saved(optimizer, model)
    assert actual.keys() == wanted.keys() and any(value.any() for value in wanted.values())
    for name, value in wanted.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=0, msg=name)
    same = all(torch.equal(mixed_up[name], value) for name, value in wanted.items())
    assert same != overlap, "megatron-core saves them as they are: `save_own_moments` can go"
