"""What a lens has to know of a model, found by running it on a short row of tokens, without anybody's hooks.

Two models are the same to a lens if they give the same probabilities, whichever class holds them and however TransformerLens
has processed their weights; and the one thing about processing that matters to a lens is the residual stream's mean.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.hooks import silent


def signature(adapter: Adapter) -> Float[Tensor, " value"]:
    """Up to 64 log-probabilities after a short fixed row of tokens: the same whatever the processing."""
    ids = _short_row(adapter)
    with silent(adapter.model):
        logits = adapter.logits(ids, torch.ones_like(ids))[0, -1].double().cpu()
    return logits.log_softmax(-1)[:: max(1, len(logits) // 64)][:64].float()


def stream_has_mean(adapter: Adapter) -> bool:
    """Whether the residual stream has a mean over d_model at some layer boundary: not where TransformerLens has centred it."""
    ids = _short_row(adapter)
    sites = adapter.sites(("embed", "resid_post"))
    with silent(adapter.model):
        states = torch.stack([x.double().cpu() for x in adapter.activations(ids, torch.ones_like(ids), sites).values()])
    means = states.mean(-1).square().mean((1, 2)).sqrt() * states.shape[-1] ** 0.5
    sizes = states.square().mean((1, 2, 3)).sqrt()
    # Independent values would have 1 here, a centred stream has the roundings that were added up in it.
    return bool((means > max(1e-3, 16 * torch.finfo(adapter.dtype).eps) * sizes).any())


def norm_ignores_mean(adapter: Adapter) -> bool:
    """Whether the final norm takes the mean over d_model out, as LayerNorm does and RMSNorm does not."""
    unembedding = adapter.readout.unembedding
    rows = torch.randn(4, len(unembedding), generator=torch.Generator().manual_seed(0)).to(unembedding)
    plain, moved = adapter.readout.norm(rows).double(), adapter.readout.norm(rows + 1).double()
    return bool((plain - moved).norm() < 0.1 * plain.norm())


def _short_row(adapter: Adapter) -> Tensor:
    return torch.linspace(1, adapter.d_vocab - 1, min(12, adapter.context, adapter.d_vocab)).long()[None]
