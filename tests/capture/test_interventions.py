"""Interventions against TransformerLens's own hooks, what they must leave alone, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import cached_model

import tl_entropy as tle
from tl_entropy.analyses.means import head_means
from tl_entropy.capture.ablation import ablate_heads
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.edits import Edits
from tl_entropy.capture.interventions import Intervention, ablate, as_interventions, intervention_names, steer
from tl_entropy.capture.occlusion import mask_attention, occlude
from tl_entropy.capture.options import CorpusOptions, check_options, described
from tl_entropy.capture.stream import stream
from tl_entropy.errors import InputError, InputTypeError, ModelError
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

TEXT = "the cat sat on the mat, and the dog"
VECTOR = torch.linspace(-2, 3, 32).cos() * 2


class Keeper:
    """An accumulator that keeps the counted rows of every site."""

    def __init__(self, adapter, sites, layers=None):
        self.sites, self.rows = adapter.sites(sites, layers), {}

    def update(self, batch, activations):
        for site in self.sites:
            self.rows.setdefault(site, []).append(batch.rows(activations[site]).clone())

    def __getitem__(self, text):
        return torch.cat(self.rows[Site.parse(text)])


def kept(model, inputs, sites, layers=None, **options):
    adapter = Adapter(model)
    keeper = Keeper(adapter, sites, layers)
    stream(adapter, inputs, [keeper], progress=False, **options)
    return keeper


def tokens_of(model, text=TEXT):
    return torch.tensor([Adapter(model).encode(text)])


def logits_of(model, hooks, tokens=None):
    tokens = tokens_of(model) if tokens is None else tokens
    with torch.no_grad():
        return model.run_with_hooks(tokens, attention_mask=torch.ones_like(tokens), fwd_hooks=list(hooks))[0].double()


def entropy_of(logits):
    return torch.special.entr(logits.softmax(-1)).sum(-1)


def surprisal_of(logits):
    return -logits.log_softmax(-1)[:-1].gather(1, tokens_of(cached_model("gpt2", "bridge"))[0, 1:, None])[:, 0]


def lens_of(model, **options):
    return tle.lens_entropy(model, TEXT, sites="resid_post", prepend_bos=False, surprisal=True, progress=False, **options)


def assert_gives(result, logits):
    torch.testing.assert_close(result.entropy[:, -1, 0].double(), entropy_of(logits), atol=5e-5, rtol=0)
    torch.testing.assert_close(result.surprisal[:-1, -1].double(), surprisal_of(logits), atol=5e-5, rtol=0)


def hooks_of(model):
    points = {id(point): point for point in model.hook_dict.values()}.values()
    return [(len(point.fwd_hooks), len(point._forward_hooks)) for point in points]


def doubled(activation, hook):
    return activation * 2


def turned(activation, hook):
    return -activation.flip(-1)


def written_into(activation, hook):
    activation[:, 2:] = 0.5


def heads_set(chosen, values):
    """The hook that puts ``values`` [head, d_head] into the heads ``chosen``, by hand."""

    def edit(z, hook):
        z = z.clone()
        for head in chosen:
            z[:, :, head] = values[head].to(z)
        return z

    return edit


def zeroed(activation, hook):
    return 0 * activation


def added(vector):
    return lambda activation, hook: activation + vector


def own(*hooks):
    """A user's hooks as they are, and the same for the oracle."""
    return Intervention("own", hooks), hooks


def mean_ablation(model):
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens_of(model))
    means = {layer: cache[f"blocks.{layer}.attn.hook_z"][0].mean(0) for layer in (1, 2)}
    by_hand = [(f"blocks.{layer}.attn.hook_z", heads_set([layer], means[layer])) for layer in (1, 2)]
    return ablate_heads([(1, 1), (2, 2)], means=head_means(model, TEXT, prepend_bos=False, progress=False)), by_hand


