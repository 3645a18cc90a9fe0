# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the hosts on megatron-core share, without either: ranked, sorted, sampled and lost as in plain torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import PARENT_WIDTH, Parent
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.train.heldout import KL_SUM, TOKENS
from nemo_elastic.train.members import Members
from nemo_elastic.train.samples import Sample
from nemo_elastic.train.shaping import prepare_members, shape_members
from nemo_elastic.train.training import FamilyTraining
from tests.support.states import from_megatron
from tests.train.torch_host import TorchHost

from .models import alone, build, randomise, start, state_of

pytestmark = pytest.mark.nemo
PARENT = Parent("M-M*-M", 24, 40, 24, 12, 4, 4, 6, 4, 6, 2, 4, ffn_stripes=4, norm=PARENT_WIDTH)
BLOCK = {
    "budgets": [{"name": "full"}, {"name": "small", "ratio": 0.7}],
    "axes": {"hidden": [24, 20, 16], "ffn": {"choices": [24, 16], "stripes": 4}, "depth": [6, 5]},
    "importance": {"samples": 4, "depth_samples": 2},
    "shapes": "router",
    "router": {"freeze_at": 0.5},
}
STEPS = 4


def data() -> torch.Tensor:
    return torch.randint(0, PARENT.vocab, (8, 12), generator=torch.Generator().manual_seed(4))


def host_class() -> Any:
    from nemo_elastic.megatron.megatron_host import MegatronHost

    class Host(MegatronHost):
        """Data in memory, and no optimizer."""

        micro_batch_size, seq_length, step = 2, 12, 0

        def sequences(self, count: int, size: int) -> Iterator[torch.Tensor]:
            return iter(data()[:count].split(size))

        def weights_changed(self) -> None:
            self.asked = True

    return Host


def two_models(distill: dict[str, Any]) -> tuple[FamilyTraining, Any, Any, Any]:
    """A family of even shapes, its model, another one, and the state that the first's layers obey."""
    from nemo_elastic.megatron.models import make_family

    start()
    config = ElasticConfig.from_dict(BLOCK | {"shapes": "even", "router": None, "distill": distill})
    family, core, other = FamilyTraining(config), build(PARENT, elastic=False), build(PARENT, elastic=False, seed=1)
    randomise(core)
    return family, core, other, make_family(core, family, PARENT)


def in_plain_torch(core: Any) -> NemotronH:
    """A model with weights of its own."""
    return NemotronH(PARENT, from_megatron(PARENT, PARENT.full, state_of(core)))


def train(family: FamilyTraining, host: Any, parameters: list[Any], out: Path) -> list[Any]:
    """Some steps of plain gradient descent; what each lost of each budget."""
    prepare_members(family, host, out)
    lost: list[Any] = [[m.to_json() for m in family.members.get()]]
    for host.step in range(STEPS):
        shape_members(family, host, out)
        tokens = data()[2 * host.step :][:2]
        loss, ran = family.loss(host, family.next_sample(host), tokens, tokens.roll(-1, 1), torch.ones(2, 12))
        (loss / 24).backward()
        lost.append([ran.budget, float(ran.loss)])
        with torch.no_grad():
            for p in parameters:
                if p.grad is not None:
                    p -= 0.05 * p.grad
                    p.grad = None
    return lost


def test_a_family_trains_as_it_does_in_plain_torch(tmp_path: Path) -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.family_loop import FamilyLoop
    from nemo_elastic.megatron.models import SavedMembers, make_family

    start()
    config = ElasticConfig.from_dict(BLOCK)
    core = build(PARENT, elastic=False)
    randomise(core)
    state = from_megatron(PARENT, PARENT.full, state_of(core))

    plain, family = FamilyTraining(config, steps=STEPS), FamilyTraining(config, steps=STEPS)
    torch.manual_seed(0)
    router = plain.new_router(PARENT)
    plain.members = Members(PARENT, len(config.budgets), router)
    other = TorchHost(PARENT, state, data(), micro_batch_size=2)
    wanted = train(plain, other, [*other.model.parameters(), *router.parameters()], tmp_path / "torch")

    torch.manual_seed(0)
    frozen = build(PARENT, elastic=False)
    frozen.load_state_dict(core.state_dict())
    elastic = make_family(core, family, PARENT)
    assert type(core.elastic) is SavedMembers is type(family.members)
    with cuda_as_cpu():
        host = host_class()(elastic, core, frozen)
        actual = train(family, host, list(core.parameters()), tmp_path / "megatron")
        assert host.asked
        assert actual[0] == wanted[0]
        for ours, theirs in zip(actual[1:], wanted[1:], strict=True):
            assert ours == [theirs[0], pytest.approx(theirs[1], rel=2e-4, abs=2e-4)]
        loop = FamilyLoop(family, host)
        loop.validation_began()
        assert not loop.two_streams() and loop.heldout.names == ["full", "small"]
        read = {"tokens": data()[:2], "labels": data()[:2], "loss_mask": torch.ones(2, 12)}
        for _ in loop.heldout.names:
            loop.valid_batch(loop.heldout.next(lambda: read)).detach()
        assert 2 < loop.validation_ended().losses["small"] < 6


