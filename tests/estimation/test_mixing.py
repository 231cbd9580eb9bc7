"""Token mixers: each against a plain loop, torch's own convolution, and what a mask has to hide."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tl_entropy.estimation.config import Stack
from tl_entropy.estimation.mixing import Attention, Convolution, Heads, mixer_of, rotated
from tl_entropy.estimation.showing import Showing

T, D, H = 7, 12, 3
SHOWN = Showing()
KINDS = [("conv", 1), ("conv", 2), ("conv", 4), ("conv", 5), ("heads", 1), ("attention", 1)]


def stack(mixer, kernel=1, *, causal=True, positions=T):
    return Stack(mixer, positions, D, 1, H, kernel, causal, 0)


def made(mixer, kernel=1, *, causal=True, dtype=torch.float64):
    torch.manual_seed(0)
    found = mixer_of(stack(mixer, kernel, causal=causal))
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.ndim == 1 or parameter.shape == (H, T):
                parameter.normal_()
    return found.to(dtype)


def drawn(n=T, dtype=torch.float64):
    return torch.randn(2, n, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def looped(mixer, x):
    """y[b,t,c] = bias[t] + Σ_j Σ_s W[j,t,s] x[b,s,c + j - (k-1)//2], term by term."""
    weight, bias, causal = mixer.weight.double(), mixer.bias.double(), mixer.causal
    y, k = torch.zeros_like(x, dtype=torch.float64), len(weight)
    for b in range(len(x)):
        for t in range(x.shape[1]):
            for c in range(D):
                total = bias[t]
                for j in range(k):
                    for s in range(t + 1 if causal else x.shape[1]):
                        at = c + j - (k - 1) // 2
                        total = total + (weight[j, t, s] * x[b, s, at] if 0 <= at < D else 0.0)
                y[b, t, c] = total
    return y


def looped_heads(mixer, x):
    split, z = mixer.into(x), torch.zeros_like(x)
    for t in range(x.shape[1]):
        for c in range(D):
            h = c // (D // H)
            seen = range(t + 1 if mixer.causal else x.shape[1])
            z[:, t, c] = mixer.bias[h, t] + sum(mixer.weight[h, t, s] * split[:, s, c] for s in seen)
    return mixer.out(z)


def looped_attention(mixer, x):
    n, width = x.shape[1], D // H
    q, k, v = (layer(x).reshape(2, n, H, width) for layer in (mixer.query, mixer.key, mixer.value))
    z = torch.zeros_like(q)
    for b in range(2):
        for h in range(H):
            for t in range(n):
                seen = range(t + 1 if mixer.causal else n)
                score = torch.stack([turned(q[b, t, h], t) @ turned(k[b, s, h], s) / math.sqrt(width) for s in seen])
                z[b, t, h] = sum(p * v[b, s, h] for p, s in zip(score.softmax(0), seen, strict=True))
    return mixer.out(z.reshape(2, n, D))


def turned(x, t):
    half = len(x) // 2
    angle = t * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    pairs = torch.complex(x[:half].double(), x[half:].double()) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pairs.real, pairs.imag])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("mixer", "kernel"), KINDS)
