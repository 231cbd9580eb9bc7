"""What single tokens cost a model: every token (``TokenSurprisal``), or sums over a corpus (``SurprisalSummary``).

The surprisal of a token, -log p(token | what came before), is the model's loss on it. Sums of it are a code length: an
arithmetic coder with the model's predictions needs that many nats, up to two bits for the whole text (Witten, Neal and Cleary
1987). Rates are sums over sums: of all tokens, or of all bytes, never means of the documents' rates. Their standard errors are
over documents (``functional/statistics.py``).

Refused: rates per byte or character where a text is not known; a memory of fewer than no bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.functional.statistics import document_sums
from tl_entropy.results.base import PER_NAT, Result, Unit
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.rates import LN2, TOTALS, Rates, moments
from tl_entropy.results.tokens.rows import Column, TokenRows
from tl_entropy.results.tokens.words import Cut, WordSurprisal, words_of
from tl_entropy.results.tokens.yardsticks import beside_compressors, by_position
from tl_entropy.sites import Site

COLUMNS = ("surprisal", "entropy", "excess", "varentropy", "rank")
"""Quantities of each token."""


@dataclass(frozen=True, eq=False, repr=False)
class TokenSurprisal(Rates, TokenRows, Result):
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
        columns = dict(zip(TOTALS, totals.T, strict=True))
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
                "bits_per_byte": (columns["surprisal"] / columns["bytes"] / LN2).numpy(),
                "bits_per_character": (columns["surprisal"] / columns["characters"] / LN2).numpy(),
            }
        )

    def beside_compressors(self) -> pd.DataFrame:
        """Bits per byte of this model beside those of gzip, bzip2 and lzma of the same bytes, each at its strongest.

        Returns:
            One line a code: code, bits_per_byte (every document by itself, with headers, as files), se (over documents),
            in_one_stream (all documents one after the other, which lets a compressor learn from one for the next; NaN for the
            model), bytes, documents.

        Raises:
            InputError: a text is not known, or whatever ``bits_per_byte`` refuses.

        >>> import tl_entropy as tle
        >>> text = tle.demo_texts(1)[0][:3000]
        >>> found = tle.token_surprisal(tle.demo_model(), text, progress=False).beside_compressors()
        >>> found["code"].tolist(), bool((found["bits_per_byte"][1:] > found["bits_per_byte"][0]).all())
        (['stdlib-gpt2-3m', 'gzip', 'bzip2', 'lzma'], True)
        """
        return beside_compressors(self)

    def by_position(self, width: int = 1) -> pd.DataFrame:
        """Mean surprisal and entropy of tokens by their position in the window: by how many tokens the model saw before them.

        A token that is read behind the end of a window is at its position in the window that predicts it.

        Args:
            width: positions that are taken together.

        Returns:
            One line a position (the first of those taken together): position, tokens, documents, surprisal, surprisal_se,
            entropy, entropy_se (over documents), unit.

        >>> import tl_entropy as tle
        >>> found = tle.token_surprisal(tle.demo_model(), ["import os", "x = 1"], progress=False).by_position()
        >>> found["position"].tolist(), found["documents"].tolist()
        ([0, 1, 2], [2, 2, 1])
        """
        return by_position(self, width)

    def _totals(self) -> tuple[Tensor, list[int]]:
        """Totals [document, total] in nats, and the documents' numbers."""
        return document_totals(vars(self), per_nat=PER_NAT[self.unit])

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        of_rows = {"loss": self.surprisal, "entropy": self.entropy, "varentropy": self.varentropy}
        return "token by token", {name: values.tolist() for name, values in of_rows.items()}

    def _moments(self) -> tuple[Tensor, Tensor]:
        return moments(self._totals()[0])


@dataclass(frozen=True, eq=False, repr=False)
class SurprisalSummary(Rates, Result):
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
