# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged chat templates and generation configs: something that can be used, or one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import ChatTemplate
from nemo_elastic.runtime.member_model import Companions
from tests.hostile import damaged
from tests.runtime.talking import MESSAGES, TEMPLATE

PIECES = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "endfor",
    "if",
    "| tojson",
    "(",
    "]",
    "**",
    "*",
    "99999",
    "'",
    "\0",
    "self",
    "\ufeff",
]
some = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def refused_in_a_line(read: Callable[[], Any]) -> None:
    try:
        read()
    except ElasticError as refused:
        assert len(str(refused).split()) >= 2 and "\n" not in str(refused)


@some
@given(data=st.data())
def test_chat_templates(data: st.DataObject) -> None:
    text = TEMPLATE
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 12))
        text = text[:start] + data.draw(st.sampled_from(PIECES) | st.text(max_size=4)) + text[end:]
    refused_in_a_line(lambda: ChatTemplate(text, {}, "here").render(MESSAGES))


@some
@given(given=damaged({"eos_token_id": [1, 2], "do_sample": True}))
def test_generation_configs(tmp_path: Path, given: Any) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(given, default=repr, skipkeys=True))
    refused_in_a_line(lambda: Companions(tmp_path, {"eos_token_id": 1}).end_ids)
