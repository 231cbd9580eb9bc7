"""The summed probability of a subset of the tokens against all logits at once."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional.lens.readout import vocabulary_statistics


def random_case(d_vocab, spread, dtype, rows=40, d_model=24):
    draw = torch.Generator().manual_seed(0)
    hidden, unembedding = (
        torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((rows, d_model), (d_model, d_vocab))
    )
    bias, targets = (
        torch.randn(d_vocab, generator=draw, dtype=torch.float64),
        torch.randint(0, d_vocab, (rows,), generator=draw),
    )
    return hidden.to(dtype), (unembedding * spread / d_model**0.5).to(dtype), bias.to(dtype), targets


def all_logits(hidden, unembedding, bias, scale=1.0, softcap=None):
    logits = scale * (hidden.double() @ unembedding.double() + bias.double())
    return logits if softcap is None else softcap * (logits / softcap).tanh()


def members(d_vocab, share=0.3):
    return torch.rand(d_vocab, generator=torch.Generator().manual_seed(1)) < share


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("spread", [0.5, 12.0])
@pytest.mark.parametrize(
    "options",
    [{}, {"targets": True}, {"targets": True, "varentropy": True, "orders": (0.5, 2)}, {"softcap": 4.0, "scale": 0.5}],
)
def test_over_many_tiles(dtype, tolerance, spread, options):
    hidden, unembedding, bias, targets = random_case(d_vocab=5000, spread=spread, dtype=dtype)
    options = {**options, **({"targets": targets} if "targets" in options else {})}
    subset = members(5000)
    found = vocabulary_statistics(hidden, unembedding, bias=bias, subset=subset, **options)
    own = {name: value for name, value in options.items() if name in ("softcap", "scale")}
    logits = all_logits(hidden, unembedding, bias, **own)
    expected = logits[:, subset].logsumexp(-1) - logits.logsumexp(-1)
    torch.testing.assert_close(found.log_mass, expected, rtol=tolerance, atol=tolerance)
    plain = vocabulary_statistics(hidden, unembedding, bias=bias, **options)
    assert plain.log_mass is None
    for name in ("entropies", "surprisal", "rank", "varentropy"):
        if getattr(plain, name) is not None:
            assert torch.equal(getattr(found, name), getattr(plain, name)), name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("options", [{}, {"targets": True}, {"targets": True, "varentropy": True}])
def test_means_of_weights_and_the_distance_from_the_uniform_law(dtype, tolerance, options):
    hidden, unembedding, bias, targets = random_case(d_vocab=5000, spread=4.0, dtype=dtype)
    options = {**options, **({"targets": targets} if "targets" in options else {})}
    bias[::7] = -math.inf
    weights = torch.rand(5000, generator=torch.Generator().manual_seed(2))
    wanted = {**options, "subset": weights, "self_certainty": True, "kurtosis": True}
    found = vocabulary_statistics(hidden, unembedding, bias=bias, **wanted)
    log_p = all_logits(hidden, unembedding, bias).log_softmax(-1)
    torch.testing.assert_close(found.log_mass.exp(), log_p.exp() @ weights.double(), rtol=tolerance, atol=tolerance)
    possible = log_p[:, bias > -math.inf]
    expected = -possible.mean(-1) - math.log(possible.shape[1])
    torch.testing.assert_close(found.self_certainty, expected, rtol=tolerance, atol=5 * tolerance)
    plain = vocabulary_statistics(hidden, unembedding, bias=bias, **options)
    torch.testing.assert_close(found.kurtosis, excess_kurtosis(possible), rtol=10 * tolerance, atol=10 * tolerance)
    assert plain.self_certainty is plain.kurtosis is None
    for name in ("entropies", "surprisal", "rank", "varentropy"):
        if getattr(plain, name) is not None:
            assert torch.equal(getattr(found, name), getattr(plain, name)), name


@pytest.mark.parametrize(("spread", "offset"), [(0.01, 1e3), (1.0, -40.0), (30.0, 0.0)])
def test_the_kurtosis_of_the_logits_whatever_their_scale_and_level(spread, offset):
    """Of tiles whose means differ, too, one of them masked from its first token to its last."""
    hidden, unembedding, bias, _ = random_case(d_vocab=20_000, spread=spread, dtype=torch.float64, rows=5)
    bias = spread * (bias + (torch.arange(20_000) // 1500) % 5) + offset
    bias[1024:9216] = -math.inf
    bias[-3:] += 20 * spread  # few that stand out
    found = vocabulary_statistics(hidden, unembedding, bias=bias, kurtosis=True)
    possible = all_logits(hidden, unembedding, bias)[:, bias > -math.inf]
    torch.testing.assert_close(found.kurtosis, excess_kurtosis(possible), rtol=1e-9, atol=1e-9)
    assert found.self_certainty is None
    single = vocabulary_statistics(hidden.float(), unembedding.float(), bias=bias.float() - offset, kurtosis=True)
    torch.testing.assert_close(single.kurtosis, found.kurtosis, rtol=1e-3, atol=1e-3)
    same = vocabulary_statistics(0 * hidden, unembedding, kurtosis=True)
    assert bool(same.kurtosis.isnan().all())


def excess_kurtosis(logits):
    return torch.from_numpy(stats.kurtosis(logits.numpy(), axis=1))


def test_all_none_and_masked_tokens():
    hidden, unembedding = torch.ones(2, 1), torch.zeros(1, 4000)
    everything = torch.ones(4000, dtype=torch.bool)
    assert vocabulary_statistics(hidden, unembedding, subset=everything).log_mass.tolist() == [0.0, 0.0]
    assert vocabulary_statistics(hidden, unembedding, subset=~everything).log_mass.tolist() == [-math.inf, -math.inf]
    bias = torch.full((4000,), -math.inf)
    bias[[7, 3999]] = torch.tensor([0.75, 0.25]).log()
    only = torch.zeros(4000, dtype=torch.bool)
    only[3999] = True
    found = vocabulary_statistics(hidden, unembedding, bias=bias, subset=only).log_mass.exp()
    torch.testing.assert_close(found, torch.full((2,), 0.25, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("subset", "error", "message"),
    [
        (torch.ones(8, dtype=torch.bool), InputError, r"subset must be \[9\]"),
        (torch.ones(9).long(), InputTypeError, "subset must be a bool tensor, or weights"),
        (2 * torch.ones(9), InputError, "weights from 0 to 1"),
        (torch.full((9,), math.nan), InputError, "weights from 0 to 1"),
        ([True] * 9, InputTypeError, "subset must be a bool tensor"),
    ],
)
def test_bad_subsets_are_refused(subset, error, message):
    with pytest.raises(error, match=message):
        vocabulary_statistics(torch.zeros(2, 4), torch.zeros(4, 9), subset=subset)
