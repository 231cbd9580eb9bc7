"""What a memory holds: the state of the last real token, within its limit, noisy in training and on a grid in evaluation."""

from __future__ import annotations

import pytest
import torch
from small_models import drawn, rows, small_model

import tl_entropy as tle
from tl_entropy.estimation.memory import Memory, Spread

GRID = {"kind": "memory", "numbers": 4, "limit": 1.5, "bits": 3, "noise": 0.2}


def memory(**options):
    torch.manual_seed(0)
    return Memory(tle.EstimationConfig(**GRID | options, d_vocab=3), seed=5)


def states():
    return 3 * torch.randn(50, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_numbers_are_within_their_limit_noisy_in_training_and_on_the_grid_in_evaluation():
    plain, found = memory(noise=None, bits=None).eval(), memory()
    quiet = plain(states())
    assert quiet.abs().max() <= 1.5
    steps = (found.eval()(states()) + 1.5) / (3.0 / 7)
    assert torch.allclose(steps, steps.round(), atol=1e-5)
    assert (steps - (quiet + 1.5) / (3.0 / 7)).abs().max() <= 0.5001
    noisy = found.train()(states()) - quiet
    assert noisy.abs().max() <= 0.2
    assert noisy.min() < -0.15
    assert noisy.max() > 0.15, "of both signs, so that evaluation has the mean of training"
    assert abs(float(noisy.mean())) < 0.03


def test_a_grid_passed_straight_through_is_on_in_training_and_leaves_gradients_as_they_were():
    options = {"noise": None, "bits": 3}
    on_grid, plain = memory(straight_through=True, **options).train(), memory(**options).train()
    given = [states().requires_grad_() for _ in range(2)]
    numbers = [part(x) for part, x in zip((on_grid, plain), given, strict=True)]
    assert torch.equal(numbers[0], on_grid.eval()(given[0])), "what is trained is what is measured"
    assert not torch.equal(numbers[0], numbers[1])
    for x, found in zip(given, numbers, strict=True):
        found.sum().backward()
        assert x.grad.abs().max() > 0
    assert torch.equal(given[0].grad, given[1].grad)


@torch.no_grad()
def test_noise_has_a_generator_of_its_own_and_follows_from_seed_and_pass():
    one, other, found = memory().train(), memory().train(), []
    torch.manual_seed(3)
    first = one(states())
    left = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), left), "torch's own generator has given nothing"
    assert torch.equal(other(states()), first)
    assert not torch.equal(one(states()), first), "another pass, another noise"
    one.drawn = 0
    found.append(one(states()))
    assert torch.equal(found[0], first)


@torch.no_grad()
def test_noise_at_the_state_passes_the_projection():
    quiet, noisy = memory(noise=None), memory(noise_at="state", limit=None, bits=None)
    moved = noisy.train()(states()) - noisy.eval()(states())
    assert 0 < moved.abs().max() <= 0.2 * noisy.down.weight.abs().sum(1).max()
    assert torch.equal(quiet.train()(states()), memory(bits=None).eval()(states()))


@pytest.mark.parametrize("name", ["memory flat", "memory attention", "memory kernel", "autoencoder heads"])
@torch.no_grad()
def test_the_state_is_that_of_the_last_real_token(name):
    model = small_model(name)
    tokens, mask = rows(20, 9, 1, model=model)
    seen = {}
    hooks = [(f"hook_{part}", lambda x, hook: seen.update({hook.name: x.clone()})) for part in ("state", "memory")]
    model.run_with_hooks(tokens, attention_mask=mask, fwd_hooks=hooks)
    padded = dict(seen)
    for row, n in enumerate((20, 9, 1)):
        model.run_with_hooks(tokens[row : row + 1, :n], fwd_hooks=hooks)
        for name in seen:
            assert torch.allclose(seen[name][0], padded[name][row], atol=1e-5)


@torch.no_grad()
def test_windows_of_an_unrolled_vector_move_on_and_are_distinct():
    config = tle.EstimationConfig(kind="autoencoder", n_ctx=8, d_model=8, spread="unroll", d_vocab=3)
    spread, u = Spread(config), torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    found = spread(u, 8)
    for t in range(8):
        window = torch.stack([u[0, (t + i) % 8] for i in range(4)])
        assert torch.allclose(found[0, t], spread.window(window), atol=1e-6)
    assert torch.pdist(found[0]).min() > 0.01


@torch.no_grad()
def test_rotary_positions_do_not_tell_repeated_memories_apart_and_learned_ones_do():
    model = drawn({"kind": "autoencoder", "mixer": "attention"})
    tokens, _ = rows(20, model=model)
    _, cache = model.run_with_cache(tokens)
    for layer in range(2):
        stream = cache[f"blocks.{layer}.hook_resid_post"][0]
        assert (stream - stream[:1]).abs().max() < 1e-6
    for options in ({"mixer": "attention", "positions": "learned"}, {"mixer": "conv"}):
        stream = drawn({"kind": "autoencoder", **options}).run_with_cache(tokens)[1]["blocks.0.hook_resid_post"][0]
        assert torch.pdist(stream).min() > 1e-3
