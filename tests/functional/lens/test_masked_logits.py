"""Masked tokens, by -inf or by -1e9, and logits of 1e4: every statistic against mpmath, from logits and from hidden states."""

from __future__ import annotations

import math
from functools import cache

import mpmath
import pytest
import torch

from tl_entropy import functional

ORDERS = (0, 0.01, 0.5, 0.75, 0.999, 1, 1.0001, 1.3, 2, 5, 50, math.inf)
METRICS = ("kl", "reverse_kl", "jsd", "fisher_rao", "total_variation")
KINDS = ("-inf", "-1e9", "1e4", "1e4 apart", "both", "one left")
N = 19

mpmath.mp.dps = 50


def logits_of(kind, seed, dtype=torch.float64):
    x = 3 * torch.randn(4, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if kind in ("-inf", "both"):
        x[:, ::4] = -math.inf
    if kind in ("-1e9", "both"):
        x[:, 1::4] -= 1e9
    if kind == "1e4":
        x += 1e4
    if kind == "1e4 apart":
        x *= 1e4
    if kind == "one left":
        x[:, 1:] = -math.inf
    return x.to(dtype)


def law(row):
    """Probabilities and log-probabilities of a row of logits, to 50 digits."""
    top = max(row)
    e = [mpmath.exp(mpmath.mpf(x) - top) if x > -math.inf else mpmath.mpf(0) for x in row]
    total = sum(e)
    return [x / total for x in e], [mpmath.mpf(x) - top - mpmath.log(total) if x > -math.inf else -mpmath.inf for x in row]


def entropy(row, order):
    p, log_p = law(row)
    if order == 0:
        return mpmath.log(sum(x > -math.inf for x in row))
    if order == math.inf:
        return -max(log_p)
    if order == 1:
        return -sum(x * y for x, y in zip(p, log_p, strict=True) if x > 0)
    return mpmath.log(sum(x ** mpmath.mpf(order) for x in p if x > 0)) / (1 - mpmath.mpf(order))


def varentropy(row):
    p, log_p = law(row)
    return sum(x * (y + entropy(row, 1)) ** 2 for x, y in zip(p, log_p, strict=True) if x > 0)


def divergences(a, b):
    """Of a reference a and of b, as in METRICS."""
    (p, log_p), (q, log_q) = law(a), law(b)

    def kl(p, log_p, q, log_q):
        if any(x > 0 and y == 0 for x, y in zip(p, q, strict=True)):
            return mpmath.inf
        return sum(x * (y - z) for x, y, z in zip(p, log_p, log_q, strict=True) if x > 0)

    halves = [t * mpmath.log(2 * t / (x + y)) / 2 for x, y in zip(p, q, strict=True) for t in (x, y) if t > 0]
    overlap = sum(mpmath.sqrt(x * y) for x, y in zip(p, q, strict=True))
    apart = sum(abs(x - y) for x, y in zip(p, q, strict=True)) / 2
    return [kl(p, log_p, q, log_q), kl(q, log_q, p, log_p), sum(halves), 2 * mpmath.acos(min(1, overlap)), apart]


def close(found, expected, tolerance):
    """Within ``tolerance``, absolute and relative; infinities exactly."""
    for got, right in zip(found.flatten().tolist(), expected, strict=True):
        assert (got == right) if mpmath.isinf(right) else abs(got - right) <= tolerance * (1 + abs(right)), (got, right)


@cache
def oracle(kind, dtype):
    """Rows, other rows, and what is right of them."""
    x, y = logits_of(kind, 0, dtype), logits_of(kind, 1, dtype)
    y[0] = x[0]
    rows, others = x.tolist(), y.tolist()
    return x, y, {
        "entropies": [entropy(row, order) for row in rows for order in ORDERS],
        "varentropy": [varentropy(row) for row in rows],
        "surprisal": [-law(row)[1][i] for i, row in enumerate(rows)],
        "divergences": [value for a, b in zip(rows, others, strict=True) for value in divergences(a, b)],
    }  # fmt: skip


@pytest.mark.thinned
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_from_logits(kind, dtype):
    x, y, right = oracle(kind, dtype)
    close(functional.renyi_entropy(x, ORDERS), right["entropies"], 1e-14)
    close(functional.shannon_entropy(x), right["entropies"][ORDERS.index(1) :: len(ORDERS)], 1e-14)
    close(functional.varentropy(x), right["varentropy"], 1e-13)
    close(functional.surprisal(x, torch.arange(4)), right["surprisal"], 1e-12)
    found = [functional.kl_divergence(x, y), functional.kl_divergence(y, x)]
    found += [functional.js_divergence(x, y), functional.fisher_rao_distance(x, y), functional.total_variation(x, y)]
    close(torch.stack(found, -1), right["divergences"], 1e-12)


@pytest.mark.thinned
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_from_hidden_states(kind, dtype):
    x, y, right = oracle(kind, dtype)
    bias = torch.zeros(N, dtype=dtype).masked_fill((x == -math.inf).all(0), -math.inf)
    hidden, eye = torch.stack([x, y]).masked_fill(bias == -math.inf, 0.0), torch.eye(N, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    found = functional.vocabulary_statistics(
        hidden[0], eye, bias=bias, orders=ORDERS, targets=torch.arange(4), top_k=3, varentropy=True
    )
    close(found.entropies, right["entropies"], tolerance)
    close(found.varentropy, right["varentropy"], tolerance)
    close(found.surprisal, right["surprisal"], tolerance)
    assert torch.equal(found.top_tokens, x.sort(dim=-1, descending=True, stable=True).indices[:, :3])
    compared = functional.vocabulary_divergences(hidden, eye, bias=bias, reference=0, metrics=METRICS).divergences[1]
    close(compared, right["divergences"], tolerance)
    changes = functional.vocabulary_changes(*hidden, eye, bias=bias, metrics=("kl", "jsd", "entropy")).changes
    close(changes[:, :2], [right["divergences"][5 * i + j] for i in range(4) for j in (0, 2)], tolerance)
    close(changes[:, 2], [entropy(b, 1) - entropy(a, 1) for a, b in zip(x.tolist(), y.tolist(), strict=True)], tolerance)


def test_what_one_rules_out_and_the_other_does_not():
    p, q = torch.tensor([[0.0, 0.0, -math.inf]]), torch.tensor([[0.0, -math.inf, 0.0]])
    assert functional.kl_divergence(p, q).item() == math.inf
    assert functional.js_divergence(p, q).item() == pytest.approx(math.log(2) / 2)
    assert functional.fisher_rao_distance(p, q).item() == pytest.approx(2 * math.acos(0.5))
    assert functional.total_variation(p, q).item() == pytest.approx(0.5)
    nearly = torch.tensor([[0.0, -1e9, 0.0]])
    assert functional.kl_divergence(p, nearly).item() == pytest.approx(5e8)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_code_lengths(kind):
    x, _, right = oracle(kind, torch.float32)
    losses, _ = functional.token_losses(x[None], torch.arange(-1, 3).clamp(min=0)[None])
    close(losses[0], right["surprisal"][:3], 2e-6)
    mean = sum(right["entropies"][ORDERS.index(1) :: len(ORDERS)]) / 4
    close(functional.entropy_bonus(x, weight=-1.0), [mean], 2e-6)
    never = functional.surprisal(torch.tensor([0.0, -math.inf]), torch.tensor(1))
    assert functional.perplexity(never).item() == functional.bits_per_byte(never, tokens=1, n_bytes=1).item() == math.inf


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite(kind):
    x, y = (logits_of(kind, seed).requires_grad_() for seed in (0, 1))
    values = [functional.renyi_entropy(x, ORDERS[1:]).sum(-1), functional.varentropy(x), functional.surprisal(x, x.argmax(-1))]
    values += [functional.kl_divergence(x, y), functional.js_divergence(x, y), functional.fisher_rao_distance(x, y)]
    values += [functional.total_variation(x, y), functional.entropy_bonus(x[None])]
    for value in values:
        for gradient in torch.autograd.grad(value.sum(), (x, y), allow_unused=True):
            assert gradient is None or bool(gradient.isfinite().all())
