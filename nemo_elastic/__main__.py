# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nemo_elastic` is the `nemo-elastic` command."""

from nemo_elastic.cli import main

# The guard matters: megatron-core's checkpoint writer spawns a process that imports this module again.
if __name__ == "__main__":
    main()
