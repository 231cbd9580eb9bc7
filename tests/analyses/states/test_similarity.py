"""Similarity of layers in one pass against all states gathered first, in one model and between two."""

from __future__ import annotations

import pytest
import torch
from letters import Shuffled
from tiny_models import cached_model, kinds, make_model

import tl_entropy as tle
from tl_entropy.analyses.states import cka as cka_module
from tl_entropy.analyses.states.cka import CKAAccumulator
from tl_entropy.analyses.states.document_states import DocumentStates
from tl_entropy.analyses.states.matrix_similarity import QUANTITIES, MatrixAccumulator, matrix_similarities
from tl_entropy.analyses.states.similarity import layer_similarity
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.states.rows import spread_floor
from tl_entropy.functional.states.similarity import cka_scores, cka_table
from tl_entropy.functional.states.similarity_sums import BlockSums
from tl_entropy.functional.statistics import sampled_error
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

QUIET = {"progress": False}
SITES = [Site("embed", -1), *(Site("resid_post", i) for i in range(3))]
LAST = SITES[-1]


@pytest.fixture
def model():
    return cached_model("gpt2", kinds()[0])


@pytest.fixture
def other():
    """Another model of the same tokens: of other weights where there are bridges."""
    return cached_model("llama", "bridge") if "bridge" in kinds() else cached_model("gpt2", "hooked", True)


def hook(site):
    return "blocks.0.hook_resid_pre" if site.name == "embed" else f"blocks.{site.layer}.hook_{site.name}"


@torch.no_grad()
def gathered(model, texts, sites=SITES, tokenizer=None):
    """Of each text and site the states [pos, d_model] in float64, but for the begin token."""
    found = []
    for text in texts:
        ids = (tokenizer or model.tokenizer)(text, add_special_tokens=False)["input_ids"]
        _, cache = model.run_with_cache(torch.tensor([[0, *ids]]))
        found.append([cache[hook(site)][0, 1:].double() for site in sites])
    return found


def all_rows(found):
    """Of each site the states of all texts."""
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def close(mine, theirs, atol=1e-6):
    torch.testing.assert_close(mine, theirs, atol=atol, rtol=0, equal_nan=True)


def planted(position, size=5000.0, at="blocks.1.hook_resid_pre"):
    """A massive component at one column of every window."""

    def plant(activation, hook):
        activation = activation.clone()
        activation[:, position, 3] = size
        return activation

    return at, plant


# --- tokens of one model


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_with_the_output_is_that_of_all_states_at_once(any_model, texts, debiased):
    result = layer_similarity(any_model, texts, debiased=debiased, prepend_bos=True, batch_size=3, **QUIET)
    rows = all_rows(gathered(any_model, texts))
    close(result.value(), cka_table(rows, rows[-1:], debiased=debiased))
    assert (result.rows, result.columns, result.against) == (tuple(SITES), (LAST,), "output")
    assert (result.method, result.quantities, result.units, result.over) == ("cka", ("cka",), ("",), "tokens")
    assert (result.count, result.documents, result.massive, result.massive_tokens) == (len(rows[0]), 4, "keep", 0)
    assert result.values.dtype == torch.float64
    assert result.other is None
    settings = result.provenance.settings
    assert (settings["debiased"], settings["estimator"], settings["against"]) == (debiased, "exact", "output")
    assert settings["method"] == "cka"


def test_every_pair_of_layers(model, texts):
    result = layer_similarity(model, texts, against="all", sites=("embed", "attn_out", "resid_post"), **QUIET)
    values = result.value()
    assert result.rows == result.columns
    assert len(result.rows) == 7
    close(values.diagonal(), torch.ones(7).double(), 1e-12)
    close(values, values.T, 1e-12)
    rows = all_rows(gathered(model, texts, result.rows))
    close(values, cka_table(rows, rows))
    single = layer_similarity(model, texts, against=["embed", "attn_out.1"], layers=[2], sites="resid_post", **QUIET)
    close(single.value(), values[-1:, [0, list(result.rows).index(Site("attn_out", 1))]])
    assert single.against == "embed, attn_out.1"


