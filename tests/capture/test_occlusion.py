"""Occlusion and masked attention: against hooks by hand, Hugging Face's own masks and float64, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as tr
from tiny_models import ARCHITECTURES, CONTEXT, VOCAB, booted, cached_model, hf_model, kinds, make_model

import tl_entropy as tle
from tl_entropy.analyses.means import head_means, site_means
from tl_entropy.batches import batches
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.corpus import read_corpus
from tl_entropy.capture.edits import Edits
from tl_entropy.capture.hooks import hook_name
from tl_entropy.capture.interventions import Intervention, intervention_names, steer
from tl_entropy.capture.occlusion import mask_attention, occlude
from tl_entropy.capture.positions import AtPositions
from tl_entropy.capture.stream import stream
from tl_entropy.errors import InputError, InputTypeError, ModelError
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

TEXT = "the cat sat on the mat, and the dog"
LONG = TEXT + " sat on the cat and the mat"
VECTOR = torch.linspace(-2, 3, 32).cos() * 2
MEANS = torch.linspace(-1, 1, 32, dtype=torch.float64).view(4, 8)


class Keeper:
    """An accumulator that keeps the counted rows of every site; it can run out of memory in large batches."""

    def __init__(self, adapter, sites, layers=None, at_most=None):
        self.sites, self.rows, self.at_most = adapter.sites(sites, layers), {}, at_most

    def update(self, batch, activations):
        if self.at_most is not None and len(batch) > self.at_most:
            raise RuntimeError("out of memory")
        for site in self.sites:
            self.rows.setdefault(site, []).append(batch.rows(activations[site]).clone())

    def __getitem__(self, text):
        return torch.cat(self.rows[Site.parse(text)])


def kept(model, inputs, sites="resid_post", layers=None, at_most=None, **options):
    adapter = Adapter(model)
    keeper = Keeper(adapter, sites, layers, at_most)
    stream(adapter, inputs, [keeper], progress=False, **options)
    return keeper


def run(model, ids, hooks, site="resid_post.2"):
    """A site [pos, ...] of one row of tokens under TransformerLens's own hooks."""
    seen = {}
    name = hook_name(Site.parse(site))
    tokens = torch.tensor([ids])
    look = (name, lambda activation, hook: seen.update(x=activation.clone()))
    with torch.no_grad():
        model.run_with_hooks(tokens, attention_mask=torch.ones_like(tokens), fwd_hooks=[*hooks, look])
    return seen["x"][0]


def put(columns, value=0.0):
    """A hook that writes into columns."""

    def edit(activation, hook):
        activation = activation.clone()
        activation[:, columns] = torch.as_tensor(value).to(activation)
        return activation

    return edit


def hide(columns, heads=slice(None)):
    """A hook on scores that takes keys away from all later queries."""

    def edit(scores, hook):
        scores = scores.clone()
        for column in columns:
            scores[:, heads, column + 1 :, column] = -torch.inf
        return scores

    return edit


def scores_of(layers, edit):
    return [(f"blocks.{layer}.attn.hook_attn_scores", edit) for layer in layers]


def body_of(model, text=TEXT):
    return Adapter(model).encode(text)


def windows_by_hand(length, room, stride):
    """(first, last + 1, first counted) of each window of a document."""
    starts = range(0, max(length - room, 0) + stride, stride)
    return [(start, min(start + room, length), start - stride + room if start else 0) for start in starts]


# --- at the right columns


@pytest.mark.parametrize(
    ("site", "hook", "prepend_bos"),
    [
        ("embed", "blocks.0.hook_resid_pre", True),
        ("resid_pre.1", "blocks.1.hook_resid_pre", False),
        ("attn_out.1", "blocks.1.hook_attn_out", True),
        ("mlp_out.0", "blocks.0.hook_mlp_out", False),
        ("resid_post.1", "blocks.1.hook_resid_post", True),
        ("z.2", "blocks.2.attn.hook_z", False),
        ("blocks.1.attn.hook_k", "blocks.1.attn.hook_k", True),
        ("hook_embed", "hook_embed", False),
    ],
)
def test_occluded_is_what_a_hook_by_hand_gives_at_the_right_columns(any_model, site, hook, prepend_bos):
    body = body_of(any_model)
    ids = [0] * prepend_bos + body
    columns = [column + prepend_bos for column in (2, len(body) - 1)]
    edited = kept(any_model, TEXT, interventions=occlude(site, [2, -1]), prepend_bos=prepend_bos)["resid_post.2"]
    expected, plain = (run(any_model, ids, hooks)[int(prepend_bos) :] for hooks in ([(hook, put(columns))], []))
    torch.testing.assert_close(edited, expected, atol=1e-5, rtol=0)
    assert (expected - plain)[2:].abs().max() > 1e-3, "the edit changes something"


