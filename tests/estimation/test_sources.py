"""Sources against closed forms, sums over all windows, and what is drawn."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.estimation.sources import BiasedCoin, CoinsAndCopies, MarkovChain

CHAIN = [[0.5, 0.25, 0.25], [0.1, 0.9, 0.0], [0.0, 0.3, 0.7]]
SOURCES = [CoinsAndCopies(3), CoinsAndCopies(2, copies=2), BiasedCoin(0.1), BiasedCoin(1.0), MarkovChain(CHAIN)]


def length(source):
    return getattr(source, "length", 6)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_entropies_are_sums_over_all_windows(source):
    n = length(source)
    windows = torch.tensor(list(itertools.product(range(source.d_vocab), repeat=n)))
    surprisal = source.surprisal(windows)
    p = (-surprisal.nan_to_num(posinf=math.inf).cumsum(1)).exp()  # of each window's beginning
    assert p[:, -1].sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.allclose(source.probabilities(windows).sum(-1), torch.ones(1).double())
    whole = p[:, -1] > 0
    expected = (p[whole, -1:] * surprisal[whole]).sum(0)
    assert source.entropies(n).tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    assert source.rate(n) == pytest.approx(expected.mean().item(), abs=1e-12)
    # Of the window as a whole, without the chain rule.
    assert n * source.rate(n) == pytest.approx(-(p[whole, -1] * p[whole, -1].log()).sum().item(), abs=1e-12)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_what_is_drawn_costs_its_entropy_and_is_of_its_seed(source):
    n = length(source)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    drawn = source.sample(4000, n, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert (drawn.shape, drawn.dtype) == ((4000, n), torch.long)
    assert torch.equal(drawn, source.sample(4000, n, seed=3))
    if source.rate(n):
        assert not torch.equal(drawn, source.sample(4000, n, seed=4))
    costs = source.surprisal(drawn)
    assert costs.isfinite().all()
    se = costs.mean(1).std() / math.sqrt(len(drawn))
    assert abs(costs.mean() - source.rate(n)) <= 4 * se + 1e-12
    assert (costs.mean(0) - source.entropies(n)).abs().max() <= 5 * costs.std(0).max() / math.sqrt(len(drawn)) + 1e-12


def test_closed_forms():
    assert CoinsAndCopies(8).rate(16) == pytest.approx(math.log(2) / 2, rel=1e-15)
    assert CoinsAndCopies(32).rate(64) == pytest.approx(0.34657359, abs=1e-8)
    assert CoinsAndCopies(8).rate(12) == pytest.approx(8 / 12 * math.log(2), rel=1e-15), "a window cut short"
    assert BiasedCoin(0.25).rate(7) == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75), rel=1e-15)
    a, b = 0.1, 0.2  # of two states: π = (b, a) / (a + b)
    chain = MarkovChain([[1 - a, a], [b, 1 - b]])
    assert chain.stationary.tolist() == pytest.approx([b / (a + b), a / (a + b)], rel=1e-12)
    rate = (b * BiasedCoin(a).rate(1) + a * BiasedCoin(b).rate(1)) / (a + b)
    assert chain.entropies(5).tolist() == pytest.approx([BiasedCoin(a / (a + b)).rate(1), *[rate] * 4], rel=1e-12)
    cycle = MarkovChain([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert cycle.entropies(3).tolist() == pytest.approx([math.log(3), 0, 0], abs=1e-12)
    assert MarkovChain(torch.tensor(CHAIN)).d_vocab == 3


def test_copies_are_copies():
    drawn = CoinsAndCopies(5, copies=2).sample(10, 15)
    assert torch.equal(drawn[:, :5], drawn[:, 5:10])
    assert torch.equal(drawn[:, :5], drawn[:, 10:])
    wrong = drawn.clone()
    wrong[0, 7] = 1 - wrong[0, 7]
    assert CoinsAndCopies(5, copies=2).surprisal(wrong)[0, 7] == math.inf, "what cannot come costs without end"


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: CoinsAndCopies(0), InputError, "coins must be an int of at least 1"),
        (lambda: CoinsAndCopies(4).sample(1, 9), InputError, "tokens must be an int from 1 to 8"),
        (lambda: BiasedCoin(1.5), InputError, "p must be a finite number from 0 to 1"),
        (lambda: MarkovChain([[0.5, 0.4], [0.5, 0.5]]), InputError, "sum to 1"),
        (lambda: MarkovChain([[1.5, -0.5], [0.5, 0.5]]), InputError, "sum to 1"),
        (lambda: MarkovChain([[1.0, 0.0], [0.0, 1.0]]), InputError, "more than one stationary law"),
        (lambda: MarkovChain([0.5, 0.5]), InputError, r"\[token, token\]"),
        (lambda: MarkovChain("ab"), InputTypeError, "rows of probabilities"),
        (lambda: BiasedCoin().sample(0, 3), InputError, "windows must be an int of at least 1"),
        (lambda: BiasedCoin().surprisal(torch.tensor([[0, 2]])), InputError, "ids from 0 to 1"),
        (lambda: BiasedCoin().surprisal(torch.zeros(1, 2)), InputTypeError, "tensor"),
    ],
)
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()
