# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where the runtime computes."""

from __future__ import annotations

from typing import Any

import torch

from nemo_elastic.errors import bad


def check_device(device: Any, name: str = "device") -> torch.device:
    """A device on which tensors can be made; `name` is what the user wrote before it.

    Raises:
        ElasticError: torch does not know it, or this machine has none such.
    """
    try:
        made = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as exc:  # an unknown word, or a device that is not there
        raise bad(name, device, f"one that is here, such as cpu or cuda ({str(exc).splitlines()[0]})") from None
    if device is None or made.type == "meta":
        raise bad(name, device, "one that computes, such as cpu or cuda")
    return made
