"""One thread a test process: sums have one order, and two workers share two cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
