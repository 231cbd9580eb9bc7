"""The adapter against the models' own logits, and against what it must leave alone."""

from __future__ import annotations

import pytest
import torch
from tiny_models import kinds, make_model

import tl_entropy as tle
from tl_entropy.capture import origin
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.given import adapter_of
from tl_entropy.capture.hooks import hook_name
from tl_entropy.errors import InputError, InputTypeError, ModelError
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

TOKENS = torch.tensor([[0, 5, 17, 80, 120, 33, 260, 7], [0, 9, 44, 44, 201, 3, 18, 250]])
MASK = torch.ones_like(TOKENS, dtype=torch.bool)


def rebuilt_logits(adapter, x):
    readout = adapter.readout
    raw = readout.norm(x.flatten(0, 1)).double() @ readout.unembedding.double()
    raw = readout.scale * (raw if readout.bias is None else raw + readout.bias.double())
    capped = raw if readout.softcap is None else readout.softcap * torch.tanh(raw / readout.softcap)
    return capped.view(*x.shape[:2], -1)


def test_readout_gives_the_models_own_log_probabilities(any_model):
    adapter = Adapter(any_model)
    last = Site("resid_post", adapter.n_layers - 1)
    x = adapter.activations(TOKENS, MASK, [last])[last]
    own = adapter.logits(TOKENS, MASK).double().log_softmax(-1)
    torch.testing.assert_close(rebuilt_logits(adapter, x).log_softmax(-1), own, atol=2e-5, rtol=0)


def test_readout_measures_scale_and_cap():
    from tiny_models import cached_model

    assert Adapter(cached_model("granite", "bridge")).readout.scale == 0.125
    assert Adapter(cached_model("cohere", "bridge"), check=False).readout.scale == 0.0625
    assert Adapter(cached_model("cohere", "bridge", True)).readout.scale == 1.0
    gemma = Adapter(cached_model("gemma2", "bridge")).readout
    assert gemma.softcap == 30.0
    assert gemma.scale == 1.0
    assert Adapter(cached_model("phi", "bridge")).readout.bias is not None


def test_activations_are_those_of_run_with_cache(any_model):
    adapter = Adapter(any_model)
    names = [n for n in ("embed", "resid_mid", "resid_post", "attn_out", "mlp_out", "z") if _has(adapter, n)]
    sites = adapter.sites(names)
    seen = adapter.activations(TOKENS, MASK, sites)
    _, cache = any_model.run_with_cache(TOKENS, attention_mask=MASK.long())
    assert set(seen) == set(sites)
    for site in sites:
        torch.testing.assert_close(seen[site], cache[hook_name(site)], atol=1e-6, rtol=0)


def _has(adapter, name):
    try:
        return bool(adapter.sites([name]))
    except InputError:
        return False


def test_parallel_blocks_have_no_resid_mid():
    from tiny_models import cached_model

    with pytest.raises(InputError, match=r"resid_mid at layer 0 .*parallel.*blocks\.0\.hook_resid_mid"):
        Adapter(cached_model("neox", "bridge")).sites("resid_mid")


def test_unknown_site_and_layer(gpt2):
    with pytest.raises(InputError, match="sites must be one of 'embed'"):
        Adapter(gpt2).sites("resid_psot")
    with pytest.raises(InputError, match="layer 3 does not exist; the model has layers 0 to 2"):
        Adapter(gpt2).sites("resid_post", [3])
    assert Adapter(gpt2).sites("resid_post", [-1]) == (Site("resid_post", 2),)


@pytest.mark.skipif("bridge" not in kinds(), reason="no Bridge is installed")
def test_the_model_inside_a_bridge_is_in_evaluation_mode_and_then_as_it_was():
    model = make_model("gpt2")
    inside = list(model.original_model.modules())
    assert not set(inside) <= set(model.modules()), "which a Bridge does not hold as its child"
    model.original_model.train()
    model.original_model.transformer.h[1].eval()
    flags, seen = [module.training for module in inside], []
    point = model.hook_dict["blocks.1.hook_resid_post"]
    with model.hooks(fwd_hooks=[(point.name, lambda activation, hook: seen.extend(m.training for m in inside))]):
        Adapter(model, check=False).activations(TOKENS, MASK, [Site("resid_post", 2)])
    assert seen
    assert not any(seen)
    assert [module.training for module in inside] == flags
    assert any(flags)


