"""What stands beside a model's bits per byte: general compressors of the same bytes; and rates by how much was in view.

A compressor is a code, too, and knows nothing of the language before it begins: gzip (Lempel-Ziv and Huffman, 32 KiB in view),
bzip2 (blocks of 900 KB, sorted) and lzma (all in view). A model whose bits per byte are above theirs has learnt less of these
texts than can be seen in them. Each document by itself is what a model reads; all in one stream let a compressor learn from one
document for the next, which no model here does.

Refused: documents whose text is not known.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tl_entropy.errors import InputError, check_int
from tl_entropy.functional.statistics import clustered_mean
from tl_entropy.results.positions import by_document, token_means

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 9, mtime=0),
    "bzip2": lambda data: bz2.compress(data, 9),
    "lzma": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
}
"""Each at its strongest, as files with their headers."""


def beside_compressors(result: Any) -> pd.DataFrame:
    """See ``TokenSurprisal.beside_compressors``."""
    model = result.bits_per_byte()  # refuses what has no bits per byte
    parts = _predicted(result)
    sizes = torch.tensor([len(part) for part in parts], dtype=torch.float64)
    totals = result.rates().set_index("quantity").loc["bits per byte"]
    lines = [(result.provenance.model, model, float(totals["se"]), math.nan)]
    for name, compress in COMPRESSORS.items():
        bits = torch.tensor([8 * len(compress(part)) for part in parts], dtype=torch.float64)
        together = 8 * len(compress(b"".join(parts))) / float(sizes.sum())
        lines.append((name, *_ratio(bits, sizes), together))
    frame = pd.DataFrame(lines, columns=["code", "bits_per_byte", "se", "in_one_stream"])
    return frame.assign(bytes=int(sizes.sum()), documents=len(parts))


def by_position(result: Any, width: int = 1) -> pd.DataFrame:
    """See ``TokenSurprisal.by_position``."""
    width = check_int("width", width, 1)
    place = _in_window(result) // width * width
    lines = []
    for position in place.unique().tolist():
        here = place == position
        cells: list[float] = []
        for values in (result.surprisal[here], result.entropy[here]):
            cells += map(float, token_means(values, result.document[here]))
        lines.append((position, int(here.sum()), len(result.document[here].unique()), *cells))
    names = ["position", "tokens", "documents", "surprisal", "surprisal_se", "entropy", "entropy_se"]
    return pd.DataFrame(lines, columns=names).assign(unit=result.unit)


def _in_window(result: Any) -> Tensor:
    """How many tokens of its document each row's prediction saw [row]: its token's position in the window it was read in."""
    position: Tensor = result.position
    window, stride = (result.provenance.corpus.get(name) for name in ("window", "stride"))
    if window is None or not len(position):
        return position
    room = int(window) - bool((position == 0).any())  # a first token is predicted by a BOS, or not at all
    apart = int(stride or room)
    read = position - 1
    number = ((read - room + 1).clamp(min=0) + apart - 1) // apart
    return position - number * apart


def _predicted(result: Any) -> list[bytes]:
    """Of every document, the bytes that its rows' tokens stand for."""
    unknown = [document for document in result.documents if document not in result.texts]
    if unknown:
        raise InputError(f"compressors need the documents' texts, which are not known of {', '.join(map(str, unknown[:5]))}")
    parts = []
    for document, rows in by_document(result.document).items():
        text = result.texts[document]
        covered = torch.zeros(len(text) + 1, dtype=torch.long)
        starts, ends = result.span[rows].unbind(1)
        covered.index_add_(0, starts, torch.ones_like(starts)).index_add_(0, ends, -torch.ones_like(ends))
        kept = (covered.cumsum(0) > 0).tolist()
        parts.append("".join(c for c, keep in zip(text, kept, strict=False) if keep).encode())
    return parts


def _ratio(bits: Tensor, sizes: Tensor) -> tuple[float, float]:
    value, error = clustered_mean(
        sizes.sum(), bits.sum(), (sizes * sizes).sum(), (bits * sizes).sum(), (bits * bits).sum(), documents=len(sizes)
    )
    return float(value), float(error)
