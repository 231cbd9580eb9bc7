"""Rates of a text: loss, perplexity, bits per byte and character, with errors over documents, from sums over documents.

Rates are sums over sums: of all tokens, or of all bytes, never means of the documents' rates. Their standard errors are over
documents (``functional/statistics.py``).

Refused: rates per byte or character where a text is not known; a memory of fewer than no bits; rates without a charge where the
model has read what it predicts.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import cast

import pandas as pd
import torch
from torch import Tensor

from tl_entropy.errors import InputError, check_int, check_number, counted, warn
from tl_entropy.functional.statistics import clustered_mean
from tl_entropy.functional.tokens.coding import perplexity
from tl_entropy.results.base import PER_NAT, Unit
from tl_entropy.results.printing import Printed, mean_over, over, plus_minus, title
from tl_entropy.results.provenance import Provenance, reads_ahead

TOTALS = ("documents", "tokens", "bytes", "characters", "surprisal", "entropy", "varentropy", "expected")
"""What is summed over each document's tokens; "documents" is 1 for each, "expected" counts those of rank 0."""

N_TOTALS = len(TOTALS)

LN2 = math.log(2.0)


def moments(totals: Tensor) -> tuple[Tensor, Tensor]:
    """Σ x [total] and Σ x xᵀ [total, total] over documents, of their totals x [document, total]: all that rates need."""
    return totals.sum(0), totals.T @ totals