def test_every_batch_size_gives_the_same(model, texts):
    for options in ({}, {"estimator": "minibatch"}, {"against": "all", "debiased": False}):
        whole = layer_similarity(model, texts, batch_size=4, **options, **QUIET)
        for batch_size in (1, 3):
            close(layer_similarity(model, texts, batch_size=batch_size, **options, **QUIET).values, whole.values)
    close(layer_similarity(model, texts, window=9, stride=4, batch_size=2, **QUIET).values,
          layer_similarity(model, texts, window=9, stride=4, batch_size=7, **QUIET).values)  # fmt: skip


def measured(model, texts, **options):
    accumulator = CKAAccumulator(model, **options)
    tle.stream(model, texts, [accumulator], batch_size=2, **QUIET)
    return accumulator


@pytest.mark.thinned
@pytest.mark.parametrize("options", [{}, {"estimator": "minibatch", "block": 5}], ids=["exact", "minibatch"])
def test_merged_shards(model, texts, options):
    first, second = measured(model, texts[:2], **options), measured(model, texts[2:], **options)
    before = second.compute().values
    first.merge(second)
    merged, whole = first.compute(), measured(model, texts, **options).compute()
    assert (merged.count, merged.documents) == (whole.count, whole.documents)
    if not options:
        close(merged.values, whole.values, 1e-9)
    assert torch.equal(second.compute().values, before)
    again = measured(model, texts[:1], **options)
    again.merge(first)
    assert again.compute().documents == 5
    with pytest.raises(InputError, match="cannot merge: massive is 'keep' here and 'drop' there"):
        measured(model, texts, **options).merge(CKAAccumulator(model, massive="drop", **options))
    for name, part in (
        ("model", CKAAccumulator(tle.demo_model(), **options)),
        ("other", CKAAccumulator(model, other=model, **options)),
        ("against", CKAAccumulator(model, against="resid_post.2", **options)),
    ):
        with pytest.raises(InputError, match=f"cannot merge: {name} is"):
            again.merge(part)
    with pytest.raises(InputError, match="cannot merge: estimator"):
        measured(model, texts).merge(CKAAccumulator(model, estimator="minibatch"))


def test_blocks_of_the_corpus(model, texts):
    rows = all_rows(gathered(model, texts))
    count = len(rows[0])
    block = next(block for block in range(5, count) if 0 < count % block < 4)  # too few are left for a block of their own
    result = measured(model, texts, estimator="minibatch", block=block).compute()
    sums = BlockSums(range(4), block)
    sums.update(dict(enumerate(rows)))
    close(result.value(), sums.cka(range(4), [3]))
    settings = result.provenance.settings
    assert (settings["block"], settings["left_out_rows"]) == (block, count % block)
    assert result.count == count - count % block


def test_positions_and_generated_text(model, texts):
    rows = all_rows([[x[:4] for x in text] for text in gathered(model, texts)])
    close(layer_similarity(model, texts, positions=slice(4), **QUIET).value(), cka_table(rows, rows[-1:]))
    more = layer_similarity(model, texts, max_new_tokens=5, **QUIET)
    assert more.count == layer_similarity(model, texts, **QUIET).count + 20


def test_a_cache_is_read(model, texts):
    tokens = torch.tensor([[0, *model.tokenizer(texts[1], add_special_tokens=False)["input_ids"]]])
    _, cache = model.run_with_cache(tokens)
    result = layer_similarity(model, (cache, tokens), **QUIET)
    close(result.value(), layer_similarity(model, texts[1], **QUIET).value())


def test_interventions_are_measured(model, texts):
    plain = layer_similarity(model, texts, **QUIET)
    edited = layer_similarity(model, texts, interventions=tle.ablate("mlp_out.0"), **QUIET)
    assert (plain.value()[1:3] - edited.value()[1:3]).abs().max() > 1e-3
    assert "interventions" in edited.provenance.settings


