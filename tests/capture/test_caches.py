"""Caches as input: whole ones are read, those of some positions are refused where it can be seen."""

from __future__ import annotations

import pytest
import torch

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
        with pytest.raises(InputTypeError, match=r"an ActivationCache comes as \(cache, tokens\)"):
            tle.lens_entropy(gpt2, alone, progress=False)
    for hidden in (["text", cache], iter([cache])):
        with pytest.raises(InputTypeError, match=r"with its tokens.*: \(cache, tokens\)"):
            tle.lens_entropy(gpt2, hidden, progress=False)
    with pytest.raises(InputTypeError, match="this cache is a dict; pass an ActivationCache"):
        tle.lens_entropy(gpt2, (dict(cache.cache_dict), tokens), progress=False)
