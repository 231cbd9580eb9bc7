"""gradient_reliance against finite differences in float64, closed forms, and every way of cutting up the same input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, VOCAB, cached_model, kinds, make_model, tiny_tokenizer

import tl_entropy as tle
from tl_entropy.analyses.tokens.gradient_reliance import GradientRelianceAccumulator, gradient_reliance
from tl_entropy.capture.ablation import ablate_heads
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.hooks import hook_name
from tl_entropy.capture.interventions import steer
from tl_entropy.capture.occlusion import mask_attention, occlude
from tl_entropy.errors import InputError, InputTypeError, ModelError, NonFiniteError
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

QUIET = {"progress": False}
TEXT = "the cat sat on the mat"
MODELS = [*(("gpt2", kind) for kind in kinds()), ("llama", "bridge"), ("neox", "bridge"), ("gemma2", "bridge")]


def ids_of(model, text=TEXT):
    return torch.tensor([[0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])


def number_of(of, logits, tokens):
    """[row] of one row of logits [1, pos, vocab], for each token but the first."""
    logits, target = logits[0, :-1].double(), tokens[0, 1:, None]
    log_p = logits.log_softmax(-1)
    if of == "loss":
        return -log_p.gather(1, target)[:, 0]
    return logits.abs().sum(-1) if of == "l1" else -(log_p.exp() * log_p).sum(-1)


@torch.no_grad()
def differences(model, tokens, site, of, heads=None, step=1e-3):
    """Σ_d a·∂f/∂a [row, source] by scaling each position's activation up and down, to fourth order; sources without the BOS."""
    name, n = site if "hook_" in site else hook_name(Site.parse(site)), tokens.shape[1]

    def scaled(column, factor):
        def hook(activation, hook):
            new = activation.clone()
            new[:, column, slice(None) if heads is None else heads] *= factor
            return new

        return number_of(of, model.run_with_hooks(tokens, fwd_hooks=[(name, hook)], return_type="logits"), tokens)

    def central(column, h):
        return (scaled(column, 1 + h) - scaled(column, 1 - h)) / (2 * h)

    return torch.stack([(4 * central(j, step) - central(j, 2 * step)) / 3 for j in range(1, n - 1)], 1)


def masked(values, near=1e-4):
    """NaN where the source does not come before the token of the row."""
    later = torch.arange(values.shape[1]) >= torch.arange(values.shape[0])[:, None]
    assert (values[later].abs() <= near).all(), "later tokens change nothing"
    return values.masked_fill(later, torch.nan)


def close(mine, theirs, rtol=1e-6, atol=1e-6):
    torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.thinned
@pytest.mark.parametrize(("name", "kind"), MODELS)
def test_against_finite_differences(name, kind):
    model = make_model(name, kind, dtype=torch.float64)
    tokens = ids_of(model)
    # Some norms work in float32 whatever comes, and need a longer step.
    single = name in ("llama", "gemma2")
    step, near = (3e-2, 2e-4) if single else (1e-3, 1e-7)
    for site, of in (
        ("embed", "loss"),
        ("resid_post.1", "entropy"),
        ("mlp_out.0", "l1"),
        ("attn_out.1", "loss"),
        ("z.2", "loss"),
    ):
        found = gradient_reliance(model, TEXT, site, of=of, prepend_bos=True, **QUIET)
        # A norm behind the heads ignores the scale of all of them together, so that they have no share.
        assert bool(found.values.nan_to_num().abs().max() > 1e-3) is not (name == "gemma2" and site == "z.2")
        assert (found.metrics, found.over) == (("gradient",), "tokens")
        assert found.units == ("" if of == "l1" else "nats",)
        if of == "l1":  # bent where a logit is 0, which a long step may pass
            if not single:
                close(found.values[..., 0], masked(differences(model, tokens, site, of, step=1e-6)), rtol=1e-5, atol=1e-3)
            continue
        close(found.values[..., 0], masked(differences(model, tokens, site, of, step=step), near), rtol=near, atol=near)


