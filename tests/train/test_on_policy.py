# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""On-policy micro-batches on the host of plain torch: who writes what, what counts, and what it is worth."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.plan.activations import Sharding
from nemo_elastic.plan.memory import loss as loss_bytes
from nemo_elastic.runtime import FamilyRuntime
from nemo_elastic.train.members import Members
from nemo_elastic.train.on_policy import MicroBatch, Prompt, prompts_of, seed_of, write
from nemo_elastic.train.samples import BudgetSampler
from nemo_elastic.train.shaping import prepare_members
from nemo_elastic.train.training import FamilyTraining
from tests.shapes import NANO_12B, PARENT
from tests.train.torch_host import TorchHost

LENGTH, ROWS, PROMPT, STOP = 16, 4, 5, 3
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "small", "ratio": 0.6}],
    "axes": {"hidden": [16, 12, 8], "mamba_heads": [6, 4, 2], "ffn": [16, 8], "depth": [5, 4]},
    "importance": {"samples": 4, "depth_samples": 2},
    "search": None,
    "router": None,
    "seed": 7,
}


def block(share: float | None = None, **changes: Any) -> ElasticConfig:
    distill = {} if share is None else {"distill": {"on_policy": share}}
    return ElasticConfig.from_dict(BLOCK | distill | changes)


class Run:
    """A training of which every step can be taken anew: data by the step's number, what it wrote and lost."""

    def __init__(self, config: ElasticConfig, out: Path, lr: float = 1e-3) -> None:
        shape = config.parent_shape(PARENT)
        data = torch.randint(0, shape.vocab, (8, LENGTH), generator=torch.Generator().manual_seed(0))
        self.host = TorchHost(shape, NemotronH.random(shape, seed=1).state_dict(), data, micro_batch_size=ROWS)
        self.host.stop_ids = (STOP,)
        self.family = FamilyTraining(config, steps=100)
        self.family.members = Members(shape, len(config.budgets), self.family.new_router(shape))
        prepare_members(self.family, self.host, out)
        self.optimizer = torch.optim.AdamW(self.host.model.parameters(), lr=lr)
        self.wrote: list[MicroBatch] = []
        self.losses: list[float] = []

    def rows(self, step: int) -> MicroBatch:
        """Prompts of one length, behind which everything counts."""
        both = torch.randint(0, PARENT.vocab, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(step))
        mask = torch.ones(ROWS, LENGTH)
        mask[:, : PROMPT - 1] = 0
        return MicroBatch(both[:, :-1], both[:, 1:], mask)

    def train(self, *steps: int) -> Run:
        host, family = self.host, self.family
        for host.step in steps:
            samples = family.next_samples(host.step)
            rows = family.written(host, samples, self.rows(host.step))
            loss, _ = family.loss(host, samples, *rows)
            (loss * host.factor(rows.mask_bs.sum())).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.wrote.append(rows)
            self.losses.append(float(loss) / float(rows.mask_bs.sum()))
        return self

    def weights(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.host.model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ------------------------------------------------------------------ what is a prompt


def test_a_prompt_is_what_precedes_the_first_target_that_counts() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]]).float()
    assert prompts_of(mask) == [Prompt(0, 0, 2, 8), Prompt(2, 0, 3, 8)]


def test_every_document_has_a_prompt_of_its_own() -> None:
    mask = torch.tensor([[0, 1, 1, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]]).float()
    documents = Documents(((3, 5, 8), (3, 4, 8)))
    assert prompts_of(mask, documents) == [
        Prompt(0, 0, 1, 3),
        Prompt(0, 5, 6, 8),
        Prompt(1, 3, 3, 4),
        Prompt(1, 4, 5, 8),
    ]


# ------------------------------------------------------------------ what is written


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(block(1.0), tmp_path_factory.mktemp("run"))


def runtime(run: Run, member: Subnet) -> Any:
    """The runtime's own model of a member that was cut out of the weights as they are."""
    return FamilyRuntime(run.host.model.submodel(member)).select("full")


