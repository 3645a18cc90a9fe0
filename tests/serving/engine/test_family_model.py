# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Products on views of a family's storage are those of a member's own matrices; `tests/vllm` has vLLM's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.core.family import Layer
from nemo_elastic.nn.weights import LayerWeights, StoredOrder
from tests.serving.engine.beside import beside_vllm

LAYERS = "vllm.model_executor.layers"
#: vLLM's classes of which there are instances here
HAS = {
    f"{LAYERS}.linear": {"LinearBase": type("LinearBase", (torch.nn.Module,), {})},
    f"{LAYERS}.vocab_parallel_embedding": {
        "VocabParallelEmbedding": type("VocabParallelEmbedding", (torch.nn.Module,), {}),
    },
}
LAYER = Layer(0, "-", {"ffn": 6})


@pytest.fixture(scope="module")
def weights() -> Iterator[Any]:
    """The module."""
    with beside_vllm("family_model", HAS) as module:
        yield module


def placed(weights: Any, *parts: tuple[torch.Tensor, StoredOrder | None]) -> Any:
    method, names = weights.OnViews(), "qkv"
    own = LayerWeights(
        LAYER,
        {name: t for name, (t, _) in zip(names, parts, strict=False)},
        {name: at for name, (_, at) in zip(names, parts, strict=False) if at is not None},
    )
    method.parts = [(own, name) for name in own.tensors]
    return method


X_BD = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
STORED = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


def test_rows_and_columns_go_together_in_any_number_of_dimensions(weights: Any) -> None:
    places = StoredOrder(rows=torch.tensor([5, 2]), columns=torch.tensor([7, 6, 5, 0]))
    x = X_BD.expand(2, 3, 4)
    actual = placed(weights, (STORED, places)).apply(None, x)
    torch.testing.assert_close(actual, x @ STORED[places.rows][:, places.columns].T)


ROWS, COLUMNS = torch.tensor([4, 0, 3]), torch.tensor([6, 1, 0, 3])


@pytest.mark.parametrize(
    "at", [None, StoredOrder(rows=ROWS), StoredOrder(columns=COLUMNS), StoredOrder(ROWS, COLUMNS)]
)
def test_products_are_right_for_every_number_of_rows_compiled_as_well(weights: Any, at: StoredOrder | None) -> None:
    stored = STORED.bfloat16()
    own = stored[:, :4] if at is None or at.columns is None else stored[:, COLUMNS]
    own = own if at is None or at.rows is None else own[ROWS]
    method = placed(weights, (stored[:, :4] if at is None or at.columns is None else stored, at))
    torch.compiler.reset()
    compiled = torch.compile(lambda x: method.apply(None, x), backend="aot_eager", fullgraph=True, dynamic=True)
    for number in (2, 3, 65, 1, 0):
        x = torch.randn(number, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
        actual = method.apply(None, x)
        assert actual.is_contiguous() and actual.dtype == torch.bfloat16
        torch.testing.assert_close(actual, F.linear(x, own))
        if number == 2:
            torch._dynamo.mark_dynamic(x, 0)  # as vLLM does: what takes the first number for the only one is an error
        if number > 1:
            torch.testing.assert_close(compiled(x), actual)


def test_several_parts_are_one_behind_the_other(weights: Any) -> None:
    q, k = STORED[:2, :4], STORED[2:3, 4:]
    actual = placed(weights, (q, None), (k, None)).apply(None, X_BD)
    torch.testing.assert_close(actual, torch.cat([X_BD @ q.T, X_BD @ k.T], -1))


def test_an_embedding_is_rows_of_the_storage(weights: Any) -> None:
    ids = torch.tensor([5, 0, 5])
    method = weights.OnViews()
    method.weight = STORED
    assert torch.equal(method.embedding(None, ids), F.embedding(ids, STORED))
    assert torch.equal(method.apply(None, torch.ones(2, 8)), F.linear(torch.ones(2, 8), STORED)), "the head"


def test_nothing_is_allocated_for_a_layer_and_views_stay_views(weights: Any) -> None:
    layer, view = torch.nn.Module(), STORED[:2]
    method = placed(weights, (view, None))
    method.create_weights(layer, 8, [2], params_dtype=torch.bfloat16)
    assert list(layer.parameters()) == [] and method.parts[0][0]["q"].data_ptr() == STORED.data_ptr()


def test_linear_layers_and_embeddings_are_on_views_and_nothing_else_is(weights: Any) -> None:
    config = weights.ViewsConfig.from_config({})
    for layer in (weights.LinearBase(), weights.VocabParallelEmbedding()):
        assert isinstance(config.get_quant_method(layer, "layer"), weights.OnViews)
    assert config.get_quant_method(torch.nn.Linear(2, 2), "other") is None
    one, two = (config.get_quant_method(weights.LinearBase(), "layer") for _ in range(2))
    assert one is not two
