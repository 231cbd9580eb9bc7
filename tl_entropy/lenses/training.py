r"""Training a tuned lens against the model's own output (Belrose et al. 2023, arXiv 2303.08112, section 2).

For every layer boundary an affine translator y = x + A x + b is fitted to minimise the mean over tokens of KL(output ‖ lens),
all of them at once. The model stays as it is. Only counted positions enter: no padding, no BOS. Windows are drawn in an order
of their own for each round through the texts, and a step's gradient is a mean over its positions, so that neither padding nor
batch size changes it.

The recipe has two parts. A ridge regression of the last residual stream on each earlier one (``regression``), over 64
positions for each dimension, gives the start, or the identity does (A = 0, b = 0) where its KL is lower. Then Adam, with rates
that rise over a tenth of the steps and fall to zero in a straight line. The paper starts from the identity and takes SGD with
Nesterov momentum. In a trial on the bundled model, 80 steps of 2048 positions brought the mean KL over its six layers from
9.94 nats to 2.37 with that (as the package ``tuned-lens`` has it: momentum 0.9, rate 1, gradients clipped to norm 1), to 2.32
with Adam at a rate of 0.01 from the identity, and to 1.81 with Adam at 0.003 from a regression, which had 2.16 by itself.

On a model whose final norm ignores the mean over d_model, the translators see rows with their mean taken out, so that A maps
constant vectors to 0 and the lens fits raw and processed models alike (see ``tuned``).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_entropy.batches import Window
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.caches import split_cache
from tl_entropy.capture.corpus import read_corpus
from tl_entropy.capture.options import WindowOptions
from tl_entropy.capture.progress import Bar
from tl_entropy.errors import InputError, NonFiniteError, check_int, check_number, check_positive, counted, keeping, warn
from tl_entropy.lenses.identity import norm_ignores_mean, signature
from tl_entropy.lenses.objective import Objective
from tl_entropy.lenses.regression import Regression
from tl_entropy.lenses.tuned import TunedLens

START = 64
"""Positions for each dimension of the residual stream from which the start is computed, where there are as many."""

MOMENTS = (0.9, 0.98)
"""Adam's decay rates; the second is short, since there are few steps."""

WARM_UP = 0.1
"""Share of the steps over which the rate rises to its peak, before it falls to zero in a straight line."""


