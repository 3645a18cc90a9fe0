# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which tokens end an answer: those of the generation config, or else of the config."""

from __future__ import annotations

import json

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.runtime import load_family
from nemo_elastic.runtime.companions import Companions
from tests.runtime.talking import talking_family


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        (None, None, set()),
        (None, 7, {7}),
        (None, [7, 8], {7, 8}),
        ({"eos_token_id": 5}, 7, {5}),
        ({"eos_token_id": [5, 6]}, 7, {5, 6}),
        ({"eos_token_id": []}, 7, set()),
        ({"eos_token_id": None}, 7, {7}),
        ({"temperature": 0.6}, 7, {7}),
    ],
)
def test_where_they_are(tmp_path, generation, config, ends):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert Companions(tmp_path, {"eos_token_id": config}).end_ids == ends


@pytest.mark.parametrize("wrong", [True, -1, "2", 2.0, [2, None], [[2]], {"a": 2}])
def test_what_is_no_token(tmp_path, wrong):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
    with pytest.raises(ElasticError, match=r"generation_config.json: eos_token_id: .* the id of a token, or a list"):
        Companions(tmp_path).end_ids  # noqa: B018
    with pytest.raises(ElasticError, match=r"^config.json: eos_token_id: .* the id of a token, or a list of ids"):
        Companions(None, {"eos_token_id": wrong}).end_ids  # noqa: B018


def test_a_generation_config_that_is_none(tmp_path):
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(ElasticError, match=r"generation_config.json: not a JSON object"):
        Companions(tmp_path).end_ids  # noqa: B018


def test_a_folder_is_read(tmp_path):
    assert load_family(talking_family(tmp_path, generation={"eos_token_id": [1, 9]})).end_ids == {1, 9}
