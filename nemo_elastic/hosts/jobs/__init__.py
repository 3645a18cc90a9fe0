# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs by NeMo-Run, whoever trains in them: one experiment, each after the one before it; local ones and dry runs."""
