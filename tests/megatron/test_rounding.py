# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Rounded weights in training: a step is that of a model rounded beforehand, and its gradients go to the weights.

On ranks: `tests/parallel/test_quantize.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.precision import default_rows
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.adapter import to_megatron
from nemo_elastic.nn.low_precision import fake_quantized, rounded_state
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.train.samples import Sample
from nemo_elastic.train.training import FamilyTraining
from tests.shapes import MOE
from tests.support.states import from_megatron
from tests.train.torch_host import TorchHost

from .models import build, distributed, load, logits_and_grads, randomise, start, state_of, weights_of
from .test_megatron_host import host_class

pytestmark = pytest.mark.nemo
PARENT = Parent("M-M*-M", 48, 32, 64, 4, 16, 2, 6, 4, 8, 4, 4, ffn_stripes=2)
MEMBER = PARENT.uniform(keep=[0, 1, 3, 4], hidden=32, ffn=32, mamba_heads=2, attention_heads=4)
SCHEMES = ("nvfp4", "fp8")


def tokens() -> torch.Tensor:
    return torch.randint(0, 32, (2, 8), generator=torch.Generator().manual_seed(0))


def objective(z: torch.Tensor) -> torch.Tensor:
    return z.square().mean() + z.tanh().sum() * 0.1


def rounding(model: Any, parent: Parent, scheme: str) -> Any:
    """The model runs on rounded weights from here on."""
    from nemo_elastic.megatron.rounding import Rounding

    model.state.rounding = Rounding(scheme, default_rows(parent))
    return model.state.rounding


def rounded_beforehand(model: Any, parent: Parent, scheme: str) -> dict[str, torch.Tensor]:
    """Its weights by megatron-core's names, those of low precision rounded whole."""
    whole = rounded_state(parent, from_megatron(parent, parent.full, state_of(model)), scheme)
    return to_megatron(parent, parent.full, whole)


@pytest.mark.parametrize("choice", [None, MEMBER], ids=["whole", "sliced"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_is_that_of_a_model_rounded_beforehand(scheme: str, choice: Any) -> None:
    start()
    model = build(PARENT)
    randomise(model)
    plain, _ = logits_and_grads(model, tokens(), choice, objective)
    state = rounded_beforehand(model, PARENT, scheme)
    before = state_of(model)
    rounding(model, PARENT, scheme)
    actual, grads = logits_and_grads(model, tokens(), choice, objective)
    assert all(torch.equal(p, before[name]) for name, p in weights_of(model).items())
    other = build(PARENT)
    load(other, state)
    wanted, straight = logits_and_grads(other, tokens(), choice, objective)
    assert torch.equal(actual, wanted) and not torch.allclose(actual, plain, rtol=1e-3)
    assert grads.keys() == straight.keys()
    for name, grad in grads.items():
        assert torch.equal(grad, straight[name]), name
    changed = {name for name, t in state.items() if not torch.equal(t, before[name])}
    layers = {int(name.split(".")[2]) for name in changed}
    assert layers == {0, 1, 4, 5}, "attention and the Mamba layer before it stay"


def test_gradients_of_micro_batches_add_up_where_data_parallelism_keeps_them() -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    model = build(PARENT)
    randomise(model)
    rounding(model, PARENT, "nvfp4")
    each = [logits_and_grads(model, tokens(), choice, objective)[1] for choice in (MEMBER, None)]
    model.zero_grad(set_to_none=True)
    wrapped = distributed(model)
    wrapped.zero_grad_buffer()
    with cuda_as_cpu(), wrapped.no_sync():
        for model.state.choice in (MEMBER, None):
            objective(model(tokens(), None, None)).backward()
    for name, p in weights_of(model).items():
        torch.testing.assert_close(p.main_grad, each[0][name] + each[1][name], rtol=1e-5, atol=1e-6, msg=name)


def test_weights_are_rounded_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_elastic.megatron import rounding as module

    start()
    model, count = build(PARENT), 0
    randomise(model)

    def counted(*args: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        return fake_quantized(*args)

    monkeypatch.setattr(module, "fake_quantized", counted)
    own = rounding(model, PARENT, "nvfp4")
    own.begin(3)
    for _ in range(2):
        first, _ = logits_and_grads(model, tokens(), MEMBER, objective)
        own.begin(3)
    assert count == 6, "two weights of each of the layers 0, 1 and 4"
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    own.begin(4)
    later, _ = logits_and_grads(model, tokens(), MEMBER, objective)
    assert count == 12 and not torch.allclose(first, later)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_experts_are_rounded_each_under_a_scale_of_its_own(scheme: str) -> None:
    pytest.importorskip("megatron.core.models.hybrid", reason="megatron-core 0.15 has no experts in a hybrid")
    from .moe import made

    start()
    parent = Parent(MOE.pattern, sizes=dict(MOE.sizes) | {"hidden": 16, "mamba_heads": 8, "expert_ffn": 32,
                                                          "shared_ffn": 64, "vocab": 32})  # fmt: skip
    model = made(parent)
    member = parent.uniform(experts=4, expert_ffn=16 if scheme == "nvfp4" else 10, shared_ffn=32)
    state = rounded_beforehand(model, parent, scheme)
    rounding(model, parent, scheme)
    other = made(parent)
    load(other, state)
    for choice in (None, member):
        (actual, grads), (wanted, straight) = (
            logits_and_grads(m, tokens(), choice, objective) for m in (model, other)
        )
        assert torch.equal(actual, wanted)
        assert all(torch.equal(grad, straight[name]) for name, grad in grads.items())
    before = weights_of(model)
    assert all(not torch.equal(t, before[name]) for name, t in state.items() if "experts" in name)


BLOCK = {
    "budgets": [{"name": "full"}, {"name": "small", "ratio": 0.7}],
    "axes": {"hidden": [48, 32], "ffn": {"choices": [64, 32], "stripes": 2}, "depth": [6, 5]},
    "shapes": "even",
}


def test_a_family_trains_and_validates_as_it_does_in_plain_torch() -> None:
    """On rounded weights, and the frozen teacher's stay as they are."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.family_loop import FamilyLoop
    from nemo_elastic.megatron.models import make_family

    start()
    config = ElasticConfig.from_dict(BLOCK | {"distill": {"quantize": "nvfp4"}})
    with pytest.raises(ElasticError, match="quantize: 'nvfp4' "):
        FamilyTraining(config)
    parent = config.parent_shape(PARENT)
    family, core, frozen = FamilyTraining(config, stage=3), build(parent, elastic=False), build(parent, elastic=False)
    randomise(core)
    randomise(frozen, seed=7)
    weights, teacher = (from_megatron(parent, parent.full, state_of(m)) for m in (core, frozen))
    plain = TorchHost(parent, weights, tokens(), micro_batch_size=2)
    plain.model.rounding, plain.frozen = "nvfp4", NemotronH(parent, teacher)
    mask, samples = torch.ones(2, 8), (Sample(0, None), Sample(1, MEMBER))
    with cuda_as_cpu():
        host = host_class()(make_family(core, family, parent), core, frozen)
        loop = FamilyLoop(family, host)
        for host.step in range(2):
            for sample in samples:
                ran, wanted = (
                    family.loss(of, sample, tokens(), tokens().roll(-1, 1), mask)[1] for of in (host, plain)
                )
                assert float(ran.loss) == pytest.approx(float(wanted.loss), rel=2e-4)
            with torch.no_grad():  # as an optimizer's step would
                for model in (core, plain.model):
                    for p in model.parameters():
                        p.mul_(1.1)
        host.step = 2
        loop.validation_began()
        loop.heldout.begin(["full", "small"], [None, MEMBER], has_teacher=True)
        read = {"tokens": tokens(), "labels": tokens(), "loss_mask": mask}
        for choice in (None, MEMBER):
            ce, kl, _ = loop.valid_batch(loop.heldout.next(lambda: read)).tolist()
            logits = plain.student(tokens(), choice)
            expected = F.cross_entropy(logits.flatten(0, 1), tokens().flatten(), reduction="sum")
            assert ce == pytest.approx(float(expected), rel=2e-4)
            loss = plain.loss(config.distill, logits, plain.teacher(tokens()), tokens())[0]
            assert kl == pytest.approx(float(loss), rel=2e-4)
