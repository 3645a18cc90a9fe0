# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in Megatron-Bridge's environment: what ModelOpt counts of shapes, as JSON [version, [[all, active], …]].

Usage: python modelopt_counts.py < shapes.json, a list of megatron-core's fields by name. It knows nothing of this
package.
"""

import json
import logging
import sys
from importlib.metadata import version
from types import SimpleNamespace

logging.disable(logging.WARNING)


def main() -> None:
    from modelopt.torch.nas.plugins.megatron_model_stats import mcore_param_count

    report = [
        mcore_param_count(
            SimpleNamespace(**shape["config"]), shape["vocab_size"], hybrid_layer_pattern=shape["hybrid_layer_pattern"]
        )
        for shape in json.load(sys.stdin)
    ]
    print(json.dumps([version("nvidia-modelopt"), report]))


if __name__ == "__main__":
    main()
