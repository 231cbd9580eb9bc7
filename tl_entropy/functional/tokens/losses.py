r"""Losses that know of entropy, for training with torch: weigh tokens by it, match it, or reward it.

With L_i = -log p(token i | tokens before it) the loss of a token, and e_i an estimate of how uncertain it is,

    weighted   Σ (1 - e_i)·L_i    e on a scale from 0 to 1: what can't be predicted teaches less
    matching   Σ |L_i - e_i|      both in nats: no token is to be predicted better than it can be
    bonus      -w · mean H(p)     added to a loss: predictions stay spread out (R. Williams and J. Peng, Function optimization
                                  using connectionist reinforcement learning algorithms, 1991; V. Mnih et al., Asynchronous
                                  methods for deep reinforcement learning, 2016)

Estimates are constants: no gradient flows into them. Losses are aligned to the token that they are the loss *of*: the first
of ``token_losses`` is that of token 1, read from the logits at token 0, and the entropy of the distribution at token 0 goes
with it. Where a mask leaves a cell out, its values may be anything, NaN included, and its gradient is 0. Half precision is
worked in float32, float64 stays.

A training that asks a TransformerLens model for ``return_type="loss"``, as ``transformer_lens.train`` does, gets any of these
once they take the place of the model's own loss, and the old one back afterwards:

    def loss_fn(logits, tokens, attention_mask=None, per_token=False):
        losses, real = token_losses(logits, tokens, attention_mask)
        with torch.no_grad():
            estimate = shannon_entropy(other_model(tokens, attention_mask=attention_mask))[:, :-1]
        reduction = "none" if per_token else "mean"
        return entropy_weighted_loss(losses, estimate, mask=real, reduction=reduction)

    model.loss_fn = loss_fn
    train(model, config, dataset)
    del model.loss_fn

Given an unembedding, ``token_losses`` and ``entropy_bonus`` take hidden states and never store their logits, as
``linear_cross_entropy`` and ``linear_entropy``.

Refused: NaN or infinities in cells that count, shapes that do not fit, masks of anything but 0 and 1, tokens beyond the
vocabulary, estimates outside [0, 1] where they are to be weights, and a mean of no token.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError, check_choice, check_number
from tl_entropy.functional.lens.entropies import check_floating, check_rows
from tl_entropy.functional.lens.linear import linear_cross_entropy, linear_entropy
from tl_entropy.torch_state import steady

Reduction = Literal["mean", "sum", "none"]


@steady
def min_max(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return each row on a scale from 0, at its lowest cell, to 1, at its highest: (v - min v) / (max v - min v).

    Args:
        values: [..., pos], of any floating-point dtype.
        mask: [..., pos], bool or 0 and 1; the cells that count. None is all.

    Returns:
        [..., pos] from 0 to 1, in float32 at least; 0 outside the mask, in rows whose cells are all the same, and in rows with
        one cell or none. Differentiable, but for those rows, whose gradient is 0.

    Raises:
        NonFiniteError: a NaN or an infinity inside the mask.
        InputError: a mask of another shape, or with anything but 0 and 1.
        InputTypeError: values that are not floating-point.

    >>> min_max(torch.tensor([[2.0, 6.0, 3.0, torch.nan], [5.0, 5.0, 9.0, 9.0]]), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]))
    tensor([[0.0000, 1.0000, 0.2500, 0.0000],
            [0.0000, 0.0000, 0.0000, 0.0000]])
    """
    check_floating("values", values)
    cells = _cells(mask, values)
    values = _at_least_single(values)
    _check_finite("values", values, cells)
    if values.numel() == 0:
        return values.clone()
    low, high = (values.masked_fill(~cells, fill) for fill in (math.inf, -math.inf))
    some = cells.any(-1, keepdim=True)
    # Halves, since the span of two finite numbers may be infinite.
    lowest = torch.where(some, low.amin(-1, keepdim=True), 0) / 2
    span = torch.where(some, high.amax(-1, keepdim=True), 0) / 2 - lowest
    varies = span > 0
    above = torch.where(cells, values / 2, lowest) - lowest
    return torch.where(varies, above / torch.where(varies, span, 1), 0)