def trained_lens(
    adapter: Adapter,
    inputs: Any,
    *,
    steps: int,
    tokens_per_step: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    validation: Any,
    batch_size: int | None,
    progress: bool,
    options: WindowOptions,
) -> TunedLens:
    """A lens trained by this process; arguments and errors as for ``tle.train_tuned_lens``."""
    steps = check_int("steps", steps, 1)
    tokens_per_step = check_int("tokens_per_step", tokens_per_step, 1)
    seed = check_int("seed", seed, 0)
    learning_rate, weight_decay = check_positive("learning_rate", learning_rate), check_number("weight_decay", weight_decay, 0)
    translators = _Translators(adapter, batch_size)
    windows, skipped = _read(adapter, inputs, options, most=steps * tokens_per_step)
    watched = None if validation is None else _read(adapter, validation, options)[0]
    optimizer = torch.optim.AdamW(
        [translators.weights, translators.offsets], lr=learning_rate, betas=MOMENTS, weight_decay=weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))

    losses: Tensor | None = None
    recent: list[Tensor] = []
    done, tokens, interrupted = 0, 0, False

    def trained() -> TunedLens:
        """The lens as it is by now."""
        settings = {
            "recipe": "least squares, then AdamW with linear warm-up and decay", "steps": done, "steps_asked": steps,
            "tokens_per_step": tokens_per_step, "learning_rate": float(learning_rate), "weight_decay": float(weight_decay),
            "seed": seed,
            "training_losses": tuple(torch.stack(recent).mean(0).tolist()) if recent else (),
            **{name: value for name, value in options.items() if value is not None},
        }  # fmt: skip
        corpus = {
            "tokens_trained": tokens,
            "tokens": sum(int(window.counted.sum()) for window in windows),
            "documents": len({window.document for window in windows}),
            **({"skipped": skipped} if skipped else {}),
        }
        weights, biases = translators.finished()
        origin = adapter.provenance(settings=settings, corpus=corpus, interrupted=interrupted or done < steps)
        return TunedLens(weights, biases, origin, losses, signature(adapter))

    bar = Bar(total=steps, unit="step", desc="tuned lens", show=progress)
    # A loss that is not finite is of a lens that is not worth keeping.
    with keeping(lambda error: trained() if done and not isinstance(error, NonFiniteError) else None), bar:
        try:
            before = None if watched is None else translators.losses(watched)
            translators.start(_beginning(windows, START * translators.d_model, seed))
            for group in _groups(windows, tokens_per_step, steps, seed):
                loss, n_rows = translators.gradient(group)
                if not bool(loss.isfinite().all()):
                    raise NonFiniteError(
                        f"KL is {[round(value, 3) for value in loss.tolist()]} nats by layer at step {done}: the model's "
                        "activations have a NaN or an infinity, or the training diverged; check the weights, or lower "
                        f"learning_rate from {learning_rate}"
                    )
                optimizer.step()
                schedule.step()
                done, tokens, recent = done + 1, tokens + n_rows, [*recent, loss][-max(1, steps // 10) :]
                bar.set_postfix_str(f"KL {float(loss.mean()):.4f} nats", refresh=False)
                bar.update()
            if watched is not None and before is not None:
                losses = torch.stack([before, translators.losses(watched)]).float()
        except KeyboardInterrupt:
            interrupted = True
            warn(f"interrupted after {done} of {counted(steps, 'step')}; the lens is what was trained until then")
    return trained()


class _Translators:
    """All translators in training: A, and b in units of the residual stream's size at its layer."""

    def __init__(self, adapter: Adapter, batch_size: int | None) -> None:
        self._adapter, self._batch_size = adapter, batch_size
        self._objective = Objective(adapter)
        self._sites = adapter.sites(("embed", "resid_post"))
        self._centred = norm_ignores_mean(adapter)
        self.d_model = len(adapter.readout.unembedding)
        dtype, device = self._objective.dtype, self._objective.device
        self.weights = torch.zeros(adapter.n_layers, self.d_model, self.d_model, dtype=dtype, device=device)
        self.offsets = torch.zeros(adapter.n_layers, self.d_model, dtype=dtype, device=device)
        self._sizes = torch.ones(adapter.n_layers, 1, dtype=dtype, device=device)

    @torch.no_grad()
    def start(self, windows: Sequence[Window]) -> None:
        """Set sizes, and A and b to what regression on the last residual stream gives, where that is better than nothing."""
        fits = [Regression() for _ in self.weights]
        squares, n_rows = torch.zeros_like(self._sizes), 0
        for inner, last in self._states(windows):
            n_rows += len(last)
            for i, rows in enumerate(inner):
                squares[i] += rows.square().sum()
                fits[i].update(rows, last)
        self._sizes = (squares / (n_rows * self.d_model)).sqrt().clamp(min=torch.finfo(squares.dtype).tiny)
        before = self.losses(windows)
        for i, fit in enumerate(fits):
            weights, biases = fit.solve()
            self.weights[i] = weights
            self.offsets[i] = biases.to(self.offsets) / self._sizes[i]
        worse = (self.losses(windows) > before).to(self.weights.device)
        self.weights[worse], self.offsets[worse] = 0, 0

    def losses(self, windows: Sequence[Window]) -> Tensor:
        """Mean KL of each layer over the counted positions of ``windows``, [layer] on the CPU."""
        return self._pass(windows, gradient=False)[0]

    def gradient(self, windows: Sequence[Window]) -> tuple[Tensor, int]:
        """The same, with the number of positions; its gradient goes to ``grad`` of both tensors."""
        self.weights.grad, self.offsets.grad = torch.zeros_like(self.weights), torch.zeros_like(self.offsets)
        kl, n_rows = self._pass(windows, gradient=True)
        self.weights.grad /= n_rows
        self.offsets.grad *= self._sizes / n_rows
        return kl, n_rows

    def finished(self) -> tuple[Tensor, Tensor]:
        """A and b as a lens keeps them."""
        weights = self.weights.cpu().double()
        weights = weights - weights.mean(-1, keepdim=True) if self._centred else weights
        return weights.to(self.weights.dtype), (self.offsets * self._sizes).cpu()

    def _states(self, windows: Sequence[Window]) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Batch by batch, the rows [rows, d_model] that enter each block, and those of the last residual stream."""
        adapter = self._adapter
        for batch in adapter.batches(windows, self._batch_size):
            seen = adapter.activations(batch.tokens, batch.attention_mask, self._sites)
            states = [batch.rows(seen[site]).to(self._objective.device, self._objective.dtype) for site in self._sites]
            if self._centred:
                states = [rows - rows.mean(-1, keepdim=True) for rows in states]
            yield states[:-1], states[-1]

    def _pass(self, windows: Sequence[Window], *, gradient: bool) -> tuple[Tensor, int]:
        """Mean KL [layer] and number of positions; sums over positions of the gradient in A and b are added to ``grad``."""
        kl, n_rows, biases = torch.zeros(len(self.weights), dtype=torch.float64), 0, self.offsets * self._sizes
        for inner, last in self._states(windows):
            n_rows += len(last)
            for first in range(0, len(last), self._objective.rows_at_once):
                piece = slice(first, first + self._objective.rows_at_once)
                output = self._objective.output(last[piece])
                for i, states in enumerate(inner):
                    rows = states[piece]
                    translated = rows + (rows @ self.weights[i].T + biases[i])
                    found, upstream = self._objective.loss(translated, output, gradient=gradient)
                    kl[i] += float(found.sum())
                    if upstream is not None and self.weights.grad is not None and self.offsets.grad is not None:
                        self.weights.grad[i] += upstream.T @ rows
                        self.offsets.grad[i] += upstream.sum(0)
        return kl / n_rows, n_rows


def _read(
    adapter: Adapter, inputs: Any, options: WindowOptions, *, most: int | None = None
) -> tuple[list[Window], dict[str, Any]]:
    """The windows of ``inputs`` in which something is counted, until ``most`` positions have been; and what was left out.

    Whatever ends it has as its ``partial`` the documents read by then, as tokens, which can be read again as ``inputs``.
    """
    if split_cache(inputs)[0] is not None:
        raise InputError("inputs: a tuned lens can't be trained on a cache; pass the texts or tokens themselves")
    windows: list[Window] = []
    tokens = 0
    corpus = read_corpus(adapter, inputs, **options)
    with keeping(lambda _: _documents(windows), "the documents read before this error are its attribute 'partial', as tokens"):
        for window in corpus:
            count = int(window.counted.sum())
            tokens += count
            windows.extend([window] if count else [])
            if most is not None and tokens >= most:
                break
    return windows, corpus.report.skipped.told()


def _documents(windows: Sequence[Window]) -> list[Tensor] | None:
    """The documents that begin in these windows, as tokens [pos] with the BOS that they were given; None for none."""
    firsts = [window for window in windows if int(window.position[window.position >= 0][0]) == 0]
    return [torch.cat([window.tokens[window.position < 0], window.body]) for window in firsts] or None


def _beginning(windows: Sequence[Window], most: int, seed: int) -> list[Window]:
    """Windows drawn at random, until ``most`` positions are in them."""
    chosen, tokens = [], 0
    for window in random.Random(seed).sample(windows, len(windows)):
        chosen.append(window)
        tokens += int(window.counted.sum())
        if tokens >= most:
            break
    return chosen


def _groups(windows: Sequence[Window], tokens_per_step: int, steps: int, seed: int) -> Iterator[list[Window]]:
    """The windows of each step: at least ``tokens_per_step`` positions, the shortest first, so that little is padded."""
    draw = random.Random(seed)
    order: list[Window] = []
    for _ in range(steps):
        group: list[Window] = []
        counted = 0
        while counted < tokens_per_step:
            if not order:
                order = draw.sample(windows, len(windows))
            group.append(order.pop())
            counted += int(group[-1].counted.sum())
        yield sorted(group, key=len)


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / max(1.0, WARM_UP * steps)) * (1 - step / steps)
