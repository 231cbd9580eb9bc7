"""What results with one row for each position read have in common: which row is which, parts, and means over tokens.

Rows are ordered by document and position. Every token counts the same in a mean, however long its document; its standard error
treats documents, not tokens, as independent.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsInt

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from tl_entropy.errors import InputError
from tl_entropy.functional.statistics import clustered_mean, document_sums
from tl_entropy.positions import at_positions, checked_positions
from tl_entropy.results.base import chosen_from
from tl_entropy.sites import Layers, Places, Site, layers_at, read_places
from tl_entropy.torch_state import Steady


class Positions(Steady):
    """Base of such results, beside ``Result``; a subclass declares these fields as its own.

    Attributes:
        document: [row], number of the text in the input.
        position: [row], index of the token in its document, without BOS.
        token: [row], id of the token read.
        strings: text of every token id that occurs.
        names: names of documents that have one (files).
    """

    document: Int[Tensor, "row"]
    position: Int[Tensor, "row"]
    token: Int[Tensor, "row"]
    strings: Mapping[int, str]
    names: Mapping[int, str]

    @property
    def n_tokens(self) -> int:
        """Number of positions counted."""
        return len(self.token)

    @property
    def documents(self) -> tuple[int, ...]:
        """Numbers of the documents that have a position here."""
        return tuple(self.document.unique().tolist())

    def tokens(self, document: int | None = None) -> list[str]:
        """Texts of the tokens read, of one document or of all; InputError for a document that is not here."""
        chosen = self.token if document is None else self.token[self.rows(documents=document)]
        return [self.strings[i] for i in chosen.tolist()]

    def row_columns(self, row: Any) -> dict[str, Any]:
        """What a long table says of the rows ``row`` of the result: document, position and text of the token."""
        texts = pd.Series(self.tokens(), dtype=object).to_numpy()
        return {"document": self.document.numpy()[row], "position": self.position.numpy()[row], "token": texts[row]}

    def rows(
        self,
        documents: SupportsInt | Iterable[int] | None = None,
        positions: SupportsInt | slice | Iterable[int] | None = None,
    ) -> Tensor:
        """Which rows [row] belong to these documents and positions; None is all.

        Negative positions count from the end of each document, as far as it is in the result: -1 is the last it holds.

        Raises:
            InputError: something asked for is not in the result.
        """
        rows = torch.ones(self.n_tokens, dtype=torch.bool)
        if documents is not None:
            rows &= torch.isin(self.document, torch.tensor([*map(int, chosen_from("documents", documents, self.documents))]))
        asked = checked_positions(positions)
        if isinstance(asked, slice):
            for here in by_document(self.document).values():
                position = self.position[here]
                rows[here] &= at_positions(asked, position, int(position.max()) + 1)
        elif asked is not None:
            _, of = self.document.unique(return_inverse=True)
            last = torch.zeros_like(self.position).scatter_reduce(0, of, self.position, "amax")[of]
            from_end = self.position - last - 1
            chosen_from("positions", asked, [*self.position.unique().tolist(), *reversed(from_end.unique().tolist())])
            wanted = torch.tensor(asked)
            rows &= torch.isin(self.position, wanted) | torch.isin(from_end, wanted)
        if self.n_tokens and not rows.any():
            raise InputError(
                f"documents={documents!r} and positions={positions!r} leave nothing of this result, which has positions "
                f"{int(self.position.min())} to {int(self.position.max())}"
            )
        return rows

    @abstractmethod
    def _per_row(self) -> tuple[Tensor, dict[str, Sequence[Any]]]:
        """What ``per_document`` takes means of: values [row, ...], and each axis behind the first with its entries."""

    def per_document(self) -> pd.DataFrame:
        """The mean over each document's positions: a line for each document, a column for each place and quantity.

        Every position of a document that has a value counts the same; NaN where none has. Values are in the result's units,
        float64. The index is the document's number, and ``.rename(index=result.names)`` writes the names of files; the levels
        of the columns are named, such as site and order: ``table["resid_post.3", 1.0]``. ``.stack()`` turns a level of columns
        into lines, ``.to_csv(...)`` and the rest of pandas write it.
        """
        values, axes = self._per_row()
        values = values.double().flatten(1)
        known = ~values.isnan()
        documents, sums, _ = document_sums(values.masked_fill(~known, 0.0), self.document)
        means = sums / document_sums(known.double(), self.document)[1]
        if len(axes) == 1:
            [(name, entries)] = axes.items()
            columns = pd.Index(list(entries), name=name)
        else:
            columns = pd.MultiIndex.from_product([list(entries) for entries in axes.values()], names=list(axes))
        return pd.DataFrame(means.numpy(), index=pd.Index(documents.tolist(), name="document", dtype="int64"), columns=columns)


def by_document(document: Tensor) -> dict[int, slice]:
    """Which rows each document has, of ``document`` [row]; they stand together.

    >>> by_document(torch.tensor([0, 0, 3]))
    {0: slice(0, 2, None), 3: slice(2, 3, None)}
    """
    documents, counts = document.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0).tolist()
    return {
        number: slice(end - count, end) for number, count, end in zip(documents.tolist(), counts.tolist(), ends, strict=True)
    }


def site_columns(sites: Sequence[Site], asked: Places | None, layers: Layers | None) -> list[int]:
    """Where in ``sites`` those asked for are; None is all.

    Short names stand for every layer, ``layers`` restricts the blocks, and a place with a layer is that one alone, as where
    sites to measure are asked for. The embedding is in no block: it is taken where it is named, or nothing is asked for.

    Raises:
        InputError: a place or layer that is not there.

    >>> there = [Site("embed", -1), Site("resid_post", 0), Site("resid_post", 1)]
    >>> tuple(site_columns(there, *asked) for asked in ((None, -1), (("embed", "resid_post"), 0), ("resid_post.-1", None)))
    ([2], [0, 1], [2])
    """
    present = sorted({site.layer for site in sites if site.name != "embed"})
    blocks = None if layers is None else layers_at(layers, present, "this result")
    if asked is None:
        return [i for i, site in enumerate(sites) if blocks is None or site.layer in blocks]
    found: set[int] = set()
    for item in read_places(asked):
        place = item if isinstance(item, str) else item.at(present, "this result")
        there = [i for i, site in enumerate(sites) if place in (site, site.name)]
        if not there:
            chosen_from("sites", str(place), map(str, sites) if "." in str(place) else [site.name for site in sites])
        chosen = [i for i in there if place == sites[i] or blocks is None or sites[i].layer in blocks]
        if not chosen:
            raise InputError(f"sites: this result has no {place} in layers {', '.join(map(str, blocks or ()))}")
        found |= set(chosen)
    return sorted(found)


def by_site(result: Any, values: Mapping[str, Tensor]) -> pd.DataFrame:
    """A long table of ``values`` [row, site] of a result: document, position, token, site, layer, and a column for each."""
    sites = result.sites
    row, column = np.indices((len(result.token), len(sites))).reshape(2, -1)
    names = pd.Series([site.name for site in sites], dtype=object).to_numpy()
    layers = torch.tensor([site.layer for site in sites]).numpy()
    where = {**result.row_columns(row), "site": names[column], "layer": layers[column]}
    return pd.DataFrame({**where, **{name: value.flatten().numpy() for name, value in values.items()}})


def token_means(values: Tensor, document: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over rows of ``values`` [row, ...] and its standard error over documents, both [...] in float64.

    The error is NaN for a single document.

    Raises:
        InputError: there are no rows.

    >>> mean, se = token_means(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([0, 0, 1]))
    >>> mean.item(), round(se.item(), 3)
    (3.0, 2.0)
    """
    if not len(values):
        raise InputError("this result holds no position to take a mean of")
    _, s, n = document_sums(values, document)
    weight = n.reshape(-1, *[1] * (s.ndim - 1))
    return clustered_mean(n.sum(), s.sum(0), (n * n).sum(), (weight * s).sum(0), (s * s).sum(0), len(n))
