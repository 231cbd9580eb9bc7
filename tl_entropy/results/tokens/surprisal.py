"""What single tokens cost a model: every token (``TokenSurprisal``), or sums over a corpus (``SurprisalSummary``).

The surprisal of a token, -log p(token | what came before), is the model's loss on it. Sums of it are a code length: an
arithmetic coder with the model's predictions needs that many nats, up to two bits for the whole text (Witten, Neal and Cleary
1987). Rates are sums over sums: of all tokens, or of all bytes, never means of the documents' rates. Their standard errors are
over documents (``functional/statistics.py``).

Refused: rates per byte or character where a text is not known; a memory of fewer than no bits.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.errors import InputError, check_int, check_number, counted
from tl_entropy.functional.statistics import clustered_mean, document_sums
from tl_entropy.functional.tokens.coding import perplexity
from tl_entropy.results.base import PER_NAT, Result, Unit
from tl_entropy.results.printing import Printed, over, plus_minus, title
from tl_entropy.results.provenance import Provenance, reads_ahead
from tl_entropy.results.tokens.rows import Column, TokenRows
from tl_entropy.results.tokens.words import Cut, WordSurprisal, words_of
from tl_entropy.sites import Site

_TOTALS = ("documents", "tokens", "bytes", "characters", "surprisal", "entropy", "varentropy", "expected")
"""What is summed over each document's tokens; "documents" is 1 for each, "expected" counts those of rank 0."""

N_TOTALS = len(_TOTALS)

COLUMNS = ("surprisal", "entropy", "excess", "varentropy", "rank")
"""Quantities of each token."""

_LN2 = math.log(2.0)
_NOTE = "mean over tokens ± standard error over documents"


def moments(totals: Tensor) -> tuple[Tensor, Tensor]:
    """Σ x [total] and Σ x xᵀ [total, total] over documents, of their totals x [document, total]: all that rates need."""
    return totals.sum(0), totals.T @ totals


