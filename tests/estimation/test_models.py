"""Entropy-estimation models as TransformerLens models: hooks, caches, edits, padding, chunks; and as analyses read them."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import SETTINGS, drawn, rows, small_model
from tiny_models import LONG

import tl_entropy as tle
from tl_entropy.estimation.models import losses_of

pytestmark = pytest.mark.model

TEXTS = ["import os\nimport sys", "def f(x): retür", "x = 1"]
NAMES = tuple(SETTINGS)
SOME = NAMES if LONG else NAMES[::3]
PAST = [name for name in NAMES if name.startswith("past")]
QUIET = {"progress": False}


def lengths(model):
    longest = model.cfg.n_ctx
    return longest, longest - 1, longest // 2 + 1, 5, 1


@pytest.mark.parametrize("name", SOME)
@torch.no_grad()
def test_the_last_site_gives_the_models_own_entropy_for_any_batch(name):
    model = small_model(name)
    result = tle.lens_entropy(model, TEXTS, **QUIET)
    alone = tle.lens_entropy(model, TEXTS, batch_size=1, **QUIET)
    assert torch.allclose(result.entropy, alone.entropy, atol=1e-5)
    begun = model.cfg.default_prepend_bos
    own = [model(torch.tensor([[256] * begun + list(text.encode())]))[0, int(begun) :] for text in TEXTS]
    right = torch.distributions.Categorical(logits=torch.cat(own)).entropy()
    assert torch.allclose(result.entropy[:, -1, 0].float(), right, atol=1e-5)


@pytest.mark.thinned
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_padding_changes_nothing_and_hooks_see_a_position_for_each_token(name):
    model = small_model(name)
    tokens, mask = rows(*lengths(model), model=model)
    logits, cache = model.run_with_cache(tokens, attention_mask=mask)
    for row, n in enumerate(lengths(model)):
        alone = model(tokens[row : row + 1, :n])[0]
        assert torch.allclose(logits[row, :n], alone, atol=1e-5)
    assert torch.equal(model(tokens[:1]), model(tokens[:1], attention_mask=mask[:1])), "a mask of ones"
    for name, value in cache.items():
        if name.startswith("hook_embed") or ("blocks" in name and "memory" not in name):
            batch_and_pos = value.shape[:2] if "scores" not in name and "pattern" not in name else value.shape[::2]
            assert batch_and_pos == tokens.shape, name
        if name.startswith("blocks") and "resid" in name:
            assert value.shape[2] == model.cfg.d_model


@pytest.mark.parametrize("name", [name for name in NAMES if not SETTINGS[name]["kind"].startswith("auto")])
@torch.no_grad()
def test_what_comes_later_changes_nothing_before_it(name):
    model = small_model(name)
    tokens, _ = rows(model.cfg.n_ctx, model=model)
    changed, t = tokens.clone(), model.cfg.n_ctx - 3
    changed[0, t] = (tokens[0, t] + 7) % 250
    moved = (model(changed) - model(tokens)).abs().amax((0, 2))
    if model.cfg.reads_ahead:
        assert moved.min() > 0, "a memory of the text has read the answer"
    else:
        assert moved[:t].max() == 0
        assert moved[t] > 0


@pytest.mark.parametrize("name", ["memory attention token", "past heads token", "causal attention", "memory flat"])
@torch.no_grad()
def test_edits_reach_the_positions_that_they_name(name):
    model = small_model(name)
    tokens, _ = rows(model.cfg.n_ctx, model=model)
    plain = model(tokens)

    def at(position):
        def edit(x, hook):
            x = x.clone()
            x[:, position, 0] += 5.0
            return x

        return edit

    last = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", at(5))])
    moved = (last - plain).abs().amax((0, 2))
    assert moved[5] > 1e-3
    assert moved[torch.arange(len(moved)) != 5].max() == 0
    first = model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_resid_pre", at(5))])
    assert (first - plain).abs().amax((0, 2))[:5].max() == 0


@pytest.mark.parametrize("name", PAST)
@torch.no_grad()
def test_a_chunk_is_told_of_the_chunks_before_it_and_of_no_other(name):
    model = small_model(name)
    t = model.config.n_ctx
    tokens, _ = rows(3 * t, model=model)
    plain, cache = model.run_with_cache(tokens)
    assert cache["hook_memory"].shape == (1, 3, 4)
    alone = model(tokens[:, :t])
    assert torch.allclose(plain[:, :t], alone, atol=1e-5)
    first = tokens.clone()
    first[:, 0] = (first[:, 0] + 9) % 250
    assert (model(first) - plain)[:, 2 * t :].abs().max() > 0, "two memories: two chunks back"
    given = model.run_with_hooks(tokens, fwd_hooks=[("hook_memory", lambda x, hook: torch.zeros_like(x))])
    assert torch.allclose(given[:, t : 2 * t], model(tokens[:, t : 2 * t]), atol=1e-5), "without memories a chunk stands alone"


def test_every_hook_of_a_memory_comes_before_the_decoders_first():
    model, seen = small_model("memory heads token"), []
    hooks = [(lambda name: True, lambda x, hook: seen.append(hook.name))]
    model.run_with_hooks(rows(5, model=model)[0], fwd_hooks=hooks)
    assert seen.index("hook_memory") < seen.index("hook_embed") < seen.index("blocks.0.hook_resid_pre")
    assert max(i for i, name in enumerate(seen) if name.startswith("encoder.")) < seen.index("hook_state")
    assert set(seen) == set(model.hook_dict), "every hook fires"


@pytest.mark.parametrize("name", ["causal heads", "causal attention", "memory attention token"])
def test_heads_are_contributions_to_the_stream(name):
    model = small_model(name)
    result = tle.lens_entropy(model, TEXTS[0], sites=("attn_out", "mlp_out", "resid_mid"), **QUIET)
    assert result.entropy.isfinite().all()
    adapter = tle.Adapter(model)
    assert adapter.heads_of(0) == 4
    assert adapter.head_weights(1).shape == (4, 4, 16)


def test_a_memorys_cell_is_no_key_of_a_pattern_and_what_it_takes_is_a_sinks_share():
    model = small_model("memory attention token")
    _, cache = model.run_with_cache(rows(9, model=model)[0])
    pattern = cache["blocks.1.attn.hook_pattern"]
    assert pattern.shape == (1, 4, 9, 9)
    assert (pattern.sum(-1) < 1).all()
    share = tle.head_entropy(model, TEXTS[0], prepend_bos=False, **QUIET).to_pandas()["sink_share"]
    assert (share > 0).all()


def test_losses_are_of_the_next_token_or_of_ones_own_and_a_mean_over_tokens():
    logits = torch.full((2, 4, 5), -20.0)
    tokens = torch.tensor([[0, 1, 2, 3], [4, 2, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    own = logits.scatter(2, tokens[..., None], 20.0)
    losses, real = losses_of(own, tokens, mask, predicts="own")
    assert float((losses * real).max()) < 1e-6
    assert real.sum() == 6
    shifted = logits.scatter(2, tokens.roll(-1, 1)[..., None], 20.0)
    losses, real = losses_of(shifted, tokens, mask, predicts="next")
    assert float((losses * real).max()) < 1e-6
    assert real.sum() == 4
    model = small_model("causal flat")
    tokens, mask = rows(24, 3, model=model)
    each = [model(tokens[i : i + 1, :n], return_type="loss") * (n - 1) for i, n in enumerate((24, 3))]
    whole = model(tokens, attention_mask=mask, return_type="loss")
    assert torch.allclose(whole, sum(each) / 25, atol=1e-5)
    assert model(tokens, return_type=None) is None


@torch.no_grad()
def test_text_is_the_models_own_and_refused_where_it_has_read_it():
    for name in ("causal heads", "past attention token"):
        model = small_model(name)
        result = tle.lens_entropy(model, "im", max_new_tokens=8, temperature=0, **QUIET)
        assert result.entropy.isfinite().all()
    rows_ = model.generate(torch.tensor([[256, 3]]), 5, do_sample=False)
    assert torch.equal(rows_[0, 2:], torch.stack([model(rows_[:, :n])[0, -1].argmax() for n in range(2, 7)]))
    with pytest.raises(tle.ModelError, match="reads ahead"):
        small_model("memory flat").generate(torch.tensor([[256, 3]]), 5)
    with pytest.raises(tle.InputError, match="longer than n_ctx=24"):
        small_model("causal flat").generate(torch.tensor([[256, 3]]), 50)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m(torch.zeros(1, 25, dtype=torch.long)), "at most n_ctx=24"),
        (lambda m: m("text"), "tokens must be ids"),
        (lambda m: m(torch.zeros(1, 3)), "tokens must be ids"),
        (lambda m: m(torch.zeros(1, 3).long(), attention_mask=torch.ones(1, 2)), "must have the shape of tokens"),
        (lambda m: m(torch.zeros(1, 3).long(), return_type="both"), "return_type must be"),
        (lambda m: tle.estimation_model(tle.EstimationConfig()), "config.d_vocab must say"),
        (lambda m: tle.estimation_model(tle.EstimationConfig(d_vocab=10), "bytes"), "d_vocab must be at least 257"),
        (lambda m: tle.estimation_model(None), "config must be an EstimationConfig"),
        (lambda m: tle.estimation_model(tle.EstimationConfig(), "words"), "tokenizer must be"),
    ],
)
def test_what_is_no_input_is_refused(call, said):
    with pytest.raises(tle.TLEntropyError, match=said):
        call(small_model("causal flat"))


def test_seeds_fix_weights_and_leave_torchs_generator_alone():
    torch.manual_seed(0)
    one = drawn({"kind": "causal"})
    drawn_then = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn_then)
    assert tle.Adapter(one).fingerprint == tle.Adapter(drawn({"kind": "causal"})).fingerprint
    config = tle.EstimationConfig(n_ctx=8, d_model=8)
    other = [tle.Adapter(tle.estimation_model(config, "bytes", seed=seed)).fingerprint for seed in (0, 1)]
    assert other[0] != other[1]


@torch.no_grad()
def test_models_are_copied_moved_and_put_on_other_grids():
    model = small_model("memory on a grid")
    tokens, _ = rows(12, model=model)
    assert torch.equal(copy.deepcopy(model)(tokens), model(tokens))
    assert model.cfg.memory_bits == 16
    free, coarse = model.at_bits(None), model.at_bits(1)
    assert (free.cfg.memory_bits, coarse.cfg.memory_bits) == (None, 4)
    memory = coarse.run_with_cache(tokens)[1]["hook_memory"]
    assert set(memory.abs().flatten().tolist()) == {1.0}
    assert not torch.equal(free(tokens), model(tokens))
    double = copy.deepcopy(model).double()
    assert double.cfg.dtype == torch.float64
    assert torch.allclose(double.at_bits(None)(tokens).float(), free(tokens), atol=1e-4)


def test_token_ids_do_without_a_tokenizer():
    config = tle.EstimationConfig(n_ctx=8, d_model=8, n_layers=1, d_vocab=3, bos_token_id=2)
    result = tle.token_surprisal(tle.estimation_model(config), [torch.tensor([2, 0, 1, 1, 0])], **QUIET)
    assert result.token.tolist() == [0, 1, 1, 0]