@pytest.mark.thinned
@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("hook", ["blocks.1.attn.hook_v", "blocks.2.attn.hook_k", "blocks.0.mlp.hook_post"])
def test_other_hooks_against_finite_differences(hook, kind):
    model = make_model("gpt2", kind, dtype=torch.float64)
    found = gradient_reliance(model, TEXT, hook, **QUIET)
    assert found.values.nan_to_num().abs().max() > 1e-3
    assert found.provenance.settings["site"] == hook
    close(found.values[..., 0], masked(differences(model, ids_of(model), hook, "loss"), 1e-7), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", kinds())
def test_between_attention_and_mlp_where_both_ways_lead_on(kind):
    model, hook = make_model("gpt2", kind, dtype=torch.float64), "blocks.1.hook_resid_mid"
    if kind == "bridge":
        with pytest.raises(InputError, match="on a TransformerBridge what changes there reaches the MLP alone"):
            gradient_reliance(model, TEXT, hook, **QUIET)
        config = tle.EstimationConfig(mixer="heads", n_ctx=24, d_model=16, n_heads=2)
        model = tle.estimation_model(config, tiny_tokenizer()).double()
    found = gradient_reliance(model, TEXT, hook, **QUIET)
    assert found.values.nan_to_num().abs().max() > 1e-3
    close(found.values[..., 0], masked(differences(model, ids_of(model), hook, "loss"), 1e-7), rtol=1e-6, atol=1e-6)


def test_hooks_of_sites_and_what_has_no_positions(gpt2):
    by_name = gradient_reliance(gpt2, TEXT, "blocks.1.hook_mlp_out", **QUIET)
    assert by_name.provenance.settings["site"] == "mlp_out.1"
    assert torch.equal(by_name.values.nan_to_num(), gradient_reliance(gpt2, TEXT, "mlp_out.1", **QUIET).values.nan_to_num())
    with pytest.raises(InputError, match="cannot be taken for gradients: its axes"):
        gradient_reliance(gpt2, TEXT, "blocks.1.attn.hook_pattern", **QUIET)
    with pytest.raises(InputError, match="this model has no hook"):
        gradient_reliance(gpt2, TEXT, "blocks.9.attn.hook_v", **QUIET)
    with pytest.raises(InputError, match="heads are of z"):
        gradient_reliance(gpt2, TEXT, "blocks.1.attn.hook_v", heads=1, **QUIET)


def test_heads_of_z_are_summed(gpt2):
    each = [gradient_reliance(gpt2, TEXT, "z.1", heads=head, **QUIET).values for head in range(4)]
    whole = gradient_reliance(gpt2, TEXT, "z.1", **QUIET).values
    close(sum(each), whole, atol=1e-5)
    both = gradient_reliance(gpt2, TEXT, "z.1", heads=(3, 0), **QUIET).values
    close(both, each[0] + each[3], atol=1e-5)
    for heads in ([0, 3, 3], torch.tensor([3, 0]), np.array([0, 3])):
        assert torch.equal(gradient_reliance(gpt2, TEXT, "z.1", heads=heads, **QUIET).values.nan_to_num(), both.nan_to_num())
    one = gradient_reliance(gpt2, TEXT, "z.1", heads=torch.tensor(1), **QUIET).values
    assert torch.equal(one.nan_to_num(), each[1].nan_to_num())


def test_single_heads_against_finite_differences(gpt2):
    model = make_model("gpt2", kinds()[0], dtype=torch.float64)
    found = gradient_reliance(model, TEXT, "z.1", heads=[1, 2], **QUIET)
    close(found.values[..., 0], masked(differences(model, ids_of(model), "z.1", "loss", heads=[1, 2])))


def test_a_norm_that_ignores_the_scale_leaves_nothing(gpt2):
    # The last stream is read through the final norm alone; its small constant, which is no part of the scale, is all there is.
    found = gradient_reliance(gpt2, TEXT, "resid_post.2", of="l1", **QUIET).values
    assert found.nan_to_num().abs().max() < 1e-2
    whole = gradient_reliance(gpt2, TEXT, "embed", of="l1", **QUIET).values
    assert whole.nan_to_num().abs().max() > 1


@pytest.mark.skipif("hooked" not in kinds(), reason="needs a model without norms")
def test_exact_where_the_model_is_linear():
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(
        n_layers=1, d_model=16, n_ctx=CONTEXT, d_head=8, n_heads=2, d_vocab=VOCAB, attn_only=True, normalization_type=None,
        device="cpu", dtype=torch.float64, default_prepend_bos=True,
    )  # fmt: skip
    model = HookedTransformer(cfg, tokenizer=tiny_tokenizer(), move_to_device=False)
    model.ln_final = torch.nn.Identity()  # which the model does without, and the package asks for
    tokens = ids_of(model)
    found = gradient_reliance(model, TEXT, "resid_post.0", of="l1", **QUIET).values[..., 0]
    # Logits are linear in their own position's stream and have no bias: at 0 their norm is 0, too.
    own = number_of("l1", model(tokens, return_type="logits").detach(), tokens)
    rows = torch.arange(1, len(found))
    close(found[rows, rows - 1], own[1:], rtol=1e-12)
    others = found.clone()
    others[rows, rows - 1] = 0
    assert torch.equal(others.nan_to_num(), torch.zeros_like(others))


def test_small_steps_are_what_an_intervention_does(gpt2):
    """The sign: to first order f with the activation less f without it."""
    model = make_model("gpt2", kinds()[0], dtype=torch.float64)

    def shrink(activation, hook):
        new = activation.clone()
        new[:, 3] *= 1 - 1e-6  # position 2, behind the BOS
        return new

    found = gradient_reliance(model, TEXT, "embed", **QUIET)
    plain, shrunk = (
        tle.token_surprisal(model, TEXT, interventions=one, **QUIET).surprisal
        for one in (None, ("blocks.0.hook_resid_pre", shrink))
    )
    close(found.value(source=2)[3:], ((plain - shrunk) / 1e-6)[3:], rtol=1e-3, atol=1e-4)


def test_any_batch_size_and_positions(gpt2, texts):
    one = gradient_reliance(gpt2, texts, "resid_pre.1", **QUIET)
    for batch_size in (3, None):
        some = gradient_reliance(gpt2, texts, "resid_pre.1", batch_size=batch_size, **QUIET)
        close(some.values, one.values, rtol=1e-4, atol=1e-5)
        assert torch.equal(some.position, one.position)
        assert torch.equal(some.document, one.document)
    part = gradient_reliance(gpt2, texts, "resid_pre.1", positions=[2, -1], batch_size=2, **QUIET)
    last = torch.stack([one.position == one.position[one.document == d].max() for d in one.documents]).T
    rows = (one.position == 2) | (last & (one.document[:, None] == torch.tensor(one.documents))).any(1)
    close(part.values, one.values[rows][:, : part.values.shape[1]], rtol=1e-4, atol=1e-5)
    assert one.matrix(document=2).shape == (0, 1)  # of one token, which has none before it


def test_parts_of_a_corpus_merge_to_the_whole(gpt2, texts):
    whole = gradient_reliance(gpt2, texts, "embed", **QUIET)
    halves = [GradientRelianceAccumulator(gpt2, "embed") for _ in range(2)]
    for half, some in zip(halves, (texts[:1], texts[1:]), strict=True):
        tle.stream(gpt2, some, [half], count="predicted", **QUIET)
    halves[0].merge(halves[1])
    close(halves[0].compute().values, whole.values, atol=1e-5)
    with pytest.raises(InputError, match="cannot merge: of is 'loss' here and 'l1' there"):
        halves[0].merge(GradientRelianceAccumulator(gpt2, "embed", of="l1"))


def test_the_users_interventions_come_before(gpt2):
    found = gradient_reliance(gpt2, TEXT, "z.1", interventions=ablate_heads([(1, 2)]), **QUIET)
    assert found.values.nan_to_num().abs().max() > 0
    only = gradient_reliance(gpt2, TEXT, "z.1", heads=2, interventions=ablate_heads([(1, 2)]), **QUIET)
    assert torch.equal(only.values.nan_to_num(), torch.zeros_like(only.values))  # an activation of 0 has no share


def test_the_model_is_left_as_it_was(gpt2):
    expected = gradient_reliance(gpt2, TEXT, "embed", **QUIET).values
    gpt2.train()
    flags = [(p.requires_grad, p.grad) for p in gpt2.parameters()]
    hooks = {name: len(point._forward_hooks) for name, point in gpt2.hook_dict.items()}
    with torch.no_grad():
        found = gradient_reliance(gpt2, TEXT, "embed", **QUIET).values
        assert not torch.is_grad_enabled()
    close(found, expected)  # without the dropout of training
    assert all(grad is None for _, grad in flags)
    assert [(p.requires_grad, p.grad) for p in gpt2.parameters()] == flags
    assert {name: len(point._forward_hooks) for name, point in gpt2.hook_dict.items()} == hooks
    assert gpt2.training
    gpt2.eval()


EDITS = {
    "as it is": lambda: None,
    "occluded": lambda: occlude("embed", 1),
    "at a mean": lambda: occlude("attn_out.1", 1, means=torch.ones(32)),
    "masked": lambda: mask_attention(2),
    "heads": lambda: ablate_heads([(1, 0)], means={1: torch.ones(4, 8)}),
    "steered": lambda: steer(torch.ones(32), layer=1, scale=0.5),
}


@pytest.mark.thinned
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_inside_inference_mode(gpt2, edit):
    expected = gradient_reliance(gpt2, TEXT, "z.1", interventions=edit(), **QUIET).values
    with torch.inference_mode():
        for inputs in (TEXT, ids_of(gpt2)):
            found = gradient_reliance(gpt2, inputs, "z.1", interventions=edit(), **QUIET).values
            assert torch.equal(found.nan_to_num(), expected.nan_to_num())
        assert torch.is_inference_mode_enabled()
    assert bool(expected.nan_to_num().any())


def test_a_model_made_inside_inference_mode_is_refused():
    with torch.inference_mode():
        model = make_model("gpt2", kinds()[0])
    with pytest.raises(ModelError, match=r"the model was made inside torch\.inference_mode, so it has no gradients"):
        gradient_reliance(model, TEXT, "embed", **QUIET)


def test_parameters_that_are_frozen(gpt2):
    expected = gradient_reliance(gpt2, TEXT, "embed", **QUIET).values
    for parameter in gpt2.parameters():
        parameter.requires_grad_(False)
    try:
        found = gradient_reliance(gpt2, TEXT, "embed", **QUIET).values
    finally:
        for parameter in gpt2.parameters():
            parameter.requires_grad_(True)
    close(found, expected, atol=1e-5)


def test_what_the_logits_do_not_depend_on(gpt2):
    cut = ("blocks.1.hook_resid_pre", lambda activation, hook: activation.detach())
    with pytest.raises(ModelError, match=r"the model's logits do not depend on what passes resid_post\.0"):
        gradient_reliance(gpt2, TEXT, "resid_post.0", interventions=cut, **QUIET)


def test_gradients_that_are_not_finite(gpt2):
    def root(activation, hook):
        return (activation - activation.detach()).abs().sqrt() + activation  # a derivative that is infinite, of what is 0

    with pytest.raises(
        NonFiniteError, match=r"the gradient at embed has a NaN or an infinity at document 0, column 0"
    ) as error:
        gradient_reliance(gpt2, TEXT, "embed", interventions=("blocks.1.hook_mlp_out", root), **QUIET)
    assert error.value.partial.n_tokens == 0


def test_what_comes_before_the_site_is_no_part_of_the_graph(gpt2):
    leaf, logits = Adapter(gpt2).differentiable(ids_of(gpt2), torch.ones_like(ids_of(gpt2)), Site("resid_post", 1))
    assert leaf.is_leaf
    assert logits.shape == (*ids_of(gpt2).shape, VOCAB)


def test_a_hook_that_never_fires(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2.hook_dict["blocks.1.hook_resid_post"], "add_hook", lambda *args, **kwargs: None)
    with pytest.raises(ModelError, match=r"blocks\.1\.hook_resid_post never fired in a forward pass"):
        Adapter(gpt2).differentiable(ids_of(gpt2), torch.ones_like(ids_of(gpt2)), Site("resid_post", 1))


def test_refusals(gpt2):
    with pytest.raises(InputError, match=r"of must be one of 'loss', 'l1', 'entropy'; got 'kl'"):
        gradient_reliance(gpt2, TEXT, "embed", of="kl", **QUIET)
    with pytest.raises(InputError, match=r"site must be one of 'embed', .*; got 'resid_mid'"):
        gradient_reliance(gpt2, TEXT, "resid_mid.1", **QUIET)
    with pytest.raises(InputError, match=r"site must be a short name with its layer, .*; got 'resid_post'"):
        gradient_reliance(gpt2, TEXT, "resid_post", **QUIET)
    with pytest.raises(InputTypeError, match="site must be one site"):
        gradient_reliance(gpt2, TEXT, ["embed"], **QUIET)
    found, *others = (gradient_reliance(gpt2, TEXT, at, **QUIET) for at in ("z.2", "z.-1", "blocks.2.attn.hook_z"))
    assert all(torch.equal(found.values.nan_to_num(), other.values.nan_to_num()) for other in others)
    assert {str(one.provenance.settings["site"]) for one in (found, *others)} == {"z.2"}
    with pytest.raises(InputError, match="layer 7 does not exist; the model has layers 0 to 2"):
        gradient_reliance(gpt2, TEXT, "z.7", **QUIET)
    with pytest.raises(InputError, match=r"heads are of z, such as 'z\.2'; embed has none"):
        gradient_reliance(gpt2, TEXT, "embed", heads=0, **QUIET)
    with pytest.raises(InputError, match=r"heads: 0\.4 does not exist; layer 0 has heads 0 to 3"):
        gradient_reliance(gpt2, TEXT, "z.0", heads=[0, 4], **QUIET)
    with pytest.raises(InputError, match="heads is empty"):
        gradient_reliance(gpt2, TEXT, "z.0", heads=[], **QUIET)
    for wrong in ("1", 1.0, torch.tensor(1.0)):
        with pytest.raises(InputTypeError, match="heads must be an int of at least 0; got"):
            gradient_reliance(gpt2, TEXT, "z.0", heads=wrong, **QUIET)
    with pytest.raises(InputError, match="more than a window"):
        gradient_reliance(gpt2, TEXT * 4, "embed", window=8, **QUIET)
    with pytest.raises(InputTypeError, match="'max_new_tokens' is not an option"):
        gradient_reliance(gpt2, TEXT, "embed", max_new_tokens=1, **QUIET)
    _, cache = gpt2.run_with_cache(ids_of(gpt2))
    with pytest.raises(InputError, match="nothing runs on a cache"):
        gradient_reliance(gpt2, (cache, ids_of(gpt2)), "embed", **QUIET)


def test_provenance(gpt2):
    settings = gradient_reliance(gpt2, TEXT, Site("z", 1), heads=(1, 0), of="entropy", **QUIET).provenance.settings
    assert (settings["site"], settings["of"], settings["heads"]) == ("z.1", "entropy", (0, 1))


def test_in_half_precision():
    model = make_model("gpt2", kinds()[0], dtype=torch.bfloat16)
    found = gradient_reliance(model, TEXT, "embed", **QUIET).values.nan_to_num()
    expected = gradient_reliance(cached_model("gpt2", kinds()[0]), TEXT, "embed", **QUIET).values.nan_to_num()
    assert (found - expected).abs().max() < 0.15 * expected.abs().max()
