"""Entropy, cross-entropy and divergence of softmax(hidden @ unembedding), to train with: the logits are never stored.

For each row h of ``hidden`` the logits are l = softcap(scale·(h @ W + b)). One tile of the vocabulary after another is
multiplied out and summed, forwards, and multiplied out again for its gradients, backwards (``slopes.py``): memory beyond the
gradients is some 40 MB, whatever the number of rows.

Refused: NaN and infinities in the hidden states or logits (-inf in the bias masks a token and is legal), shapes that do not
fit, targets beyond the vocabulary, a second derivative.

Source of tiles both ways: E. Wijmans et al., Cut your losses in large-vocabulary language models, 2024, for cross-entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tl_entropy.errors import InputError, InputTypeError, check_order
from tl_entropy.functional.lens.products import check_factors, checked_scale
from tl_entropy.functional.lens.readout import refuse_rows
from tl_entropy.functional.lens.slopes import Divergence, Losses, Readout
from tl_entropy.functional.lens.tiles import MASKED
from tl_entropy.torch_state import steady


@steady
def linear_entropy(
    hidden: Tensor,
    unembedding: Tensor,
    *,
    order: float = 1.0,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Return how unsure each hidden state's prediction is: the Rényi entropy of softmax(softcap(scale·(hidden @ W + b))).

    Args:
        hidden: [..., d_model], after the final norm. float64 stays float64; anything else is worked in float32.
        unembedding: W, [d_model, d_vocab], of any floating-point dtype and either memory layout.
        order: from 0 to infinity; 1 is Shannon's.
        bias: b, [d_vocab]; -inf masks a token.
        scale: multiplies the logits; 1 / T for a temperature T.
        softcap: c in l -> c·tanh(l / c).

    Returns:
        [...] in nats, from 0 to log d_vocab, in float32 at least. Differentiable once in ``hidden``, ``unembedding`` and
        ``bias``, in memory of some 40 MB beside their gradients. The gradient of order 0 is 0; above 1e4 it is that of
        infinity, where of several most probable tokens it is the first's.

    Raises:
        NonFiniteError: NaN or infinities in ``hidden``, NaN or +inf in the logits; the rows are named.
        InputError: shapes that do not fit, a bias that masks everything, an order below 0, a second derivative.
        InputTypeError: tensors that are not floating-point.

    Source: A. Rényi, 1961, for the entropies; the tiling as of E. Wijmans et al., 2024.

    >>> hidden = torch.zeros(1, 4, requires_grad=True)
    >>> linear_entropy(hidden, torch.ones(4, 16)).exp().round()
    tensor([16.], grad_fn=<RoundBackward0>)
    """
    number = check_order("order", order)
    rows, readout = _open(hidden, unembedding, bias, scale, softcap)
    found: Tensor = Losses.apply(rows, unembedding, bias, readout, number, None)[0]
    return found.view(hidden.shape[:-1])


