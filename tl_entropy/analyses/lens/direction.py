r"""What a direction of the residual stream says: a steering vector, a decoder column, a neuron's output weight, as tokens.

With v the direction, T the linear part of the lens at a site and N the final norm, what v adds to the logits is

    l = s · (N(u) - N(0)) @ W_U,    u = T v / rms(T v),

less its mean over the vocabulary, which no softmax sees. N(u) - N(0) is the norm without its bias, of a direction scaled as the
norm scales states; the logits' bias and soft cap are left out, since they are not the direction's. Lengths do not count, but
the sign does: -v promotes what v suppresses.

Refused: directions that are zero or that the final norm does not see (a constant vector, where it is LayerNorm).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tl_entropy.analyses.lens.reading import Over, Reading
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.given import adapter_of
from tl_entropy.errors import InputError, InputTypeError, check_int
from tl_entropy.lenses.jacobian import as_lens
from tl_entropy.lenses.protocol import Lens
from tl_entropy.sites import Site
from tl_entropy.torch_state import steady

_UNSEEN = 1e-4  # of the size of a normed state


@steady
def read_direction(
    model: Any,
    directions: Tensor,
    *,
    site: str | Site = "resid_post.-1",
    lens: Lens | None = None,
    top_k: int = 10,
    vocabulary: Over = "model",
) -> pd.DataFrame:
    r"""The tokens that a direction of the residual stream promotes and suppresses most, read through any lens.

    Args:
        model: a HookedTransformer or TransformerBridge.
        directions: [d_model], or several [direction, d_model], of any length above 0.
        site: where in the stream the direction is; without a lens all sites are read alike.
        lens: None (the logit lens), a ``TunedLens`` (its linear part), a ``JacobianLens``, or any function of a site and rows.
        top_k: how many tokens to give on either side.
        vocabulary: "model" for all rows of the unembedding, "tokenizer" without those that are no token.

    Returns:
        One line for each direction, side and token, from the most promoted to the most suppressed: direction (number), side
        ("promoted" or "suppressed"), rank (from 0 on each side), token (id), text, logit (what the direction, scaled as the
        final norm scales states, adds, less the mean over the vocabulary), z (the same over its standard deviation).

    Raises:
        InputError: another width, a direction that is zero, not finite or invisible to the final norm, a site or model that
            the lens does not fit.
        InputTypeError: directions that are no real tensor.

    Source: nostalgebraist 2020, the logit lens, of vectors: Elhage et al. 2021, A mathematical framework; Dar et al. 2022,
    Analyzing transformers in embedding space, arXiv 2209.02535.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> [vector] = model.W_U.T[model.to_tokens(" import", prepend_bos=False)[0]]  # what adds most to the logit of " import"
    >>> tle.read_direction(model, vector, top_k=1)["text"][0]
    ' import'
    """
    if not isinstance(directions, Tensor) or directions.is_complex():
        raise InputTypeError(f"directions must be a real tensor [d_model] or [direction, d_model]; got {directions!r}")
    adapter, lens = adapter_of(model), as_lens(lens)
    rows = directions.detach()[None] if directions.ndim == 1 else directions.detach()
    if rows.ndim != 2 or rows.shape[1] != adapter.d_model or not len(rows):
        raise InputError(
            f"directions must be [d_model] or [direction, d_model], with d_model = {adapter.d_model}; got "
            f"{list(directions.shape)}"
        )
    [place] = adapter.sites(Site.parse(site))
    reading = Reading(adapter, (place,), lens=lens, precision="float32", compiled=False, vocabulary=vocabulary)
    top_k = check_int("top_k", top_k, 1, reading.n_rows)
    logits = _added(reading, place, rows)
    lines: list[pd.DataFrame] = []
    for number, row in enumerate(logits):
        for side, largest in (("promoted", True), ("suppressed", False)):
            order = row.argsort(descending=largest, stable=True)[:top_k]
            lines.append(_side(adapter, reading, number, side, row, order))
    return pd.concat(lines, ignore_index=True)


def _added(reading: Reading, place: Site, rows: Tensor) -> Tensor:
    """[direction, token] in float64 on the CPU: what each adds to the logits, less its mean."""
    readout = reading.readout
    rows = rows.to(reading.device, torch.float32)
    if not bool(rows.isfinite().all()) or not bool((rows.abs().amax(1) > 0).all()):
        raise InputError("directions must be finite and not zero")
    rows = rows / _rms(rows)
    moved = reading.translated(place, rows) - reading.translated(place, torch.zeros_like(rows))
    if not bool((_rms(moved) > 0).all()):
        raise InputError("directions: the lens carries one of them to 0, of which nothing can be read")
    scaled = moved / _rms(moved)
    normed = readout.norm(scaled).double() - readout.norm(torch.zeros_like(scaled)).double()
    unseen = (_rms(normed) < _UNSEEN)[:, 0]
    if bool(unseen.any()):
        raise InputError(
            f"directions: number {int(unseen.nonzero()[0])} is one that the final norm takes out, a constant vector"
        )
    logits = readout.scale * (normed.cpu() @ readout.unembedding.double().cpu())
    return logits - logits.mean(1, keepdim=True)


def _rms(rows: Tensor) -> Tensor:
    """Root mean square of each row, [row, 1]."""
    return rows.square().mean(1, keepdim=True).sqrt()


def _side(adapter: Adapter, reading: Reading, number: int, side: str, row: Tensor, order: Tensor) -> pd.DataFrame:
    ids = reading.tokens(order).tolist()
    strings = adapter.strings(ids) if adapter.has_tokenizer else {}
    texts: Iterable[str] = [strings.get(i, str(i)) for i in ids]
    found = row[order]
    columns = {"direction": number, "side": side, "rank": range(len(ids)), "token": ids, "text": texts}
    return pd.DataFrame({**columns, "logit": found.numpy(), "z": (found / row.std(correction=0)).numpy()})
