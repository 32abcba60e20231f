"""Teaching a tiny model some texts by heart. Runs where torch is; nothing at run time needs it."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

PAD = 3


def train(model: nn.Module, logits: Callable[[torch.Tensor], torch.Tensor], rows: list[list[int]], steps: int) -> float:
    """Teach the rows by heart, a random batch at a time; `logits` is the model's pass. Returns the smoothed loss."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    smoothed = 6.0
    for _ in range(steps):
        batch = random.sample(rows, min(24, len(rows)))
        longest = max(map(len, batch))
        tokens = torch.tensor([row + [PAD] * (longest - len(row)) for row in batch])
        target = tokens[:, 1:].masked_fill(tokens[:, 1:] == PAD, -100)
        loss = functional.cross_entropy(logits(tokens[:, :-1]).flatten(0, 1), target.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        smoothed += 0.05 * (loss.item() - smoothed)
    return smoothed
