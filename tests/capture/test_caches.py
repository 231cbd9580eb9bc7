"""Caches as input: whole ones are read, those of some positions are refused where it can be seen."""

from __future__ import annotations

import pytest
import torch
from tiny_models import kinds, make_model

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError

pytestmark = pytest.mark.model
QUIET = {"progress": False}
TOKENS = torch.tensor([[0, 20, 21, 22, 23, 24, 25]])


def sliced(model, where, **options):
    with torch.no_grad():
        return model.run_with_cache(TOKENS, pos_slice=where, **options)[1]


@pytest.mark.parametrize("where", [(3, 6), (0, 4), [2, 3, 5]])
@pytest.mark.parametrize("function", [tle.lens_entropy, tle.head_entropy, tle.token_surprisal, tle.layer_divergence])
def test_a_cache_of_some_positions_is_refused(gpt2, function, where):
    part = TOKENS[:, slice(*where) if isinstance(where, tuple) else where]
    with pytest.raises(InputError, match=rf"hook_pattern has {part.shape[1]} queries and 7 keys.*pos_slice.*positions="):
        function(gpt2, (sliced(gpt2, where), part), **QUIET)


def test_with_the_tokens_of_the_whole_text_too(gpt2):
    with pytest.raises(InputError, match="hook_pattern has 3 queries and 7 keys, its tokens are 7 a row"):
        tle.lens_entropy(gpt2, (sliced(gpt2, (3, 6)), TOKENS), **QUIET)
    kept = sliced(gpt2, (3, 6), names_filter=lambda name: "resid" in name)
    with pytest.raises(InputError, match=r"hook_resid_pre is \(1, 3\), its tokens are \(1, 7\)"):
        tle.lens_entropy(gpt2, (kept, TOKENS), **QUIET)


@pytest.mark.parametrize("remove_batch_dim", [False, True])
def test_a_whole_cache_is_read(gpt2, remove_batch_dim):
    with torch.no_grad():
        cache = gpt2.run_with_cache(TOKENS, remove_batch_dim=remove_batch_dim)[1]
    for function in (tle.lens_entropy, tle.head_entropy):
        found, expected = function(gpt2, (cache, TOKENS), **QUIET), function(gpt2, TOKENS, **QUIET)
        torch.testing.assert_close(found.entropy, expected.entropy, atol=1e-5, rtol=0)
        assert torch.equal(found.position, expected.position)


def test_what_run_with_cache_returns_is_refused_with_the_way(gpt2):
    tokens = torch.tensor([[0, 5, 6, 7]])
    with torch.no_grad():
        logits, cache = gpt2.run_with_cache(tokens)
    for inputs in ((logits, cache), [logits, cache], (tokens, cache)):
        with pytest.raises(InputTypeError, match=r"run_with_cache gives \(logits, cache\); pass the cache with its tokens"):
            tle.lens_entropy(gpt2, inputs, progress=False)
    for several in ([(cache, tokens), (cache, tokens)], [(logits, cache)], (cache, cache), [[cache, tokens]]):
        with pytest.raises(InputTypeError, match="one cache at a time"):
            tle.lens_entropy(gpt2, several, progress=False)
    for alone in ([cache], [cache, tokens], (cache, "text")):
        with pytest.raises(InputTypeError, match=r"an ActivationCache comes as \(cache, tokens\).*as a tensor"):
            tle.lens_entropy(gpt2, alone, progress=False)
    for hidden in (["text", cache], iter([cache])):
        with pytest.raises(InputTypeError, match=r"with its tokens.*: \(cache, tokens\)"):
            tle.lens_entropy(gpt2, hidden, progress=False)
    with pytest.raises(InputTypeError, match="this cache is a dict; pass an ActivationCache"):
        tle.lens_entropy(gpt2, (dict(cache.cache_dict), tokens), progress=False)


OTHERS = torch.tensor([[0, 20, 21, 99, 23, 24, 25]])


def cache_of(model, tokens=TOKENS, **options):
    with torch.no_grad():
        return model.run_with_cache(tokens, **options)[1]


@pytest.mark.parametrize("kept", [None, "hook_embed", "blocks.0.hook_resid_pre"])
def test_a_cache_of_other_tokens_is_refused(gpt2, kept):
    def keeps(name):
        return name == kept or name.endswith(("hook_resid_post", "hook_pattern"))

    cache = cache_of(gpt2, **({} if kept is None else {"names_filter": keeps}))
    sites = "resid_post"
    for function in (tle.lens_entropy, tle.layer_similarity):
        function(gpt2, (cache, TOKENS), sites=sites, **QUIET)
        with pytest.raises(InputError, match=r"makes of its tokens, in 1 cell of 7, first at row 0, cell 3"):
            function(gpt2, (cache, OTHERS), sites=sites, **QUIET)
    found = tle.lens_entropy(tle.Adapter(gpt2, check=False), (cache, OTHERS), sites=sites, **QUIET)
    assert found.provenance.corpus["trusted"] is True


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_of_another_context_is_refused(name, dtype):
    """Embeddings of tokens are the same at all places, of GPT-2 without those of places, of Llama anyway."""
    if kinds()[0] != "bridge" and name == "llama":
        pytest.skip("of a TransformerBridge")
    model = make_model(name, kinds()[0], dtype=dtype)

    def keeps(name):
        return name == "hook_embed" or name.endswith("hook_resid_post")

    for names in (keeps, lambda name: "resid" in name):
        for where, part in (((2, 5), TOKENS[:, 2:5]), (3, TOKENS[:, 3:4])):
            with pytest.raises(InputError, match=r"not what this model makes of its tokens.*of a longer text \(pos_slice\)"):
                tle.lens_entropy(model, (sliced(model, where, names_filter=names), part), sites="resid_post", **QUIET)
        first = tle.lens_entropy(model, (sliced(model, (0, 4), names_filter=names), TOKENS[:, :4]), sites="resid_post", **QUIET)
        whole = tle.lens_entropy(model, TOKENS, sites="resid_post", positions=[0, 1, 2], **QUIET)
        torch.testing.assert_close(first.entropy, whole.entropy, atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0)
        assert "trusted" not in first.provenance.corpus
    padded, mask = torch.tensor([[9, 9, 9, 20, 21, 22]]), torch.tensor([[0, 0, 0, 1, 1, 1]])
    with pytest.raises(InputError, match=r"another mask \(padding on the left without one\)"):
        tle.lens_entropy(model, (cache_of(model, padded), padded, mask), **QUIET)


