r"""What the weights of neurons say of their effect on the output: four numbers of each, without a pass.

With w the output weights of a neuron, P the centring of the final norm (the identity where it does not centre), g its gain and
W_U the unembedding less its mean over the vocabulary, w adds (P w) @ A to the logits, up to the norm's scale, A = P (g ∘ W_U):

| number | definition |
|---|---|
| norm | ‖P w‖ |
| logit_var | variance over the vocabulary of cos(P w, A_t) |
| null_share | ‖V₀ᵀ P w‖ / ‖P w‖, V₀ the k left singular directions of A with the smallest singular values |
| unigram_cosine | cosine over the vocabulary of (P w) @ A with the log frequencies of tokens less their mean |

They need A Aᵀ alone, of all columns and of columns of length 1, whose sums go over tiles of the vocabulary. Folding
(TransformerLens's ``fold_ln``, ``center_writing_weights``, ``center_unembed``) changes none of them. The direction that a
centring norm takes out is none of the k.

Source: Stolfo et al. 2024, Confidence regulation neurons in language models, arXiv 2406.16254, sections 3 and 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tl_entropy.capture.proofs.frozen_norm import FrozenNorm
from tl_entropy.functional.lens.tiles import in_double

_COLUMNS = 4096


def unigram_direction(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Of frequencies above 0, [token]: -log f of each, and their log less its mean, of length 1 (0 where all are the same).

    >>> cost, direction = unigram_direction(torch.tensor([1.0, 1.0, 2.0]))
    >>> [round(x, 3) for x in cost.tolist()], round(float(direction.norm()), 3)
    ([1.386, 1.386, 0.693], 1.0)
    """
    cost = -(counts.double() / counts.double().sum()).log()
    centred = cost.mean() - cost
    return cost, centred / centred.norm().clamp_min(torch.finfo(torch.float64).tiny)


def weight_numbers(weights: Tensor, frozen: FrozenNorm, unembedding: Tensor, direction: Tensor, null_directions: int) -> Tensor:
    """[neuron, 4] float64 on the CPU: norm, logit_var, null_share and unigram_cosine of each.

    Args:
        weights: [neuron, d_model], what neurons write.
        frozen: the final norm.
        unembedding: [d_model, d_vocab].
        direction: [d_vocab], of the token frequencies.
        null_directions: k.
    """
    d_model, d_vocab = unembedding.shape
    gain, direction = in_double(frozen.weight), direction.to(in_double(frozen.weight).device)
    mean = torch.stack([in_double(tile).sum(1) for tile in unembedding.split(_COLUMNS, 1)]).sum(0) / d_vocab
    whole, ones = gain.new_zeros(d_model, d_model), gain.new_zeros(d_model, d_model)
    unit_sum, along = gain.new_zeros(d_model), gain.new_zeros(d_model)
    for tile, part in zip(unembedding.split(_COLUMNS, 1), direction.split(_COLUMNS), strict=True):
        a = gain[:, None] * (in_double(tile) - mean[:, None])
        a = a - a.mean(0) if frozen.centred else a
        unit = a / a.norm(dim=0).clamp_min(torch.finfo(a.dtype).tiny)
        whole, ones = whole + a @ a.T, ones + unit @ unit.T
        unit_sum, along = unit_sum + unit.sum(1), along + a @ part
    w = in_double(weights)
    w = w - w.mean(1, keepdim=True) if frozen.centred else w
    norm = w.norm(dim=1)
    w = w / norm.clamp_min(torch.finfo(w.dtype).tiny)[:, None]
    values, vectors = torch.linalg.eigh(whole)
    if frozen.centred:  # the constant vector is no direction of the centred space: it goes to the other end
        values, vectors = torch.linalg.eigh(whole + 2 * values[-1] / d_model)
    null = (w @ vectors[:, :null_directions]).norm(dim=1)
    mean_cos = w @ unit_sum / d_vocab
    spread = ((w @ ones) * w).sum(1) / d_vocab - mean_cos.square()
    logits = ((w @ whole) * w).sum(1).clamp_min(torch.finfo(w.dtype).tiny).sqrt()
    found = (norm, spread.clamp_min(0) * d_vocab / max(1, d_vocab - 1), null, w @ along / logits)
    return torch.stack([x.cpu() for x in found], 1)