@steady
def linear_cross_entropy(
    hidden: Tensor,
    unembedding: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Return what each target costs: -log softmax(softcap(scale·(hidden @ W + b)))[target].

    Args:
        hidden: [..., d_model], after the final norm. float64 stays float64; anything else is worked in float32.
        unembedding: W, [d_model, d_vocab], of any floating-point dtype and either memory layout.
        targets: [...] int64; negative for none.
        bias: b, [d_vocab]; -inf masks a token.
        scale: multiplies the logits; 1 / T for a temperature T.
        softcap: c in l -> c·tanh(l / c).

    Returns:
        [...] in nats, from 0 to infinity (a target that is masked), in float32 at least; 0 where there is no target.
        Differentiable once in ``hidden``, ``unembedding`` and ``bias``, in memory of some 40 MB beside their gradients.

    Raises:
        NonFiniteError: NaN or infinities in ``hidden``, NaN or +inf in the logits; the rows are named.
        InputError: shapes that do not fit, targets beyond the vocabulary, a bias that masks everything, a second derivative.
        InputTypeError: tensors that are not floating-point, targets that are not int64.

    Source: E. Wijmans et al., Cut your losses in large-vocabulary language models, 2024.

    >>> linear_cross_entropy(torch.zeros(2, 4), torch.ones(4, 16), torch.tensor([3, -100])).exp()
    tensor([16.,  1.])
    """
    rows, readout = _open(hidden, unembedding, bias, scale, softcap)
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
        raise InputTypeError(f"targets must be an int64 tensor; got {getattr(targets, 'dtype', type(targets).__name__)}")
    if targets.shape != hidden.shape[:-1]:
        raise InputError(f"targets must be {list(hidden.shape[:-1])}, one for each hidden state; got {list(targets.shape)}")
    if targets.numel() and targets.max() >= unembedding.shape[1]:
        raise InputError(f"targets must be below the vocabulary's {unembedding.shape[1]} tokens; got {int(targets.max())}")
    found: Tensor = Losses.apply(rows, unembedding, bias, readout, None, targets.reshape(-1))[1]
    return found.view(targets.shape)


@steady
def linear_kl_divergence(
    hidden: Tensor,
    unembedding: Tensor,
    reference: Tensor,
    *,
    reference_unembedding: Tensor | None = None,
    reverse: bool = False,
    bias: Tensor | None = None,
    reference_bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Return how far each prediction p is from that of a reference model, r: KL(r ‖ p), or KL(p ‖ r).

    KL(r ‖ p) = Σ r·log(r / p) is what p is trained on to take up r, its teacher; KL(p ‖ r) what keeps a policy p near its
    reference. The reference is a constant: no gradient flows into it.

    Args:
        hidden: [..., d_model], after the final norm. float64 stays float64; anything else is worked in float32.
        unembedding: W, [d_model, d_vocab], of any floating-point dtype and either memory layout.
        reference: [..., d_model of the reference], its hidden states for the same positions.
        reference_unembedding: [d_model of the reference, d_vocab]; None is ``unembedding`` as it is now, with its ``bias``.
        reverse: False for KL(r ‖ p), True for KL(p ‖ r).
        bias: b, [d_vocab]; -inf masks a token.
        reference_bias: of ``reference_unembedding``, which has to mask the same tokens.
        scale: multiplies the logits of both; 1 / T for a temperature T.
        softcap: c in l -> c·tanh(l / c), of both.

    Returns:
        [...] in nats, from 0 to infinity, in float32 at least; below 3e-7 it is rounding in float32. Differentiable once in
        ``hidden``, ``unembedding`` and ``bias``, in memory of some 40 MB beside their gradients.

    Raises:
        NonFiniteError: NaN or infinities in hidden states, NaN or +inf in the logits; the rows are named.
        InputError: shapes or vocabularies that do not fit, biases that mask different tokens, a second derivative.
        InputTypeError: tensors that are not floating-point.

    Source: S. Kullback and R. Leibler, 1951, for the divergence; the tiling as of E. Wijmans et al., 2024.

    >>> import math
    >>> hidden, unembedding = torch.tensor([[0.0, 0.0]]), torch.eye(2)
    >>> found = linear_kl_divergence(hidden, unembedding, torch.tensor([[0.25, 0.75]]).log())
    >>> round(found.item(), 6), round(0.25 * math.log(0.5) + 0.75 * math.log(1.5), 6)
    (0.130812, 0.130812)
    """
    rows, readout = _open(hidden, unembedding, bias, scale, softcap)
    if reference_unembedding is None:
        if reference_bias is not None:
            raise InputError("reference_bias belongs to a reference_unembedding; got the bias alone: pass both")
        reference_unembedding, reference_bias = unembedding, bias
    if not isinstance(reference, Tensor) or reference.shape[:-1] != hidden.shape[:-1]:
        got = list(reference.shape) if isinstance(reference, Tensor) else type(reference).__name__
        raise InputError(f"reference must hold a state for each of hidden, {list(hidden.shape[:-1])}; got {got}")
    others, other = _open(reference, reference_unembedding, reference_bias, scale, softcap, "reference", readout.dtype)
    if reference_unembedding.shape[1] != unembedding.shape[1]:
        raise InputError(
            f"reference_unembedding must have the vocabulary of unembedding, {unembedding.shape[1]} tokens; got the shape "
            f"{list(reference_unembedding.shape)}"
        )
    masked = [torch.zeros(()) if one.bias is None else one.bias <= MASKED / 2 for one in (readout, other)]
    if (masked[0] != masked[1]).any():
        raise InputError("bias and reference_bias must mask the same tokens; they do not: the divergence would be infinite")
    found: Tensor = Divergence.apply(rows, unembedding, bias, readout, others.detach(), other, reverse)
    return found.view(hidden.shape[:-1])


def _open(
    hidden: Tensor,
    unembedding: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    name: str = "hidden",
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Readout]:
    """Check the arguments and return the rows of ``hidden``, and what makes logits of them."""
    flat = isinstance(hidden, Tensor) and hidden.dim() and hidden.shape[-1]
    rows = hidden.reshape(-1, hidden.shape[-1]) if flat else hidden
    check_factors(rows, unembedding, bias, ("rows", "d_model"))
    scale, softcap = checked_scale(scale, softcap)
    refuse_rows(~rows.detach().isfinite().all(-1), 0, f"{name} must be finite; it holds NaN or infinities")
    dtype = dtype or (torch.float64 if rows.dtype == torch.float64 else torch.float32)
    return rows, Readout.of(unembedding.detach(), bias, scale, softcap, dtype)
