"""The frozen final norm against the model's own, on every architecture, and the norms that it refuses."""

from __future__ import annotations

import pytest
import torch
from tiny_models import kinds, make_model
from torch import nn

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.proofs.frozen_norm import FrozenNorm
from tl_entropy.errors import ModelError

D = 24


def rows(n=5, d=D, scale=3.0, dtype=torch.float32):
    return (torch.randn(n, d, generator=torch.Generator().manual_seed(3)) * scale + 0.7).to(dtype)


def layer_norm(x):
    torch.manual_seed(1)
    weight, bias = torch.randn(2, D, dtype=x.dtype)
    return nn.functional.layer_norm(x, (D,), weight, bias)


def rms_norm(x):
    torch.manual_seed(1)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * torch.randn(D, dtype=x.dtype)


@pytest.mark.parametrize(("norm", "centred"), [(layer_norm, True), (rms_norm, False)])
def test_known_norms(norm, centred):
    frozen = FrozenNorm.probe(norm, torch.zeros(D, 7))
    assert frozen.centred is centred
    torch.manual_seed(1)
    weight, bias = torch.randn(2, D) if centred else (torch.randn(D), torch.zeros(D))
    torch.testing.assert_close(frozen.weight, weight, atol=1e-4, rtol=0)
    torch.testing.assert_close(frozen.bias, bias, atol=1e-6, rtol=0)
    x = rows()
    inner = x - x.mean(-1, keepdim=True) if centred else x
    expected = 1 / inner.double().square().mean(-1).add(1e-5).sqrt()
    torch.testing.assert_close(frozen.scale(x).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(frozen(x, frozen.scale(x)) + frozen.bias, norm(x), atol=1e-5, rtol=0)


def test_shares_add_up_to_the_whole_whatever_their_axes():
    frozen = FrozenNorm.probe(layer_norm, torch.zeros(D))
    parts = rows(4 * 3).reshape(4, 3, D)
    whole = parts.sum(1)
    scale = frozen.scale(whole)
    shares = frozen(parts, scale)
    assert shares.shape == parts.shape
    torch.testing.assert_close(shares.sum(1) + frozen.bias, layer_norm(whole), atol=1e-5, rtol=0)
    assert not torch.allclose(shares[:, 0] + frozen.bias, layer_norm(parts[:, 0]), atol=0.1), "frozen is not recomputed"


def test_an_odd_width_and_weights_of_zero():
    def norm(x):
        return nn.functional.layer_norm(x, (5,)) * torch.tensor([0.0, 1.0, -2.0, 0.5, 0.0])

    frozen = FrozenNorm.probe(norm, torch.zeros(5))
    x = rows(4, 5)
    torch.testing.assert_close(frozen(x, frozen.scale(x)), norm(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "norm",
    [
        lambda x: torch.tanh(0.5 * x),
        lambda x: layer_norm(x) + 0.01 * x,
        lambda x: nn.functional.layer_norm(x.unflatten(-1, (2, D // 2)), (D // 2,)).flatten(-2),
        lambda x: x * torch.nan,
    ],
    ids=["tanh", "skip", "by groups", "nan"],
)
def test_other_norms_are_refused(norm):
    with pytest.raises(ModelError, match=r"(?s)not linear up to a scale \(off by .*norm='recomputed'"):
        FrozenNorm.probe(norm, torch.zeros(D))


@pytest.mark.model
def test_every_architecture(any_model):
    adapter = Adapter(any_model)
    frozen = adapter.frozen_norm
    assert frozen.error < 1e-6
    assert adapter.frozen_norm is frozen, "one proof a model"
    x = rows(6, 32)
    torch.testing.assert_close(frozen(x, frozen.scale(x)) + frozen.bias, adapter.readout.norm(x), atol=1e-5, rtol=1e-5)
    assert frozen.centred == any(name in any_model.cfg.model_name for name in ("gpt2", "neox", "phi", "cohere"))


@pytest.mark.model
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", kinds())
def test_precision(kind, dtype):
    frozen = Adapter(make_model("gpt2", kind, dtype=dtype)).frozen_norm
    assert frozen.weight.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert frozen.error < {torch.float64: 1e-12, torch.bfloat16: 0.01, torch.float16: 0.002}[dtype]


@pytest.mark.model
def test_users_hooks_do_not_show(gpt2):
    with gpt2.hooks(fwd_hooks=[("ln_final.hook_normalized", lambda x, hook: x * 0)]):
        assert bool(Adapter(gpt2).frozen_norm.weight.any())