ZEROS = torch.zeros(4, 8)
MADE = {  # an intervention, and TransformerLens hooks that do the same
    "zero ablation": lambda model: (
        ablate_heads([(0, 1), (2, 3), (0, 2)]),
        [("blocks.0.attn.hook_z", heads_set([1, 2], ZEROS)), ("blocks.2.attn.hook_z", heads_set([3], ZEROS))],
    ),
    "mean ablation": mean_ablation,
    "attention": lambda model: (ablate("attn_out.1"), [("blocks.1.hook_attn_out", zeroed)]),
    "mlp": lambda model: (
        ablate([Site("mlp_out", 0), "mlp_out.2"]), [(f"blocks.{layer}.hook_mlp_out", zeroed) for layer in (0, 2)],
    ),
    "steering": lambda model: (steer(VECTOR, layer=1, scale=1.5), [("blocks.1.hook_resid_post", added(1.5 * VECTOR))]),
    "steering a sub-layer": lambda model: (
        steer(VECTOR, layer=1, site="attn_out", scale=-1.5), [("blocks.1.hook_attn_out", added(-1.5 * VECTOR))],
    ),
    "a hook": lambda model: own(("blocks.1.hook_resid_pre", doubled)),
    "embedding": lambda model: own(("hook_embed", doubled)),
    "values": lambda model: own(("blocks.0.attn.hook_v", turned)),
    "a hook that writes": lambda model: own(("blocks.2.hook_mlp_out", written_into)),
    "all of a name": lambda model: own((lambda name: name.endswith("attn.hook_z"), turned)),
}  # fmt: skip


@pytest.mark.parametrize("case", MADE)
def test_what_is_measured_is_the_edited_models_own_output(any_model, case):
    intervention, by_hand = MADE[case](any_model)
    plain, edited = (logits_of(any_model, hooks) for hooks in ((), by_hand))
    assert (surprisal_of(edited) - surprisal_of(plain)).abs().max() > 1e-3, "the edit changes something"
    assert_gives(lens_of(any_model, interventions=intervention), edited)
    taken = logits_of(any_model, intervention.hooks)  # TransformerLens takes its hooks as they are
    torch.testing.assert_close(taken, edited, atol=5e-5, rtol=0)


def test_several_interventions_act_in_their_order(gpt2):
    add, double = steer(VECTOR, layer=1), ("blocks.1.hook_resid_post", doubled)
    plain = kept(gpt2, TEXT, "resid_post")["resid_post.1"]
    for both, expected in (([add, double], (plain + VECTOR) * 2), ([double, add], plain * 2 + VECTOR)):
        torch.testing.assert_close(kept(gpt2, TEXT, "resid_post", interventions=both)["resid_post.1"], expected)


def test_without_any_head_the_attention_writes_its_bias_alone(any_model):
    block = any_model.blocks[1]
    bias = getattr(block.attn, "b_O", None)
    bias = torch.zeros(32) if bias is None else bias.detach() * getattr(block, "residual_contribution_scale", 1.0)
    intervention = ablate_heads([(1, head) for head in range(4)])
    by_hand = logits_of(any_model, [("blocks.1.hook_attn_out", lambda x, hook: bias.expand_as(x))])
    assert_gives(lens_of(any_model, interventions=intervention), by_hand)
    written = kept(any_model, TEXT, "attn_out", interventions=intervention)["attn_out.1"]
    torch.testing.assert_close(written, bias.expand_as(written), atol=1e-6, rtol=0)


def test_the_mean_in_place_of_itself_changes_nothing_where_there_is_one_token(gpt2):
    means = head_means(gpt2, "the", progress=False)
    intervention = ablate_heads([(i, h) for i in range(3) for h in range(4)], means=means)
    for sites in ("resid_post", "z"):
        with_means, plain = (kept(gpt2, "the", sites, interventions=i) for i in (intervention, None))
        torch.testing.assert_close(with_means[f"{sites}.2"], plain[f"{sites}.2"], atol=1e-6, rtol=0)


def test_sites_before_the_edit_are_as_they_were_and_the_point_itself_is_edited(any_model):
    sites = ["resid_pre", "attn_out", "mlp_out", "resid_post"]
    for site in ("resid_pre", "resid_post"):
        plain, edited = (kept(any_model, TEXT, sites, interventions=i) for i in (None, steer(VECTOR, layer=1, site=site)))
        point = Site(site, 1)
        torch.testing.assert_close(edited[str(point)], plain[str(point)] + VECTOR)
        for other in plain.rows:
            difference = (edited[str(other)] - plain[str(other)]).abs().max()
            assert difference == 0 if other.depth < point.depth else difference > 1e-3, (other, point)


def test_writing_into_an_activation_leaves_what_was_seen_before(gpt2):
    plain, edited = (kept(gpt2, TEXT, "resid_post", interventions=i) for i in (None, ("blocks.1.hook_resid_pre", written_into)))
    assert torch.equal(edited["resid_post.0"], plain["resid_post.0"])
    assert not torch.allclose(edited["resid_post.1"], plain["resid_post.1"])


