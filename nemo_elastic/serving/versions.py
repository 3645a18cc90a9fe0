# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which vLLM the plugin is tested with. It uses parts of vLLM that have no stable interface."""

from __future__ import annotations

import re

from nemo_elastic.errors import bad

#: from the first to before the second
SUPPORTED = (0, 32), (0, 33)


def check_version(version: str) -> None:
    """Raise unless this vLLM is in the range that the plugin was tested with.

    Raises:
        ElasticError: it is outside, or no version can be read from it.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    low, high = SUPPORTED
    if found is None or not low <= (int(found[1]), int(found[2])) < high:
        told = f">={low[0]}.{low[1]},<{high[0]}.{high[1]}"
        raise bad("vLLM", version, f"a family is served by vllm{told}; cut a member to serve it with another")