@pytest.mark.thinned
@pytest.mark.parametrize(
    "options", [{}, {"estimator": "minibatch"}, {"debiased": False}, {"rows": "documents"}, {"method": "matrix_renyi"},
                {"method": "matrix_renyi", "rows": "documents", "permutations": 2}, {"method": "neighbours", "k": 3},
                {"method": "neighbours", "rows": "documents", "k": 3}],
)  # fmt: skip
def test_states_that_differ_by_rounding_have_no_similarity(model, texts, options):
    alike = ["the " + "cat " * k for k in range(1, 30)]
    for batch_size in (3, 29):
        result = layer_similarity(model, alike, positions=[0], batch_size=batch_size, **options, **QUIET)
        assert result.values.isnan().all(), batch_size
    result = layer_similarity(model, [*alike, "dog", "def", "x", "mat", *"abcd" * 9], positions=[0], **options, **QUIET)
    assert not result.values.isnan().any()


def test_merged_shards_of_one_state_have_no_similarity(model):
    alike = ["the " + "cat " * k for k in range(1, 12)]
    parts = [CKAAccumulator(model) for _ in range(2)]
    for part, its in zip(parts, (alike[:5], alike[5:]), strict=True):
        tle.stream(model, its, [part], positions=[0], **QUIET)
    parts[0].merge(parts[1])
    assert parts[0].compute().values.isnan().all()
    tle.stream(model, ["dog", "x", "def", "mat"], [parts[1]], positions=[0], **QUIET)
    parts[0].merge(parts[1])
    assert not parts[0].compute().values.isnan().any()


@pytest.mark.parametrize("options", [{}, {"against": "all"}, {"debiased": False}, {"rows": "documents"}], ids=str)
def test_errors_of_cka_are_those_of_what_each_row_adds(model, texts, options):
    result = layer_similarity(model, texts, **options, **QUIET)
    parts = gathered(model, texts)
    rows = all_rows(parts)
    document = torch.cat([torch.full((len(part[0]),), i) for i, part in enumerate(parts)])
    if options.get("rows"):
        rows = [torch.stack([part[i].mean(0) for part in parts]) for i in range(len(rows))]
        document = torch.arange(len(parts))
    columns = rows if options.get("against") else rows[-1:]
    scores = cka_scores(rows, columns, debiased=options.get("debiased", True))
    close(result.error(), sampled_error(scores, document, len(document)), 1e-4)
    assert "± standard error" in repr(result) or "standard errors in to_pandas()" in repr(result)
    assert result.to_pandas()["se"].notna().any()
    assert "±" in repr(result) or options.get("against")


def test_errors_of_merged_shards_and_streams_are_those_of_the_whole(model, texts):
    whole, both, again = CKAAccumulator(model), [CKAAccumulator(model) for _ in range(2)], CKAAccumulator(model)
    tle.stream(model, texts, [whole], **QUIET)
    for part, its in zip(both, (texts[:2], texts[2:]), strict=True):
        tle.stream(model, its, [part], **QUIET)
        tle.stream(model, its, [again], **QUIET)
    both[0].merge(both[1])
    for other in (both[0], again):
        close(other.compute().error(), whole.compute().error(), 1e-9)


# --- massive states


def test_massive_tokens_are_counted_and_left_out(model, texts):
    edits = {"interventions": [planted(2)], "prepend_bos": True}
    kept = layer_similarity(model, texts, sites="resid_post", layers=[1, 2], against="all", **edits, **QUIET)
    dropped = layer_similarity(model, texts, sites="resid_post", layers=[1, 2], against="all", massive="drop", **edits, **QUIET)
    touched = sum(len(rows[0]) > 1 for rows in gathered(model, texts))
    assert kept.massive_tokens == dropped.massive_tokens == touched > 0
    assert dropped.count == kept.count - touched
    assert kept.value()[0, 1] > 0.99  # as they outweigh all else
    assert dropped.value()[0, 1] < kept.value()[0, 1]
    normalised = layer_similarity(
        model, texts, sites="resid_post", layers=[1, 2], against="all", massive="normalise", **edits, **QUIET
    )
    assert (normalised.massive_tokens, normalised.count) == (touched, kept.count)
    rows = [rows / rows.norm(dim=1, keepdim=True) for rows in all_rows(gathered(model, texts))]
    plain = layer_similarity(model, texts, massive="normalise", **QUIET)
    close(plain.value(), cka_table(rows, rows[-1:]))
    assert plain.massive_tokens == 0


