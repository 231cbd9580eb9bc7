"""Layer divergence against dense logits in float64, and every way of cutting up the same input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, VOCAB, cached_model, indifferent_model, kinds, make_model

import tl_entropy as tle
from tl_entropy import functional
from tl_entropy.analyses.lens import divergence as divergence_module
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

QUIET = {"progress": False}
METRICS = ("kl", "reverse_kl", "jsd", "fisher_rao", "total_variation")
OF_DENSE = {  # of the reference r and the site p
    "kl": functional.kl_divergence,
    "reverse_kl": lambda r, p: functional.kl_divergence(p, r),
    "jsd": functional.js_divergence,
    "fisher_rao": functional.fisher_rao_distance,
    "total_variation": functional.total_variation,
}
# What architectures do to their logits behind the unembedding: nothing, Granite's and Cohere's scales, Gemma 2's soft cap.
BENDS = (lambda x: x, lambda x: x / 8, lambda x: x / 16, lambda x: 30 * torch.tanh(x / 30))
FIRST = (("embed", -1), ("resid_mid", 0))
ALL_SITES = ("embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def hook(site):
    return "blocks.0.hook_resid_pre" if site.name == "embed" else f"blocks.{site.layer}.hook_{site.name}"


def begun(model, text):
    return torch.tensor([[0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])


@torch.no_grad()
def dense(model, tokens, sites, lens=None):
    """Log-probabilities [pos, vocab] in float64 of each site, and of the output, of one row [1, pos] but its begin token."""
    own, cache = model.run_with_cache(tokens)
    own = own[0, 1:].double().log_softmax(-1)

    def logits(x):
        return model.unembed(model.ln_final(x))[0, 1:].double()

    last = logits(cache["blocks.2.hook_resid_post"])
    misses = [float((bend(last).log_softmax(-1) - own).abs().max()) for bend in BENDS]
    bend = BENDS[misses.index(min(misses))]
    assert min(misses) < 1e-5, "none of them gives the model's own log-probabilities"
    read = {site: cache[hook(site)] for site in sites}
    if lens is not None:
        read = {site: lens(site, x[0])[None] for site, x in read.items()}
    return {site: bend(logits(x)).log_softmax(-1) for site, x in read.items()}, own


def expected(model, tokens, sites, against="output", lens=None):
    """[pos, site, metric] straight from the definitions; against "previous" without the first site."""
    reference = () if against in ("output", "previous") else (Site.parse(against),)
    laws, own = dense(model, tokens, (*sites, *reference), lens)
    if against == "previous":
        pairs = [(laws[before], laws[site]) for before, site in itertools.pairwise(sites)]
    else:
        pairs = [(own if against == "output" else laws[reference[0]], laws[site]) for site in sites]
    return torch.stack([torch.stack([OF_DENSE[m](r, p) for m in METRICS], -1) for r, p in pairs], 1).float()


def close(mine, theirs, atol=5e-5):
    torch.testing.assert_close(mine.float(), theirs.float(), atol=atol, rtol=1e-5, equal_nan=True)


def same(mine, theirs, atol=5e-5):
    """Two results of the same positions."""
    assert (mine.sites, mine.metrics, mine.against) == (theirs.sites, theirs.metrics, theirs.against)
    for name in ("document", "position", "token", "output_token", "agreement", "top_tokens"):
        assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
    for name in ("divergence", "top_log_probs", "surprisal", "target_surprisal"):
        if getattr(theirs, name) is not None:
            close(getattr(mine, name), getattr(theirs, name), atol)


# --- the numbers


@pytest.mark.parametrize("against", ["output", "previous", "resid_post.0", "embed"])
def test_every_metric_at_every_site_is_that_of_dense_logits(any_model, texts, against):
    result = tle.layer_divergence(any_model, texts[:3], metrics=METRICS, against=against, prepend_bos=True, **QUIET)
    measured = [Site("embed", -1), *(Site("resid_post", i) for i in range(3))]
    assert list(result.sites) == (measured[1:] if against == "previous" else measured)
    assert (result.metrics, result.against, result.unit) == (METRICS, against, "nats")
    found = [expected(any_model, begun(any_model, text), measured, against) for text in texts[:3]]
    close(result.divergence, torch.cat(found))
    for i, metric in enumerate(METRICS):
        assert torch.equal(result.metric(metric), result.divergence[:, :, i])


def test_the_last_site_is_the_output_and_exactly_there(any_model, texts):
    options = {"metrics": METRICS, "prepend_bos": True, **QUIET}
    result = tle.layer_divergence(any_model, texts, **options)
    assert not result.divergence[:, -1].any()
    assert bool(result.agreement[:, -1].all())
    assert bool(result.divergence[:, :-1, 0].min() > 0)
    by_name = tle.layer_divergence(any_model, texts, against="resid_post.2", **options)
    assert torch.equal(by_name.divergence, result.divergence)
    only_last = tle.layer_divergence(any_model, texts, sites="resid_post", layers=[-1], **options)
    assert not only_last.divergence.any()
    without_last = tle.layer_divergence(any_model, texts, layers=[0], **options)
    assert torch.equal(without_last.divergence, result.divergence[:, :2])


@pytest.mark.parametrize("metric", METRICS)
def test_one_metric_alone_is_the_one_among_all(gpt2, texts, metric):
    alone = tle.layer_divergence(gpt2, texts, metrics=metric, **QUIET)
    together = tle.layer_divergence(gpt2, texts, metrics=METRICS[::-1], **QUIET)
    assert alone.metrics == (metric,)
    close(alone.metric(metric), together.metric(metric), 1e-6)


@pytest.mark.parametrize("against", ["output", "attn_out.1"])
def test_sublayer_sites(gpt2, texts, against):
    result = tle.layer_divergence(gpt2, texts[0], metrics=METRICS, sites=ALL_SITES, against=against, **QUIET)
    measured = tle.Adapter(gpt2).sites(ALL_SITES)
    assert list(map(str, measured[:7])) == [
        "embed", "resid_pre.0", "attn_out.0", "resid_mid.0", "mlp_out.0", "resid_post.0", "resid_pre.1",
    ]  # fmt: skip
    close(result.divergence, expected(gpt2, begun(gpt2, texts[0]), measured, against))


def test_the_state_before_is_that_of_the_stream(gpt2, texts):
    sites = ("embed", "resid_mid", "resid_post")
    result = tle.layer_divergence(gpt2, texts[0], metrics=METRICS, sites=sites, against="previous", **QUIET)
    assert list(map(str, result.sites[:3])) == ["resid_mid.0", "resid_post.0", "resid_mid.1"]
    close(result.divergence, expected(gpt2, begun(gpt2, texts[0]), tle.Adapter(gpt2).sites(sites), "previous"))
    with pytest.raises(InputError, match=r"attn_out\.0 is no state of the residual stream"):
        tle.layer_divergence(gpt2, texts[0], sites=("embed", "attn_out", "resid_post"), against="previous", **QUIET)


def test_a_site_object_and_a_site_that_is_not_measured_will_do_as_reference(gpt2, texts):
    by_name = tle.layer_divergence(gpt2, texts, sites="resid_post", against="mlp_out.1", **QUIET)
    by_site = tle.layer_divergence(gpt2, texts, sites="resid_post", against=Site("mlp_out", -2), **QUIET)
    assert by_site.against == by_name.against == "mlp_out.1"
    assert by_name.sites == tuple(Site("resid_post", i) for i in range(3))
    assert torch.equal(by_name.divergence, by_site.divergence)


@pytest.mark.skipif("bridge" not in kinds(), reason="the tiny parallel models are bridges")
def test_parallel_blocks_have_no_middle():
    neox = cached_model("neox", "bridge")
    with pytest.raises(InputError, match=r"no resid_mid at layer 0 .*parallel"):
        tle.layer_divergence(neox, "the cat", sites="resid_mid", **QUIET)
    with pytest.raises(InputError, match=r"no resid_mid at layer 1 .*parallel"):
        tle.layer_divergence(neox, "the cat", against="resid_mid.1", **QUIET)


def test_surprisal_rank_targets_and_top_tokens_are_those_of_dense_logits(any_model, texts):
    targets = (120, " the", 0)
    result = tle.layer_divergence(any_model, texts[:2], surprisal=True, targets=targets, top_k=3, prepend_bos=True, **QUIET)
    the = any_model.tokenizer(" the", add_special_tokens=False)["input_ids"][0]
    assert result.targets == (120, the, 0)
    for document, text in enumerate(texts[:2]):
        tokens = begun(any_model, text)
        laws, own = dense(any_model, tokens, result.sites)
        mine = result.select(documents=document)
        assert mine.generated is None
        assert torch.equal(mine.output_token, own.argmax(-1))
        for i, law in enumerate(laws.values()):
            following = tokens[0, 2:, None]
            close(mine.surprisal[:-1, i], -law[:-1].gather(1, following)[:, 0])
            assert bool(mine.surprisal[-1].isnan().all())
            assert torch.equal(mine.rank[:-1, i], (law[:-1] > law[:-1].gather(1, following) + 1e-7).sum(1))
            assert mine.rank[-1].tolist() == [-1] * 4
            for k, target in enumerate(result.targets):
                close(mine.target_surprisal[:, i, k], -law[:, target])
                assert torch.equal(mine.target_rank[:, i, k], (law > law[:, target, None] + 1e-7).sum(1))
            close(mine.top_log_probs[:, i], law.topk(3).values)
            assert torch.equal(mine.top_tokens[:, i], law.topk(3).indices)
            assert torch.equal(mine.agreement[:, i], law.argmax(-1) == own.argmax(-1))
    assert set(result.targets) <= set(result.strings)


def test_a_position_is_decided_where_the_top_token_stays(gpt2):
    text = "the cat sat on the mat, and the dog sat on the cat. def f(x):"
    result = tle.layer_divergence(gpt2, text, sites=("embed", "attn_out", "resid_mid", "resid_post"), **QUIET)
    stream = [i for i, site in enumerate(result.sites) if site.name != "attn_out"]
    loop = []
    for row in range(result.n_tokens):
        decided = len(result.sites)
        for i in reversed(stream):
            if int(result.top_tokens[row, i, 0]) != int(result.output_token[row]):
                break
            decided = i
        loop.append(decided)
    assert result.decided().tolist() == loop
    assert len(set(loop)) > 2, "a text that tells sites apart"
    earlier = result.select(sites=("embed", "resid_post"), layers=slice(2))
    assert max(earlier.decided().tolist()) == len(earlier.sites), "some are decided by the last block only"


@pytest.mark.skipif("bridge" not in kinds(), reason="the indifferent model is a bridge")
def test_where_all_tokens_are_equally_probable_nothing_agrees_and_nothing_is_decided(texts):
    options = {"surprisal": True, "targets": (120, 7), "top_k": 2, "prepend_bos": True, **QUIET}
    result = tle.layer_divergence(indifferent_model(), texts, **options)
    assert not result.agreement.any()
    assert set(result.decided().tolist()) == {len(result.sites)}
    assert bool((result.rank[result.rank >= 0] == VOCAB - 1).all())
    assert bool((result.target_rank == VOCAB - 1).all())
    assert bool((result.top_tokens == torch.tensor([0, 1])).all())
    total = tle.layer_divergence(indifferent_model(), texts, keep="summary", prepend_bos=True, **QUIET).mean_profile()
    assert set(total[total["quantity"].isin(["agreement", "decided"])]["mean"]) == {0.0}


@pytest.mark.skipif("bridge" not in kinds(), reason="the indifferent model is a bridge")
def test_a_site_with_several_most_probable_tokens_agrees_with_no_output(texts):
    model = make_model("llama")
    with torch.no_grad():
        model.W_U.zero_()[0, 0] = 1.0  # the output is token 0 wherever the first normed number is above 0
    found = tle.layer_divergence(model, texts, sites="resid_post", layers=[2], **QUIET)
    assert found.agreement.any()
    nothing = tle.layer_divergence(model, texts, lens=lambda site, rows: 0 * rows, sites="resid_post", layers=[2], **QUIET)
    assert bool((nothing.top_tokens == 0).all()), "the first of all, which have equal logits"
    assert not nothing.agreement.any()


def test_a_lens_reads_the_sites_and_never_the_output(any_model, texts):
    draw = torch.Generator().manual_seed(0)
    matrix = torch.eye(32) + 0.3 * torch.randn(32, 32, generator=draw)
    seen = []

    def translator(site, rows):
        seen.append(site)
        return rows @ matrix

    options = {"metrics": METRICS, "prepend_bos": True, "lens": translator, **QUIET}
    for against in ("output", "previous", "resid_post.1"):
        seen.clear()
        result = tle.layer_divergence(any_model, texts[0], against=against, **options)
        measured = [Site("embed", -1), *(Site("resid_post", i) for i in range(3))]
        close(result.divergence, expected(any_model, begun(any_model, texts[0]), measured, against, translator), 1e-4)
        assert set(seen) == set(measured)
        laws, own = dense(any_model, begun(any_model, texts[0]), result.sites, translator)
        assert torch.equal(result.output_token, own.argmax(-1))
        agreement = torch.stack([law.argmax(-1) == own.argmax(-1) for law in laws.values()], 1)
        assert torch.equal(result.agreement, agreement)
        assert not agreement[:, -1].all(), "the last site, through this lens, is not the output that is agreed with"
    assert result.provenance.settings["lens"] == "translator"
    last = tle.layer_divergence(any_model, texts[0], sites="resid_post", layers=[2], **options)
    assert bool((last.metric("kl") > 0).all()), "the last site is read through the lens, the output is not"
    with pytest.raises(InputError, match="lens must return a tensor of shape"):
        tle.layer_divergence(any_model, texts[0], lens=lambda site, rows: rows[:, :3], **QUIET)


# --- the same input, cut up


@pytest.mark.thinned
@pytest.mark.parametrize("batch_size", [1, 2, 3, None])
def test_any_batch_size_gives_the_same(gpt2, texts, batch_size):
    options = {"metrics": METRICS, "surprisal": True, "targets": (5, 99), "top_k": 2, **QUIET}
    whole = tle.layer_divergence(gpt2, texts, batch_size=batch_size, **options)
    single = [tle.layer_divergence(gpt2, text, **options) for text in texts]
    assert whole.document.tolist() == [i for i, part in enumerate(single) for _ in range(part.n_tokens)]
    for name in ("divergence", "surprisal", "rank", "target_surprisal", "target_rank", "top_tokens", "agreement"):
        parts = torch.cat([getattr(part, name) for part in single])
        close(getattr(whole, name), parts) if parts.is_floating_point() else torch.testing.assert_close(
            getattr(whole, name), parts
        )


def test_a_cache_needs_the_output_as_well(gpt2):
    tokens = torch.tensor([[0, 5, 6, 7]])
    _, cache = gpt2.run_with_cache(tokens, names_filter="blocks.0.hook_resid_pre")
    with pytest.raises(InputError, match=r"cache has no blocks\.2\.hook_resid_post"):
        tle.layer_divergence(gpt2, (cache, tokens), sites="embed", **QUIET)


@pytest.mark.parametrize("rows", [1, 7])
def test_few_rows_are_read_together_and_many_apart(gpt2, texts, monkeypatch, rows):
    options = {"metrics": METRICS, "surprisal": True, "targets": 7, "top_k": 2, **QUIET}
    wanted = tle.layer_divergence(gpt2, texts, **options)
    monkeypatch.setattr(divergence_module, "ROWS_AT_ONCE", rows)
    same(tle.layer_divergence(gpt2, texts, **options), wanted)


def test_long_texts_are_cut_into_windows_that_count_every_token_once(gpt2):
    text = "the cat sat on the mat, and the dog sat on the cat. " * 12
    ids = begun(gpt2, text)[0, 1:]
    assert len(ids) > 2 * CONTEXT
    result = tle.layer_divergence(gpt2, text, metrics="kl", surprisal=True, batch_size=1, **QUIET)
    assert torch.equal(result.token, ids)
    assert int(result.surprisal[:, 0].isnan().sum()) == 1, "the next token is known across a window's border"
    total = tle.layer_divergence(gpt2, text, metrics="kl", keep="summary", batch_size=1, **QUIET)
    assert (total.tokens, total.documents) == (len(ids), 1), "a document in several batches is one document"
    np.testing.assert_allclose(total.mean_profile()["mean"], result.mean_profile()["mean"], atol=1e-6)


@pytest.mark.thinned
@pytest.mark.parametrize(
    ("sites", "against"),
    [
        (("embed", "resid_post"), "output"),
        (("embed", "resid_mid", "resid_post"), "previous"),
        (("attn_out", "resid_mid", "resid_post"), "output"),
        ("mlp_out", "output"),
    ],
)
def test_a_summary_has_the_profile_of_its_positions(gpt2, texts, sites, against):
    options = {"metrics": METRICS, "sites": sites, "against": against, **QUIET}
    each = tle.layer_divergence(gpt2, texts, **options)
    total = tle.layer_divergence(gpt2, iter(texts), keep="summary", batch_size=1, **options)
    assert (total.tokens, total.documents, total.metrics) == (each.n_tokens, len(texts), METRICS)
    assert ("decided" in total.columns) == (sites != "mlp_out")
    for mine, theirs in ((total, each), (total.to("bits"), each.to("bits"))):
        a, b = mine.mean_profile(), theirs.mean_profile()
        for column in ("site", "layer", "quantity", "unit", "tokens", "documents"):
            assert a[column].tolist() == b[column].tolist()
        for column in ("mean", "se"):
            np.testing.assert_allclose(a[column], b[column], atol=1e-5)
        for quantity in total.columns:
            np.testing.assert_allclose(mine.deviation(quantity), theirs.deviation(quantity), atol=1e-5)


@pytest.mark.thinned
@pytest.mark.parametrize("keep", ["positions", "summary"])
def test_parts_merge_to_the_whole_in_any_order(gpt2, texts, keep):
    options = {"metrics": METRICS, "keep": keep}
    whole = tle.DivergenceAccumulator(gpt2, **options)
    tle.stream(gpt2, texts, [whole], batch_size=1, **QUIET)
    wanted = whole.compute()
    for order in ((0, 1, 2, 3), (3, 1, 2, 0)):
        joined = tle.DivergenceAccumulator(gpt2, **options)
        for i in order:
            part = tle.DivergenceAccumulator(gpt2, **options)
            tle.stream(gpt2, [texts[i]], [part], **QUIET)
            joined.merge(part)
        joined.merge(tle.DivergenceAccumulator(gpt2, **options))
        mine = joined.compute()
        for column in ("mean", "se", "tokens", "documents"):
            np.testing.assert_allclose(mine.mean_profile()[column], wanted.mean_profile()[column], rtol=1e-9, atol=1e-9)
        if keep == "positions":
            for document, i in enumerate(order):
                a, b = mine.select(documents=document), wanted.select(documents=i)
                assert a.tokens() == b.tokens()
                assert torch.equal(a.divergence, b.divergence)


def test_the_same_pass_feeds_both_kinds(gpt2, texts):
    each, total = (tle.DivergenceAccumulator(gpt2, keep=keep) for keep in ("positions", "summary"))
    tle.stream(gpt2, texts, [each, total, tle.LensAccumulator(gpt2, keep="summary")], batch_size=2, **QUIET)
    np.testing.assert_allclose(total.compute().mean_profile()["mean"], each.compute().mean_profile()["mean"], atol=1e-6)


@pytest.mark.filterwarnings("ignore:nothing counts of")
def test_positions_select_what_is_counted_only(gpt2, texts):
    whole = tle.layer_divergence(gpt2, texts, **QUIET)
    last = tle.layer_divergence(gpt2, texts, positions=-1, **QUIET)
    close(last.divergence, torch.stack([whole.select(documents=d).divergence[-1] for d in range(len(texts))]))
    assert tle.layer_divergence(gpt2, texts, positions=slice(1, 3), **QUIET).position.unique().tolist() == [1, 2]
    total = tle.layer_divergence(gpt2, texts, positions=slice(4, None), keep="summary", **QUIET)
    part = whole.select(positions=slice(4, None))
    assert (total.tokens, total.documents) == (part.n_tokens, len(part.documents))
    assert total.documents < len(texts)
    np.testing.assert_allclose(total.mean_profile()["se"], part.mean_profile()["se"], atol=1e-5)


# --- generated text


@pytest.mark.thinned
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "sampled"])
def test_generated_text_is_measured_like_read_text(gpt2, texts, sampling):
    prompts = [texts[0], texts[1], "the cat sat on the dog", texts[2]]
    result = tle.layer_divergence(
        gpt2, prompts, metrics=METRICS, surprisal=True, max_new_tokens=5, batch_size=4, **sampling, **QUIET
    )
    for document, text in enumerate(prompts):
        mine = result.select(documents=document)
        length = begun(gpt2, text).shape[1] - 1
        assert mine.token[:length].tolist() == begun(gpt2, text)[0, 1:].tolist()
        assert mine.generated.tolist() == [position >= length for position in mine.position.tolist()]
        assert 0 < int(mine.generated.sum()) <= 5
        whole = torch.cat((torch.tensor([[0]]), mine.token[None]), 1)
        close(mine.divergence, expected(gpt2, whole, mine.sites))
        written = mine.token[length:]
        if sampling:
            assert not torch.equal(written, mine.output_token[length - 1 : -1])
        else:
            assert torch.equal(written, mine.output_token[length - 1 : -1]), "greedy writes what is most probable"
            assert not mine.rank[length - 1 : -1, -1].any()
    again = tle.layer_divergence(gpt2, prompts, max_new_tokens=5, **sampling, **QUIET)
    assert torch.equal(again.token, result.token), "whatever the batch size"


@pytest.mark.filterwarnings("ignore:nothing counts of")
def test_what_comes_after_the_end_is_not_counted(gpt2, texts, monkeypatch):
    prompts = [texts[0], "the cat sat on the dog", texts[2]]
    lengths = [begun(gpt2, text).shape[1] - 1 for text in prompts]
    assert lengths[0] == lengths[1], "generated in one batch"
    plain = tle.Adapter.generate

    def ends_early(self, tokens, new, **options):
        written = plain(self, tokens, new, **options)
        if len(written.tokens) > 1:
            written.tokens[0, tokens.shape[1] + 2] = 0  # the first row ends after two tokens, and is filled up with whatever
            written.tokens[0, tokens.shape[1] + 3 :] = 7
        return written

    free = tle.layer_divergence(gpt2, prompts, max_new_tokens=5, **QUIET)
    monkeypatch.setattr(tle.Adapter, "generate", ends_early)
    result = tle.layer_divergence(gpt2, prompts, surprisal=True, max_new_tokens=5, **QUIET)
    counts = [result.select(documents=d).n_tokens for d in range(3)]
    assert counts == [lengths[0] + 2, lengths[1] + 5, lengths[2] + 5]
    assert [int(result.select(documents=d).generated.sum()) for d in range(3)] == [2, 5, 5]
    for document, count in enumerate(counts):
        close(result.select(documents=document).divergence, free.select(documents=document).divergence[:count])
    stopped = result.select(documents=0)
    law = dense(gpt2, torch.cat((torch.tensor([[0]]), stopped.token[None]), 1), ())[1]
    close(stopped.surprisal[-1, -1], -law[-1, 0])  # the end is what came next
    total = tle.layer_divergence(gpt2, prompts, max_new_tokens=5, keep="summary", **QUIET)
    assert total.tokens == sum(counts)
    last = tle.layer_divergence(gpt2, prompts, max_new_tokens=5, positions=-1, **QUIET)
    assert last.n_tokens == 2, "the end token is not counted, so the stopped text has no last position"


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"metrics": "hellinger"}, InputError, "metrics must be one of"),
        ({"metrics": ()}, InputError, "metrics must hold at least one"),
        ({"metrics": ("kl", "kl")}, InputError, "each once"),
        ({"against": "next"}, InputError, "against must be 'output', 'previous' or one site"),
        ({"against": "resid_post"}, InputError, "one site, such as 'resid_post.3'"),
        ({"against": "nowhere.1"}, InputError, "against must be .*got 'nowhere.1'"),
        ({"against": "resid_post.3"}, InputError, "layer 3 does not exist"),
        ({"against": "resid_post.x"}, InputError, "against must be .*got 'resid_post.x'"),
        ({"against": "resid_post."}, InputError, "against must be"),
        ({"against": "embed.3"}, InputError, "against must be"),
        ({"against": ""}, InputError, "against must be"),
        ({"against": None}, InputTypeError, "against must be .*got None"),
        ({"against": "z.1"}, InputError, "head axis"),
        ({"against": "previous", "sites": "embed"}, InputError, "no site before embed"),
        ({"metrics": None}, InputTypeError, "metrics must be one or several"),
        ({"targets": 1.5}, InputTypeError, "targets must be texts of one token or ids"),
        ({"targets": " the cat"}, InputError, "not one; a leading space"),
        ({"targets": ""}, InputError, "is 0 tokens"),
        ({"targets": VOCAB}, InputError, "targets must be an int"),
        ({"targets": -1}, InputError, "targets must be an int"),
        ({"targets": (1.5,)}, InputTypeError, "targets must be an int"),
        ({"targets": (3, 3)}, InputError, "same token twice"),
        ({"top_k": 0}, InputError, "top_k must be"),
        ({"keep": "all"}, InputError, "keep must be one of"),
        ({"keep": "summary", "surprisal": True}, InputError, "single positions"),
        ({"keep": "summary", "targets": 3}, InputError, "single positions"),
        ({"keep": "summary", "top_k": 2}, InputError, "single positions"),
        ({"precision": "int8"}, InputError, "precision must be one of"),
        ({"sites": "z"}, InputError, "head axis"),
        ({"sites": ()}, InputError, "sites is empty"),
        ({"layers": 1.5}, InputTypeError, "layers must be ints"),
        ({"lens": "tuned"}, InputTypeError, "lens must be a function"),
        ({"max_new_tokens": -1}, InputError, "max_new_tokens must be"),
        ({"widow": 3}, TypeError, "widow"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    model = cached_model("gpt2", kinds()[0])
    with pytest.raises(error, match=message):
        tle.layer_divergence(model, "the cat", **arguments, **QUIET)


def test_only_alike_measurements_merge(gpt2):
    options = {"metrics": ("kl", "jsd"), "against": "output", "sites": ("embed", "resid_post")}
    first = tle.DivergenceAccumulator(gpt2, **options)
    for name, change in (
        ("asked_sites", {"sites": "resid_post"}),
        ("metrics", {"metrics": ("jsd", "kl")}),
        ("against", {"against": "resid_post.2"}),
        ("lens", {"lens": lambda site, rows: rows}),
        ("surprisal", {"surprisal": True}),
        ("targets", {"targets": 5}),
        ("top_k", {"top_k": 2}),
        ("keep", {"keep": "summary"}),
        ("precision", {"precision": "bfloat16"}),
    ):
        with pytest.raises(InputError, match=f"cannot merge: {name} is"):
            first.merge(tle.DivergenceAccumulator(gpt2, **{**options, **change}))
    after = [tle.DivergenceAccumulator(gpt2, against="previous", sites=("resid_post", Site(*s))) for s in FIRST]
    assert after[0].measured == after[1].measured
    with pytest.raises(InputError, match="cannot merge: asked_sites is"):
        after[0].merge(after[1])  # the first site measured is compared with another one


def test_a_nan_inside_names_its_place_and_keeps_the_rest(gpt2, texts):
    def poison(activation, hook):
        if activation.shape[1] > 8:
            activation[0, 4, 3] = torch.nan
        return activation

    ordered = sorted(texts, key=lambda text: begun(gpt2, text).shape[1])
    healthy = sum(begun(gpt2, text).shape[1] <= 8 for text in ordered)
    assert 0 < healthy < len(ordered)
    for keep in ("positions", "summary"):
        with gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_post", poison)]), pytest.raises(NonFiniteError) as caught:
            tle.layer_divergence(gpt2, ordered, keep=keep, batch_size=1, **QUIET)
        assert "blocks.1.hook_resid_post has a NaN" in str(caught.value)
        partial = caught.value.partial
        assert (partial.documents if keep == "summary" else len(partial.documents)) == healthy
        assert bool(np.isfinite(partial.mean_profile()["mean"]).all())


def test_the_provenance_tells_what_decides_the_numbers(gpt2, texts):
    options = {"metrics": "jsd", "against": "previous", "layers": [0, 1], "positions": slice(0, 2), "precision": "bfloat16"}
    origin = tle.layer_divergence(gpt2, texts, **options, **QUIET).provenance
    assert origin.settings["metrics"] == ("jsd",)
    assert origin.settings["against"] == "previous"
    assert origin.settings["sites"] == ("embed", "resid_post.0", "resid_post.1"), "with the one that is compared with only"
    assert origin.settings["precision"] == "bfloat16"
    assert origin.settings["compiled"] is False
    assert origin.settings["lens"] == "logit lens"
    assert origin.settings["positions"] == "slice(0, 2, None)"
    assert origin.corpus["documents"] == len(texts)


def test_reduced_precision_is_near(gpt2, texts):
    full, half = (tle.layer_divergence(gpt2, texts, precision=p, **QUIET) for p in ("float32", "bfloat16"))
    close(half.divergence, full.divergence, 0.05)
    assert not torch.equal(half.divergence, full.divergence)
    assert not half.divergence[:, -1].any()
