# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A large recipe's own jobs, scaled down, before anybody pays for them: `nemo-elastic rehearse`."""
