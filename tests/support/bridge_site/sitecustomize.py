# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Python imports this at its start: jobs that a program starts find Megatron-Bridge on a CPU, as the program did."""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))

from tests.support.bridge import stand_in_when_imported

stand_in_when_imported()
