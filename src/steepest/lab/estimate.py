"""What optimizers ask for beside the gradient, measured on the model and the batches of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from steepest import estimates
from steepest.core.rule import Ask
from steepest.lab import runtime
from steepest.lab.batches import batch
from steepest.lab.config import RunConfig
from steepest.lab.corpus import Corpus
from steepest.lab.fused import twice_differentiable
from steepest.lab.model import Decoder
from steepest.optimizer import Optimizer

SWITCHED = (
    "Hutchinson's estimate differentiates twice, which compiled graphs, fused attention and fused losses do not "
    "allow: for these passes alone the model runs without them; estimate_seconds tells what they take"
)


class Estimator:
    """Steps an optimizer of a run and supplies what its rule asks for.

    gauss_newton_bartlett and hutchinson see the first sequences of the step's own batch (``config.estimate.share``
    of it, unless the rule asks for the whole), so that no contender sees more text than another; next_gradient is
    the next step's gradient, clipped as it will be. ``seconds``: spent so far.
    """

    def __init__(
        self,
        model: Decoder,
        config: RunConfig,
        corpus: Corpus,
        device: torch.device,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.model, self.config, self.corpus, self.device, self.notice = model, config, corpus, device, notice
        self.seconds = 0.0
        self.switched = False

    def step(self, optimizer: torch.optim.Optimizer, number: int) -> None:
        """Step ``number`` (1, 2, ...) of the run."""
        if isinstance(optimizer, Optimizer):
            estimates.step(optimizer, lambda ask: self._timed(ask, number))
        else:
            optimizer.step()

    def _timed(self, ask: Ask, number: int) -> estimates.Measured:
        began = runtime.now(self.device)
        found = self.measure(ask, number)
        self.seconds += runtime.now(self.device) - began
        return found

    def measure(self, ask: Ask, number: int) -> estimates.Measured:
        """What is asked for at step ``number``, at the weights of now."""
        weights, config = list(self.model.parameters()), self.config
        if ask.kind == "next_gradient":
            found = estimates.gradient(weights, self._each(self._parts(number, 1.0), self._loss))
            # As torch.nn.utils.clip_grad_norm_ will clip the gradient itself.
            norm = torch.nn.utils.get_total_norm(found.values())
            factor = ((config.clip or math.inf) / (norm + 1e-6)).clamp(max=1.0)
            return {p: g * factor for p, g in found.items()}
        parts = self._parts(number - 1, 1.0 if ask.whole else config.estimate.share)
        draw = estimates.generator(config.seed, number, self.device)
        if ask.kind == "gauss_newton_bartlett":
            losses = self._each(parts, lambda part: self.model.sampled_loss(part, draw))
            rows = sum(map(len, parts)) * config.seq
            return estimates.gauss_newton_bartlett(weights, losses, rows, config.estimate.clip or math.inf)
        if not self.switched:
            self.notice(SWITCHED)
            self.switched = True
        with twice_differentiable():
            return estimates.hutchinson(weights, self._each(parts, self._loss), draw, ask.probe)

    def _loss(self, part: Tensor) -> Tensor:
        return self.model.loss(part).loss

    def _each(self, parts: Sequence[Tensor], loss: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        for part in parts:
            with runtime.autocast(self.device, self.config.precision):
                value = loss(part)
            yield value

    def _parts(self, index: int, share: float) -> Sequence[Tensor]:
        """The first sequences of a batch, in equal parts no larger than training's own."""
        c = self.config
        sequences = batch(self.corpus, seed=c.seed, step=index, size=c.batch, seq=c.seq).to(self.device)
        size = c.batch // c.accumulation
        wanted = max(1, round(share * c.batch))
        if wanted > size:
            wanted = round(wanted / size) * size
        return sequences[:wanted].split(min(wanted, size))
