"""What a training was seen to do, and the line that its losses follow in the logarithm of the tokens seen.

The line is loss ≈ intercept + slope · log2(tokens), by least squares.

Refused: a line through fewer than three records, and what it would say of more than twice the tokens, or of fewer than half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import linregress

from tl_entropy.errors import InputError, check_int, check_positive
from tl_entropy.torch_state import Steady


class LogFit(NamedTuple):
    """A line through losses over the logarithm of the tokens seen.

    Attributes:
        slope: nats a token for each doubling of the tokens seen; below 0 the loss falls.
        slope_se: its standard error.
        intercept: the line at one token, far from anything seen.
        intercept_se: its standard error.
        fewest: tokens seen at the first record.
        most: at the last.
    """

    slope: float
    slope_se: float
    intercept: float
    intercept_se: float
    fewest: int
    most: int

    def at(self, tokens: float) -> float:
        """The line's loss after so many tokens.

        Raises:
            InputError: more than twice those seen, or fewer than half of the first record's.
        """
        tokens = check_positive("tokens", tokens)
        if not self.fewest / 2 <= tokens <= 2 * self.most:
            raise InputError(f"tokens must be from {self.fewest / 2:g} to {2 * self.most}, around those seen; got {tokens:g}")
        return self.intercept + self.slope * float(np.log2(tokens))


@dataclass(frozen=True)
class TrainingHistory(Steady):
    """What a training was seen to do.

    Attributes:
        steps: after which something was written down, [record].
        training: mean loss since the record before, nats a token.
        validation: loss on what is held out, nats a token; without what a memory costs.
        tokens: predicted so far.
        seconds: since the beginning, those of earlier runs of the same training among them.
        settings: of the training.

    >>> history = TrainingHistory((10,), (1.5,), (1.6,), (640,), (0.1,), {})
    >>> history.to_pandas()["validation"].tolist(), history.loss
    ([1.6], 1.6)
    """

    steps: tuple[int, ...]
    training: tuple[float, ...]
    validation: tuple[float, ...]
    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    settings: Mapping[str, Any]

    @property
    def loss(self) -> float:
        """The last validation's loss, nats a token."""
        return self.validation[-1]

    def to_pandas(self) -> pd.DataFrame:
        """One line a record: step, training, validation, tokens, seconds."""
        columns = ("steps", "training", "validation", "tokens", "seconds")
        return pd.DataFrame({name.removesuffix("s") if name == "steps" else name: getattr(self, name) for name in columns})

    def log_fit(self, *, first: int = 1) -> LogFit:
        """The validation's loss as a straight line in the logarithm of the tokens seen: what each doubling of them brings.

        Errors are those of least squares, from how far records lie off the line. Neighbouring records are of one training,
        whose rate falls towards its end, so that the line says how this course went, not where others end.

        Args:
            first: of the records to fit, from that of this step on; the beginning of a training follows no such line.

        Returns:
            ``LogFit``, in nats a token.

        Raises:
            InputError: fewer than three records.

        >>> history = TrainingHistory((1, 2, 3, 4), (3.0,) * 4, (3.0, 2.5, 2.0, 1.5), (100, 200, 400, 800), (0.1,) * 4, {})
        >>> fit = history.log_fit()
        >>> round(fit.slope, 6), round(fit.at(1600), 6), (fit.fewest, fit.most)
        (-0.5, 1.0, (100, 800))
        """
        first = check_int("first", first, 1)
        pairs = [(n, y) for step, n, y in zip(self.steps, self.tokens, self.validation, strict=True) if step >= first]
        if len(pairs) < 3:
            raise InputError(f"first: a line takes three records or more; from step {first} on there are {len(pairs)}")
        x, y = np.log2([n for n, _ in pairs]), np.array([y for _, y in pairs])
        found = linregress(x, y)
        return LogFit(
            float(found.slope), float(found.stderr), float(found.intercept), float(found.intercept_stderr), pairs[0][0],
            pairs[-1][0],
        )  # fmt: skip
