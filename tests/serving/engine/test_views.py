# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Products on views of a family's storage are those of a member's own matrices; with vLLM: `tests/vllm/serve.py`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.nn.weights import Places

MODULE, LAYERS = "nemo_elastic.serving.engine.views", "vllm.model_executor.layers"
#: vLLM's classes that the module names, without anything in them
CLASSES: dict[str, dict[str, type]] = {
    "linear": {"LinearBase": type("LinearBase", (torch.nn.Module,), {})},
    "quantization.base_config": {
        "QuantizationConfig": type("QuantizationConfig", (), {}),
        "QuantizeMethodBase": type("QuantizeMethodBase", (), {}),
    },
    "vocab_parallel_embedding": {"VocabParallelEmbedding": type("VocabParallelEmbedding", (torch.nn.Module,), {})},
}


@pytest.fixture(scope="module")
def weights() -> Iterator[Any]:
    """The module, on these."""
    with pytest.MonkeyPatch.context() as patch:
        for name, classes in CLASSES.items():
            module = ModuleType(f"{LAYERS}.{name}")
            vars(module).update(classes)
            patch.setitem(sys.modules, module.__name__, module)
        yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE)


def placed(weights: Any, *parts: Any) -> Any:
    method = weights.OnViews()
    method.place(parts)
    return method


X_BD = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
STORED = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


def test_a_part_in_order_is_a_plain_product(weights: Any) -> None:
    view = STORED[:5, :4]
    torch.testing.assert_close(placed(weights, (view, None)).apply(None, X_BD), X_BD @ view.T)


def test_rows_are_taken_from_where_they_are_stored(weights: Any) -> None:
    rows = torch.tensor([4, 0, 3])
    actual = placed(weights, (STORED[:, :4], Places(rows=rows))).apply(None, X_BD)
    torch.testing.assert_close(actual, X_BD @ STORED[rows, :4].T)


def test_channels_meet_the_columns_that_are_theirs_and_the_others_read_nothing(weights: Any) -> None:
    columns = torch.tensor([6, 1, 0, 3])
    actual = placed(weights, (STORED, Places(columns=columns))).apply(None, X_BD)
    torch.testing.assert_close(actual, X_BD @ STORED[:, columns].T)


def test_rows_and_columns_go_together_in_any_number_of_dimensions(weights: Any) -> None:
    places = Places(rows=torch.tensor([5, 2]), columns=torch.tensor([7, 6, 5, 0]))
    x = X_BD.expand(2, 3, 4)
    actual = placed(weights, (STORED, places)).apply(None, x)
    torch.testing.assert_close(actual, x @ STORED[places.rows][:, places.columns].T)


def test_several_parts_are_one_behind_the_other(weights: Any) -> None:
    q, k = STORED[:2, :4], STORED[2:3, 4:]
    actual = placed(weights, (q, None), (k, None)).apply(None, X_BD)
    torch.testing.assert_close(actual, torch.cat([X_BD @ q.T, X_BD @ k.T], -1))


def test_an_embedding_is_rows_of_the_storage(weights: Any) -> None:
    ids = torch.tensor([5, 0, 5])
    assert torch.equal(placed(weights, (STORED, None)).embedding(None, ids), F.embedding(ids, STORED))


def test_nothing_is_allocated_for_a_layer_and_views_stay_views(weights: Any) -> None:
    layer, view = torch.nn.Module(), STORED[:2]
    method = placed(weights, (view, None))
    method.create_weights(layer, 8, [2], params_dtype=torch.bfloat16)
    assert list(layer.parameters()) == [] and method.parts[0][0].data_ptr() == STORED.data_ptr()


def test_linear_layers_and_embeddings_are_on_views_and_nothing_else_is(weights: Any) -> None:
    config = weights.ViewsConfig.from_config({})
    for layer in (weights.LinearBase(), weights.VocabParallelEmbedding()):
        assert isinstance(config.get_quant_method(layer, "layer"), weights.OnViews)
    assert config.get_quant_method(torch.nn.Linear(2, 2), "other") is None
    one, two = (config.get_quant_method(weights.LinearBase(), "layer") for _ in range(2))
    assert one is not two