def test_dtype_and_hook_are_those_of_the_model(gpt2):
    from tiny_models import make_model

    half = make_model("gpt2", "bridge", dtype=torch.bfloat16)
    means = {1: torch.ones(4, 8, dtype=torch.float64)}
    for one in (steer(VECTOR.double(), layer=1), ablate_heads([(1, 1)]), ablate_heads([(1, 1)], means=means)):
        assert kept(half, "the cat", "resid_post", interventions=one)["resid_post.2"].dtype == torch.bfloat16
    seen = []
    kept(gpt2, "the", "resid_post", interventions=("hook_embed", lambda activation, hook: seen.append(hook.name)))
    assert len(seen) == 1
    assert gpt2.hook_dict[seen[0]] is gpt2.hook_dict["hook_embed"]


def test_any_batch_gives_what_each_text_alone_gives(any_model, texts):
    means = head_means(any_model, texts, progress=False)
    for one in ([ablate_heads([(0, 1)], means=means), steer(VECTOR, layer=1)], [ablate_heads([(1, 2)]), ablate("mlp_out.0")]):
        together = tle.lens_entropy(any_model, texts, interventions=one, progress=False).entropy
        alone = [tle.lens_entropy(any_model, text, interventions=one, progress=False).entropy for text in texts]
        torch.testing.assert_close(together, torch.cat(alone), atol=2e-5, rtol=0)


def test_readout_and_heads_are_proved_on_the_unedited_model(any_model):
    expected, adapter = Adapter(any_model).readout, Adapter(any_model)
    with adapter.edited([("blocks.2.hook_resid_post", doubled), ("ln_final.hook_normalized", doubled)]):
        assert adapter.readout.error == expected.error
        x = torch.randn(3, 32)
        assert torch.equal(adapter.readout.norm(x), expected.norm(x))


def test_results_of_ablated_heads_are_zero(gpt2):
    found = kept(gpt2, TEXT, "result", interventions=ablate_heads([(1, 2)]))
    assert torch.equal(found["result.1"][:, 2], torch.zeros_like(found["result.1"][:, 2]))
    assert bool((found["result.1"][:, [0, 1, 3]].abs().amax(-1) > 0).all())


# --- the model is left as it was


class Oops(Exception):
    pass


@pytest.mark.filterwarnings("ignore:hooks that somebody has left on this model")
def test_hooks_are_gone_and_those_of_the_user_stay(gpt2):
    calls, point = [], gpt2.hook_dict["blocks.1.hook_resid_post"]
    point.add_hook(lambda activation, hook: calls.append(1))
    point.add_hook(lambda activation, hook: activation * 0)

    def oops(activation, hook):
        raise Oops

    def interrupted(activation, hook):
        raise KeyboardInterrupt

    try:
        before = hooks_of(gpt2)
        edited = kept(gpt2, TEXT, "resid_post", interventions=steer(VECTOR, layer=1))
        torch.testing.assert_close(edited["resid_post.1"], VECTOR.expand(len(edited["resid_post.1"]), -1))
        assert (hooks_of(gpt2), len(calls)) == (before, 1), "the user's hooks come first, and fire"
        with pytest.raises(Oops):
            kept(gpt2, TEXT, "resid_post", interventions=[steer(VECTOR, layer=0), ("blocks.1.hook_mlp_out", oops)])
        assert hooks_of(gpt2) == before
        with pytest.warns(UserWarning, match="interrupted after 0 tokens"):
            kept(gpt2, TEXT, "resid_post", interventions=[("blocks.1.hook_mlp_out", interrupted)])
        assert hooks_of(gpt2) == before
        with pytest.raises(InputError, match="a hook that this model does not have"):
            kept(gpt2, TEXT, "resid_post", interventions=[steer(VECTOR, layer=0), ("nonsense", doubled)])
        assert hooks_of(gpt2) == before
    finally:
        gpt2.reset_hooks()


def test_an_interruption_keeps_what_was_read_before(gpt2):
    batches = []

    def stop_in_the_second(activation, hook):
        batches.append(len(activation))
        if len(batches) == 2:
            raise KeyboardInterrupt

    means = tle.LensAccumulator(gpt2, sites="resid_post")
    with pytest.warns(UserWarning, match="interrupted after 3 tokens"):
        report = stream(
            gpt2, torch.tensor([[5, 6, 7], [8, 9, 10]]), [means], batch_size=1, progress=False, prepend_bos=False,
            interventions=("blocks.0.hook_resid_pre", stop_in_the_second),
        )  # fmt: skip
    assert report.interrupted
    assert means.compute().n_tokens == 3


# --- generation