# --- two models


def test_two_models_of_the_same_tokens(model, other, texts):
    result = layer_similarity(model, texts, other=other, against="all", prepend_bos=True, batch_size=3, **QUIET)
    mine, theirs = all_rows(gathered(model, texts)), all_rows(gathered(other, texts, tokenizer=model.tokenizer))
    close(result.value(), cka_table(mine, theirs))
    assert result.provenance.weights != result.other.weights
    assert (result.rows, result.columns) == (tuple(SITES), tuple(SITES))
    back = layer_similarity(other, texts, other=model, against="all", prepend_bos=True, **QUIET)
    close(back.value().T, result.value())
    blocks = layer_similarity(model, texts, other=other, estimator="minibatch", prepend_bos=True, **QUIET)
    close(blocks.value(), result.value()[:, -1:])  # a single block


def test_a_model_and_itself(model, texts):
    alone = layer_similarity(model, texts, against="all", **QUIET)
    twice = layer_similarity(model, texts, against="all", other=model, **QUIET)
    close(twice.value(), alone.value())
    assert twice.other.weights == alone.provenance.weights
    with pytest.raises(InputError, match="interventions: other is the same model"):
        layer_similarity(model, texts, other=tle.Adapter(model), interventions=tle.ablate("mlp_out.0"), **QUIET)


@pytest.mark.parametrize("rows", ["tokens", "documents"])
def test_interventions_edit_the_model_alone(model, texts, rows):
    copy = make_model("gpt2", kinds()[0])
    edits = {"interventions": tle.ablate("mlp_out.0"), "rows": rows}
    edited = layer_similarity(model, texts, other=copy, against="all", **edits, **QUIET)
    plain = layer_similarity(model, texts, other=copy, against="all", rows=rows, **QUIET)
    close(plain.value().diagonal(), torch.ones(4).double())
    assert edited.value()[0, 0] == pytest.approx(1)  # the embedding comes before
    assert edited.value()[1, 1] < 0.999
    assert "interventions" not in edited.other.settings


# --- documents


def test_documents_are_the_means_of_their_states(model, texts):
    texts = [*texts, "cat", "x + y\nreturn"]
    result = layer_similarity(model, texts, rows="documents", against="all", batch_size=2, **QUIET)
    means = [torch.stack([x.mean(0) for x in parts]) for parts in zip(*gathered(model, texts), strict=True)]
    close(result.value(), cka_table(means, means))
    assert (result.over, result.count, result.documents) == ("documents", 6, 6)
    close(layer_similarity(model, texts, rows="documents", **QUIET).value(), result.value()[:, -1:])
    biased = layer_similarity(model, texts, rows="documents", debiased=False, **QUIET)
    close(biased.value(), cka_table(means, means[-1:], debiased=False))
    blocks = layer_similarity(model, texts, rows="documents", estimator="minibatch", **QUIET)
    close(blocks.value(), result.value()[:, -1:])
    one = layer_similarity(model, (text for text in texts), rows="documents", **QUIET)  # one pass will do
    close(one.value(), result.value()[:, -1:])