@pytest.mark.parametrize("teacher", ["frozen", "self", "none"])
def test_members_lose_what_counts_of_each_document(teacher: str) -> None:
    """As in plain torch, document by document; a micro-batch may have nothing that counts."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.family_loop import FamilyLoop

    family, core, frozen, state = two_models({"teacher": teacher})
    own, taught = in_plain_torch(core), in_plain_torch(frozen)
    small = PARENT.uniform(keep=[0, 1, 3, 4], hidden=16, ffn=16)
    members = [PARENT.uniform(keep=[0, 1, 2, 3, 4, 5], hidden=20, ffn=24), small]
    documents, generator = Documents(((1, 7, 12), (5, 12))), torch.Generator().manual_seed(6)
    masks = (torch.rand(3, 2, 12, generator=generator) < 0.5).float() * torch.tensor([1.0, 0.0, 1.0])[:, None, None]

    rows = data()[2:8].split(2)
    batches: list[dict[str, Any]] = [
        {"tokens": tokens, "labels": tokens, "loss_mask": mask, "documents": documents}
        for tokens, mask in zip(rows, masks, strict=True)
    ]
    host = host_class()(state, core, frozen if teacher == "frozen" else None)
    with cuda_as_cpu():
        loop = FamilyLoop(family, host)
        before, drawn = loop.heldout.choices, torch.get_rng_state()
        sums = loop.sums(members, batches)[1:]
    expected, each = [], {}
    for member in members:
        total = 0.0
        for number, one in enumerate(batches):
            each[number] = total
            for part in alone(documents):
                tokens = one["tokens"][part]
                with torch.no_grad():
                    p, q = (taught if teacher == "frozen" else own)(tokens), own(tokens, member)
                kl = F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none").sum(-1)
                total += float((kl * masks[number][part]).sum())
        expected.append(total / float(masks.sum()))
    actual = (sums[:, KL_SUM] / sums[:, TOKENS]).tolist()
    assert actual == pytest.approx(expected, rel=1e-4) and expected[0] != pytest.approx(expected[1], rel=1e-2)
    assert torch.equal(torch.get_rng_state(), drawn) and loop.heldout.choices is before
    assert all(p.grad is None for p in core.parameters()) and core.training and torch.is_grad_enabled()
    with cuda_as_cpu():
        parts = [batches[0][name] for name in ("tokens", "labels", "loss_mask", "documents")]
        whole, lost = (float(family.loss(host, s, *parts)[0]) for s in (Sample(0, None), Sample(1, small)))
    assert teacher == "none" or lost == pytest.approx(each[1], rel=1e-4)
    assert whole > 1, "it is no teacher of itself"


def test_ranks_that_cannot_share_a_parent_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron.core import parallel_state

    from nemo_elastic.megatron.models import make_family

    start()
    family, core = FamilyTraining(ElasticConfig.from_dict(BLOCK), steps=STEPS), build(PARENT, elastic=False)
    monkeypatch.setattr(parallel_state, "get_tensor_model_parallel_world_size", lambda: 3)
    with pytest.raises(ElasticError, match="tensor_model_parallel_size: 3 "):
        make_family(core, family, PARENT)
    monkeypatch.setattr(parallel_state, "get_tensor_model_parallel_world_size", lambda: 1)
    monkeypatch.setattr(parallel_state, "get_context_parallel_world_size", lambda: 8)
    with pytest.raises(ElasticError, match="context_parallel_size: 8 "):
        make_family(core, family, PARENT)


def test_an_error_in_an_evaluation_leaves_the_model_as_it_was() -> None:
    state: Any = None
    host = host_class()(state, torch.nn.Identity().train())
    with pytest.raises(KeyError), host.evaluating():
        assert not host.core.training and not torch.is_grad_enabled()
        raise KeyError
    assert host.core.training and torch.is_grad_enabled()