def test_text_is_generated_by_the_edited_model(any_model):
    prompt = torch.tensor([[17, 80, 120, 33]])
    push = steer(VECTOR, layer=1, scale=100.0 if any_model.cfg.model_name.endswith("gemma2") else 4.0)
    options = {
        "max_new_tokens": 6, "do_sample": False, "return_type": "tokens", "verbose": False, "stop_at_eos": True,
        "use_past_kv_cache": False,
    }  # fmt: skip
    with torch.no_grad():
        plain = any_model.generate(prompt, **options)[0].tolist()
        with any_model.hooks(fwd_hooks=list(push.hooks)):
            expected = any_model.generate(prompt, **options)[0].tolist()
    assert plain != expected, "the vector changes the text"
    asked = {"max_new_tokens": 6, "prepend_bos": False, "include_special": True, "progress": False}
    result = tle.lens_entropy(any_model, prompt, sites="resid_post", interventions=push, **asked)
    assert result.token.tolist() == expected[: result.n_tokens]
    assert result.n_tokens == 10 or expected[result.n_tokens - 1] == 0
    own = entropy_of(logits_of(any_model, push.hooks, torch.tensor([expected[: result.n_tokens]])))
    torch.testing.assert_close(result.entropy[:, -1, 0].double(), own, atol=5e-5, rtol=0), "and measured in it"


# --- means of heads


def test_head_means_are_those_of_a_plain_loop(any_model, texts):
    total, count = [torch.zeros(4, 8, dtype=torch.float64) for _ in range(3)], 0
    adapter = Adapter(any_model)
    for text in texts:
        ids = [adapter.begin] * adapter.prepends_begin + adapter.encode(text)
        _, cache = any_model.run_with_cache(torch.tensor([ids]))
        for i in range(3):
            total[i] += cache[f"blocks.{i}.attn.hook_z"][0, int(adapter.prepends_begin) :].double().sum(0)
        count += len(ids) - adapter.prepends_begin
    for options in ({}, {"batch_size": 1}, {"batch_size": 3}):
        means = head_means(any_model, texts, progress=False, **options)
        assert list(means) == [0, 1, 2]
        for i in range(3):
            assert (means[i].shape, means[i].dtype) == ((4, 8), torch.float64)
            torch.testing.assert_close(means[i], total[i] / count, atol=2e-6, rtol=0)


def test_head_means_take_options(gpt2):
    assert list(head_means(gpt2, TEXT, layers=[-1], progress=False)) == [2]
    first = head_means(gpt2, TEXT, positions=0, progress=False)[0]
    torch.testing.assert_close(first, kept(gpt2, TEXT, "z")["z.0"][0].double())
    edited = head_means(gpt2, TEXT, interventions=ablate_heads([(1, 2)]), progress=False)
    assert torch.equal(edited[1][2], torch.zeros(8, dtype=torch.float64))
    with pytest.raises(InputTypeError, match="'layer' is not an option"):
        head_means(gpt2, TEXT, layer=2, progress=False)
    ids = torch.tensor([[0, 0]])
    with pytest.raises(InputError, match="all their tokens are special tokens"):
        head_means(gpt2, ids, prepend_bos=False, progress=False)


# --- what goes into a provenance


def test_names(gpt2):
    means = {3: torch.ones(4, 8)}
    assert intervention_names(None) == ()
    assert intervention_names(ablate("attn_out.3")) == ("ablate attn_out.3",)
    assert intervention_names(("blocks.0.hook_mlp_out", doubled)) == ("blocks.0.hook_mlp_out: doubled",)
    assert intervention_names([(str.isupper, doubled)]) == ("hooks of isupper: doubled",)
    one, two = ablate_heads([(3, 1)], means=means), ablate_heads([(3, 1)], means={3: torch.zeros(4, 8)})
    assert one.name.startswith("ablate heads 3.1 to means ")
    assert len({one.name, two.name, ablate_heads([(3, 1)]).name}) == 3
    assert steer(VECTOR, layer=1).name != steer(VECTOR * 2, layer=1).name
    near = [steer(VECTOR, layer=1, scale=scale).name for scale in (3, 3.00000001)]
    assert [name.split(" x ")[0] for name in near] == ["steer resid_post.1 by 3", "steer resid_post.1 by 3.00000001"]
    options = {"window": 4, "stride": None, "interventions": [ablate("mlp_out.0")]}
    assert described(options) == {"window": 4, "interventions": ("ablate mlp_out.0",)}
    check_options(stream, {"interventions": None}, CorpusOptions)


