# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo 2.7 as a host: Lightning model, callbacks, optimizer and loss; folders have recipes, checkpoints and jobs."""
