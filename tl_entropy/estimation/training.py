r"""Training of entropy-estimation models: windows, losses, optimiser, schedule, and going on after an interruption.

A step's loss is a mean over its tokens, never over its rows (``losses_of``). Windows are cut out of documents at random, a
document as often as it is long, with the token that begins texts in front where the model has one; a quarter of them is
shorter, uniform in [T / 8, T], and padded on the right, so that places before the last of a window are trained as states, too.
AdamW, gradients clipped to norm 1 (all of an autoencoder's gradient comes through one vector), a rate that rises over the first
steps, stays, and falls to zero over the last 30 %. Batches and noise follow from seeds and steps alone.

What a validation says is what the model costs as it is measured: without noise, and on its grid where it has one. It is no code
length where the model reads ahead: its memory comes on top (``cfg.memory_bits`` a window).

Refused: float16, whose range models of this kind outgrow; a state of another training, or another kind of model, in the folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from tl_entropy.capture import origin
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.progress import Bar
from tl_entropy.errors import (
    InputError,
    InputTypeError,
    NonFiniteError,
    check_choice,
    check_int,
    check_number,
    check_positive,
    keeping,
)  # fmt: skip
from tl_entropy.estimation.files import check_place
from tl_entropy.estimation.history import TrainingHistory
from tl_entropy.estimation.models import EstimationModel, losses_of
from tl_entropy.estimation.steps import load_state, rate_at, save_state
from tl_entropy.estimation.windows import Windows, validated, warn_of_shared
from tl_entropy.results.files import as_path, digest, parsed, write_text
from tl_entropy.results.holding import held
from tl_entropy.torch_state import steady

Weights = Callable[[Tensor, Tensor], Tensor]
"""Of tokens [batch, pos] and their mask, what each loss [batch, token] counts, at least 0."""


class TrainingOptions(TypedDict, total=False):
    """Options of ``train_estimation`` that a sweep takes, too; its docstring says what each means."""

    batch_size: int
    learning_rate: float
    warm_up: int
    down: float
    weight_decay: float
    short: float
    noise_up: float
    precision: Literal["float32", "bfloat16"]


MOMENTS = (0.9, 0.98)
"""Adam's decay rates; the second is short, since there are few steps."""