def test_a_cache_that_was_run_under_autocast_is_of_the_same_context(gpt2):
    with torch.autocast("cpu", torch.bfloat16):
        cache = cache_of(gpt2)
    found = tle.lens_entropy(gpt2, (cache, TOKENS), **QUIET)
    expected = tle.lens_entropy(gpt2, TOKENS, **QUIET)
    torch.testing.assert_close(found.entropy, expected.entropy, atol=0.1, rtol=0)


def test_a_cache_without_numbers_is_refused(gpt2):
    cache = cache_of(gpt2)
    cache.cache_dict = {name: value.to("meta") for name, value in cache.cache_dict.items()}
    with pytest.raises(InputError, match="is on the device 'meta' and holds no numbers"):
        tle.lens_entropy(gpt2, (cache, TOKENS), **QUIET)


def test_a_cache_of_another_model_is_refused(any_model):
    other = make_model("gpt2", kinds()[0])
    with torch.no_grad():
        other.blocks[2].attn.W_O.mul_(1.1)
    cache = cache_of(other, TOKENS)
    if any_model.cfg.d_model == other.cfg.d_model:
        with pytest.raises(InputError, match="the cache was made by another model than the one that is measured"):
            tle.lens_entropy(any_model, (cache, TOKENS), **QUIET)
    found = tle.lens_entropy(other, (cache, TOKENS), **QUIET)
    assert "trusted" not in found.provenance.corpus
    same = make_model("gpt2", kinds()[0])
    with torch.no_grad():
        same.blocks[2].attn.W_O.mul_(1.1)
    torch.testing.assert_close(tle.lens_entropy(same, (cache, TOKENS), **QUIET).entropy, found.entropy, atol=1e-5, rtol=0)
    with torch.no_grad():  # trained since
        next(p for p in other.parameters() if p.ndim == 2).mul_(1.1)
    with pytest.raises(InputError, match="not what this model makes of its tokens, in 7 cells of 7"):
        tle.lens_entropy(other, (cache, TOKENS), **QUIET)


def test_a_cache_without_the_mask_that_its_padding_needs_is_refused(gpt2):
    padded, mask = torch.tensor([[0, 0, 0, 20, 21, 22]]), torch.tensor([[0, 0, 1, 1, 1, 1]])
    with pytest.raises(InputError, match=r"another mask \(padding on the left without one\)"):
        tle.lens_entropy(gpt2, (cache_of(gpt2, padded), padded, mask), **QUIET)
    tle.lens_entropy(gpt2, (cache_of(gpt2, padded, attention_mask=mask), padded, mask), **QUIET)


def test_where_nothing_shows_whose_a_cache_is_results_say_that_it_was_trusted(gpt2):
    cache = cache_of(gpt2, names_filter=lambda name: name.endswith(("hook_embed", ".1.hook_resid_post")))
    cache.model = None
    found = tle.lens_entropy(gpt2, (cache, TOKENS), sites="resid_post", layers=1, **QUIET)
    assert found.provenance.corpus["trusted"] is True
    whole = tle.lens_entropy(gpt2, (cache_of(gpt2), TOKENS), sites="resid_post", **QUIET)
    assert "trusted" not in whole.provenance.corpus
    assert "trusted" not in tle.lens_entropy(gpt2, TOKENS, sites="resid_post", **QUIET).provenance.corpus


@pytest.mark.model
@pytest.mark.parametrize("function", [tle.lens_entropy, tle.head_entropy, tle.token_surprisal])
def test_rows_that_no_window_holds_are_refused(gpt2, function):
    tokens = torch.randint(1, 20, (2, 12), generator=torch.Generator().manual_seed(0))
    _, cache = gpt2.run_with_cache(tokens)
    mask = torch.ones_like(tokens)
    with pytest.raises(InputError, match="row 0 of the cache's tokens has 12 tokens; a cache is read as it is"):
        function(gpt2, (cache, tokens), window=5, progress=False)
    mask[1] = 0
    with pytest.raises(InputError, match="row 1 of the cache's tokens has 0 tokens"):
        function(gpt2, (cache, tokens, mask), progress=False)