@pytest.mark.filterwarnings("ignore:hooks that somebody has left on this model")
def test_users_hooks_and_the_models_state_are_left_alone(gpt2):
    calls = []
    point = gpt2.hook_dict["blocks.1.hook_resid_post"]
    point.add_hook(lambda activation, hook: calls.append("temporary"))
    point.add_hook(lambda activation, hook: calls.append("permanent"), is_permanent=True)
    gpt2.hook_dict["ln_final.hook_normalized"].add_hook(lambda activation, hook: activation * 0)
    gpt2.train()
    gpt2.blocks[1].eval()
    flags = [module.training for module in gpt2.modules()]
    try:
        adapter = Adapter(gpt2)
        assert adapter.readout.error < 1e-4, "a user's hook on the norm must not bend the calibration"
        for name, hook_point in gpt2.hook_dict.items():
            if name.startswith("ln_final"):
                hook_point.add_hook(lambda activation, hook: calls.append("norm"))
        adapter.readout.norm(torch.randn(3, 32))
        assert "norm" not in calls, "a user's hook on the norm does not see the lens"
        gpt2.ln_final(torch.randn(1, 3, 32))
        assert "norm" in calls, "it does see the model"
        before = {name: len(p.fwd_hooks) for name, p in gpt2.hook_dict.items()}
        calls.clear()
        adapter.activations(TOKENS, MASK, adapter.sites("resid_post"))
        assert calls == ["temporary", "permanent"], "users' hooks act in the measured pass, once"
        assert {name: len(p.fwd_hooks) for name, p in gpt2.hook_dict.items()} == before
        assert [module.training for module in gpt2.modules()] == flags
        assert all(p.requires_grad for p in gpt2.parameters())
    finally:
        gpt2.eval()
        gpt2.reset_hooks(including_permanent=True)


def test_an_intervention_changes_what_is_measured(gpt2):
    adapter = Adapter(gpt2)
    site = Site("resid_post", 2)
    plain = adapter.activations(TOKENS, MASK, [site])[site]
    with gpt2.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z * 0)]):
        ablated = adapter.activations(TOKENS, MASK, [site])[site]
    assert float((plain - ablated).abs().max()) > 1e-3
    torch.testing.assert_close(adapter.activations(TOKENS, MASK, [site])[site], plain)


def test_edits_of_two_adapters_at_one_hook_do_not_remove_each_other(gpt2):
    site, hook = Site("mlp_out", 1), "blocks.1.hook_mlp_out"
    outer, inner = Adapter(gpt2), Adapter(gpt2)

    def seen():
        return [adapter.activations(TOKENS, MASK, [site])[site] for adapter in (outer, inner, Adapter(gpt2))]

    plain = seen()[0]
    with outer.edited([(hook, lambda activation, hook: 2 * activation)]):
        with inner.edited([(hook, lambda activation, hook: activation + 1)]):
            # The inner one behind the outer one, and both before what captures.
            assert all(torch.equal(found, 2 * plain + 1) for found in seen())
        assert all(torch.equal(found, 2 * plain) for found in seen())
    assert all(torch.equal(found, plain) for found in seen())
    assert not gpt2.hook_dict[hook].fwd_hooks


def test_the_pass_ends_early_and_leaves_a_working_model(gpt2):
    adapter = Adapter(gpt2)
    reached = []
    with gpt2.hooks(fwd_hooks=[("blocks.2.hook_resid_post", lambda a, hook: reached.append(1))]):
        adapter.activations(TOKENS, MASK, adapter.sites("resid_post", [0]))
        assert not reached
        before = gpt2(TOKENS)
    assert reached
    torch.testing.assert_close(gpt2(TOKENS), before)


def test_silent_hook_is_an_error(gpt2, monkeypatch):
    from tl_entropy.capture import places as module

    monkeypatch.setattr(module, "hook_name", lambda site: "blocks.0.attn.hook_result")
    if "blocks.0.attn.hook_result" not in gpt2.hook_dict:
        pytest.skip("this model has no hook that stays silent")
    with pytest.raises(ModelError, match="exist but never fired"):
        Adapter(gpt2).activations(TOKENS, MASK, [Site("attn_out", 0)])


