"""Lens entropy against the model's own logits, TransformerLens's lens, and every way of cutting up the same input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, VOCAB, cached_model, make_model

import tl_entropy as tle
from tl_entropy.capture import sighted
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional import renyi_entropy

pytestmark = pytest.mark.model

ORDERS = (0.5, 1.0, 2.0)
QUIET = {"progress": False}


def own_entropies(model, texts, orders=ORDERS):
    """Entropies of the model's own logits, one text at a time, without padding: [rows, order]."""
    found = []
    for text in texts:
        tokens = torch.tensor([[0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            found.append(renyi_entropy(model(tokens)[0, 1:], list(orders)))
    return torch.cat(found).float()


def test_last_site_is_the_models_own_output(any_model, texts):
    result = tle.lens_entropy(any_model, texts, orders=ORDERS, prepend_bos=True, **QUIET)
    last = result.select(layers=2).entropy[:, 0]
    torch.testing.assert_close(last, own_entropies(any_model, texts), atol=1e-5, rtol=0)


def test_all_sites_agree_with_transformer_lenss_logit_lens(any_model):
    peer = pytest.importorskip("transformer_lens.tools.analysis.logit_lens")
    tokens = torch.tensor([[0, 5, 17, 80, 120, 33, 260, 7]])
    reference = peer.logit_lens(any_model, tokens, positions=None, top_k=3)
    mine = tle.lens_entropy(any_model, tokens, sites=_lens_sites(any_model), top_k=3, **QUIET)
    for label, entropy, ids in zip(reference.labels, reference.readout.entropy, reference.readout.top_ids, strict=True):
        head, _, tail = label.partition("_")
        layer = 2 if head == "final" else int(head) - (tail == "pre" and int(head) > 0)
        name = "embed" if label == "0_pre" else "resid_mid" if tail == "mid" else "resid_post"
        ours = mine.select(sites=name, layers=-1 if name == "embed" else layer)
        torch.testing.assert_close(ours.entropy[:, 0, 0], entropy.flatten()[1:].float(), atol=2e-5, rtol=0)
        assert torch.equal(ours.top_tokens[:, 0], ids.flatten(0, -2)[1:])


def _lens_sites(model):
    return ("embed", "resid_mid", "resid_post") if "blocks.0.hook_resid_mid" in model.hook_dict else ("embed", "resid_post")


def test_sublayer_sites(gpt2, texts):
    result = tle.lens_entropy(gpt2, texts, sites=("resid_mid", "attn_out", "mlp_out", "resid_post"), **QUIET)
    assert [str(s) for s in result.sites[:4]] == ["attn_out.0", "resid_mid.0", "mlp_out.0", "resid_post.0"]
    _, cache = gpt2.run_with_cache(gpt2.to_tokens(texts[0], prepend_bos=True))
    expected = renyi_entropy(gpt2.unembed(gpt2.ln_final(cache["blocks.1.hook_mlp_out"])).detach()[0, 1:], 1.0)
    mine = result.select(documents=0, sites="mlp_out", layers=1).entropy.flatten()
    torch.testing.assert_close(mine, expected.float(), atol=1e-5, rtol=0)


@pytest.mark.thinned
@pytest.mark.parametrize("batch_size", [1, 2, 3, None])
def test_any_batch_size_gives_the_same(gpt2, texts, batch_size):
    whole = tle.lens_entropy(gpt2, texts, orders=ORDERS, surprisal=True, batch_size=batch_size, **QUIET)
    single = [tle.lens_entropy(gpt2, text, orders=ORDERS, surprisal=True, **QUIET) for text in texts]
    assert whole.document.tolist() == [i for i, part in enumerate(single) for _ in range(part.n_tokens)]
    for name in ("entropy", "surprisal"):
        parts = torch.cat([getattr(part, name) for part in single])
        torch.testing.assert_close(getattr(whole, name), parts, atol=1e-5, rtol=0, equal_nan=True)


def test_padding_without_a_mask_is_refused(gpt2):
    with pytest.raises(InputError, match="mask"):
        tle.lens_entropy(gpt2, torch.tensor([[0, 0, 0, 5, 6], [0, 4, 5, 6, 7]]), **QUIET)


def test_cache_without_tokens_or_sites(gpt2):
    tokens = torch.tensor([[0, 5, 6, 7]])
    _, cache = gpt2.run_with_cache(tokens, names_filter="blocks.0.hook_resid_pre")
    with pytest.raises(InputTypeError, match=r"\(cache, tokens\)"):
        tle.lens_entropy(gpt2, cache, **QUIET)
    with pytest.raises(InputError, match=r"cache has no blocks\.0\.hook_resid_post"):
        tle.lens_entropy(gpt2, (cache, tokens), **QUIET)
    assert tle.lens_entropy(gpt2, (cache, tokens), sites="embed", **QUIET).n_tokens == 3
    with pytest.raises(InputError, match="its tokens are"):
        tle.lens_entropy(gpt2, (cache, tokens[:, :3]), sites="embed", **QUIET)


def test_surprisal_rank_and_top_tokens(gpt2, texts):
    result = tle.lens_entropy(gpt2, texts, surprisal=True, top_k=4, **QUIET)
    for document, text in enumerate(texts):
        tokens = gpt2.to_tokens(text, prepend_bos=True)
        with torch.no_grad():
            log_probs = gpt2(tokens)[0].double().log_softmax(-1)
        mine = result.select(documents=document, layers=2)
        expected = -log_probs[1:-1].gather(1, tokens[0, 2:, None])[:, 0]
        torch.testing.assert_close(mine.surprisal[:-1, 0].double(), expected, atol=1e-5, rtol=0)
        assert bool(mine.surprisal[-1, 0].isnan())
        assert int(mine.rank[-1, 0]) == -1
        ranks = (log_probs[1:-1] > -expected[:, None] + 1e-9).sum(1)
        assert torch.equal(mine.rank[:-1, 0], ranks)
        assert torch.equal(mine.top_tokens[:, 0], log_probs[1:].topk(4).indices)
        torch.testing.assert_close(mine.top_log_probs[:, 0].double(), log_probs[1:].topk(4).values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype):
    model = make_model("gpt2", "bridge", dtype=dtype)
    result = tle.lens_entropy(model, ["the cat sat on the mat"], **QUIET)
    full = tle.lens_entropy(cached_model("gpt2", "bridge"), ["the cat sat on the mat"], **QUIET)
    assert result.provenance.dtype == str(dtype).removeprefix("torch.")
    torch.testing.assert_close(result.entropy, full.entropy, atol=0.05, rtol=0)


def test_long_texts_are_cut_into_windows_that_count_every_token_once(gpt2):
    text = "the cat sat on the mat, and the dog sat on the cat. " * 12
    ids = gpt2.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > 2 * CONTEXT
    for stride in (None, 20):
        result = tle.lens_entropy(gpt2, text, stride=stride, surprisal=True, **QUIET)
        assert result.token.tolist() == ids
        assert result.position.tolist() == list(range(len(ids)))
        assert result.provenance.corpus["cut"] == 1
        assert int(result.surprisal[:, 0].isnan().sum()) == 1, "the next token is known across a window's border"
    half = tle.lens_entropy(gpt2, text, window=32, **QUIET)
    short = tle.lens_entropy(gpt2, torch.tensor([[0, *ids[31:62]]]), **QUIET)
    torch.testing.assert_close(half.entropy[31:62], short.entropy, atol=1e-5, rtol=0)


def test_generated_text_is_measured_like_read_text(gpt2, texts):
    result = tle.lens_entropy(gpt2, texts[:3], max_new_tokens=5, **QUIET)
    adapter = tle.Adapter(gpt2)
    for document, text in enumerate(texts[:3]):
        prompt = torch.tensor([[0, *adapter.encode(text)]])
        mine = result.select(documents=document)
        assert int(mine.generated.sum()) <= 5
        assert mine.generated.tolist() == [p >= prompt.shape[1] - 1 for p in mine.position.tolist()]
        whole = torch.cat((torch.tensor([0]), mine.token))
        again = tle.lens_entropy(gpt2, whole, **QUIET)
        torch.testing.assert_close(mine.entropy, again.entropy, atol=1e-5, rtol=0)
    last = tle.lens_entropy(gpt2, texts[:3], max_new_tokens=5, positions=-1, **QUIET)
    assert last.n_tokens == 3
    assert bool(last.generated.all())


def test_generation_needs_room(gpt2):
    with pytest.raises(InputError, match="no room for 60 new tokens"):
        tle.lens_entropy(gpt2, "the cat sat on the mat " * 3, max_new_tokens=60, **QUIET)


def test_summary_has_the_same_numbers(gpt2, texts):
    each = tle.lens_entropy(gpt2, texts, orders=ORDERS, **QUIET)
    total = tle.lens_entropy(gpt2, iter(texts), orders=ORDERS, keep="summary", batch_size=1, **QUIET)
    for column in ("mean", "se"):
        np.testing.assert_allclose(total.mean_profile()[column], each.mean_profile()[column], atol=1e-6)
    assert (total.tokens, total.documents) == (each.n_tokens, len(texts))
    np.testing.assert_allclose(total.deviation(), each.entropy.double().std(0, correction=0), atol=1e-5)
    bin_width = np.log(VOCAB) / total.counts.shape[-1]
    lower, upper = (np.quantile(each.entropy.numpy(), 0.3, axis=0, method=m) for m in ("lower", "higher"))
    quantile = total.quantile(0.3)[0].numpy()
    assert (quantile >= lower - bin_width).all()
    assert (quantile <= upper + bin_width).all()
    assert int(total.counts.sum(-1).unique()) == each.n_tokens


@pytest.mark.thinned
@pytest.mark.parametrize("keep", ["positions", "summary"])
def test_parts_merge_to_the_whole_in_any_order(gpt2, texts, keep):
    whole = tle.LensAccumulator(gpt2, orders=ORDERS, keep=keep)
    tle.stream(gpt2, texts, [whole], batch_size=1, **QUIET)
    expected = whole.compute()
    for order in ((0, 1, 2, 3), (3, 1, 2, 0)):
        joined = tle.LensAccumulator(gpt2, orders=ORDERS, keep=keep)
        for i in order:
            part = tle.LensAccumulator(gpt2, orders=ORDERS, keep=keep)
            tle.stream(gpt2, [texts[i]], [part], **QUIET)
            joined.merge(part)
        joined.merge(tle.LensAccumulator(gpt2, orders=ORDERS, keep=keep))
        mine = joined.compute()
        for column in ("mean", "se", "tokens", "documents"):
            np.testing.assert_allclose(mine.mean_profile()[column], expected.mean_profile()[column], rtol=1e-10, atol=1e-10)
        if keep == "summary":
            assert torch.equal(mine.counts, expected.counts)
        else:
            assert [mine.tokens(d) for d in range(4)] == [expected.tokens(i) for i in order]
    with pytest.raises(InputError, match="cannot merge: orders"):
        joined.merge(tle.LensAccumulator(gpt2, keep=keep))


@pytest.mark.filterwarnings("ignore:nothing counts of")
def test_positions_select_what_is_counted_only(gpt2, texts):
    whole = tle.lens_entropy(gpt2, texts, **QUIET)
    last = tle.lens_entropy(gpt2, texts, positions=-1, **QUIET)
    expected = torch.stack([whole.select(documents=d).entropy[-1] for d in range(len(texts))])
    torch.testing.assert_close(last.entropy, expected, atol=1e-5, rtol=0)
    assert tle.lens_entropy(gpt2, texts, positions=slice(1, 3), **QUIET).position.unique().tolist() == [1, 2]


def test_nan_names_hook_and_position_and_keeps_the_rest(gpt2, texts):
    def poison(activation, hook):
        if activation.shape[1] > 8:
            activation[0, 4, 3] = torch.nan
        return activation

    long = next(i for i, text in enumerate(texts) if len(gpt2.tokenizer(text)["input_ids"]) > 7)
    ordered = [t for i, t in enumerate(texts) if len(gpt2.tokenizer(t)["input_ids"]) <= 7] + [texts[long]]
    with gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_post", poison)]), pytest.raises(NonFiniteError) as caught:
        tle.lens_entropy(gpt2, ordered, batch_size=1, **QUIET)
    assert "blocks.1.hook_resid_post has a NaN" in str(caught.value)
    assert f"document {len(ordered) - 1}, position 3" in str(caught.value)
    assert len(caught.value.partial.documents) == len(ordered) - 1


def test_out_of_memory_halves_the_batch_and_counts_nothing_twice(gpt2, texts, monkeypatch):
    expected = tle.lens_entropy(gpt2, texts, **QUIET)
    seen = []
    plain = tle.Adapter.activations

    def scarce(self, tokens, mask, sites):
        seen.append(len(tokens))
        if len(tokens) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, tokens, mask, sites)

    monkeypatch.setattr(tle.Adapter, "activations", scarce)
    result = tle.lens_entropy(gpt2, texts, batch_size=4, **QUIET)
    assert seen == [4, 2, 1, 1, 1, 1], "what failed once is not tried again"
    torch.testing.assert_close(result.entropy, expected.entropy, atol=1e-5, rtol=0)


def test_out_of_memory_in_a_second_accumulator(gpt2, texts):
    class Fussy:
        sites = (tle.Site("embed", -1),)
        documents = ()

        def update(self, batch, activations):
            if len(batch) > 2:
                raise torch.OutOfMemoryError("out of memory")
            self.documents += tuple(batch.document.tolist())

    first, second = tle.LensAccumulator(gpt2, keep="summary"), Fussy()
    report = tle.stream(gpt2, texts, [first, second], batch_size=4, **QUIET)
    assert first.compute().tokens == report.tokens, "the first accumulator had the batch once"
    assert second.documents == (0, 1, 2, 3)


def test_interruption_ends_with_what_was_read(gpt2, texts):
    def impatient():
        yield from texts[:2]
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted"):
        result = tle.lens_entropy(gpt2, impatient(), batch_size=1, **QUIET)
    assert result.documents == (0, 1)
    assert result.provenance.interrupted
    assert "interrupted" in repr(result)


def test_interruption_inside_a_batch_waits_for_all_accumulators(gpt2, texts):
    before = signal.getsignal(signal.SIGINT)

    class Impatient:
        sites = (tle.Site("embed", -1),)

        def update(self, batch, activations):
            if 1 in batch.document:
                signal.raise_signal(signal.SIGINT)

    first, last = (tle.LensAccumulator(gpt2, keep="summary") for _ in range(2))
    with pytest.warns(UserWarning, match="interrupted"):
        report = tle.stream(gpt2, texts, [first, Impatient(), last], batch_size=1, **QUIET)
    assert report.interrupted
    assert first.compute().documents == last.compute().documents == 2
    assert first.compute().tokens == last.compute().tokens == report.tokens
    assert signal.getsignal(signal.SIGINT) is before


def test_progress_bar_shows_tokens_per_second(gpt2, texts, capsys):
    tle.lens_entropy(gpt2, texts)
    assert "tok/s" in capsys.readouterr().err


def test_provenance_tells_what_decides_the_numbers(gpt2, texts):
    origin = tle.lens_entropy(gpt2, texts, positions=slice(0, 2), precision="bfloat16", **QUIET).provenance
    assert origin.settings["precision"] == "bfloat16"
    assert origin.settings["compiled"] is False
    assert origin.settings["positions"] == "slice(0, 2, None)"
    assert origin.settings["prepend_bos"] is True
    assert origin.corpus["documents"] == len(texts)
    assert origin.corpus["bytes"] == sum(len(text.encode()) for text in texts)
    assert torch.__version__.startswith(origin.versions["torch"])  # its wheel may name what it was built for, or leave that out


def test_a_lens_that_gives_nothing_finite_is_named(gpt2, texts):
    def broken(site, rows):
        return rows * torch.nan if site.layer == 1 else rows

    with pytest.raises(NonFiniteError, match=r"lens 'broken' gives a NaN or an infinity at resid_post\.1"):
        tle.lens_entropy(gpt2, texts, lens=broken, **QUIET)


@pytest.mark.parametrize("orders", ["1", None])
def test_orders_that_are_no_numbers(gpt2, orders):
    with pytest.raises(InputTypeError, match="orders must be one or several numbers"):
        tle.lens_entropy(gpt2, "a", orders=orders, **QUIET)


def test_bad_arguments(gpt2):
    for arguments, message in (
        ({"orders": ()}, "orders must be"),
        ({"orders": (-1,)}, "orders must be"),
        ({"orders": (1, 1.0)}, "different"),
        ({"sites": "z"}, "head axis"),
        ({"sites": ()}, "sites is empty"),
        ({"top_k": -1}, "top_k must be"),
        ({"keep": "all"}, "keep must be one of"),
        ({"precision": "int8"}, "precision must be one of"),
        ({"keep": "summary", "top_k": 2}, "single positions"),
        ({"max_new_tokens": -1}, "max_new_tokens must be"),
        ({"temperature": -1.0, "max_new_tokens": 1}, "temperature must be"),
    ):
        with pytest.raises(InputError, match=message):
            tle.lens_entropy(gpt2, "the cat", **arguments, **QUIET)
    with pytest.raises(TypeError, match="widow"):
        tle.lens_entropy(gpt2, "the cat", widow=3, **QUIET)


MEASURE = """
    import resource, sys
    sys.path.insert(0, {tests!r})
    from tiny_models import make_model
    import tl_entropy as tle
    model = make_model("gpt2", {kind!r})
    texts = ("the cat sat on the mat, and the dog sat on the cat " * (1 + i % 3) for i in range({n}))
    result = tle.lens_entropy(model, texts, keep="summary", orders=(0.5, 1, 2), batch_size=16, progress=False)
    print(result.documents, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow  # of every summary, at two sizes: test_memory.py
def test_memory_does_not_grow_with_the_corpus():
    from tiny_models import kinds

    peaks = []
    for n in (200, 2000):
        code = textwrap.dedent(MEASURE.format(tests=str(Path(__file__).parents[2]), n=n, kind=kinds()[0]))
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=one_thread)
        documents, peak = map(int, run.stdout.split()[-2:])
        assert documents == n
        peaks.append(peak)
    assert peaks[1] < 1.05 * peaks[0]


def test_batches_are_chosen_by_tokens(gpt2, monkeypatch):
    monkeypatch.setattr(sighted, "MAX_TOKENS", 40)
    shapes = []
    plain = tle.Adapter.activations
    monkeypatch.setattr(
        tle.Adapter, "activations", lambda s, t, m, sites: shapes.append(tuple(t.shape)) or plain(s, t, m, sites)
    )
    tle.lens_entropy(gpt2, ["the cat sat on the mat"] * 9, **QUIET)
    assert all(rows * columns <= 40 for rows, columns in shapes)
    assert len(shapes) < 9


def test_few_rows_are_read_together_and_many_apart(gpt2, texts, monkeypatch):
    from tl_entropy.analyses.lens import reading

    expected = tle.lens_entropy(gpt2, texts, orders=ORDERS, surprisal=True, top_k=3, **QUIET)
    for rows in (1, 30, 10_000):
        monkeypatch.setattr(reading, "ROWS_AT_ONCE", rows)
        result = tle.lens_entropy(gpt2, texts, orders=ORDERS, surprisal=True, top_k=3, **QUIET)
        for name in ("entropy", "surprisal", "top_log_probs"):
            mine, theirs = getattr(result, name), getattr(expected, name)
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0, equal_nan=True)
        assert torch.equal(result.top_tokens, expected.top_tokens)


def test_a_lens_of_ones_own(gpt2, texts):
    last = tle.lens_entropy(gpt2, texts, sites="resid_post", layers=[2], **QUIET)
    matrix = torch.randn(32, 32)
    seen = []

    def translator(site, rows):
        seen.append((site, rows.shape[1]))
        return rows if site.layer == 2 else rows @ matrix

    result = tle.lens_entropy(gpt2, texts, lens=translator, **QUIET)
    torch.testing.assert_close(result.select(layers=2).entropy, last.entropy, atol=1e-5, rtol=0)
    _, cache = gpt2.run_with_cache(gpt2.to_tokens(texts[0], prepend_bos=True))
    translated = cache["blocks.0.hook_resid_post"] @ matrix
    expected = renyi_entropy(gpt2.unembed(gpt2.ln_final(translated)).detach()[0, 1:], 1.0)
    mine = result.select(documents=0, layers=0).entropy.flatten()
    torch.testing.assert_close(mine, expected.float(), atol=1e-5, rtol=0)
    assert {site for site, _ in seen} == set(result.sites)
    assert result.provenance.settings["lens"] == "translator"
    with pytest.raises(InputError, match="lens must return a tensor of shape"):
        tle.lens_entropy(gpt2, texts, lens=lambda site, rows: rows[:, :3], **QUIET)