@steady
def train_estimation(
    model: EstimationModel,
    texts: Any,
    *,
    validation: Any,
    steps: int,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    warm_up: int = 50,
    down: float = 0.3,
    weight_decay: float = 0.1,
    short: float = 0.25,
    noise_up: float = 0.0,
    weights: Weights | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    every: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    monitor: Callable[[int], Any] | None = None,
    progress: bool = True,
) -> TrainingHistory:
    r"""Train an entropy-estimation model where it is, and say how it went.

    Args:
        model: as ``estimation_model`` makes it; it is changed, and left in evaluation mode.
        texts: what it is trained on: texts, tokens, files or data sets, as for ``stream``; all are read into memory. Every
            window begins with the token that begins texts, where the model has one: of rows of tokens, too, in which it may
            stand or not. A measurement takes such rows as they are; put it in front for the same losses.
        validation: what its losses are looked at on. Give other documents, not other windows of the same ones: of documents
            of 32 tokens and more that are among the texts a warning says so.
        steps: optimiser steps of the whole training.
        batch_size: windows a step.
        learning_rate: at its peak.
        warm_up: steps over which the rate rises.
        down: share of the steps, at the end, over which it falls to zero.
        weight_decay: of matrices in blocks.
        short: share of windows that are shorter than the context.
        noise_up: share of the steps, at the beginning, over which a memory's noise rises from 0 to what the configuration says.
            Where all of it is on from the first step, a number is soon at its limits, where its gradient is 0, whether or not
            it says what no other does; on a coarse grid some then never say anything.
        weights: a function of tokens [batch, pos] and their mask that gives what each loss counts [batch, token], from 0 on;
            the step's loss is then Σ w L / Σ w. Tokens of losses are those from position 1 on, of an autoencoder all.
        precision: "bfloat16" runs matrix products in it.
        every: steps between two validations; None is a tenth of them all.
        seed: of the windows; that of noise is the model's own.
        out: a folder to which the state is saved at each validation, and the model at the end. The same call goes on with what
            it finds there, and ends where it would have without the interruption, to the last bit.
        monitor: called with the number of each step before it is made, and of the last after it, such as an
            ``EntropyMonitor``.
        progress: show a progress bar.

    Returns:
        Its ``TrainingHistory``.

    Raises:
        InputError, InputTypeError: an argument out of range, or a folder with the state of another training: with other
            settings, on other texts, or of a model of another seed.
        NonFiniteError: a loss that is no finite number; its ``partial`` is the history so far.
        SaveError: the folder cannot be written to, holds another kind of model, or another training is writing to it.

    >>> import tl_entropy as tle
    >>> model = tle.estimation_model(tle.EstimationConfig(n_ctx=16, d_model=16, n_layers=1), "bytes")
    >>> options = {"steps": 60, "learning_rate": 0.02, "progress": False}
    >>> history = tle.train_estimation(model, ["abab" * 50], validation=["abab" * 5], **options)
    >>> history.validation[0] > 3 * history.loss, history.tokens[-1] > 60 * 16 * 10
    (True, True)
    """
    if not isinstance(model, EstimationModel):
        raise InputTypeError(f"model must be an EstimationModel; got {type(model).__name__}")
    steps, batch_size = check_int("steps", steps, 1), check_int("batch_size", batch_size, 1)
    every = max(1, steps // 10) if every is None else check_int("every", every, 1)
    check_choice("precision", precision, ("float32", "bfloat16"))
    if model.W_U.dtype == torch.float16:
        raise InputError("model is in float16, whose range trainings outgrow; convert it: model.to(torch.float32)")
    settings = {
        "steps": steps, "batch_size": batch_size, "learning_rate": check_positive("learning_rate", learning_rate),
        "warm_up": check_int("warm_up", warm_up, 1), "down": check_number("down", down, 1e-9, 1.0),
        "weight_decay": check_number("weight_decay", weight_decay, 0), "short": check_number("short", short, 0.0, 1.0),
        "noise_up": check_number("noise_up", noise_up, 0.0, 1.0),
        "weighted": weights is not None, "precision": precision, "every": every, "seed": check_int("seed", seed, 0),
    }  # fmt: skip
    folder = None if out is None else as_path("out", out)
    with nullcontext() if folder is None else held("out", folder / "training.json", wait=False):
        adapter = Adapter(model)
        read, held_out = Windows.of(adapter, texts, "texts"), Windows.of(adapter, validation, "validation")
        warn_of_shared(read, held_out)
        optimizer = _optimizer(model, learning_rate, weight_decay)
        of = {"seed": model.seed, "texts": read.digest(), "validation": held_out.digest()}
        course = Course(model, optimizer, settings, of, folder)
        bar = Bar(range(course.first, steps), initial=course.first, total=steps, desc="training", unit="step", show=progress)
        step_loss = _Step(model, weights, precision)
        with keeping(lambda _: course.history()):
            model.train()
            try:
                for step in bar:
                    if monitor is not None:
                        monitor(step)
                    if model.memory is not None:
                        model.memory.drawn = step
                        model.memory.rise = min(1.0, (step + 1) / (noise_up * steps)) if noise_up else 1.0
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate * rate_at(step, steps, warm_up=warm_up, down=down)
                    loss, tokens = step_loss(*read.drawn(batch_size, step, seed=seed, short=short))
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    value = course.add(step, float(loss.detach()), tokens)
                    bar.set_postfix(loss=f"{value:.3f}", refresh=False)
                    if (step + 1) % every == 0 or step + 1 == steps:
                        course.record(step + 1, validated(model, held_out, batch_size))
            finally:
                model.eval()
                if model.memory is not None:
                    model.memory.rise = 1.0
            if monitor is not None and course.first < steps:
                monitor(steps)
        straight = ", numbers on their grid and gradients straight through it" if model.config.straight_through else ""
        origin.note(model, f"trained for {steps} steps of {batch_size} windows, seed {seed}{straight}")
        if folder is not None:
            model.save(folder)
        return course.history()


class _Step:
    """The loss of one batch."""

    def __init__(self, model: EstimationModel, weights: Weights | None, precision: str) -> None:
        self.model, self.weights, self.precision = model, weights, precision

    def __call__(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, int]:
        """Σ w L / Σ w, and how many losses there are."""
        device = self.model.W_U.device
        rows, mask = rows.to(device), mask.to(device)
        half = torch.autocast(device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()
        with half:
            logits = self.model(rows, attention_mask=mask)
        losses, real = losses_of(logits, rows, mask, predicts=self.model.config.predicts)
        counts = real.to(losses.dtype)
        if self.weights is not None:
            given = self.weights(rows, mask)
            if not isinstance(given, Tensor) or given.shape != losses.shape or not bool((given >= 0).all()):
                raise InputError(f"weights must give numbers from 0 on, {list(losses.shape)} of them, one for each loss")
            counts = counts * given.to(losses)
        return (losses * counts).sum() / counts.sum().clamp(min=torch.finfo(losses.dtype).tiny), int(real.sum())


class Course:
    """What a training has done so far, in memory and in its folder.

    Attributes:
        first: the step to go on with.
    """

    def __init__(
        self,
        model: EstimationModel,
        optimizer: torch.optim.Optimizer,
        settings: Mapping[str, Any],
        of: Mapping[str, Any],
        folder: Path | None,
    ) -> None:
        self.model, self.optimizer, self.settings, self.of, self.folder = model, optimizer, settings, of, folder
        self.first, self._rows = 0, [list[Any]() for _ in range(5)]
        self._tokens, self._losses, self._before, self._began = 0, list[float](), 0.0, time.perf_counter()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            check_place("out", folder, type(model).__name__)
            self._go_on(folder / "training.json", folder)

    def _go_on(self, path: Path, folder: Path) -> None:
        if not (folder / "state.safetensors").exists():
            return
        try:
            found = parsed(path.read_text(encoding="utf-8"))
            same = found["settings"] == self.settings and found["config"] == self.model.config.as_dict()
            others = found["of"] != self.of
            if found.pop("digest") != digest(json.dumps(found), {}):
                raise ValueError("its digest is not that of its contents")
            self._rows, [self._tokens, self._before] = found["records"], found["so_far"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"out: {folder} has a state, but {path.name} cannot be read ({error!r})") from error
        if not same:
            raise InputError(f"out: {folder} has the state of a training with other settings; use another folder, or delete it")
        if others:
            raise InputError(
                f"out: {folder} has the state of a training on other texts, or of a model of another seed; use another folder, "
                "or delete it"
            )
        self.first = load_state(folder, self.model, [self.optimizer])
        if self._rows[0] and self._rows[0][-1] != self.first:
            raise InputError(f"out: state and {path.name} in {folder} are of different steps; use another folder, or delete it")

    def add(self, step: int, loss: float, tokens: int) -> float:
        """Count a step; the mean loss since the last record."""
        if not loss - loss == 0:
            raise NonFiniteError(f"the loss of step {step} is {loss}; use a lower learning_rate, or precision='float32'")
        self._losses.append(loss)
        self._tokens += tokens
        return sum(self._losses) / len(self._losses)

    def record(self, step: int, validation: float) -> None:
        """Write down where the training is, and save it."""
        seconds = self._before + time.perf_counter() - self._began
        row = (step, sum(self._losses) / len(self._losses), validation, self._tokens, seconds)
        for column, value in zip(self._rows, row, strict=True):
            column.append(value)
        self._losses = []
        if self.folder is None:
            return
        save_state(self.folder, step, self.model, [self.optimizer])
        whole = {
            "settings": self.settings, "config": self.model.config.as_dict(), "of": self.of, "records": self._rows,
            "so_far": [self._tokens, seconds],
        }  # fmt: skip
        told = {**whole, "digest": digest(json.dumps(whole), {})}
        write_text(self.folder / "training.json", json.dumps(told, indent=1) + "\n")

    def history(self) -> TrainingHistory:
        """Of all records."""
        steps, training, validation, tokens, seconds = map(tuple, self._rows)
        return TrainingHistory(steps, training, validation, tokens, seconds, dict(self.settings))


def _optimizer(model: EstimationModel, rate: float, decay: float) -> torch.optim.Optimizer:
    """AdamW, with decay of the matrices in blocks alone: a convolution's are [to, from], and no maps of features."""
    inner = [p for name, p in model.named_parameters() if "blocks." in name and p.ndim > 1 and not name.endswith("bias")]
    chosen = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in chosen]
    return torch.optim.AdamW(
        [{"params": inner, "weight_decay": decay}, {"params": outer, "weight_decay": 0.0}], lr=rate, betas=MOMENTS
    )
