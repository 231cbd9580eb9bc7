"""KL to the output and its gradient: against automatic differentiation in double, on every architecture."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_model

import tl_entropy as tle
from tl_entropy.functional import kl_divergence
from tl_entropy.lenses.objective import Objective

pytestmark = pytest.mark.model


def dense_logits(model, readout, rows):
    logits = model.ln_final(rows[None])[0] @ readout.unembedding
    logits = logits if readout.bias is None else logits + readout.bias
    logits = readout.scale * logits
    return logits if readout.softcap is None else readout.softcap * torch.tanh(logits / readout.softcap)


@pytest.mark.thinned
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "phi", "gemma2", "granite", "cohere"])
@pytest.mark.parametrize("compatible", [False, True])
def test_gradient_is_that_of_the_definition(name, compatible):
    model = make_model(name, compatible=compatible, dtype=torch.float64)
    adapter = tle.Adapter(model, check=False)  # an old Bridge of Cohere is not quite Hugging Face
    draw = torch.Generator().manual_seed(0)
    last, rows = (3 * torch.randn(5, 32, generator=draw, dtype=torch.float64) for _ in range(2))
    rows.requires_grad_()
    true = kl_divergence(*(dense_logits(model, adapter.readout, x) for x in (last, rows)))
    [slope] = torch.autograd.grad(true.sum(), rows)

    objective = Objective(adapter)
    kl, found = objective.loss(rows, objective.output(last), gradient=True)
    assert objective.dtype == torch.float64
    torch.testing.assert_close(kl, true, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, slope, rtol=1e-7, atol=1e-9)
    alone, nothing = objective.loss(rows, objective.output(last), gradient=False)
    torch.testing.assert_close(alone, true, rtol=1e-9, atol=1e-9)
    assert nothing is None


def test_reduced_precision_is_summed_in_single():
    model = make_model("llama", dtype=torch.bfloat16)
    objective = Objective(tle.Adapter(model))
    rows = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    kl, slope = objective.loss(rows, objective.output(rows), gradient=True)
    assert objective.dtype == kl.dtype == slope.dtype == torch.float32
    assert torch.equal(kl, torch.zeros(4))


def test_impossible_tokens_count_for_nothing(monkeypatch):
    adapter = tle.Adapter(make_model("gpt2"))
    bias = torch.zeros(adapter.d_vocab)
    bias[7] = -torch.inf
    from dataclasses import replace

    monkeypatch.setitem(vars(adapter), "readout", replace(adapter.readout, bias=bias))
    objective = Objective(adapter)
    draw = torch.Generator().manual_seed(0)
    kl, slope = objective.loss(
        torch.randn(3, 32, generator=draw), objective.output(torch.randn(3, 32, generator=draw)), gradient=True
    )
    assert kl.isfinite().all()
    assert (kl > 0).all()
    assert slope.isfinite().all()


def test_hooks_of_others_stay_silent(gpt2):
    objective = Objective(tle.Adapter(gpt2))
    rows = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    plain = objective.loss(rows + 1, objective.output(rows), gradient=True)
    with gpt2.hooks([("ln_final.hook_normalized", lambda value, hook: value * 0)]):
        hooked = objective.loss(rows + 1, objective.output(rows), gradient=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, hooked, strict=True))


def test_tensors_over_the_vocabulary_stay_small(gpt2, monkeypatch):
    from tl_entropy.lenses import objective

    monkeypatch.setattr(objective, "CELLS", 1000)
    assert objective.Objective(tle.Adapter(gpt2)).rows_at_once == 3
    monkeypatch.setattr(objective, "CELLS", 10)
    assert objective.Objective(tle.Adapter(gpt2)).rows_at_once == 1
