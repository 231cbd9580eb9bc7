"""Rounding and noise inside a model: against hooks by hand, in every batch, window and kind of model; and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import CONTEXT, cached_model, kinds

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.stream import stream
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

TEXT = "the cat sat on the mat, and the dog"
TEXTS = [TEXT, "def f(x):\n    return x", TEXT + " sat on the cat and the mat", "the"]


class Keeper:
    """Keeps the counted rows of sites."""

    def __init__(self, adapter, sites):
        self.sites, self.rows = adapter.sites(sites, None), {}

    def update(self, batch, activations):
        for site in self.sites:
            self.rows.setdefault(site, []).append(batch.rows(activations[site]).clone())

    def __getitem__(self, text):
        return torch.cat(self.rows[Site.parse(text)])


def kept(model, inputs, edit, sites=("embed", "resid_post"), **options):
    adapter = Adapter(model)
    keeper = Keeper(adapter, sites)
    stream(adapter, inputs, [keeper], progress=False, interventions=edit, **options)
    return keeper


def noise_of(model, inputs, edit, site="embed", **options):
    return kept(model, inputs, edit, site, **options)[site] - kept(model, inputs, None, site, **options)[site]


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize(
    ("to", "options"),
    [("bfloat16", {}), ("int4", {"scale": 0.5})],
)
def test_rounding_is_that_of_a_hook_by_hand(kind, to, options):
    model = cached_model("gpt2", kind)
    by_hand = ("blocks.1.hook_resid_post", lambda x, hook: tle.functional.quantize(x, to, **options))
    edit = tle.quantize("resid_post.1", to, **options)
    plain, found, expected = (kept(model, TEXTS, one) for one in (None, edit, by_hand))
    assert torch.equal(found["resid_post.0"], plain["resid_post.0"])
    assert torch.equal(found["resid_post.1"], tle.functional.quantize(plain["resid_post.1"], to, **options))
    assert torch.equal(found["resid_post.2"], expected["resid_post.2"])
    assert not torch.equal(found["resid_post.2"], plain["resid_post.2"])
    back = tle.quantize("resid_post.-2", to, **options)
    assert torch.equal(kept(model, TEXTS, back)["resid_post.2"], found["resid_post.2"])


@pytest.mark.parametrize("site", ["pattern.1", "blocks.1.attn.hook_v"])
def test_places_at_which_numbers_are_rounded(site):
    model = cached_model("gpt2", kinds()[-1])
    last = [kept(model, TEXTS, edit, batch_size=size)["resid_post.2"] for edit, size in (
        (None, 4), (tle.quantize(site, "int4"), 4), (tle.quantize(site, "int4"), 1))]  # fmt: skip
    assert (last[1] - last[0]).abs().max() > 1e-4
    assert (last[2] - last[1]).abs().max() < 1e-4


def test_noise_is_of_a_token_in_whatever_batch_window_and_kind_of_model():
    edit = tle.add_noise("embed", 0.5, seed=3)
    found = {}
    for kind in kinds():
        model = cached_model("gpt2", kind)
        noise = noise_of(model, TEXTS, edit)
        assert torch.equal(noise, noise_of(model, TEXTS, edit, batch_size=1))
        assert torch.equal(noise, noise_of(model, TEXTS, edit, batch_size=3))
        assert torch.equal(
            noise, torch.cat([noise_of(model, TEXTS, edit, documents=range(i, i + 1)) for i in range(len(TEXTS))])
        )
        found[kind] = noise
    one, *others = found.values()
    assert all((one - other).abs().max() < 1e-6 for other in others)
    assert one.abs().max() <= 0.5 * (1 + 1e-6)
    assert one.max() > 0.45 > -0.45 > one.min()
    assert one.std().item() == pytest.approx(0.5 / math.sqrt(3), rel=0.05)
    flat = (one - one.mean()).flatten()
    assert abs(flat[1:] @ flat[:-1] / (flat @ flat)) < 5 / math.sqrt(flat.numel()), "each number has its own"
    assert len(one.unique(dim=0)) == len(one), "and each token"


def test_a_token_that_several_windows_see_has_one_noise():
    model, long = cached_model("gpt2", kinds()[-1]), TEXT * 6
    edit = tle.add_noise("embed", 0.5)
    whole = noise_of(model, long, edit, window=CONTEXT, stride=CONTEXT // 2)
    parts = noise_of(model, long, edit, window=16, stride=8)
    # By position in the document; the position embeddings are another in another window, and the noise is not.
    assert (whole - parts).abs().max() < 1e-6


def test_noise_hangs_on_seed_place_and_document():
    model = cached_model("gpt2", kinds()[-1])
    same = [TEXT, TEXT]
    first, second = noise_of(model, same, tle.add_noise("embed", 0.5)).chunk(2)
    drawn = [
        first, second, noise_of(model, TEXT, tle.add_noise("embed", 0.5, seed=1)),
        noise_of(model, TEXT, tle.add_noise("resid_post.0", 0.5), "resid_post.0"),
    ]  # fmt: skip
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 5 / math.sqrt(a.numel())
    assert torch.equal(first, noise_of(model, TEXT, tle.add_noise("embed", 0.5, seed=0)))
    assert torch.equal(kept(model, TEXT, tle.add_noise("embed", 0.0))["resid_post.2"], kept(model, TEXT, None)["resid_post.2"])


def test_the_bos_gets_noise_and_each_head_its_own():
    model = cached_model("gpt2", kinds()[-1])
    heads = noise_of(model, TEXT, tle.add_noise("z.1", 0.5), "z.1")
    assert len(heads.flatten(0, 1).unique(dim=0)) == heads.shape[0] * heads.shape[1]
    seen = []
    look = ("hook_embed", lambda x, hook: seen.append(x.clone()) or x)
    kept(model, TEXT, [tle.add_noise("hook_embed", 0.5), look])
    noisy, plain = seen.pop(), (kept(model, TEXT, look), seen.pop())[1]
    assert (noisy - plain)[0].abs().amax(-1).min() > 0.3, "in every column, the BOS included"


def test_a_vector_of_a_window_gets_the_noise_of_its_last_token():
    """Such as a memory [batch, n]: here a stand-in that a hook is given in place of its own activation."""
    [(_, at)] = tle.add_noise("hook_memory", 1.0).hooks
    cells = torch.tensor([[1, 2, 3, 0], [(1 << 32) + 1, (1 << 32) + 2, (1 << 32) + 3, (1 << 32) + 4]])
    both = at.edit(torch.zeros(2, 5), None, cells)
    assert torch.equal(both[:1], at.edit(torch.zeros(1, 5), None, cells[:1, :3]))
    assert torch.equal(both[0], at.edit(torch.zeros(1, 4, 5), None, cells[:1])[0, 2])
    assert not torch.equal(both[0], both[1])


def test_provenance_says_what_was_done():
    model = cached_model("gpt2", kinds()[-1])
    edits = [
        tle.quantize("resid_post.-1", "int8", scale="bfloat16"),
        tle.quantize("z.0", "grid", bits=1, limit=3, straight_through=True),
        tle.quantize("z.0", "int4", scale=torch.ones(8)),
        tle.quantize("z.0", "int4", scale=2),
        tle.add_noise("mlp_out.-1", 0.1, seed=7),
    ]
    result = tle.token_surprisal(model, TEXTS, interventions=edits, progress=False)
    assert result.provenance.settings["interventions"] == (
        "quantize resid_post.2 to int8 with scales in bfloat16",
        "quantize z.0 to a grid of 1 bits up to 3.0, straight through",
        "quantize z.0 to int4 with scales fe5b7d53",
        "quantize z.0 to int4 with scale 2.0",
        "add noise up to 0.1 to mlp_out.2, seed 7",
    )


def test_rounding_holds_while_text_is_generated_and_noise_is_refused():
    model = cached_model("gpt2", kinds()[-1])
    rounded, plain = (
        tle.token_surprisal(model, "the cat", interventions=edit, max_new_tokens=3, progress=False)
        for edit in (tle.quantize("resid_post.0", "int4"), None)
    )
    assert len(rounded.surprisal) == len(plain.surprisal)
    assert rounded.loss() != plain.loss()
    with pytest.raises(InputError, match="a text that is still being written"):
        tle.token_surprisal(model, TEXT, interventions=tle.add_noise("embed", 1.0), max_new_tokens=3, progress=False)


def test_gradients_pass_where_asked():
    model = cached_model("gpt2", kinds()[-1])
    through, plain = (
        tle.gradient_reliance(model, TEXT, "embed", interventions=edit, progress=False)
        for edit in (tle.quantize("resid_post.1", "bfloat16", straight_through=True), None)
    )
    assert torch.nanmean((through.values - plain.values).abs()) < 0.05 * torch.nanmean(plain.values.abs())
    with pytest.raises(tle.ModelError, match="do not depend"):
        tle.gradient_reliance(model, TEXT, "embed", interventions=tle.quantize("resid_post.1", "bfloat16"), progress=False)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: tle.quantize("result.0", "int8"), InputError, "cannot be quantized: it is computed from z"),
        (lambda: tle.quantize("resid_mid.0", "int8"), InputError, "cannot be quantized: on a TransformerBridge"),
        (lambda: tle.quantize(3, "int8"), InputTypeError, "site must be a site or the name of a hook"),
        (lambda: tle.quantize("resid_post.0", "fp4"), InputError, "to must be one of"),
        (lambda: tle.quantize("resid_post.0", "grid", bits=2), InputError, "bits and limit"),
        (lambda: tle.add_noise("pattern.0", 1.0), InputError, "cannot be given noise: its axes"),
        (lambda: tle.add_noise("blocks.0.attn.hook_attn_scores", 1.0), InputError, "cannot be given noise: its axes"),
        (lambda: tle.add_noise("embed", -1.0), InputError, "scale must be a finite number of at least 0"),
        (lambda: tle.add_noise("embed", 1.0, seed=-1), InputError, "seed must be an int of at least 0"),
        (lambda: tle.add_noise("embed", 1.0, seed=0.5), InputTypeError, "seed must be an int"),
    ],
)
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_what_a_model_does_not_allow_is_said_with_the_hook():
    model = cached_model("gpt2", kinds()[-1])
    with pytest.raises(InputError, match=r"layer 9"):
        kept(model, TEXT, tle.quantize("resid_post.9", "int8"))
    bad = [("blocks.1.hook_mlp_out", lambda x, hook: x * math.nan), tle.quantize("mlp_out.1", "int8")]
    with pytest.raises(NonFiniteError, match=r"'quantize mlp_out.1 to int8' at blocks\.1\..*: x must not be NaN"):
        kept(model, TEXT, bad)