@pytest.mark.parametrize("kind", kinds())
def test_positional_embeddings(kind):
    model = cached_model("gpt2", kind)
    edit = occlude("hook_pos_embed", 3)
    edited = [kept(model, [TEXT, "the cat"], interventions=edit, batch_size=size)["resid_post.2"] for size in (1, 2)]
    expected = run(model, [0, *body_of(model)], [("hook_pos_embed", put([4]))])[1:]
    torch.testing.assert_close(edited[0][: len(expected)], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(edited[0], edited[1], atol=1e-5, rtol=0)


@pytest.mark.thinned
@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("stride", [5, 3])
@pytest.mark.parametrize("some", [4, -1, -6, [0, 7], slice(3, 9), slice(None, None, 4), slice(-3, None), None])
def test_windows_of_a_long_document_all_occlude_its_positions(kind, stride, some):
    model = cached_model("gpt2", kind)
    body = body_of(model, LONG)
    n = len(body)
    assert n > 12
    if isinstance(some, slice):
        chosen = range(n)[some]
    else:
        chosen = [range(n)[i] for i in (range(n) if some is None else np.atleast_1d(some))]
    expected = []
    for first, stop, counted in windows_by_hand(n, 5, stride):
        columns = [1 + i - first for i in chosen if first <= i < stop]
        for site, make in (("resid_pre", put), ("scores", hide)):
            hooks = [("blocks.1.hook_resid_pre", make(columns))] if site == "resid_pre" else scores_of(range(3), make(columns))
            expected.append((site, run(model, [0, *body[first:stop]], hooks)[1 + counted - first if first else 1 :]))
    for site, edit in (("resid_pre", occlude("resid_pre.1", some)), ("scores", mask_attention(some))):
        edited = kept(model, LONG, interventions=edit, window=6, stride=stride, prepend_bos=True)["resid_post.2"]
        by_hand = torch.cat([rows for name, rows in expected if name == site])
        torch.testing.assert_close(edited, by_hand, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:.*edited nothing")  # of the text with one token
def test_any_batch_and_padding_gives_what_each_text_alone_gives(any_model, texts):
    edits = [occlude("resid_pre.1", [1, -2]), mask_attention([1, -2]), occlude("z.0", -1, heads=[1, 3])]
    alone = torch.cat([kept(any_model, text, interventions=edits)["resid_post.2"] for text in texts])
    for size in (2, 4):
        together = kept(any_model, texts, interventions=edits, batch_size=size)["resid_post.2"]
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_where_memory_runs_out_the_halves_have_cells_of_their_own(gpt2, texts):
    edit = [occlude("resid_pre.1", -1), mask_attention(0)]
    whole, halves = (kept(gpt2, texts, interventions=edit, at_most=most)["resid_post.2"] for most in (None, 1))
    torch.testing.assert_close(halves, whole, atol=1e-5, rtol=0)


def test_tokens_and_masks_on_the_left(gpt2):
    body = body_of(gpt2)
    padded = torch.tensor([[0, 0, 0, *body], [0, *body, 0, 0]])
    mask = torch.tensor([[0, 0] + [1] * (len(body) + 1), [1] * (len(body) + 1) + [0, 0]])
    both = kept(gpt2, (padded, mask), interventions=occlude("embed", [1, -2]))["resid_post.2"].view(2, len(body), -1)
    expected = kept(gpt2, TEXT, interventions=occlude("embed", [1, -2]), prepend_bos=True)["resid_post.2"]
    for row in both:
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


def test_all_positions_are_the_documents_and_not_the_bos(gpt2):
    adapter = Adapter(gpt2)
    [batch] = batches(read_corpus(adapter, [TEXT, "the"], prepend_bos=True), batch_size=2, max_tokens=1)
    edits = Edits(adapter, occlude("resid_post.1"), adapter.sites("resid_post"))
    edits.begin(batch)
    with adapter.edited(edits.hooks):
        found = adapter.activations(batch.tokens, batch.attention_mask, adapter.sites("resid_post"))[Site("resid_post", 1)]
    edits.check_fired()
    assert torch.equal((found == 0).all(-1), batch.position >= 0)


def test_a_position_that_no_document_has_changes_nothing(gpt2, texts):
    for edit in (occlude("embed", 50), mask_attention(-50), occlude("embed", slice(3, 3))):
        with pytest.warns(UserWarning, match="edited nothing"):
            edited = kept(gpt2, texts, interventions=edit)["resid_post.2"]
        assert torch.equal(edited, kept(gpt2, texts)["resid_post.2"])


def test_a_warning_names_what_no_document_has_and_nothing_else(gpt2):
    short, long = "the cat", TEXT
    edits = [mask_attention([50, -60]), occlude("embed", 4), occlude("resid_pre.1", [1, 50]), occlude("z.0", 40)]
    for inputs in ([short, long], [long, short]):  # one document that has the position is enough, in whatever batch
        with pytest.warns(UserWarning, match="edited nothing") as caught:
            kept(gpt2, inputs, interventions=edits, batch_size=1)
        names = [str(one.message).split(" edited nothing, as no document read has such a position")[0] for one in caught]
        assert names == [f"interventions: {edit.name!r}" for edit in (edits[0], edits[3])]
    with pytest.warns(UserWarning, match=r"'occlude embed at 4 to 0' edited nothing"):
        kept(gpt2, short, interventions=edits[1])


def test_edits_know_what_was_meant_only_of_batches_that_they_have_seen(gpt2, recwarn):
    adapter = Adapter(gpt2)
    edits = Edits(adapter, occlude("embed", 5), adapter.sites("resid_post"))
    edits.warn_of_unmeant()
    assert not recwarn.list
    for text in (TEXT, "the"):
        [batch] = batches(read_corpus(adapter, [text]), batch_size=1, max_tokens=1)
        edits.begin(batch)
    edits.warn_of_unmeant()
    assert not recwarn.list


# --- what can have changed


@pytest.mark.parametrize("edit", [occlude("embed", 4), mask_attention(4)])
def test_nothing_changes_before_the_position_and_all_after_it(any_model, edit):
    plain, edited = (
        tle.lens_entropy(any_model, TEXT, interventions=i, sites=("embed", "resid_post"), progress=False) for i in (None, edit)
    )
    assert torch.equal(edited.entropy[:4], plain.entropy[:4])
    assert bool((edited.entropy[5:, -1] != plain.entropy[5:, -1]).any())
    plain, edited = (kept(any_model, TEXT, ("embed", "resid_post"), interventions=i) for i in (None, edit))
    changed = (edited["resid_post.2"] - plain["resid_post.2"]).abs().amax(-1)
    assert torch.equal(changed[:4], torch.zeros(4))
    assert changed[5:].min() > 1e-4
    if edit.name.startswith("occlude"):
        assert changed[4] > 1e-2
    else:
        assert changed[4] == 0, "a hidden token sees itself, and what came before it"
    assert torch.equal(edited["embed"][5:], plain["embed"][5:])


# --- what is put in


def test_heads_of_z(any_model):
    ids = [0, *body_of(any_model)]

    def by_hand(value):
        def edit(z, hook):
            z = z.clone()
            for head in (0, 3):
                z[:, [2, 5], head] = value[head].to(z)
            return z

        return run(any_model, ids, [("blocks.1.attn.hook_z", edit)])[1:]

    for means, value in ((None, torch.zeros(4, 8)), (MEANS, MEANS), (MEANS.numpy(), MEANS), ({Site("z", 1): MEANS}, MEANS)):
        edit = occlude("z.1", [1, 4], heads=[3, 0], means=means)
        edited = kept(any_model, TEXT, interventions=edit, prepend_bos=True)["resid_post.2"]
        torch.testing.assert_close(edited, by_hand(value), atol=1e-5, rtol=0)


def test_means_of_the_stream(any_model):
    edit = occlude("resid_post.1", [1, -1], means=VECTOR)
    found = kept(any_model, TEXT, interventions=edit)["resid_post.1"]
    plain = kept(any_model, TEXT)["resid_post.1"]
    assert torch.equal(found[[1, -1]], VECTOR.expand(2, -1))
    assert torch.equal(found[[0, 2, 3]], plain[[0, 2, 3]])
    number = kept(any_model, TEXT, interventions=occlude("blocks.1.attn.hook_k", 1, means=0.5), prepend_bos=True)[
        "resid_post.2"
    ]
    by_hand = run(any_model, [0, *body_of(any_model)], [("blocks.1.attn.hook_k", put([2], 0.5))])
    torch.testing.assert_close(number, by_hand[1:], atol=1e-5, rtol=0)


def test_means_do_not_change_with_the_users_tensor(gpt2):
    vector = VECTOR.double()
    edit = occlude("resid_post.1", 1, means=vector)
    vector.zero_()
    assert torch.equal(kept(gpt2, TEXT, interventions=edit)["resid_post.1"][1], VECTOR)


def test_site_means_are_those_of_a_plain_loop(any_model, texts):
    total, count, adapter = {}, 0, Adapter(any_model)
    names = {"embed": "blocks.0.hook_resid_pre", "resid_post.1": "blocks.1.hook_resid_post", "z.2": "blocks.2.attn.hook_z"}
    for text in texts:
        begun = int(adapter.prepends_begin)
        ids = [adapter.begin] * begun + adapter.encode(text)
        _, cache = any_model.run_with_cache(torch.tensor([ids]))
        for site, name in names.items():
            total[site] = total.get(site, 0) + cache[name][0, begun:].double().sum(0)
        count += len(ids) - begun
    for options in ({}, {"batch_size": 1}):
        means = site_means(any_model, texts, ("z.2", "resid_post.1", "embed"), progress=False, **options)
        assert list(map(str, means)) == ["embed", "resid_post.1", "z.2"]
        for site, mean in means.items():
            assert mean.dtype == torch.float64
            torch.testing.assert_close(mean, total[str(site)] / count, atol=3e-6, rtol=1e-6)
    heads = head_means(any_model, texts, layers=[2], progress=False)
    torch.testing.assert_close(heads[2], site_means(any_model, texts, "z", layers=[2], progress=False)[Site("z", 2)])


def test_the_mean_in_place_of_itself_changes_nothing_where_there_is_one_token(any_model):
    means = site_means(any_model, "the", ("embed", "z", "mlp_out"), progress=False)
    edit = [occlude(site, means=means) for site in means]
    with_means, plain = (kept(any_model, "the", interventions=i)["resid_post.2"] for i in (edit, None))
    torch.testing.assert_close(with_means, plain, atol=1e-5, rtol=0)


def test_site_means_refuse_patterns_and_empty_means(gpt2):
    with pytest.raises(InputError, match="sites: pattern is of pairs of positions"):
        site_means(gpt2, TEXT, ("resid_post", "pattern"), progress=False)
    with pytest.raises(InputError, match="all their tokens are special tokens"):
        site_means(gpt2, torch.tensor([[0, 0]]), "embed", progress=False)
    with pytest.raises(InputTypeError, match="'site' is not an option"):
        site_means(gpt2, TEXT, "embed", site="z", progress=False)


@pytest.mark.filterwarnings("ignore:interrupted after")
def test_means_of_a_part_are_no_means(gpt2):
    seen = []

    def stop_in_the_second(activation, hook):
        seen.append(hook)
        if len(seen) == 2:
            raise KeyboardInterrupt

    edit = ("blocks.0.hook_resid_pre", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt) as ended:
        head_means(gpt2, torch.tensor([[5, 6, 7], [8, 9, 10]]), batch_size=1, interventions=edit, progress=False)
    assert list(ended.value.partial) == [0, 1, 2], "those of what was read are at hand"


def test_bfloat16():
    half = make_model("gpt2", "bridge", dtype=torch.bfloat16)
    for edit in (occlude("embed", 1), occlude("resid_post.1", 1, means=VECTOR.double()), mask_attention(1)):
        found = kept(half, TEXT, interventions=edit)["resid_post.2"]
        assert found.dtype == torch.bfloat16
        assert not torch.equal(found, kept(half, TEXT)["resid_post.2"])


# --- masked attention


def hidden_in_hugging_face(name, ids, columns):
    """The logits of the Hugging Face model with a 4-dimensional mask: causal, and the columns seen by themselves alone."""
    n = len(ids)
    seen = torch.ones(n, n).tril()
    for column in columns:
        seen[column + 1 :, column] = 0
    mask = torch.where(seen.bool(), 0.0, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        return hf_model(name)(torch.tensor([ids]), attention_mask=mask).logits[0].double()


@pytest.mark.thinned
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda p: f"{p[0]}-{p[1]}-{'compatible' if p[2] else 'raw'}")
def test_hidden_is_hidden_as_by_hugging_faces_own_mask(architecture):
    name, kind, compatible = architecture
    model = cached_model(name, kind, compatible)
    ids = [0, *body_of(model)]
    with torch.no_grad():
        own = model(torch.tensor([ids]), return_type="logits")[0].double().log_softmax(-1)
    if name == "cohere" and (own - hidden_in_hugging_face(name, ids, []).log_softmax(-1)).abs().max() > 1e-4:
        pytest.skip("this TransformerLens gives other logits than Hugging Face for Cohere, whatever is masked")
    for columns in ([], [3, 4, 7]):
        expected = hidden_in_hugging_face(name, ids, columns).log_softmax(-1)
        edit = mask_attention([column - 1 for column in columns]) if columns else None
        result = tle.lens_entropy(
            model, TEXT, sites="resid_post", layers=[-1], surprisal=True, interventions=edit, prepend_bos=True, progress=False
        )
        entropy = torch.special.entr(expected.exp()).sum(-1)[1:]
        surprisal = -expected[1:-1].gather(1, torch.tensor(ids[2:])[:, None])[:, 0]
        torch.testing.assert_close(result.entropy[:, -1, 0].double(), entropy, atol=5e-5, rtol=0)
        torch.testing.assert_close(result.surprisal[:-1, -1].double(), surprisal, atol=5e-5, rtol=0)
    assert (hidden_in_hugging_face(name, ids, [3, 4, 7]) - hidden_in_hugging_face(name, ids, [])).abs().max() > 1e-2


@pytest.mark.parametrize("heads", [None, (1, 2)])
def test_one_layer_of_attention_recomputed_in_float64(gpt2, heads):
    ids = torch.tensor([[0, *body_of(gpt2)]])
    with torch.no_grad():
        _, cache = gpt2.run_with_cache(ids)
    q, k, v = (cache[f"blocks.0.attn.hook_{x}"][0].double() for x in "qkv")
    n = len(q)
    scores = torch.einsum("qhd,khd->hqk", q, k) / 8**0.5
    seen = torch.ones(4, n, n, dtype=torch.bool).tril()
    for head in range(4) if heads is None else heads:
        for column in (1, 5, n - 1):  # positions 0, 4 and the last
            seen[head, :, column] &= torch.arange(n) == column
    expected = torch.einsum("hqk,khd->qhd", scores.where(seen, -torch.inf).softmax(-1), v)
    for layers in (None, [0]):
        edit = mask_attention([0, 4, -1], layers=layers, heads=heads)
        found = kept(gpt2, TEXT, "z", [0], interventions=edit, prepend_bos=True)["z.0"]
        torch.testing.assert_close(found.double(), expected[1:], atol=2e-6, rtol=0)


def test_some_layers_and_heads_are_what_hooks_by_hand_give(any_model):
    ids = [0, *body_of(any_model)]
    for layers, heads in (([0, 2], None), ([1], [3]), (None, [0, 1]), (1, 2)):
        edit = mask_attention(slice(2, 4), layers=layers, heads=heads)
        by_hand = hide([3, 4], slice(None) if heads is None else heads if isinstance(heads, list) else [heads])
        hooks = scores_of(range(3) if layers is None else np.atleast_1d(layers).tolist(), by_hand)
        edited = kept(any_model, TEXT, interventions=edit, prepend_bos=True)["resid_post.2"]
        expected, plain = (run(any_model, ids, hooks)[1:] for hooks in (hooks, []))
        torch.testing.assert_close(edited, expected, atol=1e-5, rtol=0)
        assert (expected - plain).abs().max() > 1e-3


def test_patterns_of_hidden_keys_are_zero_and_the_rest_renormalised(any_model):
    adapter = Adapter(any_model)
    sites = adapter.sites("pattern")
    [batch] = batches(read_corpus(adapter, [TEXT, "the cat"], prepend_bos=True), batch_size=2, max_tokens=1)
    edits = Edits(adapter, mask_attention([1, 3]), sites)
    plain = adapter.activations(batch.tokens, batch.attention_mask, sites[:1])[sites[0]]
    edits.begin(batch)
    with adapter.edited(edits.hooks):
        found = adapter.activations(batch.tokens, batch.attention_mask, sites)
    for site in sites:
        for column in (2, 4):
            assert bool((found[site][0, :, column + 1 :, column] == 0).all())
        torch.testing.assert_close(found[site][0].sum(-1), torch.ones(4, len(batch.tokens[0])))
    rest = plain[0].clone()
    for column in (2, 4):
        rest[:, column + 1 :, column] = 0
    torch.testing.assert_close(found[sites[0]][0], rest / rest.sum(-1, keepdim=True), atol=1e-6, rtol=1e-5)


def test_a_token_on_which_all_weight_lies_can_be_hidden(gpt2):
    overwhelming = ("blocks.1.attn.hook_attn_scores", lambda scores, hook: put_weight(scores, 3))
    edit = [overwhelming, mask_attention(2, layers=[1])]
    found = kept(gpt2, TEXT, interventions=edit, prepend_bos=True)["resid_post.2"]
    assert bool(found.isfinite().all())
    expected = run(gpt2, [0, *body_of(gpt2)], scores_of([1], hide([3])))[1:]
    torch.testing.assert_close(found[3:], expected[3:], atol=1e-5, rtol=0)


def put_weight(scores, column):
    scores = scores.clone()
    scores[:, :, column + 1 :, column] = 1e4
    return scores


def test_a_hidden_token_reaches_no_other(any_model):
    one, other = torch.arange(5, 17)[None], torch.arange(5, 17)[None].clone()
    other[0, 6] = 99
    found = [kept(any_model, ids, interventions=mask_attention(6), prepend_bos=False)["resid_post.2"] for ids in (one, other)]
    difference = (found[0] - found[1]).abs().amax(-1)
    assert difference[6] > 1e-2
    assert difference[torch.arange(12) != 6].max() < 1e-5


SHAPE = {"vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": 0}
BODY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def bridged(name):
    """Models with sliding windows, attention sinks, or an attention that no hook can change."""

    torch.manual_seed(0)
    if name == "gemma2":
        some = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4}
        source = tr.Gemma2ForCausalLM(tr.Gemma2Config(**SHAPE, **BODY, **some))
    elif name == "gpt-oss":
        some = {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 4}
        source = tr.GptOssForCausalLM(tr.GptOssConfig(**SHAPE, **BODY, **some))
    elif name == "opt":
        some = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32}
        source = tr.OPTForCausalLM(tr.OPTConfig(**SHAPE, **some, pad_token_id=1))
    else:
        some = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": 4}
        source = tr.GPTNeoForCausalLM(tr.GPTNeoConfig(**SHAPE, hidden_size=32, intermediate_size=64, **some))
    return booted(source, name, std=0.2)


