# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layers behind a model that predict more than one token, on megatron-core 0.19: sliced as its own, with its loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.prediction import Prediction
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.adapter import apart, from_megatron
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.raw import to_torch
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.functional import rms_norm
from nemo_elastic.nn.weights import cut
from nemo_elastic.ranking import Ranking, RankOptions, Statistics, rank
from nemo_elastic.ranking.orders import make_orders
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.ranking.test_sorting import unstriped
from tests.shapes import LATENT, MOE

from .models import start, state_of, weights_of
from .moe import made, member_of

pytestmark = pytest.mark.nemo
pytest.importorskip("megatron.core.models.hybrid", reason="megatron-core 0.15 has no such layers in a hybrid")
LAYERS, TWICE = Prediction("*E"), Prediction("*E", 2)
TOKENS = torch.randint(0, MOE.vocab, (2, 9), generator=torch.Generator().manual_seed(0))
LABELS = TOKENS.roll(-1, 1)


def host_of(model: Any) -> Any:
    from nemo_elastic.megatron.megatron_host import MegatronHost

    return MegatronHost(model.state, model)


def hf_of(parent: Parent, layers: Prediction, model: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The model's tensors and those of the layers behind it, as a Hugging Face folder has them."""
    weights = state_of(model)
    behind: dict[str, torch.Tensor] = {}
    for name, together in layers.megatron_tensors(parent, parent.full).items():
        behind |= zip((t.hf for t in together), apart(layers.behind(parent), together, weights[name]), strict=True)
    return from_megatron(parent, parent.full, weights), behind


def inner_layers(
    own: Parent, hf: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]], member: Subnet | None = None
) -> tuple[Layers, dict[str, torch.Tensor]]:
    """The reference's layers inside of all steps, and the tensors of these steps by the names of `own`'s layers."""
    ends = {n: t for n, t in hf[0].items() if "layers" not in n}
    steps = {n.replace("mtp.", "backbone.", 1): t for n, t in hf[1].items()}
    of_step = ("enorm", "hnorm", "eh_proj", "final_layernorm")
    inner = {n: t for n, t in steps.items() if n.split(".")[3] not in of_step}
    return Layers(cut(own, own.full, ends | inner, member)), steps


def reference(
    parent: Parent, layers: Prediction, hf: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]], member: Subnet
) -> list[torch.Tensor]:
    """What enters the head for each further token, by the reference's layers, of weights that were cut before."""
    size, wide = len(layers.pattern), member.hidden
    inside, steps = inner_layers(layers.behind(parent), hf, layers.member(parent, member))
    model = Layers(cut(parent, parent.full, hf[0], member))
    x_bld = model.embed(TOKENS)
    for index in model.indices:
        x_bld = model.layer(index, x_bld)
    hidden_bld, tokens, out = model.norm(x_bld), TOKENS, []
    for step in range(layers.steps):
        place = f"backbone.layers.{step * size}."
        tokens = torch.cat([tokens[:, 1:], torch.zeros_like(tokens[:, :1])], 1)
        enorm, hnorm = (steps[f"{place}{name}.weight"][:wide] for name in ("enorm", "hnorm"))
        both = torch.cat(
            [rms_norm(model.embed(tokens), enorm, parent.norm_eps), rms_norm(hidden_bld, hnorm, parent.norm_eps)], -1
        )
        project = steps[f"{place}eh_proj.weight"][:wide]
        x_bld = both @ torch.cat([project[:, :wide], project[:, parent.hidden : parent.hidden + wide]], 1).t()
        for index in range(step * size, (step + 1) * size):
            x_bld = inside.layer(index, x_bld)
        last = steps[f"backbone.layers.{step * size + size - 1}.final_layernorm.weight"][:wide]
        hidden_bld = rms_norm(x_bld, last, parent.norm_eps)
        out.append(hidden_bld)
    return out


@pytest.mark.parametrize(("parent", "layers"), [(MOE, TWICE), (LATENT, LAYERS)], ids=["two steps", "latent"])
def test_every_member_runs_them_at_its_widths(parent: Parent, layers: Prediction) -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    model = made(parent, prediction=layers).train()
    hf, host = hf_of(parent, layers, model), host_of(model)
    for member in (None, member_of(parent)):
        with cuda_as_cpu():
            host.student(TOKENS, member)
        hidden_sbd = host.ahead[1].hidden_sbd
        for actual, wanted in zip(hidden_sbd, reference(parent, layers, hf, member or parent.full), strict=True):
            torch.testing.assert_close(actual.transpose(0, 1), wanted, rtol=1e-4, atol=1e-5)
    with cuda_as_cpu():  # of a member without attention nothing says how wide theirs is; nor under soft masks
        host.student(TOKENS, parent.uniform([0, 1, 2, 4]))
        assert host.ahead is None
        model.eval()
        host.student(TOKENS)
        assert host.ahead is None