@torch.no_grad()
def test_every_mixer_is_the_plain_loop(mixer, kernel, causal):
    plain = {"conv": looped, "heads": looped_heads, "attention": looped_attention}[mixer]
    for n in (T, 4):
        found, x = made(mixer, kernel, causal=causal), drawn(n)
        right = plain(found, x)
        assert torch.allclose(found(x, None, SHOWN), right, atol=1e-12, rtol=0)
        single = made(mixer, kernel, causal=causal, dtype=torch.float32)(x.float(), None, SHOWN)
        assert torch.allclose(single.double(), right, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kernel", [2, 3, 4, 8])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@torch.no_grad()
def test_kernels_are_torchs_own_convolution_with_the_same_padding(kernel):
    mixer, own = made("conv", kernel, causal=False), nn.Conv1d(T, T, kernel, padding="same", dtype=torch.float64)
    own.weight.copy_(mixer.weight.permute(1, 2, 0))
    own.bias.copy_(mixer.bias)
    assert torch.allclose(mixer(drawn(), None, SHOWN), own(drawn()), atol=1e-12)


@pytest.mark.parametrize(("mixer", "kernel"), KINDS)
@torch.no_grad()
def test_what_changes_at_a_token_changes_nothing_before_it(mixer, kernel):
    found = made(mixer, kernel)
    for n in (1, 4, T):
        for real in (n, max(1, n - 2)):
            mask = (torch.arange(n) < real).expand(2, n)
            x = drawn(n)
            before = found(x, mask, SHOWN)
            for t in range(n):
                changed = x.clone()
                changed[:, t] += 1
                after = found(changed, mask, SHOWN)
                assert torch.equal(after[:, :t], before[:, :t])
                assert t >= real or not torch.equal(after[:, t], before[:, t])


@pytest.mark.parametrize(("mixer", "kernel"), KINDS)
@torch.no_grad()
def test_padding_tells_a_mixer_nothing_masked_or_not(mixer, kernel):
    found, x, mask = made(mixer, kernel, causal=False), drawn(), torch.arange(T).expand(2, T) < 4
    alone = found(x[:, :4], None, SHOWN)
    assert torch.allclose(found(x, mask, SHOWN)[:, :4], alone, atol=1e-12)
    assert torch.equal(found(x[:, :4], mask[:, :4], SHOWN), alone), "a mask of ones changes nothing"
    changed = torch.where(mask[:, :, None], x, 9.0)
    assert torch.equal(found(changed, mask, SHOWN)[:, :4], found(x, mask, SHOWN)[:, :4])


@pytest.mark.parametrize(("mixer", "kernel", "heads"), [("conv", 1, 1), ("conv", 8, 1), ("heads", 1, 1), ("heads", 1, 8)])
@torch.no_grad()
def test_a_new_mixer_gives_sums_as_large_as_what_is_summed_whatever_it_is_made_of(mixer, kernel, heads):
    torch.manual_seed(0)
    made_of, x = mixer_of(Stack(mixer, 64, 128, 1, heads, kernel, False, 0)), torch.randn(4, 64, 128)
    if mixer == "heads":
        made_of.into, made_of.out = nn.Identity(), nn.Identity()
    assert 0.9 < float(made_of(x, None, SHOWN).std()) < 1.1, "but for a kernel's ends, where it reads beyond the width"


def test_the_mask_holds_after_steps_of_an_optimiser_with_momentum_and_decay():
    for kind, kernel in KINDS[:-1]:
        mixer = made(kind, kernel, dtype=torch.float32)
        with torch.no_grad():
            mixer.weight.add_(1.0)  # above the diagonal, too
        optimiser = torch.optim.AdamW(mixer.parameters(), lr=0.1, weight_decay=0.5)
        for _ in range(3):
            mixer(drawn(dtype=torch.float32), None, SHOWN).square().sum().backward()
            optimiser.step()
        x = drawn(dtype=torch.float32)
        changed = x.clone()
        changed[:, -1] = 0
        assert torch.equal(mixer(x, None, SHOWN)[:, :-1], mixer(changed, None, SHOWN)[:, :-1])


@pytest.mark.parametrize(
    ("mixer", "kernel", "weights"),
    [("conv", 1, T**2), ("conv", 4, 4 * T**2), ("heads", 1, H * T**2 + 2 * D**2), ("attention", 1, 4 * D**2)],
)
def test_weights_between_tokens_are_as_many_as_they_are_said_to_be(mixer, kernel, weights):
    matrices = [p for name, p in mixer_of(stack(mixer, kernel)).named_parameters() if "bias" not in name]
    assert sum(p.numel() for p in matrices) == weights


def test_rotary_positions_turn_by_distance_alone_and_keep_lengths():
    x = torch.randn(1, 1, 2, 6, generator=torch.Generator().manual_seed(0)).expand(1, 9, 2, 6)
    turned = rotated(x)[0]
    assert torch.allclose(turned.norm(dim=-1), x[0].norm(dim=-1), atol=1e-6)
    products = torch.einsum("qhc,khc->hqk", turned, turned)
    assert torch.allclose(products[:, 1:, 1:], products[:, :-1, :-1], atol=1e-5)


def test_a_mixer_is_of_the_class_of_its_name():
    assert [type(made(kind)) for kind in ("conv", "heads", "attention")] == [Convolution, Heads, Attention]
