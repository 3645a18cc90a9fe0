# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Documents in one row give what each gives alone, in logits and every gradient; none hears of another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn import ssd
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.functional import causal_attention
from nemo_elastic.nn.gates import Gates, LayerGates
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.ssd import causal_conv1d, ssd_chunked
from tests.shapes import GROUPS, LATENT, PARENT

#: over bounds of the scan's chunks of 16, at them, and of one token
ROWS = Documents(((1, 7, 16, 33, 40), (20, 40)))
MEMBERS = {
    "dense": (PARENT, PARENT.uniform(keep=[0, 2, 3, 4], hidden=12, ffn=8, mamba_heads=4, mamba_head_dim=3,
                                     attention_heads=2)),
    "groups": (GROUPS, GROUPS.uniform(hidden=12, kv_heads=2)),
    "latent": (LATENT, LATENT.uniform(hidden=12, experts=4, expert_ffn=6, shared_ffn=12)),
}  # fmt: skip


def soft_gates(parent: Parent) -> Gates:
    """Between 0.3 and 1, leaves that want gradients."""
    g = torch.Generator().manual_seed(5)

    def soften(t: torch.Tensor) -> torch.Tensor:
        return (0.3 + 0.7 * torch.rand(t.shape, generator=g, dtype=torch.float64)).requires_grad_()

    hard = Gates.of(parent, parent.full)
    layers = tuple(LayerGates(soften(x.keep), {a: soften(t) for a, t in x.widths.items()}) for x in hard.layers)
    return Gates(soften(hard.hidden), layers)


def leaves(choice: Subnet | Gates | None) -> list[torch.Tensor]:
    if not isinstance(choice, Gates):
        return []
    return [choice.hidden, *(t for x in choice.layers for t in (x.keep, *x.widths.values()))]


def spans(documents: Documents) -> list[tuple[int, int, int]]:
    """Row, start and end of each document."""
    return [(b, start, end) for b, row in enumerate(documents.ends) for start, end in zip((0, *row), row)]


def model_and_tokens(parent: Parent) -> tuple[NemotronH, torch.Tensor, torch.Tensor]:
    model = NemotronH.random(parent, seed=3, scale=2.0, dtype=torch.float64)
    g = torch.Generator().manual_seed(1)
    tokens = torch.randint(parent.vocab, ROWS.shape, generator=g)
    return model, tokens, torch.randn(*ROWS.shape, parent.vocab, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("way", ["whole", "sliced", "soft"])
def test_packed_is_each_document_alone_in_logits_and_every_gradient(name: str, way: str) -> None:
    parent, member = MEMBERS[name]
    choice = {"whole": None, "sliced": member, "soft": soft_gates(parent)}[way]
    model, tokens, weight = model_and_tokens(parent)
    wanted = [*model.parameters(), *leaves(choice)]
    packed = model(tokens, choice, documents=ROWS)
    alone = torch.empty_like(packed)
    for b, start, end in spans(ROWS):
        alone[b, start:end] = model(tokens[b : b + 1, start:end], choice)[0]
    torch.testing.assert_close(packed, alone, rtol=1e-10, atol=1e-10)
    assert float((model(tokens, choice) - packed).detach().abs().max()) > 1e-3
    grads = [torch.autograd.grad((z * weight).sum(), wanted, allow_unused=True) for z in (packed, alone)]
    for got, expected in zip(*grads, strict=True):
        assert (got is None) == (expected is None)
        if got is not None and expected is not None:
            scale = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(got / scale, expected / scale, rtol=1e-9, atol=1e-10)


@st.composite
def rows(draw: st.DrawFn) -> Documents:
    length = draw(st.integers(2, 40))
    cuts = [draw(st.sets(st.integers(1, length - 1), max_size=5)) for _ in range(2)]
    return Documents(tuple((*sorted(row), length) for row in cuts))


@settings(max_examples=40)
@given(documents=rows(), chunk=st.integers(1, 17), taps=st.integers(1, 5), part=st.sampled_from([1, 9, 2048]))
def test_convolution_scan_and_attention_start_anew_wherever_bounds_lie(
    documents: Documents, chunk: int, taps: int, part: int
) -> None:
    g, (b, length) = torch.Generator().manual_seed(2), documents.shape

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    x, dt = normal(b, length, 4, 3), normal(b, length, 4)
    into, out = normal(b, length, 2, 5), normal(b, length, 2, 5)
    a, d = -normal(4).exp(), normal(4)
    q, k, v = (normal(b, 4, length, 6) for _ in range(3))
    weight, index = normal(12, taps), documents.index(x.device)
    conv: Any = causal_conv1d(x.flatten(2), weight, None, index_bl=index)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ssd, "PART", part)
        scan: Any = ssd_chunked(x.requires_grad_(), dt, a, into, out, d, None, chunk, index_bl=index).detach()
        x = x.detach()
    attended = causal_attention(q, k, v, documents=documents)
    for row, start, end in spans(documents):
        own = (slice(row, row + 1), slice(start, end))
        mine = (slice(row, row + 1), slice(None), slice(start, end))
        parts = [
            (conv[own], causal_conv1d(x[own].flatten(2), weight, None)),
            (scan[own], ssd_chunked(x[own], dt[own], a, into[own], out[own], d, None, chunk)),
            (attended[mine], causal_attention(q[mine], k[mine], v[mine])),
        ]
        for got, expected in parts:
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


