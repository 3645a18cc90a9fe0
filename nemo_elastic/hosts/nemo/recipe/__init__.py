# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A stock NeMo-Run recipe turned into one that trains a family: checked first, changed openly."""
