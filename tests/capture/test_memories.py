"""A model without its memory: zeros or a mean where it passes, and its cells out of attention."""

from __future__ import annotations

import pytest
import torch
from small_models import drawn, rows, small_model

import tl_entropy as tle

TEXTS = ["import os\nimport sys", "def f(x): return"]
QUIET = {"progress": False}


def other_memory(x, hook):
    return torch.full_like(x, 7.0)


@pytest.mark.parametrize("name", ["memory attention token", "memory heads token", "memory flat", "memory heads add"])
@torch.no_grad()
def test_without_its_memory_nothing_of_it_is_left(name):
    model = small_model(name)
    plain = tle.lens_entropy(model, TEXTS, **QUIET).entropy
    without = [
        tle.lens_entropy(model, TEXTS, interventions=[*first, tle.occlude("memory")], **QUIET).entropy
        for first in ([], [("encoder.blocks.0.hook_resid_post", other_memory)])
    ]
    assert torch.equal(*without), "whatever the encoder has seen"
    assert (without[0] - plain).abs().max() > 1e-4
    if "attention token" in name:  # zeroing alone leaves a key
        zeroed = tle.lens_entropy(model, TEXTS, interventions=[("hook_memory", lambda x, hook: x * 0)], **QUIET).entropy
        assert (zeroed - without[0]).abs().max() > 1e-4


def test_a_mean_and_the_state_may_take_its_place():
    model = small_model("memory attention token")
    mean = torch.tensor([0.5, -1.0, 2.0, 0.0])
    tokens, _ = rows(9, model=model)
    edit = tle.occlude("memory", means=mean)
    seen = []
    hooks = [*[(name, f) for name, f in edit.hooks], ("hook_memory", lambda x, hook: seen.append(x.clone()))]
    model.run_with_hooks(tokens, fwd_hooks=hooks)
    assert seen[0][0].tolist() == mean.tolist()
    state = tle.lens_entropy(model, TEXTS, interventions=tle.occlude("state"), **QUIET)
    assert state.provenance.settings["interventions"] == ("occlude state to 0",)


def test_reliance_on_a_memory_and_quantised_ones():
    for name in ("memory attention token", "memory kernel"):
        model = small_model(name)
        found = tle.token_reliance(model, TEXTS, {"memory": tle.occlude("memory")}, **QUIET)
        assert (found.values[:, 0, 0] > 0).all()
        rounded = tle.token_surprisal(model, TEXTS, interventions=tle.quantize("memory", "grid", bits=2, limit=1.0), **QUIET)
        assert rounded.provenance.settings["interventions"] == ("quantize hook_memory to a grid of 2 bits up to 1.0",)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda: tle.occlude("memory", 3), "one vector a window"),
        (lambda: tle.occlude("state", heads=1), "one vector a window"),
        (lambda: tle.occlude("memory", means=torch.zeros(3)), r"must be \[4\]; got \[3\]"),
    ],
)
def test_what_a_memory_has_not_is_refused(edit, said):
    with pytest.raises(tle.InputError, match=said):
        tle.lens_entropy(small_model("memory flat"), TEXTS, interventions=edit(), **QUIET)


def test_models_without_one_are_refused():
    with pytest.raises(tle.InputError, match="no hook_memory"):
        tle.lens_entropy(drawn({"kind": "causal"}), TEXTS, interventions=tle.occlude("memory"), **QUIET)


def test_an_encoder_is_a_stack_of_its_own():
    model = small_model("memory heads")  # whose encoder is of another width
    encoder = tle.Adapter(model, stack="encoder")
    geometry = tle.layer_geometry(encoder, TEXTS * 4, measures=("effective_rank",), **QUIET)
    assert [str(site) for site in geometry.sites] == ["embed", "resid_post.0", "resid_post.1"]
    tokens, mask = rows(9, model=model)
    seen = encoder.activations(tokens, mask, [encoder.last_site])[encoder.last_site]
    own = model.run_with_cache(tokens)[1]["encoder.blocks.1.hook_resid_post"]
    assert torch.equal(seen, own)
    with pytest.raises(tle.ModelError):
        tle.lens_entropy(encoder, TEXTS, **QUIET)
    with pytest.raises(tle.InputError, match="stack: this model has one stack"):
        tle.Adapter(small_model("causal flat"), stack="encoder")
