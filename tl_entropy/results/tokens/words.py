"""What words cost: sums over their tokens, with what it costs a word to end moved to where it ends (``WordSurprisal``).

Tokens carry the white space before them, so that the sum over a word's tokens pays for the end of the word before, and not for
its own. With b(t) = -log of the probability, before token t, that a word begins there, a word's surprisal is

    S = Σ s(t) over its tokens - b(its first token) + b(the token behind its last)

(T. Pimentel and C. Meister, How to compute the probability of a word, 2024; B.-D. Oh and W. Schuler, Leading whitespaces of
language models' subword vocabulary pose a confound for calculating word probabilities, 2024). What is added to one word is
taken from the next: sums over texts stay.

Deviations from the first paper's code: a text's first word is not divided by the probability that a text begins with a token
without white space, and its last is charged for its end only where asked for; with both, sums would not be the text's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_choice, listed
from tl_entropy.functional.tokens.words import Span, character_words, checked_words, space_words, word_tokens
from tl_entropy.results.base import Result, Unit
from tl_entropy.results.positions import by_document, token_means
from tl_entropy.results.printing import mean_over, plus_minus, title
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.stimuli import Stimuli
from tl_entropy.torch_state import yours

Cut = Literal["space", "character"] | Stimuli | Sequence[Sequence[Sequence[int]]] | Callable[[str], Any]
OUTPUT = "output"
"""The reading of the model's own output, before those of sites."""


@dataclass(frozen=True, eq=False, repr=False)
class WordSurprisal(Result):
    """What every word cost the model, at its output and where it was read through a lens. ``word_surprisal`` makes one.

    Rows are words, in the order of the texts; words that share a token are one row.

    Attributes:
        surprisal: [word, reading] float64, in ``unit``, from 0; NaN for words of which a token, or what follows it, was not
            read.
        pieces: [word, reading], sums of the tokens' surprisals alone.
        readings: what the second axis means: "output", then sites.
        words: their texts.
        document: [word], number of the text in the input.
        index: [word], number of the word in its text, from 0, those of a context not counted.
        span: [word, 2], characters [start, end) of the text.
        position: [word, 2], positions [first, one after the last) of its tokens.
        n_words: [word], how many words the row is of; 1 but where they share a token.
        n_tokens: [word], how many tokens, white space of its own included.
        frequency: [word], as given, or how often the word is in these texts; NaN where it is not known.
        items: what texts are called that have a name.
        corrected: whether what it costs to end a word is at its end.
        final: whether the last word of a text is charged for its end.
        unit: "nats" or "bits".
        provenance: model, settings, corpus, versions.

    >>> import tl_entropy as tle
    >>> found = tle.token_surprisal(tle.demo_model(), "import os, sys", words=True, progress=False).word_surprisal()
    >>> found.words, found.n_tokens.tolist()
    (('import', 'os,', 'sys'), [1, 2, 1])
    """

    along = None

    surprisal: Float[Tensor, "word reading"]
    pieces: Float[Tensor, "word reading"]
    readings: tuple[str, ...]
    words: tuple[str, ...]
    document: Int[Tensor, "word"]
    index: Int[Tensor, "word"]
    span: Int[Tensor, "word 2"]
    position: Int[Tensor, "word 2"]
    n_words: Int[Tensor, "word"]
    n_tokens: Int[Tensor, "word"]
    frequency: Float[Tensor, "word"]
    provenance: Provenance
    items: Mapping[int, str]
    corrected: bool = True
    final: bool = False
    unit: Unit = "nats"

    in_units = ("surprisal", "pieces")

    @property
    def documents(self) -> tuple[int, ...]:
        """Numbers of the texts that have a word here."""
        return tuple(self.document.unique().tolist())

    def mean_profile(self) -> pd.DataFrame:
        """Mean over words at each reading, with its standard error over documents (NaN for one).

        Returns:
            One line for each reading: reading, mean, se, pieces (the mean of sums of tokens; all three in ``unit``), words,
            documents. Words without a value are left out.

        Raises:
            InputError: no word has a value.
        """
        known = ~self.surprisal.isnan().any(1)
        if not bool(known.any()):
            raise InputError("this result holds no word to take a mean of")
        mean, se = token_means(self.surprisal[known], self.document[known])
        counts = {"words": int(known.sum()), "documents": len(self.document[known].unique())}
        columns = {"mean": mean.numpy(), "se": se.numpy(), "pieces": self.pieces[known].mean(0).numpy()}
        return pd.DataFrame({"reading": self.readings, **columns, **counts})

    def to_pandas(self) -> pd.DataFrame:
        """One line a word, as mixed models take them: document, item, index, word, start, end, length, frequency, ...

        ``length`` are characters, ``surprisal`` and ``pieces`` (the sum of its tokens) are of the output, and
        ``surprisal.resid_post.3`` is that of a site.
        """
        numbers = self.document.tolist()
        frame = pd.DataFrame(
            {
                "document": numbers,
                "item": [self.items.get(document, str(document)) for document in numbers],
                "index": self.index.numpy(),
                "word": pd.Series(self.words, dtype=object),
                "start": self.span[:, 0].numpy(),
                "end": self.span[:, 1].numpy(),
                "length": (self.span[:, 1] - self.span[:, 0]).numpy(),
                "frequency": self.frequency.numpy(),
                "words": self.n_words.numpy(),
                "tokens": self.n_tokens.numpy(),
                "surprisal": self.surprisal[:, 0].numpy(),
                "pieces": self.pieces[:, 0].numpy(),
            }
        )
        for i, reading in enumerate(self.readings[1:], 1):
            frame[f"surprisal.{reading}"] = self.surprisal[:, i].numpy()
        return frame

    def _title(self) -> list[str]:
        counts = f"{len(self.words)} words of {len(self.documents)} documents x {len(self.readings)} readings"
        return [title(self, counts)]

    def _table(self) -> pd.DataFrame | None:
        if not bool((~self.surprisal.isnan().any(1)).any()):
            return None
        profile = self.mean_profile()
        shown = {
            "mean": plus_minus(profile["mean"], profile["se"]),
            "sum of tokens": plus_minus(profile["pieces"], profile["se"] * torch.nan),
        }
        return pd.DataFrame(shown, index=list(self.readings))

    def _courses(self) -> tuple[str, Mapping[str, Sequence[float]]]:
        return "word by word", {name: self.surprisal[:, i].tolist() for i, name in enumerate(self.readings)}

    def _notes(self) -> list[str]:
        mean = mean_over(len(self.documents), "words")
        if not self.corrected:
            return [f"{mean}; sums of tokens, each with the white space before it"]
        last = "charged for its end, too" if self.final else "not charged for its end"
        return [f"{mean}; a text's last word is {last}"]