class _Rates(Printed):
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
        if not sums[_TOTALS.index("tokens")]:
            raise InputError("this result holds no token to take a rate of")
        weights = torch.tensor([top.get(name, 0.0) for name in _TOTALS], dtype=torch.float64)
        chosen = weights != 0  # bytes that are not known are NaN, and stay out where they are not asked for
        weights, j, documents = weights[chosen], _TOTALS.index(per), int(sums[0])
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
            return {"surprisal": 1.0, "tokens": memory_bits * _LN2 / check_int("memory_tokens", memory_tokens, 1)}
        if not seen:
            return {"surprisal": 1.0, "documents": memory_bits * _LN2}
        read = self.provenance.corpus
        windows, tokens = read.get("windows", read.get("documents", 0)), read.get("tokens", 0)
        if memory_bits and not tokens:
            raise InputError("memory_tokens: this result does not know how many tokens share a memory; pass memory_tokens=")
        return {"surprisal": 1.0, "tokens": memory_bits * _LN2 * windows / max(tokens, 1)}

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
        value = self._rate(code, total)[0] / _LN2
        if math.isnan(value):
            raise InputError(
                f"bits per {total[:-1]} need every document's text and where each token is in it; measure texts rather than "
                "token ids, on a model with a fast tokenizer"
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
            measured = self._moments()[0][_TOTALS.index("bytes")].item()
            warnings.warn(
                f"without {counted(special, 'special token')} of the texts, words that the tokenizer does not know among them, "
                f"rates per byte and character are of {measured:.0f} of the {read} bytes read, and no code length of the texts",
                stacklevel=4,
            )

    def _rates(self, memory_bits: float | None = None, memory_tokens: int | None = None) -> pd.DataFrame:
        code, factor, unit = self._code(memory_bits, memory_tokens), PER_NAT[self.unit], self.unit
        loss, error = self._rate(code, "tokens")
        lines: list[tuple[str, str, float, float]] = [("loss", f"{unit} a token", loss * factor, error * factor)]
        among = cast("float", perplexity(loss))
        lines.append(("perplexity", "", among, among * error))
        for name, total in (("bits per byte", "bytes"), ("bits per character", "characters")):
            value, error = self._rate(code, total)
            lines += [(name, "bits", value / _LN2, error / _LN2)] if not math.isnan(value) else []
        entropy, error = self._rate({"entropy": 1.0}, "tokens")
        lines.append(("entropy", f"{unit} a token", entropy * factor, error * factor))
        varentropy, error = self._rate({"varentropy": 1.0}, "tokens")
        lines.append(("varentropy", f"{unit}² a token", varentropy * factor**2, error * factor**2))
        lines.append(("accuracy", "", *self._rate({"expected": 1.0}, "tokens")))
        sums = self._moments()[0]
        frame = pd.DataFrame(lines, columns=["quantity", "unit", "value", "se"])
        return frame.assign(tokens=int(sums[_TOTALS.index("tokens")]), documents=int(sums[0]))

    def _title(self) -> list[str]:
        sums = self._moments()[0]
        return [title(self, over(int(sums[_TOTALS.index("tokens")]), int(sums[0])))]

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
        measured, read = self._moments()[0][_TOTALS.index("bytes")].item(), self.provenance.corpus.get("bytes")
        if read is None or not measured < read - 0.5:
            return [_NOTE]
        rest = "what is not selected, not predicted or a special token is left out"
        return [_NOTE, f"of {measured:.0f} of the {read} bytes read: {rest}"]


@dataclass(frozen=True, eq=False, repr=False)
class TokenSurprisal(_Rates, TokenRows, Result):
    """What every token of a text cost the model, and how unsure the model was before it came.

    Rows are the tokens predicted, ordered by document and position; everything in a row is about that row's own token and the
    distribution over the vocabulary from which it was drawn. A document's first token is there where a BOS precedes it.

    Attributes:
        surprisal: [row], -log p(token), in ``unit``; 0 to infinity.
        entropy: [row], of the distribution, in ``unit``; 0 to log d_vocab.
        varentropy: [row], variance of the surprisal under the distribution, in ``unit`` squared.
        rank: [row], how many other tokens were at least as probable; 0 for the one that was the most probable alone.
        n_bytes: [row], UTF-8 bytes that the token stands for, a shared character's divided among its tokens; NaN where the
            text is not known.
        n_characters: [row], characters, likewise.
        top_tokens: [row, k], ids of the most probable tokens; equally probable ones by their ids.
        top_log_probs: [row, k], their natural log-probabilities, whatever the unit.
        sites: where the surprisal was read through a lens as well.
        site_surprisal: [row, site], -log of the lens probability of the token, in ``unit``.
        word_begin: [row, reading], before the token, -log of the probability that a word begins, in ``unit``; 0 where the token
            begins none, and where that was certain. Readings are the output, then the sites.
        word_end: [row, reading], the same after the token, which ends a word there; NaN where that is not known.
        unit: "nats" or "bits".

    The other fields are those of ``TokenRows``.

    >>> import tl_entropy as tle
    >>> result = tle.token_surprisal(tle.demo_model(), "import os, sys", progress=False)
    >>> bool((result.surprisal >= 0).all()), result.unit
    (True, 'nats')
    """

    surprisal: Float[Tensor, "row"]
    entropy: Float[Tensor, "row"]
    varentropy: Float[Tensor, "row"]
    rank: Int[Tensor, "row"]
    n_bytes: Float[Tensor, "row"]
    n_characters: Float[Tensor, "row"]
    top_tokens: Int[Tensor, "row k"] | None = None
    top_log_probs: Float[Tensor, "row k"] | None = None
    sites: tuple[Site, ...] = ()
    site_surprisal: Float[Tensor, "row site"] | None = None
    word_begin: Float[Tensor, "row reading"] | None = None
    word_end: Float[Tensor, "row reading"] | None = None

    in_units = ("surprisal", "entropy", "site_surprisal", "word_begin", "word_end")

    def to(self, unit: Unit) -> TokenSurprisal:
        """The same result in "nats" or "bits"."""
        changed = super().to(unit)
        return dataclasses.replace(changed, varentropy=self.varentropy * (PER_NAT[unit] / PER_NAT[self.unit]) ** 2)

    def columns(self) -> dict[str, Column]:
        """Surprisal, entropy, excess (their difference), varentropy and rank, as in ``COLUMNS``."""
        return {
            "surprisal": Column(self.surprisal, self.unit, "what the token cost: -log of its probability"),
            "entropy": Column(self.entropy, self.unit, "how unsure the model was before the token came"),
            "excess": Column(
                self.surprisal - self.entropy, self.unit, "surprisal above the entropy: more than the model expected"
            ),
            "varentropy": Column(self.varentropy, f"{self.unit}²", "variance of the surprisal that the model expected"),
            "rank": Column(self.rank.double(), "", "how many other tokens were at least as probable"),
        }

    def to_pandas(self) -> pd.DataFrame:
        """One line for each token: document, position, start, end, token, surprisal, entropy, ..., and the likeliest token."""
        frame = super().to_pandas().astype({"rank": int}).assign(bytes=self.n_bytes.numpy())
        if self.top_tokens is not None and self.top_tokens.shape[1]:
            frame["top_token"] = [self.strings[i] for i in self.top_tokens[:, 0].tolist()]
        if self.site_surprisal is not None:
            frame[[f"surprisal.{site}" for site in self.sites]] = self.site_surprisal.numpy()
        return frame

    def word_surprisal(
        self,
        by: Cut = "space",
        *,
        context: str | Sequence[str] = "",
        correct: bool = True,
        final: bool = False,
        frequency: Mapping[str, float] | Callable[[str], float] | None = None,
    ) -> WordSurprisal:
        """What each word cost, one row a word, at the output and at every site that was read.

        A word's surprisal is the sum of its tokens', less what their white space says of the word before, with what it costs
        this word to end: Σ s(token) - b(first) + b(behind the last). Before a token, b is -log of the probability that a word
        begins: of all tokens that begin with white space, and of special ones. It is 0 where a word begins for certain (at a
        text's beginning, behind white space) or follows without white space. See ``WordSurprisal`` for the source.

        Sums over all words of a text are the text's surprisal: what is added to a word is taken from the next. Behind a text's
        end nothing comes, so its last word is not charged for its end, unless ``final``; sums are then larger by just that.

        Args:
            by: "space" for what is between white space; "character" for every character; ``Stimuli``; spans (start, end) of
                each text, a list of lists; or a function from a text to its spans. Words that share a token are one row.
            context: what stands before the text that counts, of every document or of each; its words are left out. The first
                word behind it is corrected like any other.
            correct: False takes sums of tokens as they are, for every tokenizer.
            final: whether the last word of a text is charged for its end, too.
            frequency: of a word (without punctuation at its ends, in lower case): a mapping, NaN for a word that it lacks, or a
                function. None counts it in the words here.

        Raises:
            InputError: a text is not known, a context that a document does not begin with, spans that are not its, or a result
                without ``words=True`` where the correction is asked for.

        >>> import tl_entropy as tle
        >>> text = "import os, sys"
        >>> result = tle.token_surprisal(tle.demo_model(), text, words=True, progress=False)
        >>> words = result.word_surprisal()
        >>> words.words, bool((words.surprisal.sum() - result.surprisal.sum()).abs() < 1e-6)
        (('import', 'os,', 'sys'), True)
        """
        return words_of(self, by, context=context, correct=correct, final=final, frequency=frequency)

    def per_document(self) -> pd.DataFrame:
        """One line for each document: document, name, tokens, bytes, characters, loss, entropy, perplexity, bits per byte.

        ``loss`` and ``entropy`` are means over its tokens in ``unit``; what needs a text that is not known is NaN.
        """
        self._warn_of_the_rest()
        totals, documents = self._totals()
        columns = dict(zip(_TOTALS, totals.T, strict=True))
        tokens, factor = columns["tokens"], PER_NAT[self.unit]
        loss = columns["surprisal"] / tokens
        return pd.DataFrame(
            {
                "document": documents,
                "name": [self.names.get(document, "") for document in documents],
                "tokens": tokens.long().numpy(),
                "bytes": columns["bytes"].numpy(),
                "characters": columns["characters"].numpy(),
                "loss": (loss * factor).numpy(),
                "entropy": (columns["entropy"] / tokens * factor).numpy(),
                "perplexity": loss.exp().numpy(),
                "bits_per_byte": (columns["surprisal"] / columns["bytes"] / _LN2).numpy(),
                "bits_per_character": (columns["surprisal"] / columns["characters"] / _LN2).numpy(),
            }
        )

    def _totals(self) -> tuple[Tensor, list[int]]:
        """Totals [document, total] in nats, and the documents' numbers."""
        return document_totals(vars(self), per_nat=PER_NAT[self.unit])

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        of_rows = {"loss": self.surprisal, "entropy": self.entropy, "varentropy": self.varentropy}
        return "token by token", {name: values.tolist() for name, values in of_rows.items()}

    def _moments(self) -> tuple[Tensor, Tensor]:
        return moments(self._totals()[0])


@dataclass(frozen=True, eq=False, repr=False)
class SurprisalSummary(_Rates, Result):
    """The same rates as of a ``TokenSurprisal``, from sums over a corpus of any size.

    Attributes:
        sums: [total] float64, Σ over documents of their totals: documents, tokens, bytes, characters, surprisal, entropy,
            varentropy (in nats), and tokens that were the most probable alone.
        products: [total, total] float64, Σ over documents of the products of each two of their totals.
        unit: the unit of what the methods return.
        provenance: model, settings, corpus, versions.

    >>> import tl_entropy as tle
    >>> summary = tle.token_surprisal(tle.demo_model(), "import os", keep="summary", progress=False)
    >>> summary.unit
    'nats'
    """

    sums: Float[Tensor, "total"]
    products: Float[Tensor, "total total"]
    provenance: Provenance
    unit: Unit = "nats"

    def _moments(self) -> tuple[Tensor, Tensor]:
        return self.sums, self.products

    def to_pandas(self) -> pd.DataFrame:
        """All rates, as ``rates()`` gives them."""
        return self.rates()


def document_totals(rows: Mapping[str, Tensor], *, per_nat: float = 1.0) -> tuple[Tensor, list[int]]:
    """Totals [document, total] in nats of rows as in a ``TokenSurprisal``, by name, and the numbers of their documents.

    ``per_nat`` says how much of the rows' unit a nat is.
    """
    surprisal, entropy, varentropy = rows["surprisal"] / per_nat, rows["entropy"] / per_nat, rows["varentropy"] / per_nat**2
    likeliest = (rows["rank"] == 0).double()
    values = torch.stack([rows["n_bytes"], rows["n_characters"], surprisal, entropy, varentropy, likeliest], -1)
    documents, sums, counts = document_sums(values, rows["document"])
    return torch.cat([torch.ones(len(counts), 1, dtype=torch.float64), counts[:, None], sums], 1), documents.tolist()
