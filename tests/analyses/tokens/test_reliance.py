"""token_reliance against dense logits of two runs by hand, and every way of cutting up the same input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import cached_model, kinds, make_model

import tl_entropy as tle
from tl_entropy import functional
from tl_entropy.analyses.tokens import reliance as reliance_module
from tl_entropy.analyses.tokens.reliance import RelianceAccumulator, token_reliance
from tl_entropy.capture.ablation import ablate_heads
from tl_entropy.capture.interventions import Intervention, ablate
from tl_entropy.capture.occlusion import mask_attention, occlude
from tl_entropy.errors import InputError, InputTypeError, ModelError, NonFiniteError
from tl_entropy.functional.tokens.logit_changes import CHANGE_UNITS

pytestmark = pytest.mark.model

QUIET = {"progress": False}
METRICS = tuple(CHANGE_UNITS)
TEXT = "the cat sat on the mat, and the dog sat on the cat"


def ids_of(model, text=TEXT):
    return torch.tensor([[0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])


@torch.no_grad()
def dense(model, tokens, hooks=()):
    """The logits [pos, vocab] from which each token of one row [1, pos] is predicted, but its begin token, in float64."""
    return model.run_with_hooks(tokens, fwd_hooks=list(hooks), return_type="logits")[0, :-1].double()


def compared(before, after, tokens, metrics=METRICS):
    """[row, metric] straight from the definitions."""
    target = tokens[0, 1:, None]
    p, q = before.log_softmax(-1), after.log_softmax(-1)
    named = {
        "l1": (after - before).abs().sum(-1),
        "l2": (after - before).norm(dim=-1),
        "maximum": (after - before).abs().amax(-1),
        "cosine": 1 - torch.nn.functional.cosine_similarity(before, after),
        "kl": functional.kl_divergence(before, after),
        "reverse_kl": functional.kl_divergence(after, before),
        "jsd": functional.js_divergence(before, after),
        "fisher_rao": functional.fisher_rao_distance(before, after),
        "total_variation": functional.total_variation(before, after),
        "loss": (p.gather(1, target) - q.gather(1, target))[:, 0],
        "entropy": (p.exp() * p).sum(-1) - (q.exp() * q).sum(-1),
    }
    return torch.stack([named[metric] for metric in metrics], -1)


def close(mine, theirs, rtol=2e-4, atol=5e-5):
    torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol, equal_nan=True)


def same(mine, theirs):
    """Two results of the same tokens."""
    assert (mine.sources, mine.metrics, mine.units, mine.over) == (theirs.sources, theirs.metrics, theirs.units, theirs.over)
    for name in ("document", "position", "token", "span"):
        assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
    # What l1 adds up over the vocabulary is rounding of logits; the others are near.
    torch.testing.assert_close(mine.values, theirs.values, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_every_metric_on_every_architecture(any_model):
    tokens = ids_of(any_model)
    on = ablate("mlp_out.1")
    result = token_reliance(any_model, TEXT, on, metrics=METRICS, prepend_bos=True, **QUIET)
    before, after = dense(any_model, tokens), dense(any_model, tokens, on.hooks)
    expected = compared(before, after, tokens)
    # The readout is proved by log-probabilities: a number added to a row's logits is not known to it, nor to most metrics.
    close(result.values[:, 0, 4:], expected[:, 4:])
    close(result.values[:, 0, :4], expected[:, :4], rtol=1e-3, atol=1e-3)
    assert (result.sources, result.metrics) == (("ablate mlp_out.1",), METRICS)
    assert result.units == ("", "", "", "", "nats", "nats", "nats", "rad", "", "nats", "nats")
    assert result.token.tolist() == tokens[0, 1:].tolist()
    assert result.position.tolist() == list(range(len(tokens[0]) - 1))
    assert "".join(TEXT[a:b] for a, b in result.span.tolist()) == TEXT


@pytest.mark.parametrize("kind", kinds())
def test_in_float64_to_the_last_digits(kind):
    model = make_model("gpt2", kind, dtype=torch.float64)
    tokens, on = ids_of(model), ablate_heads([(0, 1), (2, 3)])
    result = token_reliance(model, TEXT, on, metrics=METRICS, **QUIET)
    expected = compared(dense(model, tokens), dense(model, tokens, on.hooks), tokens)
    close(result.values[:, 0], expected, rtol=1e-9, atol=1e-9)


def test_sources_by_name_in_a_list_and_alone(gpt2):
    heads, layer = ablate_heads([(1, 0)]), ablate("attn_out.2")

    def halve(activation, hook):
        return activation / 2

    pair = ("blocks.0.hook_mlp_out", halve)
    named = token_reliance(gpt2, TEXT, {"a head": heads, "both": [heads, layer], "halved": pair}, **QUIET)
    assert named.sources == ("a head", "both", "halved")
    listed = token_reliance(gpt2, TEXT, [heads, pair], **QUIET)
    assert listed.sources == ("ablate heads 1.0", "blocks.0.hook_mlp_out: halve")
    tupled = token_reliance(gpt2, TEXT, (heads, pair), **QUIET)
    assert torch.equal(tupled.values, listed.values)
    alone = token_reliance(gpt2, TEXT, pair, **QUIET)
    assert torch.equal(listed.value("kl")[:, 0], named.value("kl")[:, 0])
    assert torch.equal(listed.value("kl")[:, 1], named.value("kl")[:, 2])
    assert torch.equal(alone.value("loss")[:, 0], named.value("loss")[:, 2])
    tokens = ids_of(gpt2)
    expected = compared(dense(gpt2, tokens), dense(gpt2, tokens, [*heads.hooks, *layer.hooks]), tokens, named.metrics)
    close(named.values[:, 1], expected, rtol=1e-3, atol=1e-3)
    assert dict(named.provenance.settings["on"])["both"] == ("ablate heads 1.0", "ablate attn_out.2")


def test_the_loss_is_that_of_token_surprisal(gpt2, texts):
    on = ablate("attn_out.1")
    found = token_reliance(gpt2, texts, on, metrics=("loss", "entropy"), **QUIET)
    plain = tle.token_surprisal(gpt2, texts, **QUIET)
    edited = tle.token_surprisal(gpt2, texts, interventions=on, **QUIET)
    close(found.value("loss", on.name), edited.surprisal - plain.surprisal)
    close(found.value("entropy", on.name), edited.entropy - plain.entropy)
    assert torch.equal(found.document, plain.document)


@pytest.mark.thinned
@pytest.mark.parametrize("on", [ablate("mlp_out.0"), "tokens"])
def test_any_batch_size_gives_the_same(gpt2, texts, on):
    one = token_reliance(gpt2, texts, on, metrics=METRICS, batch_size=1, **QUIET)
    for batch_size in (2, 3, None):
        same(token_reliance(gpt2, texts, on, metrics=METRICS, batch_size=batch_size, **QUIET), one)
    assert one.documents == (0, 1, 2, 3)


def test_an_edit_without_effect_is_at_zero(gpt2, texts):
    nothing = Intervention("nothing", (("blocks.1.hook_resid_post", lambda activation, hook: activation),))
    result = token_reliance(gpt2, texts, nothing, metrics=METRICS, **QUIET)
    assert torch.equal(result.values, torch.zeros_like(result.values))


@pytest.mark.parametrize("hidden", [mask_attention(5), occlude("embed", 5), occlude("resid_post.1", 5)], ids=lambda i: i.name)
def test_what_comes_before_a_hidden_token_does_not_change(gpt2, hidden):
    values = token_reliance(gpt2, [TEXT, TEXT[:20]], hidden, metrics=("l1", "loss", "kl"), **QUIET)
    before = values.position <= 5  # token 5 itself is predicted from those before it
    assert torch.equal(values.values[before], torch.zeros_like(values.values[before]))
    # Where only attention is masked, token 6 is predicted at position 5, which still sees itself.
    first = 7 if "mask" in hidden.name else 6
    later = values.position == first if "resid_post" in hidden.name else values.position >= first
    assert (values.value("l1")[later] > 0).all()


def test_tokens_are_each_masked_in_turn(gpt2, texts):
    result = token_reliance(gpt2, texts, "tokens", metrics=("kl", "loss"), **QUIET)
    assert result.over == "tokens"
    n = max(int(result.position[result.document == d].max()) for d in result.documents)
    # The token right before the one predicted still sees itself, so that hiding it says nothing: the last one is no source.
    assert result.sources == tuple(map(str, range(n - 1)))
    after = torch.arange(n - 1) < result.position[:, None] - 1
    assert torch.equal(result.values.isnan().any(-1), ~after)
    for position in (0, 3):
        one = token_reliance(gpt2, texts, mask_attention(position), metrics=("kl", "loss"), **QUIET).values[:, 0]
        there = after[:, position]
        close(result.values[there, position], one[there], rtol=1e-5, atol=1e-7)
        assert torch.equal(one[~there], torch.zeros_like(one[~there]))
    table = result.matrix("kl", document=1)
    assert table.shape == (len(table.columns) - 2, len(table.columns))
    assert table.index.tolist() == table.columns[:-2].tolist()
    assert (table.loc[0].iloc[2:] > 0).all()
    assert table.loc[0].iloc[:2].isna().all()
    assert (result.values[~result.values.isnan()] != 0).all()
    short = result.select(documents=0).mean_profile()
    assert short["tokens"].tolist()[0] == len(result.matrix("kl", document=0).columns) - 2


@pytest.mark.filterwarnings("ignore:nothing counts of")
def test_positions_are_those_of_the_tokens_predicted(gpt2, texts):
    whole = token_reliance(gpt2, texts, "tokens", metrics=("kl",), **QUIET)
    part = token_reliance(gpt2, texts, "tokens", metrics=("kl",), positions=slice(2, 4), **QUIET)
    assert set(part.position.tolist()) == {2, 3}
    assert part.sources == ("0", "1")
    rows = whole.rows(positions=[2, 3])
    close(part.values, whole.values[rows][:, :2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.filterwarnings("ignore:nothing counts of")
def test_tokens_that_no_source_can_change(gpt2, texts, position):
    with pytest.raises(InputError, match="no token that counts has one before it that could be its source"):
        token_reliance(gpt2, texts, "tokens", positions=position, **QUIET)


def test_windows_of_long_texts(gpt2):
    on = ablate("attn_out.1")
    long = token_reliance(gpt2, TEXT * 3, on, window=16, stride=4, metrics=("kl", "loss"), **QUIET)
    plain, edited = (tle.token_surprisal(gpt2, TEXT * 3, window=16, stride=4, interventions=one, **QUIET) for one in (None, on))
    close(long.value("loss", on.name), edited.surprisal - plain.surprisal)
    with pytest.raises(
        InputError, match=r"document 0 has .* tokens, more than a window; .*pass shorter texts, or a larger window"
    ):
        token_reliance(gpt2, TEXT * 3, "tokens", window=16, **QUIET)
    with pytest.raises(InputError, match="document 1 has"):
        token_reliance(gpt2, [TEXT, TEXT * 3], "tokens", window=32, positions=0, **QUIET)


def test_the_users_interventions_hold_for_both_runs(gpt2):
    # At one hook point, where removing the inner edit must not take the outer one away.
    outer, inner = ablate_heads([(1, 0)]), ablate_heads([(1, 2)])
    tokens = ids_of(gpt2)
    found = token_reliance(gpt2, [TEXT, TEXT], {"a": inner, "b": inner}, interventions=outer, batch_size=1, **QUIET)
    both = ablate_heads([(1, 0), (1, 2)])
    expected = compared(dense(gpt2, tokens, outer.hooks), dense(gpt2, tokens, both.hooks), tokens, found.metrics)
    for document in (0, 1):
        for source in (0, 1):
            close(found.values[found.document == document, source], expected, rtol=1e-3, atol=1e-3)
    assert found.provenance.settings["interventions"] == ("ablate heads 1.0",)
    # Given the model and not an adapter, the accumulator makes one of its own.
    alone = RelianceAccumulator(gpt2, {"a": inner, "b": inner})
    tle.stream(gpt2, TEXT, [alone], interventions=outer, count="predicted", **QUIET)
    for source in (0, 1):
        close(alone.compute().values[:, source], expected, rtol=1e-3, atol=1e-3)
    masked = token_reliance(gpt2, TEXT, inner, interventions=occlude("embed", 0), **QUIET)
    by_hand = tle.token_surprisal(gpt2, TEXT, interventions=[occlude("embed", 0), inner], **QUIET).surprisal
    by_hand = by_hand - tle.token_surprisal(gpt2, TEXT, interventions=occlude("embed", 0), **QUIET).surprisal
    close(masked.value("loss", inner.name), by_hand)


def test_the_model_is_left_as_it_was(gpt2):
    hooks = {name: len(point._forward_hooks) for name, point in gpt2.hook_dict.items()}
    before = dense(gpt2, ids_of(gpt2))
    token_reliance(gpt2, TEXT, [ablate("mlp_out.0"), mask_attention(2)], **QUIET)
    assert {name: len(point._forward_hooks) for name, point in gpt2.hook_dict.items()} == hooks
    assert torch.equal(dense(gpt2, ids_of(gpt2)), before)


def test_where_memory_runs_out_the_batch_is_cut(gpt2, texts, monkeypatch):
    on = ablate("mlp_out.0")
    expected = token_reliance(gpt2, texts, on, **QUIET)
    calls = []
    real = reliance_module.vocabulary_changes

    def short_of_memory(before, *rest, **options):
        calls.append(len(before))
        if len(before) > 15:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(before, *rest, **options)

    monkeypatch.setattr(reliance_module, "vocabulary_changes", short_of_memory)
    same(token_reliance(gpt2, texts, on, batch_size=4, **QUIET), expected)
    assert len(calls) > 2


def test_parts_of_a_corpus_merge_to_the_whole(gpt2, texts):
    whole = token_reliance(gpt2, texts, "tokens", **QUIET)
    halves = [RelianceAccumulator(gpt2, "tokens") for _ in range(2)]
    for half, some in zip(halves, (texts[:1], texts[1:]), strict=True):
        tle.stream(gpt2, some, [half], count="predicted", **QUIET)
    halves[0].merge(halves[1])
    same(halves[0].compute(), whole)
    assert halves[0].compute().texts == whole.texts
    with pytest.raises(InputError, match="cannot merge: metrics is"):
        halves[0].merge(RelianceAccumulator(gpt2, "tokens", metrics=("kl",)))
    with pytest.raises(InputError, match="cannot merge: sources is"):
        halves[0].merge(RelianceAccumulator(gpt2, ablate("mlp_out.0")))


def test_other_models_can_mask_tokens_too():
    model = cached_model("llama", "bridge")
    assert (token_reliance(model, TEXT, "tokens", metrics=("kl",), **QUIET).matrix().loc[0].iloc[2:] > 0).all()


def test_a_run_without_a_source_that_is_not_finite(gpt2, texts):
    def broken(activation, hook):
        return activation / 0 if activation.shape[1] > 6 else activation

    on = Intervention("break it", (("blocks.1.hook_mlp_out", broken),))
    with pytest.raises(
        NonFiniteError, match=r"resid_post has a NaN.* at document 0, the begin token when .*run with 'break it'$"
    ):
        token_reliance(gpt2, texts, on, batch_size=1, **QUIET)
    with pytest.raises(NonFiniteError, match="at document 0, position 4 when"):
        token_reliance(gpt2, texts, on, batch_size=1, positions=5, **QUIET)
    with pytest.raises(NonFiniteError) as error:
        token_reliance(gpt2, ["the", *texts], on, batch_size=1, **QUIET)
    assert error.value.partial.documents == (0,)


def test_refusals(gpt2):
    ask = {**QUIET, "metrics": ("kl",)}
    with pytest.raises(InputTypeError, match=r"on must be an intervention, .* or 'tokens'; got 'heads'"):
        token_reliance(gpt2, TEXT, "heads", **ask)
    for wrong in (3, [3], ["mlp_out.0"], None, np.array([1, 2]), np.array("tokens")):
        with pytest.raises(InputTypeError, match="on must be an intervention"):
            token_reliance(gpt2, TEXT, wrong, **ask)
    for none in ([], {}, {"nothing": []}):
        with pytest.raises(InputError, match="on must name at least one intervention; got none"):
            token_reliance(gpt2, TEXT, none, **ask)
    with pytest.raises(InputError, match=r"on: two sources are called 'ablate mlp_out\.0'"):
        token_reliance(gpt2, TEXT, [ablate("mlp_out.0"), ablate("mlp_out.0")], **ask)
    with pytest.raises(InputError, match="on: two sources have the same name; got 1, '1'"):
        token_reliance(gpt2, TEXT, {1: ablate("mlp_out.0"), "1": ablate("mlp_out.1")}, **ask)
    with pytest.raises(InputError, match=r"metrics must be one of 'l1'.*; got 'L2'"):
        token_reliance(gpt2, TEXT, ablate("mlp_out.0"), metrics=("L2",), **QUIET)
    with pytest.raises(InputError, match="does not exist"):
        token_reliance(gpt2, TEXT, ablate_heads([(9, 0)]), **ask)
    with pytest.raises(InputError, match="edits ln_final"):
        token_reliance(gpt2, TEXT, ("ln_final.hook_scale", lambda activation, hook: None), **ask)
    with pytest.raises(ModelError, match="never fired"):
        token_reliance(gpt2, TEXT, ("blocks.1.attn.hook_result", lambda activation, hook: None), **ask)
    with pytest.raises(InputTypeError, match="'max_new_tokens' is not an option"):
        token_reliance(gpt2, TEXT, ablate("mlp_out.0"), max_new_tokens=3, **ask)
    _, cache = gpt2.run_with_cache(ids_of(gpt2))
    with pytest.raises(InputError, match="nothing runs on a cache; pass the texts or tokens"):
        token_reliance(gpt2, (cache, ids_of(gpt2)), ablate("mlp_out.0"), **ask)


def test_token_ids_and_files_keep_their_names(gpt2, tmp_path):
    on = ablate("mlp_out.0")
    ids = token_reliance(gpt2, ids_of(gpt2), on, **QUIET)
    same(ids, token_reliance(gpt2, TEXT, on, **QUIET))
    (tmp_path / "cat.txt").write_text(TEXT)
    assert token_reliance(gpt2, tmp_path / "cat.txt", on, **QUIET).names == {0: "cat.txt"}
    assert math.isclose(ids.mean_profile()["mean"][0], float(ids.value("l1").mean()), rel_tol=1e-12)


def test_positions_that_no_document_has_are_warned_of(gpt2):
    far = occlude("embed", 40)
    with pytest.warns(UserWarning, match="'occlude embed at 40 to 0' edited nothing"):
        found = token_reliance(gpt2, TEXT, [far, ablate("mlp_out.0")], metrics=("kl",), **QUIET)
    assert torch.equal(found.value("kl", far.name), torch.zeros(found.n_tokens, dtype=torch.float64))
    # Another one may have seen documents that have them, and the whole is not at 0.
    accumulators = [RelianceAccumulator(gpt2, occlude("embed", 5), metrics=("kl",)) for _ in range(2)]
    for one, text in zip(accumulators, ("the cat", TEXT), strict=True):
        tle.stream(gpt2, text, [one], count="predicted", **QUIET)
    accumulators[0].merge(accumulators[1])
    assert accumulators[0].compute().values.any()