def words_of(
    result: Any,
    by: Cut,
    *,
    context: str | Sequence[str],
    correct: bool,
    final: bool,
    frequency: Mapping[str, float] | Callable[[str], float] | None,
) -> WordSurprisal:
    """The words of a ``TokenSurprisal``; arguments as for its ``word_surprisal``."""
    if correct and (result.word_begin is None or result.word_end is None):
        raise InputError("words need token_surprisal(..., words=True), which keeps where words begin; or use correct=False")
    if final and not correct:
        raise InputError("final=True charges a word for its end, which correct=False leaves out; use one of them")
    own = [result.surprisal[:, None].double()]
    own += [] if result.site_surprisal is None else [result.site_surprisal.double()]
    tokens = torch.cat(own, 1)
    readings = (OUTPUT, *map(str, result.sites))
    lines: list[dict[str, Any]] = []
    for document, rows, text, words in _cut(result, by, context):
        here = result.span[rows].tolist()
        missing_before, missing_after = (part.tolist() for part in result.cut_off(torch.arange(result.n_tokens)[rows]))
        for first, end, low, high in word_tokens(text, here, words):
            start, stop = words[low][0], words[high - 1][1]
            place = slice(rows.start + first, rows.start + end)
            positions = result.position[place]
            whole = int(positions[-1] - positions[0]) == end - first - 1
            whole &= here[first][0] <= start and here[end - 1][1] >= stop
            # A token that is not here may have a share in a character of several bytes, or be white space before the word.
            hidden = here[first][0] == start and not text[start].isascii()
            whole &= not missing_before[first] or not (hidden or text[: here[first][0]][-1:].isspace())
            whole &= not missing_after[end - 1] or here[end - 1][1] > stop or text[stop - 1].isascii()
            pieces = tokens[place].sum(0) if whole else torch.full((len(readings),), torch.nan, dtype=torch.float64)
            value = pieces
            if correct and result.word_begin is not None and result.word_end is not None:
                last = int(positions[-1]) == result.lengths.get(document, 0) - 1
                after = result.word_end[place.stop - 1].double()
                value = pieces - result.word_begin[place.start] + (torch.zeros_like(after) if last and not final else after)
            lines.append(
                {"surprisal": value, "pieces": pieces, "word": text[start:stop], "document": document, "index": low,
                 "span": (start, stop), "position": (int(positions[0]), int(positions[-1]) + 1), "n_words": high - low,
                 "n_tokens": end - first}
            )  # fmt: skip
    return _made(result, lines, readings, by, correct, final, frequency)