def test_what_is_kept_does_not_change_with_the_users_tensor(gpt2):
    vector, means = VECTOR.clone(), {1: torch.ones(4, 8)}
    made = [steer(vector, layer=1), ablate_heads([(1, 0)], means=means)]
    before = kept(gpt2, TEXT, "resid_post", interventions=made)["resid_post.1"]
    vector.zero_(), means[1].zero_()
    assert torch.equal(kept(gpt2, TEXT, "resid_post", interventions=made)["resid_post.1"], before)


# --- refusals


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ablate_heads([]), InputError, "heads is empty"),
        (lambda: ablate_heads((3, 1)), InputTypeError, r"heads must be pairs .*\[\(3, 1\)\]; got 3 in it"),
        (lambda: ablate_heads(3), InputTypeError, "heads must be pairs"),
        (lambda: ablate_heads([(1, -1)]), InputError, "heads: a head must be an int of at least 0; got -1"),
        (lambda: ablate_heads([(1, 0.5)]), InputTypeError, "heads: a head must be an int"),
        (lambda: ablate_heads([(1, 1)], means={0: VECTOR}), InputError, "means: none for layer 1"),
        (lambda: ablate_heads([(1, 1)], means=ZEROS), InputTypeError, "means must map layers to tensors .* got Tensor"),
        (lambda: ablate_heads([(3, 1)], means={3: 0.0}), InputTypeError, "means: those of layer 3 must be .* got 0.0"),
        (lambda: ablate_heads([(3, 1)], means={3: "x"}), InputTypeError, "means: those of layer 3 must be .* got 'x'"),
        (lambda: ablate_heads([(3, 1)], means={3: np.ones((4, 8)) * 1j}), InputTypeError, "layer 3 must be a real tensor"),
        (lambda: ablate_heads([(3, 1)], means={3: [[1.0], [2.0, 3.0]]}), InputTypeError, "means: those of layer 3 must be"),
        (lambda: ablate_heads([(3, 4)], means={3: ZEROS}), InputError, r"layer 3 must be .*, with head 4; got \[4, 8\]"),
        (lambda: ablate_heads([(3, 1)], means={3: ZEROS[0]}), InputError, r"layer 3 must be .*; got \[8\]"),
        (lambda: ablate_heads(np.array([[1.0, 1.0]])), InputTypeError, "heads: a layer must be an int"),
        (lambda: ablate_heads(np.array([3, 1])), InputTypeError, "heads must be pairs"),
        (lambda: ablate_heads(np.array(3)), InputTypeError, "heads must be pairs"),
        (lambda: ablate(None), InputTypeError, "sites must be whole sub-layers.*got None"),
        (lambda: ablate(3), InputTypeError, "sites must be whole sub-layers.*got 3"),
        (lambda: ablate(["mlp_out.0", 3]), InputTypeError, "sites must be whole sub-layers.*got 3"),
        (lambda: steer(VECTOR, layer=3, scale=None), InputTypeError, "scale must be a finite number; got None"),
        (lambda: steer(VECTOR, layer=3, scale="2"), InputTypeError, "scale must be a finite number; got '2'"),
        (lambda: as_interventions(Intervention("x", ())), InputTypeError, "hooks of 'x' must be pairs .* at least one"),
        (lambda: ablate([]), InputError, "sites must be whole sub-layers.*got 'none'"),
        (lambda: ablate("attn_out"), InputError, "sites must be whole sub-layers.*got 'attn_out'"),
        (lambda: ablate(["attn_out.1", "resid_post.1"]), InputError, "got 'resid_post.1'"),
        (lambda: ablate("attn_out.x"), InputError, "got 'attn_out.x'"),
        (lambda: steer([1.0], layer=0), InputTypeError, r"vector must be a tensor \[d_model\] of real numbers; got list"),
        (lambda: steer(VECTOR * 1j, layer=0), InputTypeError, r"of real numbers; got torch\.complex64"),
        (lambda: steer(VECTOR[None], layer=0), InputError, r"vector must be \[d_model\].*got shape \[1, 32\]"),
        (lambda: steer(VECTOR * math.inf, layer=0), InputError, "finite"),
        (lambda: steer(0 * VECTOR, layer=0), InputError, r"vector is 0 throughout, .*scale=0\.0 is the control"),
        (lambda: steer(VECTOR, layer=0, scale=math.nan), InputError, "scale must be a finite number; got nan"),
        (lambda: steer(VECTOR), InputTypeError, r"layer: give the block, such as layer=3 or layer=-1 .*site='resid_post\.3'"),
        (lambda: steer(VECTOR, layer=1, site="resid_post.2"), InputError, "layer: 'resid_post.2' has its layer already"),
        (lambda: steer(VECTOR, site="z.2"), InputError, "site must be one of 'resid_pre', .*; got 'z'"),
        (lambda: steer(VECTOR, layer=1.5), InputTypeError, "layer must be an int; got 1.5"),
        (lambda: steer(VECTOR, layer=0, site="resid_mid"), InputError, "site must be one of 'resid_pre', 'attn_out'"),
        (lambda: as_interventions("blocks.0.hook_mlp_out"), InputTypeError, "interventions must be one or several.*got str"),
        (lambda: as_interventions([("a", "b")]), InputTypeError, r"interventions: \('a', 'b'\) is no intervention"),
        (lambda: as_interventions([[ablate("mlp_out.0")]]), InputTypeError, "is no intervention"),
        (lambda: as_interventions(Intervention("x", (doubled,))), InputTypeError, "hooks of 'x' must be pairs"),
    ],
)  # fmt: skip
def test_what_is_wrong_for_any_model(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ablate_heads([(3, 0)]), "heads: 3.0 does not exist; the model has layers 0 to 2"),
        (lambda: ablate_heads([(2, 1), (2, 4)]), "heads: 2.4 does not exist; layer 2 has heads 0 to 3"),
        (lambda: ablate_heads([(1, 1)], means={1: torch.ones(4, 7)}), r"\[head, d_head\] = \[4, 8\]; got \[4, 7\]"),
        (lambda: ablate("mlp_out.7"), "'ablate mlp_out.7' edits blocks.7.hook_mlp_out: layer 7 does not exist; the model has"),
        (lambda: ablate("mlp_out.-4"), "layer -4 does not exist; the model has layers 0 to 2"),
        (lambda: ablate_heads([(-4, 0)]), "layer -4 does not exist; the model has layers 0 to 2"),
        (lambda: steer(VECTOR, layer=3), "layer 3 does not exist; the model has layers 0 to 2"),
        (lambda: steer(VECTOR, layer=-4), "layer -4 does not exist; the model has layers 0 to 2"),
        (lambda: ("resid_post.3", doubled), "edits resid_post.3: layer 3 does not exist; the model has layers 0 to 2"),
        (lambda: ("blocks.-4.attn.hook_k", doubled), "layer -4 does not exist; the model has layers 0 to 2"),
        (lambda: steer(VECTOR[:-1], layer=1), "d_model = 32 entries for this model; got 31"),
        (lambda: ("blocks.1.hook_resid_psot", doubled), r"does not have \(did you mean blocks.1.hook_resid_post\?\)"),
        (lambda: (lambda name: False, doubled), "means no hook of this model"),
        (lambda: ("ln_final.hook_normalized", doubled), "ln_final.hook_normalized; sites are read .* no effect"),
        (lambda: ("unembed.hook_out", doubled), "unembed.hook_out; sites are read .* no effect"),
        (lambda: (lambda name: "hook_normalized" in name, doubled), "ln_final.hook_normalized; sites are read"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:hooks that somebody has left on this model")
def test_what_the_model_does_not_allow_is_refused_before_it_runs(gpt2, make, message):
    ran = gpt2.hook_dict["hook_embed"]
    ran.add_hook(lambda activation, hook: pytest.fail("the model ran"))
    try:
        with pytest.raises(InputError, match=message):
            kept(gpt2, TEXT, "resid_post", interventions=make())
    finally:
        gpt2.reset_hooks()


@pytest.mark.parametrize(
    ("sites", "layers", "hook"),
    [
        ("resid_post", [1], "blocks.2.attn.hook_z"),
        ("resid_post", [1], "blocks.2.hook_resid_pre"),
        ("resid_pre", [1], "blocks.1.hook_resid_post"),
        ("attn_out", [1], "blocks.1.hook_mlp_out"),
        ("embed", None, "blocks.0.hook_resid_post"),
        ("embed", None, "blocks.0.attn.hook_v"),
        ("result", [1], "blocks.1.attn.hook_result"),
    ],
)
def test_edits_behind_the_last_site_have_no_effect(gpt2, sites, layers, hook):
    with pytest.raises(InputError, match=r"behind the last site measured \(.*\), so it has no effect on any"):
        kept(gpt2, TEXT, sites, layers, interventions=(hook, doubled))


@pytest.mark.parametrize(
    ("sites", "layers", "hook"),
    [
        ("resid_post", [1], "blocks.1.hook_resid_post"),
        ("resid_pre", [1], "blocks.1.hook_resid_pre"),
        ("embed", None, "blocks.0.hook_resid_pre"),
        ("embed", None, "hook_embed"),
        ("result", [1], "blocks.1.attn.hook_z"),
        ("attn_out", [1], "blocks.1.ln1.hook_normalized"),
    ],
)
def test_edits_at_the_last_site_and_before_have_one(gpt2, sites, layers, hook):
    edited = kept(gpt2, TEXT, sites, layers, interventions=(hook, doubled))
    plain = kept(gpt2, TEXT, sites, layers)
    [site] = edited.sites
    assert (edited[str(site)] - plain[str(site)]).abs().max() > 1e-3


def test_of_all_hooks_of_a_name_those_that_can_have_an_effect_are_edited(gpt2):
    every = (lambda name: name.endswith("hook_mlp_out"), doubled)
    edited = kept(gpt2, TEXT, "resid_post", [0, 1], interventions=every)
    by_name = [(f"blocks.{i}.hook_mlp_out", doubled) for i in (0, 1)]
    assert torch.equal(edited["resid_post.1"], kept(gpt2, TEXT, "resid_post", [1], interventions=by_name)["resid_post.1"])
    edits = Edits(Adapter(gpt2), every, [Site("resid_post", 1)])
    assert len(edits.hooks) == 2


def test_hooks_behind_the_last_site_are_left_out_where_others_are_reached(gpt2):
    every = ablate([f"mlp_out.{i}" for i in range(3)])
    edited = kept(gpt2, TEXT, "resid_post", [0, 1], interventions=every)
    reached = kept(gpt2, TEXT, "resid_post", [0, 1], interventions=ablate(["mlp_out.0", "mlp_out.1"]))
    assert torch.equal(edited["resid_post.1"], reached["resid_post.1"])
    with pytest.raises(InputError, match=r"'ablate mlp_out.1, mlp_out.2' edits blocks.1\S*, blocks.2\S*, behind the last site"):
        kept(gpt2, TEXT, "resid_post", [0], interventions=[ablate("mlp_out.0"), ablate(["mlp_out.1", "mlp_out.2"])])


def test_a_hook_may_call_its_arguments_as_it_likes(gpt2):
    edited, expected = (
        kept(gpt2, TEXT, "resid_post", interventions=("blocks.1.hook_resid_post", edit))["resid_post.2"]
        for edit in (lambda a, h: a * 2, doubled)
    )
    assert torch.equal(edited, expected)


def test_arrays_and_lists_of_heads_and_means(gpt2):
    means = torch.linspace(-1, 1, 32, dtype=torch.float64).view(4, 8) / 3
    expected = ablate_heads([(1, 3), (1, 0)], means={1: means})
    for heads in (np.array([[1, 3], [1, 0]]), torch.tensor([[1, 3], [1, 0]]), [np.array([1, 3]), [1, 0]]):
        for given in (means, means.numpy(), means.tolist()):
            made = ablate_heads(heads, means={1: given})
            assert made.name == expected.name
            (_, edit), (_, other) = made.hooks[0], expected.hooks[0]
            z = torch.ones(1, 2, 4, 8, dtype=torch.float64)
            assert torch.equal(edit(z, None), other(z, None))


def test_a_hook_that_never_fires(gpt2):
    before = hooks_of(gpt2)
    with pytest.raises(ModelError, match=r"'blocks.1.attn.hook_result: doubled' at .* never fired .*set_use_attn_result"):
        kept(gpt2, TEXT, "resid_post", interventions=("blocks.1.attn.hook_result", doubled))
    assert hooks_of(gpt2) == before
    with pytest.raises(ModelError, match="never fired before the last site measured"):
        kept(gpt2, TEXT, "attn_out", [1], interventions=("blocks.1.mlp.hook_pre", doubled))


@pytest.mark.parametrize(
    ("function", "came"),
    [
        (lambda activation, hook: activation[:, 1:], r"got \[1, \d+, 32\]"),
        (lambda activation, hook: activation.double(), r"got .*torch.float64"),
        (lambda activation, hook: 0.0, "got float"),
    ],
)
def test_functions_must_return_what_fits(gpt2, function, came):
    with pytest.raises(InputError, match=rf"must return a tensor \[1, \d+, 32\], torch.float32 on cpu, or None; {came}"):
        kept(gpt2, TEXT, "resid_post", interventions=("blocks.1.hook_resid_post", function))


def test_one_silent_hook_among_others_is_named(gpt2):
    three = [("blocks.0.hook_mlp_out", doubled), ("blocks.1.attn.hook_result", doubled), steer(VECTOR, layer=1)]
    with pytest.raises(ModelError, match=r"^interventions: 'blocks.1.attn.hook_result: doubled' at [a-z0-9_.]* never fired"):
        kept(gpt2, TEXT, "resid_post", interventions=three)


def test_nothing_runs_on_a_cache(gpt2):
    ids = torch.tensor([[5, 6, 7]])
    _, cache = gpt2.run_with_cache(ids)
    with pytest.raises(InputError, match="interventions: nothing runs on a cache"):
        kept(gpt2, (cache, ids), "resid_post", interventions=ablate("mlp_out.0"))


def test_hooks_that_pass_no_tensor(gpt2):
    [(_, edit)] = Edits(Adapter(gpt2), ("hook_embed", doubled), [Site("resid_post", 1)]).hooks
    with pytest.raises(InputError, match=r"'hook_embed: doubled' at hook_embed gets a tuple, no tensor"):
        edit((VECTOR, VECTOR), hook=None)


# --- layers counted from the last, and places by any of their names

MEANS = torch.ones(4, 8)


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.parametrize(
    ("from_last", "from_first"),
    [
        (lambda: steer(VECTOR, layer=-1), lambda: steer(VECTOR, layer=2)),
        (lambda: steer(VECTOR, site="blocks.-2.hook_mlp_out"), lambda: steer(VECTOR, layer=1, site="mlp_out")),
        (lambda: steer(VECTOR, site=Site("attn_out", 1)), lambda: steer(VECTOR, layer=1, site="attn_out")),
        (lambda: ablate(["mlp_out.-1", "attn_out.0"]), lambda: ablate(["mlp_out.2", "attn_out.0"])),
        (lambda: ablate("blocks.2.hook_mlp_out"), lambda: ablate("mlp_out.2")),
        (lambda: ablate_heads([(-1, 1), (0, 2)]), lambda: ablate_heads([(2, 1), (0, 2)])),
        (
            lambda: ablate_heads([(-1, 1)], means={2: MEANS}),
            lambda: ablate_heads([(2, 1)], means={2: MEANS}),
        ),
        (lambda: occlude("resid_post.-2", 1), lambda: occlude("resid_post.1", 1)),
        (lambda: occlude("z.-1", 1, heads=2, means=MEANS), lambda: occlude("z.2", 1, heads=2, means=MEANS)),
        (
            lambda: occlude("resid_post.-2", 1, means={"resid_post.1": VECTOR}),
            lambda: occlude("resid_post.1", 1, means={Site("resid_post", 1): VECTOR}),
        ),
        (lambda: mask_attention(1, layers=-1), lambda: mask_attention(1, layers=2)),
        (lambda: mask_attention(1, layers=slice(1, None), heads=1), lambda: mask_attention(1, layers=(1, 2), heads=1)),
    ],
)  # fmt: skip
def test_a_layer_counted_from_the_last_is_that_layer(gpt2, from_last, from_first):
    mine, theirs, plain = (lens_of(gpt2, interventions=edit) for edit in (from_last(), from_first(), None))
    assert torch.equal(mine.entropy, theirs.entropy)
    assert not torch.equal(mine.entropy, plain.entropy)
    assert mine.provenance.settings["interventions"] == theirs.provenance.settings["interventions"], "named from 0"


@pytest.mark.model
def test_a_pair_names_its_hook_by_any_name_of_the_place(gpt2):
    expected = lens_of(gpt2, interventions=("blocks.2.hook_mlp_out", doubled)).entropy
    for name in ("mlp_out.2", "mlp_out.-1", "blocks.-1.hook_mlp_out"):
        assert torch.equal(lens_of(gpt2, interventions=(name, doubled)).entropy, expected)
    inner = lens_of(gpt2, interventions=("blocks.0.hook_resid_pre", doubled)).entropy
    assert torch.equal(lens_of(gpt2, interventions=("embed", doubled)).entropy, inner)


@pytest.mark.model
def test_without_the_number_of_layers_nothing_is_edited_silently(gpt2):
    for edit in (steer(VECTOR, layer=-1), mask_attention(1, layers=-1)):
        [(name, function)] = edit.hooks
        with pytest.raises(KeyError, match="blocks"):
            gpt2.hook_dict[name]
        with pytest.raises(InputError, match="counts its layer from the last, which only tl_entropy knows"):
            function(torch.zeros(1, 2, 32), None)
