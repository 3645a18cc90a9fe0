# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs of a family: rank, stage 1, stage 2, slice; with the recipes of large parents."""