def test_models_of_different_tokens_are_compared_over_documents(model):
    demo, texts = tle.demo_model(), ["import os", "def f(x):\n    return x", "", "the cat sat", "for i in range(3):", "a = b"]
    with pytest.warns(UserWarning, match="1 empty document was skipped: number"):
        result = layer_similarity(model, texts, other=demo, rows="documents", against="all", **QUIET)
    present = [text for text in texts if text]
    mine = [torch.stack([x.mean(0) for x in parts]) for parts in zip(*gathered(model, present), strict=True)]
    sites = tle.Adapter(demo).sites(("embed", "resid_post"))
    theirs = [torch.stack([x.mean(0) for x in parts]) for parts in zip(*gathered(demo, present, sites), strict=True)]
    close(result.value(), cka_table(mine, theirs), 1e-5)  # padding rounds float32 otherwise
    assert (result.count, result.columns, result.other.model) == (5, sites, demo.cfg.model_name)
    with pytest.raises(InputError, match="rows='documents'"):
        layer_similarity(model, texts, other=demo, **QUIET)
    ids = torch.arange(1, 21).view(5, 4)
    for given, new in ((ids, 0), (ids, 2), ([*present, ids], 2)):  # ids mean something else to each
        with pytest.raises(InputError, match=r"inputs hold token ids, .*; give texts"):
            layer_similarity(model, given, other=demo, rows="documents", max_new_tokens=new, **QUIET)
    for once in (iter(texts), [iter(texts)]):
        with pytest.raises(InputError, match="neither an iterator nor a cache"):
            layer_similarity(model, once, other=demo, rows="documents", **QUIET)


def test_documents_are_paired_with_themselves(model, texts):
    orders = [texts, texts[::-1]]
    for again in (texts[::-1], texts[1:], [*texts, "more"]):
        with pytest.raises(InputError, match=r"inputs changed between two readings: .*pass a list"):
            layer_similarity(model, Shuffled(texts, again), other=tle.demo_model(), rows="documents", **QUIET)
    found = layer_similarity(model, Shuffled(texts, texts), other=model, rows="documents", **QUIET)
    close(found.value(), layer_similarity(model, texts, rows="documents", **QUIET).value())
    assert layer_similarity(model, Shuffled(*orders), rows="documents", **QUIET).documents == len(texts), "read once"


@pytest.mark.long
def test_what_models_of_different_tokens_write_is_compared_over_documents(model):
    demo, texts = tle.demo_model(), ["import os", "def f(x):\n    return x", "the cat sat", "for i in range(3):", "a = b"]
    given = {"rows": "documents", "against": "all", "max_new_tokens": 3}
    result = layer_similarity(model, texts, other=demo, **given, **QUIET)
    assert (result.count, result.provenance.corpus["ids"], result.other.corpus["ids"]) == (5, False, False)
    rows = tle.Adapter(model).sites(("embed", "resid_post"))
    columns = tle.Adapter(demo).sites(("embed", "resid_post"))
    x, y = ([written(one, text, sites) for text in texts] for one, sites in ((model, rows), (demo, columns)))
    mine, theirs = ([torch.stack(parts) for parts in zip(*found, strict=True)] for found in (x, y))
    close(result.value(), cka_table(mine, theirs), 1e-5)


def written(model, text, sites):
    """The mean states at ``sites`` of a text and three tokens that the model writes after it, without the begin token."""
    adapter = tle.Adapter(model)
    tokens = model.to_tokens(text, prepend_bos=True)
    whole = adapter.generate(tokens, 3, temperature=0.0, seed=0).tokens
    _, cache = model.run_with_cache(whole)
    found = adapter.cached_activations(cache, sites)
    counted = ~torch.isin(whole[0], torch.tensor(sorted(adapter.special_ids)))
    return [found[site][0, counted].double().mean(0) for site in sites]


@pytest.mark.parametrize("massive", ["drop", "normalise"])
def test_massive_states_of_documents(model, texts, massive):
    edits = {"interventions": [planted(1)], "prepend_bos": True}
    given = {"rows": "documents", "sites": "resid_post", "layers": [1, 2], "against": "all"}
    result = layer_similarity(model, texts[:2] * 3, massive=massive, **given, **edits, **QUIET)
    assert result.massive_tokens == 6  # the first token of each
    found = gathered(model, texts[:2] * 3, result.rows) if massive == "normalise" else None
    plain = layer_similarity(model, texts[:2] * 3, massive=massive, **given, prepend_bos=True, **QUIET)
    assert plain.massive_tokens == 0
    if found:
        means = [torch.stack([(x / x.norm(dim=1, keepdim=True)).mean(0) for x in parts]) for parts in zip(*found, strict=True)]
        close(plain.value(), cka_table(means, means))
    else:
        later = layer_similarity(model, texts[:2] * 3, positions=slice(1, None), **given, **edits, **QUIET)
        assert later.massive_tokens == 0
        close(result.value(), later.value())