@steady
def token_losses(
    logits: Tensor,
    tokens: Tensor,
    mask: Tensor | None = None,
    *,
    unembedding: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return how badly each token was predicted from those before it: L_i = -log softmax(logits at i - 1)[token i].

    Args:
        logits: [batch, pos, d_vocab], of any floating-point dtype; -inf is a probability of 0. With an ``unembedding``, the
            hidden states that it is to read, [batch, pos, d_model]: then no logits are stored.
        tokens: [batch, pos], integers.
        mask: [batch, pos], bool or 0 and 1, as an attention mask; padding on the left and on the right is 0. None is all.
        unembedding: W, [d_model, d_vocab], for hidden states, as for ``linear_cross_entropy``; None takes logits.
        bias: b, [d_vocab], beside the unembedding.
        scale: of the logits, beside the unembedding.
        softcap: of the logits, beside the unembedding.

    Returns:
        The losses [batch, pos - 1] in nats, in float32 at least, from 0 to infinity (a token with logit -inf); entry i is that
        of token i + 1. And [batch, pos - 1], which of them count: where a token and the one before it are real. Losses that
        don't count are 0. Differentiable in the logits.

    Raises:
        NonFiniteError: a NaN or +inf in logits that count; the first such row is named.
        InputError: shapes that don't fit, a token that counts beyond the vocabulary, logits that leave nothing possible.
        InputTypeError: logits that are not floating-point, or tokens that are not integers.

    >>> losses, real = token_losses(torch.zeros(1, 4, 8), torch.tensor([[0, 3, 5, 7]]), torch.tensor([[0, 1, 1, 1]]))
    >>> losses.exp(), real
    (tensor([[1., 8., 8.]]), tensor([[False,  True,  True]]))
    """
    check_floating("logits", logits)
    if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise InputTypeError(f"tokens must be an integer tensor; got {getattr(tokens, 'dtype', type(tokens).__name__)}")
    if logits.dim() != 3 or tokens.shape != logits.shape[:2] or logits.shape[2] == 0:
        raise InputError(
            "logits must be [batch, pos, d_vocab] and tokens [batch, pos]; "
            f"got logits of shape {list(logits.shape)} and tokens of shape {list(tokens.shape)}"
        )
    _check_readout(unembedding, bias, scale, softcap)
    cells = _cells(mask, logits[..., 0])
    real = cells[:, :-1] & cells[:, 1:]
    targets = tokens.to(logits.device)[:, 1:][real].long()
    d_vocab = logits.shape[2] if unembedding is None else unembedding.shape[-1]
    outside = (targets < 0) | (targets >= d_vocab)
    if outside.any():
        raise InputError(
            f"tokens must be between 0 and {d_vocab - 1} where they count; got {int(targets[outside][0])}: "
            "pass a mask to leave cells out"
        )
    if unembedding is None:
        found = cross_entropy(_distributions(logits[:, :-1], real), targets, reduction="none")
    else:
        hidden = logits[:, :-1][real]
        found = linear_cross_entropy(hidden, unembedding, targets, bias=bias, scale=scale, softcap=softcap)
    return found.new_zeros(real.shape).masked_scatter(real, found), real


@steady
def entropy_weighted_loss(
    losses: Tensor,
    entropy: Tensor,
    *,
    mask: Tensor | None = None,
    normalize: bool = True,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the loss with each token weighed by how certain it could be: (1 - e_i)·L_i.

    Args:
        losses: [batch, pos] in nats, such as those of ``token_losses``.
        entropy: [batch, pos], how uncertain each of these tokens is; a constant, whatever made it.
        mask: [batch, pos], bool or 0 and 1; the tokens that count. None is all.
        normalize: put the estimates of each row on a scale from 0 to 1 by ``min_max``, whatever their unit; False takes them
            as they are, from 0 (full weight) to 1 (none).
        reduction: "mean" over the tokens that count, "sum", or "none".

    Returns:
        One number, or [batch, pos] with 0 outside the mask for "none"; in float32 at least. Differentiable in the losses.

    Raises:
        NonFiniteError: a NaN or an infinity inside the mask, in losses or estimates.
        InputError: shapes that don't fit, estimates outside [0, 1] with ``normalize=False``, or a mean of no token.
        InputTypeError: tensors that are not floating-point.

    >>> entropy_weighted_loss(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[3.0, 7.0, 4.0]]), reduction="none")
    tensor([[1., 0., 3.]])
    """
    values, estimate, cells = _pair(losses, entropy, mask, reduction)
    if normalize:
        estimate = min_max(estimate, cells)
    else:
        outside = cells & ((estimate < 0) | (estimate > 1))
        if outside.any():
            raise InputError(
                f"entropy must lie in [0, 1] with normalize=False; got {float(estimate[outside][0]):g}: divide it by its "
                "greatest value, or use normalize=True"
            )
    return _reduced((1 - estimate).to(values.dtype) * values, cells, reduction)


@steady
def entropy_matching_loss(
    losses: Tensor, entropy: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Return how far each token's loss is from its entropy: |L_i - e_i|.

    Its gradient in the losses is their sign against the estimate: tokens that are predicted better than their entropy allows
    are pushed up, all others down.

    Args:
        losses: [batch, pos] in nats, such as those of ``token_losses``.
        entropy: [batch, pos] in nats, how uncertain each of these tokens is; a constant, whatever made it.
        mask: [batch, pos], bool or 0 and 1; the tokens that count. None is all.
        reduction: "mean" over the tokens that count, "sum", or "none".

    Returns:
        Nats from 0: one number, or [batch, pos] with 0 outside the mask for "none"; in float32 at least. Differentiable in the
        losses; the gradient is 0 where the two are the same.

    Raises:
        NonFiniteError: a NaN or an infinity inside the mask, in losses or estimates.
        InputError: shapes that don't fit, or a mean of no token.
        InputTypeError: tensors that are not floating-point.

    >>> entropy_matching_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, 0.5]])).item()
    1.0
    """
    values, estimate, cells = _pair(losses, entropy, mask, reduction)
    return _reduced((values - estimate.to(values.dtype)).abs(), cells, reduction)


@steady
def entropy_bonus(
    logits: Tensor,
    *,
    mask: Tensor | None = None,
    weight: float = 0.01,
    unembedding: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Return the mean entropy of softmax(logits), times -``weight``: added to a loss, it rewards predictions that stay open.

    Args:
        logits: [..., d_vocab], mostly [batch, pos, d_vocab], of any floating-point dtype; -inf is a probability of 0. With an
            ``unembedding``, the hidden states that it is to read, [..., d_model]: then no logits are stored.
        mask: [...], bool or 0 and 1; the distributions that count. None is all.
        weight: of the entropy in nats, against the loss; one below 0 punishes spread instead.
        unembedding: W, [d_model, d_vocab], for hidden states, as for ``linear_entropy``; None takes logits.
        bias: b, [d_vocab], beside the unembedding.
        scale: of the logits, beside the unembedding.
        softcap: of the logits, beside the unembedding.

    Returns:
        One number in float32 at least, from -``weight``·log d_vocab to 0. Differentiable: the gradient of an entropy H in its
        logits is -p·(log p + H), and 0 at logits of -inf.

    Raises:
        NonFiniteError: a NaN or +inf in logits that count; the first such row is named.
        InputError: a mask that doesn't fit or leaves nothing, logits that leave nothing possible, a weight that is not finite.
        InputTypeError: logits that are not floating-point, or a weight that is no number.

    Source: R. Williams and J. Peng, 1991; V. Mnih et al., 2016, section 4.

    >>> entropy_bonus(torch.tensor([[0.0, 0.0, -math.inf]]), weight=1 / math.log(2)).item()
    -1.0
    """
    check_floating("logits", logits)
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise InputError(f"logits must be [..., d_vocab] with at least one outcome; got the shape {list(logits.shape)}")
    weight = check_number("weight", weight)
    _check_readout(unembedding, bias, scale, softcap)
    cells = _cells(mask, logits[..., 0])
    _check_some(cells)
    if unembedding is not None:
        found = linear_entropy(logits[cells], unembedding, bias=bias, scale=scale, softcap=softcap)
        return -weight * found.mean()
    log_p = _distributions(logits, cells).log_softmax(-1)
    # 0·log 0 is 0, and so is its gradient.
    entropy = -(log_p.exp() * log_p.masked_fill(log_p == -math.inf, 0)).sum(-1)
    return -weight * entropy.mean()


