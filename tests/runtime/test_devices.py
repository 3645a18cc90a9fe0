# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where the runtime computes: devices that are here, and one line for the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.runtime.devices import check_device


@pytest.mark.parametrize("given", ["cpu", torch.device("cpu")])
def test_a_device_that_is_here_is_given_as_torch_names_it(given: Any) -> None:
    assert check_device(given) == torch.device("cpu")


@pytest.mark.parametrize("wrong", ["gpu", "", "cuda:99", 99, -1, 1.5, object()])
def test_one_that_is_not_here_is_told_in_one_line(wrong: Any) -> None:
    with pytest.raises(
        ElasticError, match=r"^device: .* is not allowed; one that is here, such as cpu or cuda \("
    ) as e:
        check_device(wrong)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("wrong", ["meta", None])
def test_one_that_cannot_compute_is_refused_by_the_name_that_the_user_wrote(wrong: Any) -> None:
    with pytest.raises(ElasticError, match=r"^--device: .* is not allowed; one that computes, such as cpu or cuda$"):
        check_device(wrong, "--device")
