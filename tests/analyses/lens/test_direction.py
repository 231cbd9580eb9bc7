"""What directions say, against the model's own norm and unembedding in float64, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

RAW = ("gpt2", "bridge") if "bridge" in kinds() else ("gpt2", "hooked raw")


def directions(n=3, seed=0):
    return torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def dense(model, rows):
    """What each row adds to the logits, by the model's own modules, less its mean over the vocabulary."""
    unit = rows / rows.square().mean(1, keepdim=True).sqrt()
    normed = model.ln_final(unit[None])[0] - model.ln_final(torch.zeros_like(unit)[None])[0]
    logits = tle.Adapter(model).readout.scale * normed.double() @ model.W_U.double()
    return logits - logits.mean(1, keepdim=True)


def test_tokens_and_logits_are_those_of_the_models_own_modules(any_model):
    rows = directions()
    found, truth = tle.read_direction(tle.Adapter(any_model), rows, top_k=4), dense(any_model, rows)
    assert found.equals(tle.read_direction(any_model, rows, top_k=4))
    assert len(found) == 3 * 2 * 4
    for number, row in enumerate(truth):
        for side, sign in (("promoted", 1), ("suppressed", -1)):
            here = found[(found["direction"] == number) & (found["side"] == side)]
            values, tokens = (sign * row).topk(4)
            assert here["token"].tolist() == tokens.tolist()
            assert here["rank"].tolist() == [0, 1, 2, 3]
            assert here["logit"].tolist() == pytest.approx((sign * values).tolist(), abs=1e-5)
            assert here["z"].tolist() == pytest.approx((sign * values / row.std(correction=0)).tolist(), abs=1e-4)


def test_length_does_not_count_and_the_sign_does():
    model, [row] = cached_model(*RAW), directions(1)
    one, scaled, against = (tle.read_direction(model, factor * row, top_k=3) for factor in (1, 1e-4, -2))
    assert one["token"].tolist() == scaled["token"].tolist()
    assert one["logit"].tolist() == pytest.approx(scaled["logit"].tolist(), rel=1e-4)
    assert against["token"].tolist() == [*one["token"][3:], *one["token"][:3]]
    assert against["logit"].tolist() == pytest.approx([-x for x in [*one["logit"][3:], *one["logit"][:3]]], rel=1e-4)


def test_lenses_are_read_by_their_linear_part():
    model, rows, draw = cached_model(*RAW), directions(), torch.Generator().manual_seed(2)
    matrix, shift = torch.randn(32, 32, generator=draw), torch.randn(32, generator=draw)
    truth = tle.read_direction(model, rows @ matrix.T)
    jacobian = SimpleNamespace(jacobians={0: matrix, 1: matrix}, n_prompts=1, metadata={})
    for lens in (lambda site, x: x @ matrix.T + shift, jacobian):
        found = tle.read_direction(model, rows, site="resid_post.1", lens=lens)
        assert found["token"].tolist() == truth["token"].tolist()
        assert found["logit"].tolist() == pytest.approx(truth["logit"].tolist(), abs=1e-3)
    last = tle.read_direction(model, rows, site=Site("resid_post", 2), lens=jacobian)
    assert last["token"].tolist() == tle.read_direction(model, rows)["token"].tolist()


@pytest.mark.parametrize(
    ("given", "options", "error", "words"),
    [
        ([1.0] * 32, {}, InputTypeError, "real tensor"),
        (torch.ones(31), {}, InputError, "d_model = 32"),
        (torch.ones(2, 2, 32), {}, InputError, "d_model = 32"),
        (torch.zeros(32), {}, InputError, "not zero"),
        (torch.full((32,), torch.nan), {}, InputError, "finite"),
        (torch.ones(32), {}, InputError, "the final norm takes out"),
        (directions(), {"top_k": 0}, InputError, "top_k"),
        (directions(), {"site": "resid_post.9"}, InputError, "layer 9"),
        (directions(), {"site": "z.0"}, InputError, "head axis"),
        (directions(), {"lens": lambda site, x: 0 * x}, InputError, "to 0"),
    ],
)
def test_what_is_refused(given, options, error, words):
    with pytest.raises(error, match=words):
        tle.read_direction(cached_model(*RAW), given, **options)