def test_a_model_with_another_output_is_refused():
    from tiny_models import make_model

    model = make_model("gpt2", "bridge")
    plain = model.forward
    model.forward = lambda *args, **kwargs: plain(*args, **kwargs) ** 3
    with pytest.raises(ModelError, match=r"does not give the logits of the Hugging Face model .* GPT2LMHeadModel"):
        Adapter(model).readout  # noqa: B018
    with pytest.raises(ModelError, match="can't be reproduced"):
        Adapter(model, check=False).readout  # noqa: B018


def test_what_is_not_a_model_is_refused():
    with pytest.raises(InputTypeError, match="lacks cfg, hook_dict"):
        Adapter(torch.nn.Linear(2, 2))


def test_token_ids_out_of_range(gpt2):
    adapter = Adapter(gpt2)
    with pytest.raises(InputError, match="between 0 and 299; got 0 to 300"):
        adapter.activations(torch.tensor([[0, 300]]), torch.ones(1, 2), adapter.sites("embed"))


def test_encoding_is_transformer_lenss(gpt2, texts):
    adapter = Adapter(gpt2)
    for text in texts:
        assert [adapter.begin, *adapter.encode(text)] == gpt2.to_tokens(text, prepend_bos=True)[0].tolist()


def test_generation_is_greedy_seeded_and_leaves_the_random_state(gpt2):
    adapter = Adapter(gpt2)
    prompt = TOKENS[:1, :4]
    whole = adapter.generate(prompt, 6, temperature=0.0, seed=0).tokens[0]
    for i in range(4, len(whole)):
        own = adapter.logits(whole[None, :i], torch.ones(1, i)).squeeze(0)[-1]
        assert own[whole[i]] == own.max()
    state = torch.random.get_rng_state()
    first, again = (adapter.generate(prompt, 6, temperature=1.0, seed=5).tokens for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_fingerprint_follows_the_weights():
    from tiny_models import make_model

    one, same = (Adapter(make_model("gpt2", "bridge")) for _ in range(2))
    assert one.fingerprint == same.fingerprint
    other = make_model("gpt2", "bridge")
    with torch.no_grad():
        next(p for p in other.parameters() if p.ndim == 2).add_(1e-3)
    assert Adapter(other).fingerprint != one.fingerprint


def test_an_adapter_is_read_anew_where_the_weights_are_others():
    """One that is kept while its model is trained gives what the model gives, and says which weights it has read."""
    model = make_model("gpt2", kinds()[-1])
    kept, tokens = tle.Adapter(model), torch.tensor([[0, 5, 17, 80]])
    before = tle.lens_entropy(kept, tokens, progress=False)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    found, right = (tle.lens_entropy(one, tokens, progress=False) for one in (kept, model))
    torch.testing.assert_close(found.entropy, right.entropy, rtol=0, atol=1e-6)
    assert float((found.entropy - before.entropy).abs().max()) > 0.1
    assert found.provenance.weights == right.provenance.weights != before.provenance.weights
    again = tle.Adapter(model)
    assert adapter_of(again) is again
    assert adapter_of(kept) is not kept


def test_the_weights_of_a_kept_adapter_are_looked_at_once_a_call(monkeypatch):
    model, tokens = make_model("gpt2", kinds()[-1]), torch.tensor([[0, 5, 17, 80], [0, 5, 17, 81]])
    looked, plain = [], origin.fingerprint
    monkeypatch.setattr(origin, "fingerprint", lambda model: looked.append(1) or plain(model))
    options = {"labels": "position", "progress": False}
    first = tle.soft_information(model, tokens, **options)
    assert len(looked) == 1
    kept = tle.Adapter(model)
    for calls in (2, 3):
        tle.soft_information(kept, tokens, **options)
        assert len(looked) == calls
    with torch.no_grad():
        model.blocks[0].mlp.W_out.mul_(2.0)
    changed = tle.soft_information(kept, tokens, **options)
    assert changed.provenance.weights != first.provenance.weights
    assert len(looked) == 5, "of the kept one, and of the one that is read anew"