def test_bounds_in_all_the_words_that_hosts_have() -> None:
    wanted = Documents(((3, 5, 8),))
    for bounds in ([0, 3, 5, 8], [[0, 3, 5, 8, -1]], [0, 3, 3, 5, 8, 8, 8], [3, 5], [0, 3, 5, 9]):
        assert Documents.of_bounds(torch.tensor(bounds, dtype=torch.int32), 8) == wanted
    assert Documents.of_bounds(torch.tensor([[0, 4, 8], [0, 8, -1]]), 8).ends == ((4, 8), (8,))
    assert Documents.of_positions(torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2]])) == wanted
    index = wanted.index(torch.device("cpu"))
    assert index.dtype == torch.int32 and index.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    masked = (index[:, :, None] != index[:, None]) | torch.ones(8, 8, dtype=torch.bool).triu(1)
    assert Documents.of_mask(masked) == wanted
    assert wanted.lengths == ((3, 2, 3),) and wanted.shape == (1, 8) and wanted.several
    assert not Documents(((8,), (8,))).several


def test_what_is_no_row_of_documents_is_refused() -> None:
    for ends in (((5, 3, 8),), ((8,), (7,))):
        with pytest.raises(ElasticError, match=r"^documents: .* is not allowed; ascending ends in each row"):
            Documents(ends)
    model, tokens, _ = model_and_tokens(PARENT)
    with pytest.raises(ElasticError, match=r"^documents: \(1, 8\) is not allowed; the rows and length of the tokens"):
        model(tokens, documents=Documents(((8,),)))
    with pytest.raises(ElasticError, match=r"^cache: 'Documents' is not allowed; decoding takes one document"):
        model(tokens, cache=model.init_cache(2), documents=ROWS)
    x, index = torch.randn(1, 8, 4), Documents(((3, 8),)).index(torch.device("cpu"))
    with pytest.raises(ValueError, match="start without a state"):
        causal_conv1d(x, torch.randn(4, 3), None, torch.zeros(1, 4, 2), index_bl=index)
    with pytest.raises(ValueError, match="start without a state"):
        into, out = torch.randn(1, 8, 2, 5), torch.randn(1, 8, 2, 5)
        ssd_chunked(x.unflatten(2, (2, 2)), torch.randn(1, 8, 2), -torch.ones(2), into, out, return_final_state=True,
                    index_bl=index)  # fmt: skip