def test_merged_document_states(model, texts):
    def measured(texts):
        states = DocumentStates(tle.Adapter(model), SITES, "drop")
        tle.stream(model, texts, [states], interventions=[planted(1)], **QUIET)
        return states

    first, whole = measured(texts[:2]), measured(texts).compute()
    first.merge(measured(texts[2:]))
    merged = first.compute()
    assert merged.documents == whole.documents
    assert merged.massive_tokens == whole.massive_tokens > 0
    for site in SITES:
        close(merged.states[site], whole.states[site])
    with pytest.raises(InputError, match="cannot merge: massive is 'drop' here and 'keep' there"):
        first.merge(DocumentStates(tle.Adapter(model), SITES, "keep"))
    assert merged.floor == whole.floor == spread_floor(torch.float32)


# --- matrix-based information


def test_matrix_based_information_of_tokens(model, texts):
    options = {"order": 2.0, "permutations": 5, "n_samples": 20, "seed": 3}
    result = layer_similarity(model, texts, method="matrix_renyi", against="all", **options, **QUIET)
    accumulator = MatrixAccumulator(model, against="all", **options)
    tle.stream(model, texts, [accumulator], **QUIET)
    close(result.values, accumulator.compute().values, 1e-9)
    assert (result.method, result.count, result.quantities) == ("matrix_renyi", 20, QUANTITIES)
    assert result.provenance.settings["method"] == "matrix_renyi"


def test_matrix_based_information_of_documents(model, other, texts):
    texts = [*texts, "cat", "x + y\nreturn"]
    options = {"order": 2.0, "permutations": 5}
    result = layer_similarity(
        model, texts, method="matrix_renyi", other=other, rows="documents", seed=3, prepend_bos=True, **options, **QUIET
    )
    found = gathered(model, texts), gathered(other, texts, tokenizer=model.tokenizer)
    mine, theirs = ([torch.stack([x.mean(0) for x in parts]) for parts in zip(*of, strict=True)] for of in found)
    tables = matrix_similarities(mine, theirs[-1:], seed=3, **options)
    for name in ("dime", "mutual_information", "joint_entropy", "permuted_joint_entropy", "deviation"):
        close(result.value(name), tables[name], 1e-5)
    close(result.value("entropy"), tables["row_entropy"][:, None], 1e-5)
    assert (result.units, result.count) == (("nats",) * 6, 6)
    assert result.provenance.settings["order"] == 2.0


# --- what is refused


