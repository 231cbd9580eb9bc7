"""A model without its memory: zeros or a mean where it passes, and its cells out of attention."""

from __future__ import annotations

import copy
from functools import partial

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


@pytest.mark.parametrize(
    ("name", "place"),
    [("memory attention token", "memory"), ("autoencoder heads", "state"), ("past heads token", "memory")],
)
def test_what_predictions_owe_to_a_memory_is_one_number_each(name, place):
    """Gradient times activation is the derivative by the memory's size."""
    model = copy.deepcopy(small_model(name)).double()
    text = ["import os, sys and random, re"[: 20 if name.startswith("memory") else None]]  # the others: two windows, or chunks
    found = tle.gradient_reliance(model, text, place, of="l1", **QUIET)
    assert (found.sources, found.over, found.provenance.settings["site"]) == ((place,), "parts", place)

    def norms(size):
        edit = (f"hook_{place}", lambda x, hook: x * size)
        ids, begin = list(text[0].encode()), [256] * model.cfg.default_prepend_bos
        room, sums = model.cfg.n_ctx - len(begin), []
        for first in range(0, len(ids), room):
            row = torch.tensor([begin + ids[first : first + room]])
            logits = model.run_with_hooks(row, fwd_hooks=[edit])[0]
            sums.append(logits[: len(row[0]) - len(begin)].abs().sum(1))
        return torch.cat(sums)

    with torch.no_grad():
        right = (norms(1 + 1e-5) - norms(1 - 1e-5)) / 2e-5
    assert torch.allclose(found.values[:, 0, 0], right, atol=1e-5)
    assert found.values.abs().max() > 1e-3


def test_places_of_windows_and_of_encoders_have_short_names():
    model = small_model("memory heads")  # whose encoder is 8 wide, and its decoder 16
    by_hook = tle.quantize("encoder.blocks.1.hook_resid_post", "int2")
    losses = [
        tle.token_surprisal(model, TEXTS, interventions=edit, **QUIET).loss(memory_bits=0)
        for edit in (by_hook, tle.quantize("encoder.resid_post.1", "int2"), tle.quantize("encoder.resid_post.-1", "int2"), None)
    ]
    assert losses[0] == losses[1] == losses[2] != losses[3]
    assert tle.occlude("encoder.embed", 3).hooks[0][0] == "encoder.blocks.0.hook_resid_pre"
    table = tle.sensitivity(model, TEXTS, ["int2"], sites=["memory", "state", "encoder.mlp_out", "mlp_out.1"], **QUIET)
    assert table.sites == ("mlp_out.1", "memory", "state", "encoder.mlp_out.0", "encoder.mlp_out.1")
    assert (table.value("int2").abs() > 0).all()
    inside, encoder = "encoder.resid_post", tle.Adapter(model, stack="encoder")
    mean = tle.site_means(model, TEXTS, inside, **QUIET)
    assert [len(value) for value in mean.values()] == [8, 8]
    for call in (
        partial(tle.layer_geometry, measures=("effective_rank",), **QUIET), partial(tle.layer_similarity, **QUIET),
        partial(tle.layer_similarity, rows="documents", **QUIET),
    ):  # fmt: skip
        texts = [*TEXTS, "x = 1", "from re import findall"]
        own, stack = call(model, texts, sites=inside), call(encoder, texts, sites="resid_post")
        assert str(own) == str(stack)
        assert "sites are of its encoder" in own.provenance.state
    assert tle.soft_information(model, TEXTS * 2, sites=inside, n_bins=5, folds=2, **QUIET).sites[0].name == "resid_post"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: tle.layer_geometry(m, TEXTS, sites="memory", **QUIET), "one vector a window"),
        (lambda m: tle.lens_entropy(m, TEXTS, sites=["state"], **QUIET), "one vector a window"),
        (lambda m: tle.lens_entropy(m, TEXTS, sites="encoder.resid_post.0", **QUIET), "is of an encoder"),
        (lambda m: tle.site_means(m, TEXTS, ["encoder.embed", "embed"], **QUIET), "measure one after the other"),
        (lambda m: tle.quantize("encoder.embed.3", "int8"), "short name with its layer"),
        (lambda m: tle.gradient_reliance(m, TEXTS, "memory", heads=1, **QUIET), "heads are of z"),
    ],
)
def test_what_such_places_are_not_is_said(call, said):
    with pytest.raises(tle.InputError, match=said):
        call(small_model("memory heads"))


def test_a_token_hidden_from_attention_is_not_hidden_from_memories_of_its_chunk():
    with pytest.raises(tle.ModelError, match="tokens behind a hidden one still depend on it"):
        tle.lens_entropy(small_model("past attention token"), TEXTS, interventions=tle.mask_attention(2), **QUIET)


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