def _made(
    result: Any,
    lines: list[dict[str, Any]],
    readings: tuple[str, ...],
    by: Cut,
    correct: bool,
    final: bool,
    frequency: Mapping[str, float] | Callable[[str], float] | None,
) -> WordSurprisal:
    words = tuple(line["word"] for line in lines)
    none = torch.zeros(0, len(readings), dtype=torch.float64)
    values = {name: torch.stack([line[name] for line in lines]) if lines else none for name in ("surprisal", "pieces")}
    whole = {
        name: torch.tensor([line[name] for line in lines], dtype=torch.long)
        for name in ("document", "index", "n_words", "n_tokens")
    }
    named = dict(enumerate(by.items)) if isinstance(by, Stimuli) else dict(result.names)
    return WordSurprisal(
        **values, **whole, readings=readings, words=words, frequency=_frequencies(words, frequency), unit=result.unit,
        span=_pairs(lines, "span"), position=_pairs(lines, "position"), provenance=result.provenance,
        items={document: name for document, name in named.items() if document in set(result.documents)}, corrected=correct,
        final=final,
    )  # fmt: skip


def _pairs(lines: list[dict[str, Any]], name: str) -> Tensor:
    return torch.tensor([line[name] for line in lines], dtype=torch.long).reshape(-1, 2)


def _cut(result: Any, by: Cut, context: str | Sequence[str]) -> Iterator[tuple[int, slice, str, list[Span]]]:
    """The rows, the text and the words of every document."""
    if isinstance(by, str):
        check_choice("by", by, ("space", "character"))
    elif not callable(by) and not isinstance(by, Stimuli | Sequence):
        raise InputTypeError(
            f"by must be 'space', 'character', Stimuli, spans of each text, or a function; got {type(by).__name__}"
        )
    if not isinstance(context, str):
        context = listed("context", context, "texts")
        if not all(isinstance(text, str) for text in context):
            raise InputTypeError("context must be a text, or one for each document")
    given = by.spans if isinstance(by, Stimuli) else by
    for name, several in (("by", given), ("context", context)):
        if isinstance(several, Sequence) and not isinstance(several, str) and result.documents[-1:] >= (len(several),):
            raise InputError(f"{name} must have an entry for each of {result.documents[-1] + 1} documents; got {len(several)}")
    for document, rows in by_document(result.document).items():
        if document not in result.texts:
            raise InputError(
                f"words need the documents' texts, which are not known of {document}; measure texts, not token ids"
            )
        text = result.texts[document]
        front = context if isinstance(context, str) else context[document]
        if not text.startswith(front):
            raise InputError(f"context must be what document {document} begins with; it begins with {text[: len(front)]!r:.80}")
        if isinstance(by, Stimuli) and by.texts[document] != text:
            raise InputError(f"by: document {document} is another text than that of the stimuli; measure stimuli.texts")
        if isinstance(given, str):
            words = space_words(text) if given == "space" else character_words(text)
        elif callable(given):
            with yours():
                words = checked_words(f"by, document {document}", given(text), text)
        else:
            words = checked_words(f"by, document {document}", given[document], text)
        yield document, rows, text, [span for span in words if span[0] >= len(front)]


def _frequencies(words: Sequence[str], given: Mapping[str, float] | Callable[[str], float] | None) -> Tensor:
    """How frequent each word is, by what it is without punctuation at its ends and in lower case."""
    plain = [re.sub(r"^\W+|\W+$", "", word).lower() or word for word in words]
    if given is None:
        counts = pd.Series(plain, dtype=object).value_counts()
        return torch.tensor([float(counts[word]) for word in plain], dtype=torch.float64)
    if not isinstance(given, Mapping) and not callable(given):
        raise InputTypeError(f"frequency must be a mapping from words to numbers, or a function; got {given!r:.80}")
    if isinstance(given, Mapping):
        found: list[Any] = [given.get(word, torch.nan) for word in plain]
    else:
        with yours():
            found = [given(word) for word in plain]
    for word, number in zip(plain, found, strict=True):
        if not isinstance(number, Real):
            raise InputTypeError(f"frequency must be a number for each word; got {number!r:.80} for {word!r}")
    return torch.tensor([float(number) for number in found], dtype=torch.float64)