def test_refused(model, texts):
    for options, message in [
        ({"method": "cca"}, "method must be one of 'cka', 'matrix_renyi', 'neighbours'"),
        ({"k": 3}, "k belongs to method='neighbours'; leave it out with method='cka'"),
        ({"n_samples": 30}, "n_samples belongs to method='matrix_renyi' or 'neighbours' and rows='tokens'"),
        ({"method": "neighbours", "permutations": 3}, "permutations belongs to method='matrix_renyi'"),
        ({"method": "neighbours", "k": 0}, "k must be"),
        ({"method": "neighbours", "n_samples": 10}, "n_samples must be"),
        ({"method": "neighbours", "rows": "documents", "k": 7}, "needs at least 8 documents"),
        ({"rows": "words"}, "rows must be one of 'tokens', 'documents'"),
        ({"order": 2.0}, "order belongs to method='matrix_renyi'; leave it out with method='cka'"),
        ({"permutations": 5}, "permutations belongs to method='matrix_renyi'"),
        ({"method": "matrix_renyi", "debiased": False}, "debiased belongs to method='cka'"),
        ({"method": "matrix_renyi", "estimator": "minibatch"}, "estimator belongs to method='cka'"),
        ({"method": "matrix_renyi", "rows": "documents", "n_samples": 9}, "n_samples belongs to .* and rows='tokens'"),
        ({"estimator": "fast"}, "estimator must be one of 'exact', 'minibatch'"),
        ({"estimator": "minibatch", "debiased": False}, "debiased=False is for estimator='exact'"),
        ({"rows": "documents", "estimator": "minibatch", "debiased": False}, "debiased=False is for estimator='exact'"),
        ({"rows": "documents", "estimator": "fast"}, "estimator must be one of"),
        ({"sites": "z"}, "has a head axis"),
        ({"positions": 0, "inputs": "the"}, "cka needs at least 4 tokens to compare; 1 could be counted"),
        ({"rows": "documents", "inputs": ["the"] * 3}, "cka needs at least 4 documents to compare; 3 could be counted"),
    ]:  # fmt: skip
        inputs = options.pop("inputs", texts)
        with pytest.raises(InputError, match=message):
            layer_similarity(model, inputs, **options, **QUIET)
    with pytest.raises(InputTypeError, match="'blok' is not an option"):
        layer_similarity(model, texts, blok=3)
    with pytest.raises(InputError, match="block belongs to estimator='minibatch'"):
        CKAAccumulator(model, block=9)
    with pytest.raises(InputError, match="block must be an int of at least 4"):
        CKAAccumulator(model, estimator="minibatch", block=3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order": -1.0}, InputError, "order must be one number"),
        ({"order": (1.0, 2.0)}, InputTypeError, "order must be one number"),
        ({"order": "two"}, InputTypeError, "order must be one number"),
        ({"permutations": 1}, InputError, "permutations must be an int of at least 2"),
        ({"seed": -1}, InputError, "seed must be"),
    ],
)
def test_options_of_documents_are_looked_at_before_the_first_pass(model, texts, monkeypatch, options, error, message):
    monkeypatch.setattr("tl_entropy.analyses.states.similarity.measure", None)  # no pass is made
    with pytest.raises(error, match=message):
        layer_similarity(model, texts, rows="documents", method="matrix_renyi", **options, **QUIET)


def test_sums_that_are_too_large_are_refused(model, monkeypatch):
    accumulator = CKAAccumulator(model, against="all")
    assert accumulator.memory() == 10 * 34 * 34 * 8 + 4 * 2000 * 32 * 4  # 4 sites, each with itself and each other; tokens
    assert CKAAccumulator(model).memory() == 7 * 34 * 34 * 8 + 4 * 2000 * 32 * 4
    assert CKAAccumulator(model, estimator="minibatch", block=10).memory() == 4 * 10 * (32 + 10) * 8
    monkeypatch.setattr(cka_module, "LARGEST", accumulator.memory() - 1)
    with pytest.raises(InputError, match=r"of 4 x 4 sites would take .* GiB.*against='output', .*estimator='minibatch'"):
        CKAAccumulator(model, against="all")
    CKAAccumulator(model)


def test_what_came_before_a_failure_is_kept(model, texts):
    def fail(activation, hook):
        return activation * torch.inf if activation.shape[1] > 20 else activation

    long = "the cat sat on the mat, and the dog sat on the cat" * 2
    edits = {"interventions": [("blocks.1.hook_mlp_out", fail)], "batch_size": 1}
    with pytest.raises(NonFiniteError) as caught:
        layer_similarity(model, [*texts[:2], long], **edits, **QUIET)
    close(caught.value.partial.value(), layer_similarity(model, texts[:2], **QUIET).value())
    with pytest.raises(NonFiniteError) as caught:
        layer_similarity(model, [*texts[:2], long], rows="documents", **edits, **QUIET)
    assert caught.value.partial is None


def test_interrupted(model, other, texts):
    def stop(activation, hook):
        raise KeyboardInterrupt

    edits = {"interventions": [("blocks.1.hook_mlp_out", stop)], **QUIET}
    with pytest.warns(UserWarning, match="interrupted after 0 tokens"):
        result = layer_similarity(model, texts, **edits)
    assert result.provenance.interrupted
    assert result.values.isnan().all()
    with pytest.warns(UserWarning, match="interrupted"), pytest.raises(KeyboardInterrupt):
        layer_similarity(model, texts, other=other, rows="documents", **edits)  # parts of two models don't fit together
