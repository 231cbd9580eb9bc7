r"""A uniform random sample of a corpus's tokens, in memory that does not grow with the corpus.

Every token has a priority, a random-looking 64-bit number that follows from the seed, its document and its position alone; the
tokens with the lowest priorities are the sample. So it is drawn without replacement, each set of tokens as likely as any other
("bottom-k" sampling; Cohen and Kaplan, Summarizing data using bottom-k sketches, 2007), and it is the same however the corpus
was cut into batches, in whatever order they came, and whether it was read in one piece or in parts that were merged. Equal
seeds choose the same tokens for every model that cuts texts into the same tokens.

Parts of a corpus number their documents from 0 each: ``first_document`` says which number a part's first document has in the
whole. Refused: tokens that come twice, as they do where parts were not numbered.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from torch import Tensor

from tl_entropy.analyses.merging import check_same
from tl_entropy.errors import InputError, check_int
from tl_entropy.state import Kept

# A number that nobody picks for a seed.
_SALT = int.from_bytes(b"sampling", "big")

_Words = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]


class TokenSample(Kept):
    """The rows of at most ``size`` tokens of a stream, chosen uniformly.

    Memory is that of ``size`` rows of all values, on the CPU.

    Args:
        size: number of tokens to keep.
        seed: of the choice.
        first_document: number, in the whole corpus, of the first document of this part.

    Attributes:
        seen: number of tokens offered so far.

    Raises:
        InputError: ``size`` below 1, or ``seed`` or ``first_document`` below 0.

    >>> sample = TokenSample(2, seed=0)
    >>> sample.update(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), {"x": torch.tensor([[0.0], [1.0], [2.0]])})
    >>> sample.seen, sample.documents.tolist(), sample.positions.tolist(), sample.whole()["x"].flatten().tolist()
    (3, [0, 1], [0, 0], [0.0, 2.0])
    """

    def __init__(self, size: int, seed: int, *, first_document: int = 0) -> None:
        self.size = check_int("size", size, 1)
        self.seed = check_int("seed", seed, 0, 2**63 - 1)
        self.first_document = check_int("first_document", first_document, 0)
        self.seen = 0
        self._keys = torch.zeros(0, 3, dtype=torch.int64)  # of the tokens kept, in no order: priority, document, position
        self._values: dict[Hashable, Tensor] = {}  # [size, ...], filled as far as there are keys

    @property
    def documents(self) -> Tensor:
        """[row] the tokens' documents, as numbered in the whole corpus."""
        return self._keys[self._order(), 1]

    @property
    def positions(self) -> Tensor:
        """[row] the tokens' positions in their documents."""
        return self._keys[self._order(), 2]

    def update(self, documents: Tensor, positions: Tensor, values: Mapping[Hashable, Tensor]) -> None:
        """Offer tokens, each once; all or nothing.

        Args:
            documents: [row] numbers of their documents, in this part of the corpus.
            positions: [row] their positions in these.
            values: what is kept of each, [row, ...] by name; always the same names and shapes. Only rows that stay are copied
                to the CPU, in the dtype that they have.

        Raises:
            InputError: a token that is already in the sample, or values of other names than before.
        """
        number, position = documents.cpu() + self.first_document, positions.cpu()
        self._take(torch.stack([priorities(self.seed, number, position), number, position], 1), values)
        self.seen += len(number)

    def merge(self, other: TokenSample, *, first_document: int = 0) -> None:
        """Take in the sample of another part of the same corpus.

        Where that has numbered its documents from 0, ``first_document`` is the number of its first one here. Then a sample of
        parts is as random as one of the whole, but another one.

        Raises:
            InputError: another size or seed, values of other names, or the same tokens: their ``first_document`` is wrong.
        """
        check_same(self, other, ("size", "seed"))
        keys = other._keys + torch.tensor([0, first_document, 0])
        self._take(keys, {key: value[: len(other._keys)] for key, value in other._values.items()})
        self.seen += other.seen

    def whole(self) -> dict[Hashable, Tensor]:
        """The sample's rows by name, [row, ...], in the order of their documents and positions."""
        order = self._order()
        return {key: value[order] for key, value in self._values.items()}

    def _order(self) -> Tensor:
        return torch.from_numpy(np.lexsort(self._keys[:, 1:].T.flip(0).numpy()))

    def _take(self, keys: Tensor, values: Mapping[Hashable, Tensor]) -> None:
        """Keep the lowest of what is here and what comes: newcomers are written over those that leave."""
        n = len(self._keys)
        if (n or self._values) and (len(keys) or values) and values.keys() != self._values.keys():
            raise InputError(
                f"values must have the same names for every token; got {sorted(map(str, values))} after "
                f"{sorted(map(str, self._values))}"
            )
        together = torch.cat([self._keys, keys])
        lowest = torch.from_numpy(np.lexsort(together.T.flip(0).numpy()))[: self.size]
        ranked = together[lowest]
        twice = (ranked[1:] == ranked[:-1]).all(1).nonzero()
        if len(twice):
            _, document, position = ranked[int(twice[0])].tolist()
            raise InputError(
                f"the token at position {position} of document {document} came twice; where a corpus is read in parts, give "
                "each its first_document, and read each once"
            )
        stays = torch.zeros(len(together), dtype=torch.bool)
        stays[lowest] = True
        come = stays[n:].nonzero()[:, 0]
        slots = torch.cat([(~stays[:n]).nonzero()[:, 0], torch.arange(n, len(lowest))])
        arriving = {key: value[come.to(value.device)].cpu() for key, value in values.items()}
        if not self._values:
            self._values = {key: rows.new_empty(self.size, *rows.shape[1:]) for key, rows in arriving.items()}
        for key, rows in arriving.items():
            self._values[key][slots] = rows
        self._keys = torch.cat([self._keys, keys.new_empty(len(lowest) - n, 3)])
        self._keys[slots] = keys[come]


def priorities(seed: int, documents: Tensor, positions: Tensor) -> Tensor:
    """[row] int64 that look random, from the seed, the document and the position of each token."""
    start = _mixed(np.array([seed], dtype=np.uint64) ^ np.uint64(_SALT))
    of_document = _mixed(start + _words(documents))
    return torch.from_numpy(_mixed(of_document + _words(positions)).view(np.int64))


def _words(numbers: Tensor) -> _Words:
    """Whole numbers spread over 64 bits, as splitmix64 steps from state to state."""
    return numbers.numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def _mixed(words: _Words) -> _Words:
    """The finaliser of splitmix64 (Steele et al. 2014): a one-to-one map of words under which each bit depends on all."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