@pytest.mark.parametrize("name", ["gemma2", "gpt-oss"])
def test_windows_and_sinks(name):
    model = bridged(name)
    edit = mask_attention([3, 4])
    found = kept(model, TEXT, interventions=edit, prepend_bos=True)["resid_post.1"]
    expected, plain = (
        run(model, [0, *body_of(model)], hooks, "resid_post.1")[1:] for hooks in (scores_of((0, 1), hide([4, 5])), [])
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (expected - plain)[5:].abs().max() > 1e-2
    other = torch.arange(5, 17)[None].clone()
    other[0, 3] = 99
    rows = [
        kept(model, ids, interventions=edit, prepend_bos=False)["resid_post.1"] for ids in (torch.arange(5, 17)[None], other)
    ]
    assert (rows[0] - rows[1])[4:].abs().max() < 1e-5


@pytest.mark.parametrize("name", ["opt", "gpt-neo"])
def test_a_model_whose_attention_no_hook_can_change_is_refused(name):
    with pytest.raises(ModelError, match=r"attention cannot be masked on this model: .* still depend on it"):
        kept(bridged(name), TEXT, interventions=mask_attention(1, layers=[0]))


@pytest.mark.filterwarnings("ignore:hooks that somebody has left on this model")
def test_the_proof_is_of_the_model_alone(gpt2):
    """Hooks of the user do not fire in it, and stay."""
    calls, point = [], gpt2.hook_dict["blocks.1.hook_resid_post"]
    point.add_hook(lambda activation, hook: calls.append(1))
    try:
        Edits(Adapter(gpt2), mask_attention(1), [Site("resid_post", 2)])
        assert not calls
        kept(gpt2, TEXT, interventions=mask_attention(1))
        assert len(calls) == 1
    finally:
        gpt2.reset_hooks()


# --- with others, and on their own


def test_own_edits_at_positions(gpt2):
    def doubled(activation, hook, cells):
        activation[cells] *= 2

    edit = ("blocks.1.hook_resid_post", AtPositions(slice(-2, None), doubled))
    found, plain = (kept(gpt2, TEXT, interventions=i)["resid_post.1"] for i in (edit, None))
    assert torch.equal(found[-2:], plain[-2:] * 2)
    assert torch.equal(found[:-2], plain[:-2])
    named = Intervention("own", (edit,))
    assert torch.equal(kept(gpt2, TEXT, interventions=named)["resid_post.1"], found)


def test_several_act_in_their_order(gpt2):
    occluded, steered = occlude("resid_post.1", 2), steer(VECTOR, layer=1)
    for both, expected in (([occluded, steered], VECTOR), ([steered, occluded], torch.zeros(32))):
        assert torch.equal(kept(gpt2, TEXT, interventions=both)["resid_post.1"][2], expected)


def test_masks_behind_the_last_site_are_left_out(gpt2):
    for some in (None, range(3)):
        edited = kept(gpt2, TEXT, "resid_pre", [2], interventions=mask_attention(1, layers=some))["resid_pre.2"]
        first_two = kept(gpt2, TEXT, "resid_post", [1], interventions=mask_attention(1, layers=[0, 1]))["resid_post.1"]
        torch.testing.assert_close(edited, first_two)
    for sites, layers in (("embed", None), ("resid_pre", [0])):
        with pytest.raises(InputError, match="behind the last site measured"):
            kept(gpt2, TEXT, sites, layers, interventions=mask_attention(1))
    assert len(Edits(Adapter(gpt2), mask_attention(1), [Site("pattern", 1)]).hooks) == 2


# --- names


def test_names():
    edits = [
        occlude("embed", 4),
        occlude(Site("resid_post", 3), [4, -1]),
        occlude("blocks.3.hook_resid_post", [4, -1]),
        occlude("blocks.0.hook_resid_pre", np.array([2])),
        occlude("z.2", slice(1, None), heads=np.array([3])),
        occlude("blocks.1.attn.hook_k"),
        mask_attention(slice(4, 8)),
        mask_attention(None, layers=2, heads=(1, 0)),
    ]
    assert intervention_names(edits) == (
        "occlude embed at 4 to 0",
        "occlude resid_post.3 at 4, -1 to 0",
        "occlude resid_post.3 at 4, -1 to 0",
        "occlude resid_pre.0 at 2 to 0",
        "occlude z.2 head 3 at 1: to 0",
        "occlude blocks.1.attn.hook_k at all positions to 0",
        "mask attention to 4:8 in all layers",
        "mask attention of heads 0, 1 to all positions in layer 2",
    )
    names = [
        occlude("embed", 4, means=means).name
        for means in (VECTOR, VECTOR * 2, VECTOR.double() + 1e-12, (VECTOR.double() + 2e-12).tolist())
    ]
    assert names[0].startswith("occlude embed at 4 to means ")
    assert len(set(names)) == 4


def test_they_are_in_the_provenance(gpt2):
    result = tle.lens_entropy(gpt2, TEXT, interventions=occlude("embed", 4), progress=False)
    assert "occlude embed at 4 to 0" in str(result.provenance)


# --- refusals


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: occlude(3), InputTypeError, "site must be a site or the name of a hook.*got 3"),
        (lambda: occlude("nonsense.1"), InputError, "site must be one of 'embed'"),
        (lambda: occlude("resid_post"), InputError, "site must be a short name with its layer"),
        (lambda: occlude("pattern.1"), InputError, r"pattern.1 cannot be occluded at positions: .*mask_attention hides"),
        (lambda: occlude("blocks.1.attn.hook_pattern"), InputError, "cannot be occluded at positions: .*mask_attention"),
        (lambda: occlude("blocks.1.attn.hook_attn_scores"), InputError, "cannot be occluded at positions: .*mask_attention"),
        (lambda: occlude("result.1"), InputError, "computed from z; take z"),
        (lambda: occlude("resid_mid.1"), InputError, "reaches the MLP alone; take resid_pre and attn_out"),
        (lambda: occlude("embed", []), InputError, "positions must name at least one"),
        (lambda: occlude("embed", 1.5), InputTypeError, "positions must be None, an int"),
        (lambda: occlude("embed", 1, heads=[0]), InputError, "heads are of z, such as 'z.2'; embed has none"),
        (lambda: occlude("blocks.1.attn.hook_k", 1, heads=[0]), InputError, "heads are of z.*hook_k has none"),
        (lambda: occlude("z.1", 1, heads=[]), InputError, "heads is empty"),
        (lambda: occlude("z.1", 1, heads=[-1]), InputError, "heads must be an int of at least 0; got -1"),
        (lambda: occlude("z.1", 1, heads="0"), InputTypeError, "heads must be an int"),
        (lambda: occlude("embed", 1, means="x"), InputTypeError, "means must be a tensor or an array"),
        (lambda: occlude("embed", 1, means=VECTOR * torch.inf), InputError, "means must be finite"),
        (lambda: occlude("embed", 1, means=VECTOR * 1j), InputTypeError, "means must be real; got torch.complex64"),
        (lambda: occlude("embed", 1, means=np.ones(32) * 1j), InputTypeError, "means must be real; got torch.complex128"),
        (lambda: occlude("embed", 1, means={Site("z", 1): MEANS}), InputError, "means: none for embed; give site_means"),
        (lambda: mask_attention([]), InputError, "positions must name at least one"),
        (lambda: occlude("resid_post.-1", []), InputError, "positions must name at least one"),
        (lambda: mask_attention([], layers=-1), InputError, "positions must name at least one"),
        (lambda: mask_attention(1, layers=[0.5]), InputTypeError, "layers must be an int"),
        (lambda: mask_attention(1, heads=[]), InputError, "heads is empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_for_any_model(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (occlude("resid_post.3", 1), "edits blocks.3.hook_resid_post: layer 3 does not exist; the model has layers 0 to 2"),
        (occlude("resid_post.-4", 1), "layer -4 does not exist; the model has layers 0 to 2"),
        (mask_attention(1, layers=-4), "layer -4 does not exist; the model has layers 0 to 2"),
        (occlude("z.1", 1, heads=4), "heads: 1.4 does not exist; layer 1 has heads 0 to 3"),
        (occlude("embed", 1, means=VECTOR[:-1]), r"put into embed, they must broadcast to \[32\]; got \[31\]"),
        (occlude("z.1", 1, means=MEANS[:3]), r"put into z.1, they must broadcast to \[4, 8\]; got \[3, 8\]"),
        (occlude("embed", 1, means=torch.ones(2, 32)), r"must broadcast to \[32\]; got \[2, 32\]"),
        (occlude("blocks.1.attn.hook_k", 1, means=torch.ones(9)), r"put into blocks.1.attn.hook_k, they must broadcast to"),
        (mask_attention(1, layers=[0, 3]), "layer 3 does not exist; the model has layers 0 to 2"),
        (mask_attention(1, heads=[4]), "heads: 0.4 does not exist"),
    ],
)  # fmt: skip
def test_what_the_model_does_not_allow(gpt2, edit, message):
    with pytest.raises(InputError, match=message):
        kept(gpt2, TEXT, interventions=edit)


