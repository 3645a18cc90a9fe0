# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A whole recipe of NeMo-Run's, as its YAML files describe it."""

from __future__ import annotations

import pydoc
from typing import Any

from nemo_elastic.errors import ElasticError


def whole_recipe(data: Any) -> Any:
    """The recipe that NeMo-Run's YAML of one describes: `_target_`, `_partial_` and `_call_` as it writes them.

    NeMo-Run's own reader goes through the command line's parser, which takes neither a list of configs (callbacks,
    plugins) nor a class without a signature (timedelta). As there, the file names code to import: trusted input.

    Raises:
        ElasticError: a name cannot be imported, or has no such argument.
    """
    import nemo_run as run

    if isinstance(data, list):
        return [whole_recipe(x) for x in data]
    if not isinstance(data, dict):
        return data
    arguments = {k: whole_recipe(v) for k, v in data.items() if k not in ("_target_", "_partial_", "_call_")}
    if "_target_" not in data:
        return arguments
    try:
        target = pydoc.locate(data["_target_"])
        if target is None:
            raise ImportError("no such name")
        if not data.get("_call_", True):
            return target
        return (run.Partial if data.get("_partial_") else run.Config)(target, **arguments)
    except (ImportError, pydoc.ErrorDuringImport, TypeError) as error:
        raise ElasticError(f"_target_: {data['_target_']}: {str(error).splitlines()[0]}") from None