def stock_loss(model: Any, hidden: list[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """megatron-core's own sum over steps, of the same hidden states."""
    from megatron.core.transformer import multi_token_prediction as stock

    added: list[torch.Tensor] = []

    class Added(torch.autograd.Function):
        @staticmethod
        def apply(hidden_states: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:  # pyright: ignore
            added.append(loss)
            return hidden_states

    def cross_entropy(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits.permute(1, 2, 0), labels, reduction="none")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stock, "MTPLossAutoScaler", Added)
        stock.process_mtp_loss(
            torch.cat([hidden[0], *hidden]), LABELS, weights, model.output_layer, None, None, False, cross_entropy,
            model.config,
        )  # fmt: skip
    return sum(loss.sum() for loss in added)  # pyright: ignore


def test_their_loss_is_megatron_cores_and_goes_backward_beside_the_models_own() -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    model = made(MOE, prediction=TWICE, mtp_loss_scaling_factor=0.3).train()
    host, weights = host_of(model), torch.ones(TOKENS.shape)
    weights[0, 5:] = 0.0
    config, member = DistillConfig(mode="ce", chunk_tokens=8), member_of(MOE)
    for choice in (None, member):
        grads = []
        for way in ("ours", "stock", "alone"):
            model.zero_grad(set_to_none=True)
            with cuda_as_cpu():
                student = host.student(TOKENS, choice)
                hidden = host.ahead[1].hidden_sbd
                if way != "ours":
                    host.ahead = None
                loss, _ = host.loss(config, student, None, LABELS, weights)
                value = float(loss)
                if way == "stock":
                    model.state.choice = choice
                    loss = loss + stock_loss(model, list(hidden), weights) * weights.sum()
                    model.state.choice = None
                loss.backward()
            own = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
            grads.append((value, own))
        (ours, a), (theirs, b), (alone, c) = grads
        assert ours == pytest.approx(theirs, rel=1e-5) == alone  # what is reported is the model's own
        assert all(grad is None for name, grad in c.items() if name.startswith("mtp."))
        for name, wanted in b.items():
            if wanted is not None:
                torch.testing.assert_close(a[name], wanted, rtol=1e-4, atol=1e-5, msg=f"{name} {choice is None}")
        project = a["mtp.layers.1.eh_proj.weight"]
        assert project is not None and bool(project.any())
        if choice is not None:
            assert not project[member.hidden :].any() and not project[:, member.hidden : MOE.hidden].any()


def test_no_document_predicts_the_start_of_the_next_one() -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.prediction import Ahead, loss_ahead

    start()
    model = made(MOE, prediction=LAYERS).train()
    documents, weights = Documents(((4, 9), (9,))), torch.ones(TOKENS.shape)
    host = host_of(model)
    with cuda_as_cpu(), torch.no_grad():
        model.zero_grad()
        host.core.train()
        with torch.enable_grad():
            host.student(TOKENS, None, documents)
        ahead = host.ahead[1]
        inside = loss_ahead(model, ahead, LABELS, weights, 64)
        weights[0, 4] = 0.0  # which the position before it would predict: the first of the second document
        assert float(inside) == pytest.approx(
            float(loss_ahead(model, Ahead(ahead.hidden_sbd, None), LABELS, weights, 64)) * 18 / 17, rel=1e-5
        )


def test_a_checkpoint_of_megatron_bridges_has_them(tmp_path: Path) -> None:
    """Written from a folder, loaded by megatron-core, read again, cut."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.models import load_model_weights
    from tests.slicing.test_prediction import valued

    start()
    parent = unstriped(MOE)
    folder = valued(tmp_path / "plain", parent)
    slice_checkpoint(folder, tmp_path / "checkpoint", subnet=parent.full, format="megatron")
    model = made(parent, prediction=LAYERS)
    with cuda_as_cpu():
        load_model_weights(model, tmp_path / "checkpoint")
    source, read = open_source(folder), open_source(tmp_path / "checkpoint")
    tensors, behind = hf_of(parent, LAYERS, model)
    for ours, theirs, loaded in (
        (source.tensors, read.tensors, tensors),
        (source.prediction, read.prediction, behind),
    ):
        assert ours.keys() == theirs.keys() == loaded.keys()
        for name, raw in ours.items():
            assert torch.equal(to_torch(raw), to_torch(theirs[name])), name  # pyright: ignore
            assert torch.equal(to_torch(raw), loaded[name]), name  # pyright: ignore
    assert read.predicts == source.predicts == LAYERS
    small = parent.uniform(hidden=12, experts=4, attention_heads=2)
    cuts = [slice_checkpoint(s, tmp_path / f"cut-{i}", subnet=small) for i, s in enumerate((source, read))]
    one, other = (open_source(c.out) for c in cuts)
    assert one.prediction.keys() == other.prediction.keys() and len(one.prediction) > 0
    for name, raw in one.prediction.items():
        assert torch.equal(to_torch(raw), to_torch(other.prediction[name])), name  # pyright: ignore


def ranked(model: Any, parent: Parent) -> Ranking:
    """The layers behind a model, ranked on the tokens."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    behind, shape = host_of(model).layers_behind()
    assert shape == TWICE.behind(parent)
    with cuda_as_cpu():
        return rank(behind, shape, [TOKENS], RankOptions(depth="cosine"))


@pytest.mark.parametrize("parent", [MOE, LATENT], ids=["plain", "latent"])
@pytest.mark.parametrize("inside", [False, True], ids=["their stream", "all of them"])
def test_sorted_where_they_lie_they_predict_the_same(parent: Parent, inside: bool) -> None:
    """Their stream is the sorted model's; what nobody ranked in them, in stripes or not, stays."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.sharded_sort import sort_in_place

    start()
    model = made(parent, prediction=TWICE).train()
    ranking, random = Ranking.trivial(parent), np.random.default_rng(3)
    scores = {name: random.random(np.shape(order)) for name, order in ranking.orders.items()}
    ranking, host = replace(ranking, orders=make_orders(parent, scores)), host_of(model)
    if inside:
        ranking = replace(ranking, behind=ranked(model, parent))

    def logits() -> list[torch.Tensor]:
        with cuda_as_cpu():
            host.student(TOKENS)
            return [model.output_layer(h)[0].detach() for h in host.ahead[1].hidden_sbd]

    before, kept = logits(), state_of(model)
    sort_in_place(weights_of(model), ranking, parent, prediction=TWICE)
    for a, b in zip(logits(), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    order = torch.from_numpy(ranking.orders["hidden"].copy())
    own, experts = TWICE.behind(parent), slice(None)
    if ranking.behind:
        order_e = ranking.behind.orders[f"experts.{list(own.types).index('moe')}"]
        experts = torch.from_numpy(own.axis("experts").order_to_layout(order_e))
    for name, now in weights_of(model).items():
        if name.startswith("mtp.layers.0.") and name.endswith(("router.expert_bias", "enorm.weight")):
            wanted = kept[name][experts] if name.endswith("bias") else kept[name][order]
            assert torch.equal(now, wanted), name


@pytest.mark.parametrize("parent", [MOE, LATENT], ids=["plain", "latent"])
def test_they_are_ranked_by_what_goes_through_them(parent: Parent, tmp_path: Path) -> None:
    """As the reference's layers are on the same streams; and a folder keeps it."""
    start()
    model = made(parent, prediction=TWICE).eval()
    actual = ranked(model, parent)
    own = TWICE.behind(parent)
    inside, steps = inner_layers(own, hf_of(parent, TWICE, model))
    statistics, entered = Statistics(own, RankOptions(depth="cosine")), streams_of(parent, model)
    for index in range(own.num_layers):
        if index in entered:
            x_bld = entered[index]
        x_bld = inside.layer(index, x_bld, statistics)
    last = steps[f"backbone.layers.{own.num_layers - 1}.final_layernorm.weight"]
    statistics("hidden", -1, rms_norm(x_bld, last, own.norm_eps))
    for name, wanted in statistics.scores().items():
        np.testing.assert_allclose(actual.scores[name], wanted, rtol=1e-4, atol=1e-6, err_msg=name)
    whole = replace(Ranking.trivial(parent), behind=actual)
    whole.save(tmp_path / "ranking")
    whole.save(tmp_path / "ranking", force=True)
    read = Ranking.load(tmp_path / "ranking", parent)
    assert read.behind is not None and read.behind.digest == actual.digest and read.digest == whole.digest
    assert read.digest != Ranking.trivial(parent).digest
    (tmp_path / "ranking" / "prediction.ranking.json").unlink()
    with pytest.raises(ElasticError, match="damaged"):
        Ranking.load(tmp_path / "ranking")


def streams_of(parent: Parent, model: Any) -> dict[int, torch.Tensor]:
    """What enters the first layer of each step, by its number."""
    from nemo_elastic.megatron import prediction
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    seen: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch, cuda_as_cpu():
        entered = prediction._entered

        def watched(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
            tokens_bs, x_sbd = entered(*given)
            seen.append(x_sbd)
            return tokens_bs, x_sbd

        patch.setattr(prediction, "_entered", watched)
        host_of(model.train()).student(TOKENS)
    model.eval()
    return {i * len(TWICE.pattern): t.detach().transpose(0, 1) for i, t in enumerate(seen)}