class Rates(Printed):
    """Rates and their errors, from moments of the documents' totals in nats."""

    along = None  # quantities in units of their own

    unit: Unit
    provenance: Provenance

    @abstractmethod
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Σ x and Σ x xᵀ over documents."""

    def _rate(self, top: Mapping[str, float], per: str) -> tuple[float, float]:
        """Σ of a combination of totals over Σ of another, with its standard error over documents."""
        sums, products = self._moments()
        if not sums[TOTALS.index("tokens")]:
            raise InputError("this result holds no token to take a rate of")
        weights = torch.tensor([top.get(name, 0.0) for name in TOTALS], dtype=torch.float64)
        chosen = weights != 0  # bytes that are not known are NaN, and stay out where they are not asked for
        weights, j, documents = weights[chosen], TOTALS.index(per), int(sums[0])
        cross, square = weights @ products[chosen, j], weights @ products[chosen][:, chosen] @ weights
        value, error = clustered_mean(sums[j], weights @ sums[chosen], products[j, j], cross, square, documents)
        return value.item(), error.item()

    def _code(self, memory_bits: float | None, memory_tokens: int | None) -> dict[str, float]:
        """The totals that make a code length: the surprisal, and a memory for each document or for so many tokens."""
        seen = reads_ahead(self.provenance)
        if memory_bits is None:
            memory_bits = self._declared() if seen else 0.0
        memory_bits = check_number("memory_bits", memory_bits, 0)
        if memory_tokens is not None:
            return {"surprisal": 1.0, "tokens": memory_bits * LN2 / check_int("memory_tokens", memory_tokens, 1)}
        if not seen:
            return {"surprisal": 1.0, "documents": memory_bits * LN2}
        read = self.provenance.corpus
        windows, tokens = read.get("windows", read.get("documents", 0)), read.get("tokens", 0)
        if memory_bits and not tokens:
            raise InputError("memory_tokens: this result does not know how many tokens share a memory; pass memory_tokens=")
        return {"surprisal": 1.0, "tokens": memory_bits * LN2 * windows / max(tokens, 1)}

    @property
    def _uncharged(self) -> bool:
        """Whether there is no code length without a memory's price, and none is declared."""
        return reads_ahead(self.provenance) and self.provenance.settings.get("memory_bits") is None

    def _declared(self) -> float:
        """Bits of a window's memory, as the model declares them.

        Raises:
            InputError: it does not.
        """
        bits = self.provenance.settings.get("memory_bits")
        if bits is None:
            raise InputError(
                "memory_bits: this model has seen the tokens that it predicts (cfg.reads_ahead), so its losses alone are no "
                "code length; pass memory_bits=, or let the model declare cfg.memory_bits: the bits that a window's memory had "
                "when this was measured. memory_bits=0 gives the losses as they are"
            )
        return float(bits)

    def loss(self, *, memory_bits: float | None = None, memory_tokens: int | None = None) -> float:
        """Mean surprisal in ``unit`` a token; with a memory the normalised loss, which is a code length again.

        Args:
            memory_bits: bits of what the model is told besides the text, such as n numbers of b bits each; 0 is nothing. None
                is what the model declares where it reads ahead (``cfg.memory_bits``), and nothing otherwise.
            memory_tokens: tokens that one such memory serves; None is a memory for each document, long or short, and for each
                window where the model reads ahead: their price is then spread over all tokens predicted.

        Raises:
            InputError: the model reads ahead, and neither it nor the call says what that costs.
        """
        return self._rate(self._code(memory_bits, memory_tokens), "tokens")[0] * PER_NAT[self.unit]

    def perplexity(self, *, memory_bits: float | None = None, memory_tokens: int | None = None) -> float:
        """The exponential of the loss in nats: among how many equally likely tokens the model is as unsure; at least 1."""
        return cast("float", perplexity(self._rate(self._code(memory_bits, memory_tokens), "tokens")[0]))

    def bits_per_byte(self, *, memory_bits: float | None = None, memory_tokens: int | None = None) -> float:
        """Bits for each UTF-8 byte that the tokens stand for: Σ surprisal / (ln 2 · bytes), to compare any tokenizers.

        A text's first token, where no BOS precedes it, is predicted by nothing; neither it nor its bytes count. So it is with
        special tokens, the tokenizer's unknown token among them: with unknown tokens there is no code for the text, the value
        is of the rest, and a warning says of how many bytes. A result of fewer bytes than were read says so.

        Raises:
            InputError: a text is not known, as for token ids that are no tokenizer's tokens of a text.
        """
        self._warn_of_the_rest()
        return self._per("bytes", memory_bits, memory_tokens)

    def bits_per_character(self, *, memory_bits: float | None = None, memory_tokens: int | None = None) -> float:
        """Bits for each character (Unicode code point) that the tokens stand for; otherwise as ``bits_per_byte``."""
        self._warn_of_the_rest()
        return self._per("characters", memory_bits, memory_tokens)

    def _per(self, total: str, memory_bits: float | None, memory_tokens: int | None) -> float:
        code = self._code(memory_bits, memory_tokens)
        value = self._rate(code, total)[0] / LN2
        if math.isnan(value):
            raise InputError(
                f"bits per {total[:-1]} need every document's text and where each token is in it; measure texts rather than "
                "token ids, on a model with a fast tokenizer that drops no characters which it does not know"
            )
        return value

    def rates(self, *, memory_bits: float | None = None, memory_tokens: int | None = None) -> pd.DataFrame:
        """All rates over the corpus: quantity, unit, value, se (over documents; NaN for one), tokens, documents.

        ``loss`` and what is computed from it include the memory, where there is one. Rates per byte and character are left out
        where a text is not known. ``accuracy`` is the share of tokens of rank 0: each was, alone, the most probable.
        """
        self._warn_of_the_rest()
        return self._rates(memory_bits, memory_tokens)

    def _warn_of_the_rest(self) -> None:
        """Warn of rates of texts of which some words are left out: special ones, and those that the tokenizer doesn't know."""
        special, read = self.provenance.corpus.get("special", 0), self.provenance.corpus.get("bytes")
        if special and read is not None:
            measured = self._moments()[0][TOTALS.index("bytes")].item()
            warn(
                f"without {counted(special, 'special token')} of the texts, words that the tokenizer does not know among them, "
                f"rates per byte and character are of {measured:.0f} of the {read} bytes read, and no code length of the texts"
            )

    def _rates(self, memory_bits: float | None = None, memory_tokens: int | None = None) -> pd.DataFrame:
        code, factor, unit = self._code(memory_bits, memory_tokens), PER_NAT[self.unit], self.unit
        loss, error = self._rate(code, "tokens")
        lines: list[tuple[str, str, float, float]] = [("loss", f"{unit} a token", loss * factor, error * factor)]
        among = cast("float", perplexity(loss))
        lines.append(("perplexity", "", among, among * error))
        for name, total in (("bits per byte", "bytes"), ("bits per character", "characters")):
            value, error = self._rate(code, total)
            lines += [(name, "bits", value / LN2, error / LN2)] if not math.isnan(value) else []
        entropy, error = self._rate({"entropy": 1.0}, "tokens")
        lines.append(("entropy", f"{unit} a token", entropy * factor, error * factor))
        varentropy, error = self._rate({"varentropy": 1.0}, "tokens")
        lines.append(("varentropy", f"{unit}² a token", varentropy * factor**2, error * factor**2))
        lines.append(("accuracy", "", *self._rate({"expected": 1.0}, "tokens")))
        sums = self._moments()[0]
        frame = pd.DataFrame(lines, columns=["quantity", "unit", "value", "se"])
        return frame.assign(tokens=int(sums[TOTALS.index("tokens")]), documents=int(sums[0]))

    def _title(self) -> list[str]:
        sums = self._moments()[0]
        return [title(self, over(int(sums[TOTALS.index("tokens")]), int(sums[0])))]

    def _table(self) -> pd.DataFrame | None:
        if not self._moments()[0][0]:
            return None
        rates = self._rates(0.0 if self._uncharged else None)
        if self._uncharged:  # of what is no code length, what says so in its name
            rates = rates[~rates["quantity"].isin(("perplexity", "bits per byte", "bits per character"))]
            rates = rates.replace({"quantity": {"loss": "loss without its memory"}})
        shown = plus_minus(rates["value"], rates["se"])
        names = [
            f"{name} ({unit})" if unit and unit != "bits" else name
            for name, unit in zip(rates["quantity"], rates["unit"], strict=True)
        ]
        return pd.DataFrame({"": shown}, index=names)

    def _notes(self) -> list[str]:
        sums = self._moments()[0]
        note = mean_over(int(sums[0]))
        measured, read = sums[TOTALS.index("bytes")].item(), self.provenance.corpus.get("bytes")
        if read is None or not measured < read - 0.5:
            return [note]
        rest = "what is not selected, not predicted or a special token is left out"
        return [note, f"of {measured:.0f} of the {read} bytes read: {rest}"]