def test_what_is_written_is_what_the_runtime_says_of_the_exported_member(run: Run) -> None:
    member, rows = run.family.members.get()[1], run.rows(0)
    wrote = write(run.host.runtime_weights(member), rows, None, (STOP,), 1, 2, 3)
    prompts = rows.tokens_bs[:, :PROMPT].tolist()
    how = {"temperature": 1.0, "seed": seed_of(1, 2, 3, prompts)}
    said = runtime(run, member).generate(prompts, LENGTH - PROMPT + 1, [STOP], **how)
    assert {len(new) for new in said} - {LENGTH - PROMPT + 1}, "one ends before its row does"
    for i, new in enumerate(said):
        assert wrote.mask_bs[i].nonzero()[:, 0].tolist() == list(range(PROMPT - 1, PROMPT - 1 + len(new)))
        assert wrote.labels_bs[i, PROMPT - 1 :][: len(new)].tolist() == new
        assert wrote.tokens_bs[i, PROMPT:][: len(new)].tolist() == new[: LENGTH - PROMPT]
        assert wrote.tokens_bs[i, :PROMPT].tolist() == prompts[i]
        assert STOP not in new[:-1]


def test_other_turns_and_other_prompts_say_something_else(run: Run) -> None:
    weights, rows = run.host.runtime_weights(None), run.rows(0)
    first, again, other = (write(weights, rows, None, (), turn) for turn in (1, 1, 2))
    assert torch.equal(first.tokens_bs, again.tokens_bs) and not torch.equal(first.tokens_bs, other.tokens_bs)
    assert seed_of(1, [[2]]) != seed_of(1, [[3]]) != seed_of(2, [[2]])


def test_documents_of_a_row_are_written_as_if_alone(run: Run) -> None:
    """Shapes and bounds stay, and what does not count is what it was."""
    weights, rows = run.host.runtime_weights(None), run.rows(1)
    mask = torch.zeros(ROWS, LENGTH)
    mask[0, 4:7], mask[0, 12:] = 1, 1
    wrote = write(weights, MicroBatch(rows.tokens_bs, rows.labels_bs, mask), Documents(((7, 10, 16),) * ROWS), (), 0)
    assert wrote.mask_bs.nonzero().tolist() == [[0, i] for i in (4, 5, 6, 12, 13, 14, 15)]
    left = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    left[0, 5:7] = left[0, 13:] = False
    assert torch.equal(wrote.tokens_bs[left], rows.tokens_bs[left])
    logits = run.host.model(wrote.tokens_bs, documents=Documents(((7, 10, 16),) * ROWS))
    alone = run.host.model(wrote.tokens_bs[:1, 10:])
    torch.testing.assert_close(logits[:1, 10:], alone)


def test_rows_without_a_counted_token_stay(run: Run) -> None:
    rows = run.rows(0)
    wrote = write(run.host.runtime_weights(None), rows._replace(mask_bs=torch.zeros(ROWS, LENGTH)), None, (), 0)
    assert torch.equal(wrote.tokens_bs, rows.tokens_bs) and not wrote.mask_bs.any()


# ------------------------------------------------------------------ what it trains


def test_loss_and_gradients_are_those_of_the_reverse_divergence(tmp_path: Path) -> None:
    run = Run(block(1.0, sampling={"small": 1}), tmp_path)
    run.train(*range(3))
    host, family = run.host, run.family
    samples = family.next_samples(3)
    rows = family.written(host, samples, run.rows(3))
    loss, _ = family.loss(host, samples, *rows)
    p, q = (m.log_softmax(-1) for m in (host.frozen(rows.tokens_bs), host.model(rows.tokens_bs, samples[0].choice)))
    want = ((q.exp() * (q - p)).sum(-1) * rows.mask_bs).sum()
    parameters = list(host.model.parameters())
    ours, theirs = (torch.autograd.grad(each, parameters, allow_unused=True) for each in (loss, want))
    assert float(loss) == pytest.approx(float(want), rel=1e-6) and float(loss) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b)