@pytest.mark.parametrize("edit", [occlude("embed", 1), mask_attention(1)])
def test_not_while_text_is_generated_nor_outside_a_pass(gpt2, edit):
    gpt2.hook_dict["hook_embed"].add_hook(lambda activation, hook: pytest.fail("the model ran"))
    try:
        with pytest.raises(InputError, match=f"max_new_tokens: '{edit.name}' is at positions of whole documents"):
            kept(gpt2, TEXT, interventions=[steer(VECTOR, layer=1), edit], max_new_tokens=2)
    finally:
        gpt2.reset_hooks()
    adapter = Adapter(gpt2)
    edits = Edits(adapter, edit, adapter.sites("resid_post"))
    assert edits.positioned == (edit.name,)
    tokens = torch.tensor([[5, 6, 7]])
    with adapter.edited(edits.hooks), pytest.raises(InputError, match="positions 1 are of documents"):
        adapter.generate(tokens, 2, temperature=0, seed=0)
    hooks = [(name, function) for name, function in occlude("embed", 1).hooks]
    with pytest.raises(InputError, match="positions 1 are of documents"):
        gpt2.run_with_hooks(tokens, fwd_hooks=hooks)


def test_a_hook_with_other_axes_and_another_batch_are_refused(gpt2):
    turned = AtPositions(1, occlude("embed", 1).hooks[0][1].edit)
    adapter = Adapter(gpt2)
    for name in ("blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_pattern"):
        with pytest.raises(InputError, match=r"it must be \[batch, pos, \.\.\.\] with \[batch, pos\] ="):
            kept(gpt2, TEXT, interventions=(name, turned))
    [batch] = batches(read_corpus(adapter, [TEXT]), batch_size=1, max_tokens=1)
    for edit in (occlude("embed", 1), mask_attention(1)):
        edits = Edits(adapter, edit, adapter.sites("resid_post"))
        edits.begin(batch)
        short = torch.tensor([[5, 6, 7]])
        with adapter.edited(edits.hooks), pytest.raises(InputError, match=r"\[batch, pos\] = \[1, \d+\]"):
            adapter.activations(short, torch.ones_like(short), adapter.sites("resid_post"))


@pytest.mark.skipif("bridge" not in kinds(), reason="the model is a bridge")
def test_where_an_index_chooses_keys_a_hidden_token_takes_part():
    model = cached_model("dsa", "bridge")
    with pytest.raises(ModelError, match=r"an index chooses the keys to look at .* still takes part in its choice"):
        tle.lens_entropy(model, torch.arange(5, 15), interventions=tle.mask_attention(2), progress=False)
