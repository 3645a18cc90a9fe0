# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Who trains a family: each folder is a `train.seam.Host` and what a user of that framework needs around it."""