def test_a_share_of_zero_changes_no_bit_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("nobody writes")

    monkeypatch.setattr(TorchHost, "runtime_weights", never)
    plain, zero = (Run(block(share), tmp_path / str(share)).train(*range(4)) for share in (None, 0.0))
    assert plain.losses == zero.losses and same(plain.weights(), zero.weights())
    assert all(torch.equal(a.tokens_bs, plain.rows(i).tokens_bs) for i, a in enumerate(zero.wrote))


def test_a_share_is_kept_and_what_is_sampled_stays(tmp_path: Path) -> None:
    sampler, share, n = BudgetSampler([1, 1], seed=5), 0.25, 4000
    own = [sampler.on_policy(step, 0, share) for step in range(n)]
    assert abs(sum(own) / n - share) < 4 * (share * (1 - share) / n) ** 0.5
    assert own != [sampler.soft(step, 0, share) for step in range(n)]
    some, none = (Run(block(s), tmp_path / str(s)).family for s in (0.5, 0.0))
    a, b = ([family.next_samples(i)[0] for i in range(40)] for family in (some, none))
    assert [s.budget for s in a] == [s.budget for s in b] and not any(s.on_policy for s in b)
    assert {(s.budget, s.on_policy) for s in a} == {(0, True), (0, False), (1, True), (1, False)}


def test_micro_batches_under_masks_write_nothing(tmp_path: Path) -> None:
    """A member that is not chosen yet cannot write."""
    soft = block(1.0, router={"hidden": 8, "soft_share": 0.5, "freeze_at": 1.0}, sampling={"small": 1})
    family = Run(soft, tmp_path).family
    samples = [family.next_samples(i)[0] for i in range(20)]
    assert {(isinstance(s.choice, Subnet), s.on_policy) for s in samples} == {(True, True), (False, False)}


def test_a_resumed_run_goes_on_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = Run(block(0.5), tmp_path / "whole").train(*range(8))
    first = Run(block(0.5), tmp_path / "first").train(*range(5))
    again = Run(block(0.5), tmp_path / "again")
    again.host.model.load_state_dict(copy.deepcopy(first.host.model.state_dict()))
    again.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    again.train(*range(5, 8))
    assert again.losses == whole.losses[5:] and same(again.weights(), whole.weights())
    assert all(torch.equal(a.tokens_bs, b.tokens_bs) for a, b in zip(again.wrote, whole.wrote[5:], strict=True))


def test_the_reverse_divergence_falls(tmp_path: Path) -> None:
    run = Run(block(1.0, sampling={"small": 1}), tmp_path, lr=5e-3).train(*range(60))
    first, last = sum(run.losses[:10]) / 10, sum(run.losses[-10:]) / 10
    assert last < 0.7 * first


# ------------------------------------------------------------------ what a block may say


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"distill": {"on_policy": 1.5}}, r"elastic.distill.on_policy: 1.5 is not allowed; a share .* from 0 to 1"),
        ({"distill": {"on_policy": 0.5, "teacher": "self"}}, r"0.5 is not allowed; 0: distill.teacher is self"),
        (
            {"distill": {"on_policy": 0.5}, "budgets_per_batch": 2},
            r"0.5 is not allowed; 0 while elastic.budgets_per_batch is 2",
        ),
    ],
)
def test_what_cannot_be_is_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ElasticError, match=line):
        block(**changes)


def test_the_memory_of_its_loss_counts() -> None:
    plain, own = (DistillConfig(on_policy=share, chunk_tokens=8192) for share in (0.0, 0.5))
    assert loss_bytes(NANO_12B, own, 8192, Sharding()) > loss_bytes(NANO_12B, plain, 8192, Sharding())


def test_the_block_keeps_it() -> None:
    assert block(0.25).distill == DistillConfig(on_policy=0.25)
    assert ElasticConfig.from_dict(block(0.25).to_dict()) == block(0.25)