def _at_least_single(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _cells(mask: Tensor | None, like: Tensor) -> Tensor:
    """The mask as bool, on the device of ``like`` and checked to have its shape."""
    if mask is None:
        return torch.ones(like.shape, dtype=torch.bool, device=like.device)
    if not isinstance(mask, Tensor):
        raise InputTypeError(f"mask must be a tensor of bool or of 0 and 1; got {type(mask).__name__}")
    if mask.shape != like.shape:
        raise InputError(f"mask must have the shape {list(like.shape)}; got {list(mask.shape)}")
    cells = mask.detach().to(like.device)
    if cells.dtype != torch.bool and ((cells != 0) & (cells != 1)).any():
        raise InputError("mask must hold only 0 and 1; it does not")
    return cells.bool()


def _check_finite(name: str, values: Tensor, cells: Tensor) -> None:
    bad = cells & ~values.detach().isfinite()
    if bad.any():
        place = tuple(bad.nonzero()[0].tolist())
        raise NonFiniteError(
            f"{name} must be finite where it counts; cell {place} is {float(values[place])}: look where it comes from"
        )


def _check_readout(unembedding: Tensor | None, bias: Tensor | None, scale: float, softcap: float | None) -> None:
    if unembedding is None and (bias is not None or scale != 1 or softcap is not None):
        raise InputError("bias, scale and softcap belong to an unembedding; got none: logits are taken as they are")


def _check_some(cells: Tensor) -> None:
    if not cells.any():
        raise InputError("mask leaves nothing to take a mean of; leave such batches out")


def _distributions(logits: Tensor, cells: Tensor) -> Tensor:
    """The logits [row, d_vocab] of the cells that count, checked, in float32 at least."""
    # On all of them, so that an error can say where: what is left out counts as 0.
    check_rows("logits", logits.detach().amax(-1).masked_fill(~cells, 0).flatten(), cells.shape)
    return _at_least_single(logits[cells])


def _pair(losses: Tensor, entropy: Tensor, mask: Tensor | None, reduction: str) -> tuple[Tensor, Tensor, Tensor]:
    """Losses with 0 outside the mask, the estimates as constants likewise, and the mask; all checked."""
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    check_floating("losses", losses)
    check_floating("entropy", entropy)
    if entropy.shape != losses.shape:
        raise InputError(f"entropy must have the shape of losses, {list(losses.shape)}; got {list(entropy.shape)}")
    cells = _cells(mask, losses)
    values, estimate = _at_least_single(losses), _at_least_single(entropy.detach())
    if estimate.device != values.device:  # in a dtype that the other device is sure to have
        estimate = estimate.to(values.dtype).to(values.device)
    _check_finite("losses", values, cells)
    _check_finite("entropy", estimate, cells)
    return values.masked_fill(~cells, 0), estimate.masked_fill(~cells, 0), cells


def _reduced(values: Tensor, cells: Tensor, reduction: str) -> Tensor:
    """``values`` are 0 outside the mask."""
    if reduction == "none":
        return values
    if reduction == "mean":
        _check_some(cells)
        return values.sum() / cells.sum()
    return values.sum()
