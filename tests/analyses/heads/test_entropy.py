"""Head entropies against loops in float64, the identity of direct logit attribution, and every way of cutting up an input."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, VOCAB, booted, cached_model, kinds, make_model

import tl_entropy as tle
from tl_entropy.analyses.heads import entropy as head_module, values as head_values
from tl_entropy.analyses.heads.entropy import HeadAccumulator, head_entropy
from tl_entropy.analyses.heads.values import frozen_entropies, pattern_values
from tl_entropy.batches import Batch
from tl_entropy.capture.ablation import ablate_heads
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.proofs.frozen_norm import FrozenNorm
from tl_entropy.capture.stream import stream
from tl_entropy.errors import InputError, InputTypeError, ModelError, NonFiniteError
from tl_entropy.functional import renyi_entropy
from tl_entropy.sites import Site

ORDERS = (0.0, 0.3, 0.5, 1.0, 1.2, 2.0, math.inf)
QUIET = {"progress": False}
BOTH = pytest.mark.parametrize("of", ["pattern", "readout"])


def entropy64(p, order):
    """A loop over the definition; ``p`` is one distribution in float64."""
    p = p[p > 0]
    if order == 1:
        return float(-(p * p.log()).sum())
    if math.isinf(order):
        return float(-p.max().log())
    return math.log(float((p**order).sum())) / (1 - order)


def ids_of(model, text):
    return torch.tensor([[0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])


def post_norm(model):
    return "gemma2" in model.cfg.model_name


def mask_of(tokens):
    return torch.ones_like(tokens)


def windowed_model(name, window=5):
    """Layers 0 and 2 see ``window`` tokens; gpt-oss has sinks as well."""
    import transformers as tr

    torch.manual_seed(0)
    body = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8,
        "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "sliding_window": window,
    }  # fmt: skip
    if name == "gemma2":
        source = tr.Gemma2ForCausalLM(tr.Gemma2Config(**body))
    else:
        source = tr.GptOssForCausalLM(tr.GptOssConfig(**body, num_local_experts=2, num_experts_per_tok=1))
    return booted(source, name, std=0.2)


# --- patterns ------------------------------------------------------------------------------------------------------------


@pytest.mark.model
def test_patterns_agree_with_a_loop(any_model, texts):
    texts = texts[:2]
    result = head_entropy(any_model, texts, orders=ORDERS, prepend_bos=True, **QUIET)
    assert (result.of, result.norm, result.layers, result.heads) == ("pattern", None, (0, 1, 2), (0, 1, 2, 3))
    row = 0
    for text in texts:
        tokens = ids_of(any_model, text)
        _, cache = any_model.run_with_cache(tokens)
        for query in range(1, tokens.shape[1]):
            assert result.visible[row].tolist() == [query + 1] * 3
            for layer in range(3):
                pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, :, query].double()
                for head in range(4):
                    p = pattern[head] / pattern[head].sum()
                    for i, order in enumerate(ORDERS):
                        assert result.entropy[row, layer, head, i].item() == pytest.approx(entropy64(p, order), abs=2e-5)
                    assert result.bos_share[row, layer, head].item() == pytest.approx(float(p[0]), abs=1e-6)
            row += 1
    assert row == result.n_tokens
    assert float(result.sink_share.abs().max()) < 1e-6
    assert float(result.normalized[..., 3].max()) <= 1 + 1e-6


@pytest.mark.model
@pytest.mark.parametrize("name", ["gemma2", "gpt-oss"])
def test_windows_and_sinks_of_models_that_have_them(name):
    model = windowed_model(name)
    tokens = torch.arange(5, 17)[None]
    result = head_entropy(model, tokens, orders=(1.0, 2.0), **QUIET)
    assert result.visible[:, 0].tolist() == result.visible[:, 2].tolist() == [*range(1, 6), *[5] * 7]
    assert result.visible[:, 1].tolist() == list(range(1, 13))
    _, cache = model.run_with_cache(tokens)
    for layer in range(3):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0].double().transpose(0, 1)  # [query, head, key]
        total = pattern.sum(-1)
        p = pattern / total[..., None]
        expected = -torch.special.xlogy(p, p).sum(-1)
        torch.testing.assert_close(result.entropy[:, layer, :, 0].double(), expected, atol=2e-5, rtol=0)
        torch.testing.assert_close(result.sink_share[:, layer].double(), 1 - total, atol=1e-6, rtol=0)
    assert (float(result.sink_share.max()) > 0.2) == (name == "gpt-oss")
    top = result.normalized.nan_to_num(0.0)
    assert 0.5 < float(top.max()) <= 1 + 1e-6


@pytest.mark.thinned
@BOTH
@pytest.mark.model
@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_any_batch_size_gives_the_same(gpt2, texts, of, batch_size):
    whole = head_entropy(gpt2, texts, of=of, orders=(1.0, 2.0), batch_size=batch_size, **QUIET)
    single = [head_entropy(gpt2, text, of=of, orders=(1.0, 2.0), **QUIET) for text in texts]
    assert whole.document.tolist() == [i for i, part in enumerate(single) for _ in range(part.n_tokens)]
    for name in ("entropy", "bos_share", "visible") if of == "pattern" else ("entropy",):
        parts = torch.cat([getattr(part, name) for part in single])
        torch.testing.assert_close(getattr(whole, name), parts, atol=1e-5, rtol=0)


@pytest.mark.model
def test_a_cache_that_was_made_without_its_mask_is_refused(gpt2):
    tokens, mask = torch.tensor([[0, 0, 0, 9, 12, 40]]), torch.tensor([[0, 0, 1, 1, 1, 1]])
    _, cache = gpt2.run_with_cache(tokens, attention_mask=mask_of(tokens))
    with pytest.raises(InputError, match=r"of another mask \(padding on the left without one\)"):
        head_entropy(gpt2, (cache, tokens, mask), **QUIET)
    for name in ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"):  # by which that is seen
        del cache.cache_dict[name]
    with pytest.raises(ModelError, match=r"blocks\.0\.attn\.hook_pattern: head \d puts .* position 0 should not see: padding"):
        head_entropy(gpt2, (cache, tokens, mask), **QUIET)


@pytest.mark.model
def test_texts_without_a_begin_token(gpt2, texts):
    result = head_entropy(gpt2, texts, prepend_bos=False, **QUIET)
    assert bool(result.bos_share.isnan().all())
    first = result.position == 0
    assert bool((result.visible[first] == 1).all())
    assert float(result.entropy[first].max()) < 1e-30
    assert bool(result.normalized[first].isnan().all())
    assert not bool(result.normalized[~first].isnan().any())
    profile = result.mean_profile("normalized")
    np.testing.assert_allclose(profile["mean"], result.normalized[~first].double().mean(0).flatten(), rtol=1e-6)
    assert set(profile["tokens"]) == {int((~first).sum())}
    assert set(profile["documents"]) == {len(texts) - 1}, "a text of one token has no value"
    with pytest.raises(InputError, match="no position to take a mean of"):
        result.mean_profile("bos_share")
    total = head_entropy(gpt2, texts, prepend_bos=False, keep="summary", **QUIET)
    for of in ("entropy", "normalized", "sink_share"):
        np.testing.assert_allclose(total.mean_profile(of), result.mean_profile(of), atol=1e-6)
    with pytest.raises(InputError, match="no position to take a mean of"):
        total.mean_profile("bos_share")


@pytest.mark.model
def test_a_document_in_several_windows_has_its_begin_token_in_each(gpt2):
    text = "the cat sat on the mat, and the dog sat on the cat. " * 8
    result = head_entropy(gpt2, text, stride=20, **QUIET)
    assert result.n_tokens > CONTEXT
    assert not bool(result.bos_share.isnan().any())
    assert int(result.visible.max()) == CONTEXT


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_precisions(dtype, texts):
    model = make_model("gpt2", "bridge", dtype=dtype)
    full = cached_model("gpt2", "bridge")
    for of in ("pattern", "readout"):
        found, expected = (head_entropy(m, texts, of=of, orders=ORDERS, **QUIET) for m in (model, full))
        tolerance = 1e-5 if dtype == torch.float64 else 0.05
        several = slice(1, None) if of == "pattern" else slice(None)  # small weights underflow: order 0 counts them
        torch.testing.assert_close(found.entropy[..., several], expected.entropy[..., several], atol=tolerance, rtol=0)
        if of == "pattern":
            _, cache = model.run_with_cache(ids_of(model, texts[0]))
            pattern = cache["blocks.1.attn.hook_pattern"][0, :, 1:].double()
            p = pattern / pattern.sum(-1, keepdim=True)
            exact = -torch.special.xlogy(p, p).sum(-1).mT
            mine = found.select(documents=0, orders=1.0, layers=1).entropy[:, 0, :, 0]
            torch.testing.assert_close(mine.double(), exact, atol=2e-5, rtol=0), "rows are renormalised"


# --- patterns on plain tensors -------------------------------------------------------------------------------------------


def fake_batch(mask, bos=True):
    mask = torch.tensor(mask).bool()
    position = mask.long().cumsum(1) - 1 - int(bos)
    position[~mask] = -1
    counted = mask & (position >= 0)
    n = len(mask)
    return Batch(
        tokens=mask.long(), attention_mask=mask, counted=counted, position=position, target=position,
        document=torch.arange(n), last=torch.ones(n, dtype=torch.bool), names=(None,) * n, texts=(None,) * n,
        bodies=tuple(row[row.bool()] for row in mask.long()),
    )  # fmt: skip


def causal(mask, window=None):
    n = len(mask[0])
    back = torch.arange(n)[:, None] - torch.arange(n)
    return (back >= 0) & (back < (window or n)) & torch.tensor(mask).bool()[:, None]


def fake_pattern(visible, n_heads=3, seed=0):
    scores = torch.randn(len(visible), n_heads, *visible.shape[1:], generator=torch.Generator().manual_seed(seed)) * 3
    return scores.masked_fill(~visible[:, None], -math.inf).softmax(-1).nan_to_num(0.2)  # padded queries look everywhere


def test_padding_is_taken_out_before_any_logarithm():
    mask = [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]
    visible = causal(mask)
    found = pattern_values(fake_batch(mask), fake_pattern(visible), visible, (1.0, 2.0), "x")
    assert found["visible"].tolist() == [2, 3, 4, 2, 3, 4, 5]
    assert bool(found["entropy"].isfinite().all())
    short = pattern_values(
        fake_batch([[1, 1, 1, 1]]), fake_pattern(visible)[:1, :, 2:, 2:], causal([[1, 1, 1, 1]]), (1.0, 2.0), "x"
    )
    for name, value in short.items():
        torch.testing.assert_close(found[name][:3], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_sharp_and_even_heads(order):
    mask = [[1] * 9]
    visible = causal(mask)
    even = visible / visible.sum(-1, keepdim=True)
    sharp = torch.eye(9)[None]
    pattern = torch.stack((even, sharp), 1)
    found = pattern_values(fake_batch(mask), pattern, visible, (order,), "x")["entropy"][..., 0]
    torch.testing.assert_close(found[:, 0].exp(), torch.arange(2.0, 10.0, dtype=torch.float64), rtol=1e-5, atol=0)
    assert found[:, 1].tolist() == pytest.approx([0.0] * 8, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_sinks_are_no_keys(dtype):
    """As in gpt-oss, whose rows add up to less than 1: what is missing went to the sink."""
    mask = [[1] * 7]
    visible = causal(mask, window=4)
    pattern = fake_pattern(visible)
    sink = torch.tensor([0.0, 0.25, 0.9])
    found = pattern_values(fake_batch(mask), (pattern * (1 - sink)[:, None, None]).to(dtype), visible, (1.0, 2.0), "x")
    whole = pattern_values(fake_batch(mask), pattern, visible, (1.0, 2.0), "x")
    loose = 0.02 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found["entropy"], whole["entropy"], atol=loose, rtol=0)
    torch.testing.assert_close(
        found["sink_share"].float(), sink.expand(6, 3), atol=4e-3 if dtype == torch.bfloat16 else 1e-6, rtol=0
    )
    torch.testing.assert_close(found["bos_share"].float(), whole["bos_share"] * (1 - sink), atol=4e-3, rtol=0, equal_nan=True)
    assert bool(found["bos_share"][:3].isfinite().all())
    assert bool(found["bos_share"][3:].isnan().all()), "the begin token is behind the window"
    assert found["visible"].tolist() == [2, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("orders", [(1.0,), (0.5, 2.0), ORDERS])
def test_long_rows_are_exact(orders):
    mask = [[1] * 300] * 2
    visible = causal(mask)
    pattern = fake_pattern(visible, n_heads=2)
    found = pattern_values(fake_batch(mask), pattern, visible, orders, "x")["entropy"]
    p = fake_batch(mask).rows(pattern.double().transpose(1, 2))
    expected = renyi_entropy((p / p.sum(-1, keepdim=True)).log(), list(orders))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_small_chunks_give_the_same(monkeypatch):
    mask = [[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]]
    visible = causal(mask)
    arguments = (fake_batch(mask), fake_pattern(visible), visible, (1.0,), "x")
    whole = pattern_values(*arguments)
    monkeypatch.setattr(head_values, "_PATTERN", 1)
    for name, value in pattern_values(*arguments).items():
        torch.testing.assert_close(value, whole[name])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda p: p[0, 1, 3].fill_(0.0),
            NonFiniteError,
            r"hook: the weights of head 1 at document 0, position 2 are no distr",
        ),
        (lambda p: p[0, 1, 3, 0:1].fill_(math.nan), NonFiniteError, r"head 1 at document 0, position 2 .*add up to nan"),
        (lambda p: p[0, 2, 1].copy_(torch.tensor([1.2, -0.2, 0, 0])), NonFiniteError, "head 2 at document 0, position 0"),
        (lambda p: p[0, 0, 1].copy_(torch.tensor([0.5, 0.3, 0, 0.2])), ModelError, r"hook: head 0 puts 0\.2 of its attention"),
    ],
)
def test_what_is_no_distribution_over_visible_keys_is_refused(change, error, message):
    mask = [[1] * 4]
    visible = causal(mask)
    pattern = fake_pattern(visible)
    change(pattern)
    with pytest.raises(error, match=message):
        pattern_values(fake_batch(mask), pattern, visible, (1.0,), "hook")


# --- readouts ------------------------------------------------------------------------------------------------------------


def contributions(model, tokens):
    """What each head writes [layer][pos, head, d_model], the other parts of the residual stream, and the last stream."""
    adapter = Adapter(model)
    names = ["result", "mlp_out", "embed", "resid_post"]
    seen = adapter.activations(tokens, mask_of(tokens), adapter.sites(names))
    n = adapter.n_layers
    biases = [getattr(model.blocks[i].attn, "b_O", None) for i in range(n)]
    scales = [getattr(model.blocks[i], "residual_contribution_scale", 1.0) for i in range(n)]
    others = [seen[Site("embed", -1)][0], *(seen[Site("mlp_out", i)][0] for i in range(n))]
    others += [b.detach() * s for b, s in zip(biases, scales, strict=True) if b is not None]
    return [seen[Site("result", i)][0] for i in range(n)], others, seen[Site("resid_post", n - 1)][0]


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.parametrize("compatible", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_shares_of_the_logits_add_up_to_the_models_own(name, compatible):
    for kind in kinds() if name == "gpt2" else ("bridge",):
        model = cached_model(name, kind, compatible)
        tokens = torch.tensor([[0, 5, 17, 80, 120, 33]])
        heads, others, last = contributions(model, tokens)
        frozen, readout = Adapter(model).frozen_norm, Adapter(model).readout
        scale = frozen.scale(last)
        parts = [*(part for layer in heads for part in layer.unbind(1)), *(x.expand_as(last) for x in others)]
        logits = sum(frozen(part, scale).double() @ readout.unembedding.double() for part in parts)
        without = frozen.bias.double() @ readout.unembedding.double()
        without = without + (0 if readout.bias is None else readout.bias.double())
        with torch.no_grad():
            own = model(tokens)[0].double() / readout.scale
        torch.testing.assert_close((logits + without).log_softmax(-1), own.log_softmax(-1), atol=2e-5, rtol=0)


def dense_entropies(model, text, norm):
    """Float64 entropies [row, layer, head, order] of ``ORDERS``, from whole rows of logits."""
    tokens = ids_of(model, text)
    heads, _, last = contributions(model, tokens)
    adapter = Adapter(model)
    readout = adapter.readout
    scale = adapter.frozen_norm.scale(last).double()
    unembedding = readout.unembedding.double()
    found = []
    for layer in heads:
        if norm == "frozen":
            x = layer.double()
            x = x - x.mean(-1, keepdim=True) if adapter.frozen_norm.centred else x
            logits = x * adapter.frozen_norm.weight.double() * scale[:, None, None] @ unembedding
        else:
            with torch.no_grad():
                logits = model.ln_final(layer).double() @ unembedding
            logits = logits + (0 if readout.bias is None else readout.bias.double())
        found.append(renyi_entropy(logits * readout.scale, list(ORDERS)))
    return torch.stack(found, 1)[1:].float()


@pytest.mark.model
@pytest.mark.parametrize("norm", ["frozen", "recomputed"])
def test_readouts_agree_with_dense_logits(any_model, texts, norm):
    if post_norm(any_model):
        with pytest.raises(ModelError, match="not contributions to the residual stream"):
            head_entropy(any_model, texts, of="readout", norm=norm, **QUIET)
        return
    result = head_entropy(any_model, texts, of="readout", norm=norm, orders=ORDERS, prepend_bos=True, **QUIET)
    assert (result.of, result.norm, result.visible, result.bos_share) == ("readout", norm, None, None)
    assert result.entropy.shape[1:] == (3, 4, len(ORDERS))
    for document in (0, 3):
        expected = dense_entropies(any_model, texts[document], norm)
        torch.testing.assert_close(result.select(documents=document).entropy, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_both_ways_of_multiplying_agree_with_dense_logits(centred, softcap):
    torch.manual_seed(0)
    d, d_head, n_heads, d_vocab = 24, 4, 3, 50
    weight, unembedding = torch.randn(d), torch.randn(d, d_vocab)

    def norm(x):
        x = x - x.mean(-1, keepdim=True) if centred else x
        return x / x.square().mean(-1, keepdim=True).add(1e-5).sqrt() * weight

    frozen = FrozenNorm.probe(norm, unembedding)
    readout = SimpleNamespace(unembedding=unembedding)
    own = {"unembedding": unembedding, "scale": 0.25, "softcap": softcap, "precision": "float32"}
    reading = SimpleNamespace(readout=readout, ran_compiled=False, options=lambda rows: own)
    weights = torch.randn(n_heads, d_head, d)
    options = {"orders": (0.5, 1.0, 2.0), "compiled": False}
    for rows in (5, 9):  # up to 2 * d_head and above
        z, scale = torch.randn(rows, n_heads, d_head), torch.rand(rows) + 0.5
        written = torch.einsum("rhd,hdm->rhm", z.double(), weights.double())
        written = written - written.mean(-1, keepdim=True) if centred else written
        logits = 0.25 * (written * frozen.weight.double() * scale.double()[:, None, None] @ unembedding.double())
        logits = logits if softcap is None else softcap * (logits / softcap).tanh()
        found = torch.cat(list(frozen_entropies(z, weights, scale, frozen, reading, **options)))
        torch.testing.assert_close(found, renyi_entropy(logits, [0.5, 1.0, 2.0]), atol=1e-5, rtol=0)


@pytest.mark.model
def test_few_rows_and_small_groups_give_the_same(gpt2, texts, monkeypatch):
    expected = {norm: head_entropy(gpt2, texts, of="readout", norm=norm, **QUIET) for norm in ("frozen", "recomputed")}
    monkeypatch.setattr(head_values, "_VECTORS", 1)
    for norm, whole in expected.items():
        found = head_entropy(gpt2, texts, of="readout", norm=norm, batch_size=1, **QUIET)
        torch.testing.assert_close(found.entropy, whole.entropy, atol=1e-5, rtol=0)


@pytest.mark.model
def test_a_head_that_writes_nothing_is_even_when_frozen(gpt2):
    result = head_entropy(gpt2, "the cat sat", of="readout", layers=[1], interventions=ablate_heads([(1, 2)]), **QUIET)
    assert result.layers == (1,)
    torch.testing.assert_close(result.entropy[:, 0, 2], torch.full((result.n_tokens, 1), math.log(VOCAB)))
    assert float(result.entropy[:, 0, [0, 1, 3]].max()) < math.log(VOCAB) - 1e-5


@pytest.mark.model
def test_edited_patterns_are_measured_as_edited(gpt2, texts):
    def cut(pattern, hook):
        return pattern * (torch.arange(pattern.shape[-1]) > 0)

    whole, edited = (
        head_entropy(gpt2, texts, interventions=edits, **QUIET) for edits in (None, ("blocks.1.attn.hook_pattern", cut))
    )
    assert not bool(edited.bos_share[:, 1].any())
    torch.testing.assert_close(edited.sink_share[:, 1], whole.bos_share[:, 1], atol=1e-6, rtol=0)
    torch.testing.assert_close(edited.entropy[:, 0], whole.entropy[:, 0])


@pytest.mark.model
def test_reduced_precision_is_near(gpt2, texts):
    full, fast = (head_entropy(gpt2, texts, of="readout", precision=p, **QUIET) for p in ("float32", "bfloat16"))
    torch.testing.assert_close(full.entropy, fast.entropy, atol=0.05, rtol=0)
    assert fast.provenance.settings["precision"] == "bfloat16"


# --- one pass over a corpus ----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.model
def test_summary_has_the_same_numbers(gpt2, texts, of):
    each = head_entropy(gpt2, texts, of=of, orders=(1.0, 2.0), **QUIET)
    total = head_entropy(gpt2, iter(texts), of=of, orders=(1.0, 2.0), keep="summary", batch_size=1, **QUIET)
    assert (total.tokens, total.documents) == (each.n_tokens, len(texts))
    for name in ("entropy", "normalized", "bos_share", "sink_share") if of == "pattern" else ("entropy",):
        np.testing.assert_allclose(total.mean_profile(name), each.mean_profile(name), atol=1e-6)
        np.testing.assert_allclose(
            total.to("bits").mean_profile(name), each.to("bits").mean_profile(name), atol=1e-6, equal_nan=True
        )


@pytest.mark.thinned
@BOTH
@pytest.mark.model
@pytest.mark.parametrize("keep", ["positions", "summary"])
def test_parts_merge_to_the_whole(gpt2, texts, of, keep):
    whole = HeadAccumulator(gpt2, of=of, keep=keep)
    stream(gpt2, texts, [whole], batch_size=2, **QUIET)
    joined = HeadAccumulator(gpt2, of=of, keep=keep)
    for text in texts:
        part = HeadAccumulator(gpt2, of=of, keep=keep)
        stream(gpt2, [text], [part], **QUIET)
        joined.merge(part)
    joined.merge(HeadAccumulator(gpt2, of=of, keep=keep))
    np.testing.assert_allclose(joined.compute().mean_profile(), whole.compute().mean_profile(), atol=1e-6)
    if keep == "positions":
        assert torch.equal(joined.compute().document, whole.compute().document)
    with pytest.raises(InputError, match="cannot merge: orders is"):
        joined.merge(HeadAccumulator(gpt2, of=of, keep=keep, orders=2.0))
    with pytest.raises(InputError, match="cannot merge: layers is"):
        joined.merge(HeadAccumulator(gpt2, of=of, keep=keep, layers=[0]))


@pytest.mark.model
def test_one_pass_serves_both(gpt2, texts):
    patterns, readouts = HeadAccumulator(gpt2), HeadAccumulator(gpt2, of="readout", norm="recomputed")
    stream(gpt2, texts, [patterns, readouts], **QUIET)
    assert torch.equal(patterns.compute().entropy, head_entropy(gpt2, texts, **QUIET).entropy)
    assert torch.equal(readouts.compute().token, patterns.compute().token)


@pytest.mark.model
def test_positions_generation_and_provenance(gpt2, texts):
    whole = head_entropy(gpt2, texts, **QUIET)
    last = head_entropy(gpt2, texts, positions=-1, layers=[-1, 0], **QUIET)
    assert last.layers == (0, 2)
    expected = torch.cat([whole.select(documents=d, layers=[0, 2]).entropy[-1:] for d in range(len(texts))])
    torch.testing.assert_close(last.entropy, expected, atol=1e-5, rtol=0)
    written = head_entropy(gpt2, texts[:2], of="readout", max_new_tokens=3, **QUIET)
    assert 0 < int(written.generated.sum()) <= 6
    settings = written.provenance.settings
    assert (settings["of"], settings["norm"], settings["orders"], settings["layers"]) == (
        "readout",
        "frozen",
        (1.0,),
        (0, 1, 2),
    )
    assert settings["frozen_norm_error"] < 1e-6
    assert whole.provenance.settings["of"] == "pattern"
    assert "norm" not in whole.provenance.settings
    assert whole.provenance.corpus["documents"] == len(texts)


@pytest.mark.model
def test_what_came_before_an_error_is_kept(gpt2, texts):
    def blind(pattern, hook):
        return pattern * (pattern.shape[-1] < 9)

    with gpt2.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", blind)]), pytest.raises(NonFiniteError) as caught:
        head_entropy(gpt2, ["the", "the cat sat on the mat, and the dog sat"], batch_size=1, **QUIET)
    assert "blocks.1.attn.hook_pattern: the weights of head 0 at document 1, position 0" in str(caught.value)
    assert caught.value.partial.documents == (0,)


@pytest.mark.model
def test_bad_arguments(gpt2):
    for arguments, message in (
        ({"of": "z"}, "of must be one of 'pattern', 'readout'"),
        ({"norm": "none", "of": "readout"}, "norm must be one of"),
        ({"norm": "recomputed"}, "belong to of='readout'"),
        ({"precision": "bfloat16"}, "belong to of='readout'"),
        ({"compiled": False}, "belong to of='readout'"),
        ({"precision": "int8", "of": "readout"}, "precision must be one of"),
        ({"keep": "all"}, "keep must be one of"),
        ({"orders": ()}, "one or more different"),
        ({"orders": (1, 1.0)}, "different"),
        ({"orders": -1}, "from 0 to infinity"),
        ({"layers": [7]}, "layer 7 does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            head_entropy(gpt2, "the cat", **arguments, **QUIET)
    with pytest.raises(InputTypeError, match="'widow' is not an option"):
        head_entropy(gpt2, "the cat", widow=3, **QUIET)


@pytest.mark.model
def test_long_readouts_show_their_layers(gpt2, monkeypatch, capsys):
    plain = head_module.Bar
    monkeypatch.setattr(head_module, "Bar", lambda *args, delay, nested, **kwargs: plain(*args, **kwargs))
    head_entropy(gpt2, "the cat", of="readout")
    assert "layers of this batch" in capsys.readouterr().err


# --- layers of different numbers of heads


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.skipif("bridge" not in kinds(), reason="the model is a bridge")
@BOTH
def test_layers_of_uneven_heads_are_filled_up_with_nan(of, tmp_path):
    model, ids = cached_model("laguna", "bridge"), torch.tensor([[5, 17, 80, 120, 33, 260, 7], [9, 44, 44, 201, 3, 18, 250]])
    result = head_entropy(model, ids, of=of, **QUIET)
    assert result.entropy.shape == (14, 3, 4, 1)
    there = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    assert torch.equal(~result.entropy[..., 0].isnan(), there.expand(14, -1, -1))
    alike = head_entropy(model, ids, of=of, layers=[0, 2], **QUIET)
    assert alike.heads == (0, 1)
    assert torch.equal(alike.entropy, result.entropy[:, [0, 2], :2])
    if of == "pattern":
        _, cache = model.run_with_cache(ids, attention_mask=torch.ones_like(ids))
        for layer in range(3):
            own = cache[f"blocks.{layer}.attn.hook_pattern"].double()
            expected = torch.special.entr(own).sum(-1).transpose(1, 2).flatten(0, 1)
            torch.testing.assert_close(result.entropy[:, layer, : own.shape[1], 0].double(), expected, atol=1e-5, rtol=0)
    summary = head_entropy(model, ids, of=of, keep="summary", **QUIET)
    for found in (result, summary, tle.load(result.save(tmp_path / "positions")), tle.load(summary.save(tmp_path / "sums"))):
        means = found.mean_profile()["mean"].to_numpy().reshape(3, 4)
        np.testing.assert_allclose(means, result.entropy[..., 0].double().mean(0).numpy(), atol=1e-6)
        assert "layer 0" in str(found)
    title = " ".join(tle.plots.heads(result).get_title().split())
    assert title.endswith("hatched: no value, its layer has fewer heads")


def test_a_pattern_of_other_axes_is_refused():
    batch = SimpleNamespace(tokens=torch.zeros(1, 4))
    with pytest.raises(ModelError, match=r"hook is \[1, 4, 2, 9\], no weights \[batch, head, query, key\]"):
        pattern_values(batch, torch.zeros(1, 4, 2, 9), torch.ones(1, 4, 4), (1.0,), "hook")
