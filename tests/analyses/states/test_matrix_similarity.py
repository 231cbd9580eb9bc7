"""Matrix-based information of layers: against the functions on the same rows, and every way of cutting up the same input."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import cached_model, make_model

import tl_entropy as tle
from tl_entropy.analyses.states.matrix_similarity import (
    QUANTITIES,
    MatrixAccumulator,
    matrix_similarities,
)
from tl_entropy.analyses.states.sampling import TokenSample
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.states.matrix_information import dime
from tl_entropy.results.states.similarity import LayerSimilarity
from tl_entropy.sites import Site

QUIET = {"progress": False}
FEW = {"permutations": 4}
WITH_ERROR = ("dime", "mutual_information", "entropy", "joint_entropy")
TABLES = ("dime", "mutual_information", "joint_entropy", "permuted_joint_entropy", "deviation")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def model():
    return cached_model("gpt2", "bridge")


def measured(model, texts, *, accumulator=None, batch_size=None, positions=None, **options):
    accumulator = accumulator or MatrixAccumulator(model, **{**FEW, **options})
    tle.stream(model, texts, [accumulator], batch_size=batch_size, positions=positions, **QUIET)
    return accumulator.compute()


@torch.no_grad()
def states(model, texts, site):
    """[token, d_model] of a site, without begin tokens, straight from the model's cache."""
    rows = []
    for text in texts:
        tokens = torch.tensor([[0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        _, cache = model.run_with_cache(tokens)
        hook = "blocks.0.hook_resid_pre" if site.name == "embed" else f"blocks.{site.layer}.hook_{site.name}"
        rows.append(cache[hook][0, 1:])
    return torch.cat(rows)


def close(mine, theirs, atol=1e-6):
    torch.testing.assert_close(mine, theirs, atol=atol, rtol=0, equal_nan=True)


# --- tables of tensors


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("order", [1.01, 2])
def test_every_entry_of_the_tables_is_that_of_the_pair(order, kernel):
    x = [normal(20, 4, seed=1), normal(20, 6, seed=2)]
    y = [x[0] @ normal(4, 3, seed=5), normal(20, 5, seed=4), x[1].float()]
    options = {"order": order, "seed": 3, "kernel": kernel, "permutations": 5}
    tables = matrix_similarities(x, y, **options)
    paired = {f"{name}_{what}" for name in WITH_ERROR for what in ("covariance", "scores")}
    assert set(tables) == {*TABLES, *paired, "row_entropy", "column_entropy"}
    for i, one in enumerate(x):
        for j, two in enumerate(y):
            pair = dime(one, two, **options)
            for name in TABLES:
                assert tables[name].shape == (2, 3)
                assert tables[name].dtype == torch.float64
                assert tables[name][i, j].item() == pytest.approx(getattr(pair, name), abs=1e-12)
            assert tables["row_entropy"][i].item() == pytest.approx(pair.entropy_x, abs=1e-12)
            assert tables["column_entropy"][j].item() == pytest.approx(pair.entropy_y, abs=1e-12)


def test_sets_against_themselves_give_symmetric_tables():
    x = [normal(15, 3, seed=seed) for seed in range(3)]
    own, other = matrix_similarities(x, x, **FEW), matrix_similarities(x, list(x), **FEW)
    for name in TABLES:
        assert torch.equal(own[name], own[name].T)
        close(own[name].triu(), other[name].triu(), 1e-12)
    close(other["mutual_information"], own["mutual_information"], 1e-12)
    assert torch.equal(own["row_entropy"], own["column_entropy"])


def test_sets_of_equal_rows_have_no_value_and_cost_no_other():
    x, constant = normal(10, 3), torch.ones(10, 2)
    tables = matrix_similarities([x, constant], [x, constant], **FEW)
    alone = matrix_similarities([x], [x], **FEW)
    for name in TABLES:
        assert tables[name].isnan().tolist() == [[False, True], [True, True]]
        close(tables[name][:1, :1], alone[name], 1e-12)
    assert tables["row_entropy"].isnan().tolist() == tables["column_entropy"].isnan().tolist() == [False, True]


def test_sets_that_cannot_be_compared():
    x = normal(10, 3)
    with pytest.raises(InputError, match="one set of states or more; got 0 and 1"):
        matrix_similarities([], [x])
    with pytest.raises(InputError, match=r"equally many in each set; got .*'y\[1\]': 9"):
        matrix_similarities([x], [x, x[:9]])
    with pytest.raises(NonFiniteError, match=r"x\[1\] has a NaN or an infinity in row 0"):
        matrix_similarities([x, x * math.nan], [x])
    with pytest.raises(InputError, match="permutations must be an int of at least 2"):
        matrix_similarities([x], [x], permutations=1)
    with pytest.raises(InputError, match="kernel must be one of"):
        matrix_similarities([x], [x], kernel="rbf")


@pytest.mark.parametrize("threads", [1, 3])
def test_workers_leave_torchs_threads_as_they_were_and_change_no_digit(threads):
    before = torch.get_num_threads()
    x = [normal(60, 5, seed=seed) for seed in range(4)]
    expected = matrix_similarities(x, x, **FEW)
    torch.set_num_threads(threads)
    try:
        found = matrix_similarities(x, x, **FEW)
        assert torch.get_num_threads() == threads
        with pytest.raises(InputError, match="no common entry"):  # found by a worker
            matrix_similarities([torch.eye(2)[:, :1]], [torch.eye(2)[:, 1:]], kernel="linear", **FEW)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for name in TABLES:
        assert torch.equal(found[name], expected[name])


def test_a_bar_counts_the_pairs(capsys):
    x = [normal(10, 3, seed=seed) for seed in range(3)]
    matrix_similarities(x, x, progress=True, **FEW)
    assert "6/6" in capsys.readouterr().err
    matrix_similarities(x, x[:2], **FEW)
    assert capsys.readouterr().err == ""


# --- a model's sites


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.parametrize("against", ["output", "all", "resid_post.0", ("embed", "resid_mid.1")])
def test_a_corpus_within_the_sample_is_measured_whole(gpt2, texts, against):
    result = measured(gpt2, texts, against=against, order=1.01, seed=2)
    assert isinstance(result, LayerSimilarity)
    assert list(map(str, result.rows)) == ["embed", "resid_post.0", "resid_post.1", "resid_post.2"]
    columns = {
        "output": result.rows[-1:], "all": result.rows, "resid_post.0": (Site("resid_post", 0),),
        ("embed", "resid_mid.1"): (Site("embed", -1), Site("resid_mid", 1)),
    }  # fmt: skip
    assert result.columns == columns[against]
    assert (result.method, result.over, result.unit, result.other) == ("matrix_renyi", "tokens", "nats", None)
    assert (result.quantities, result.units) == (QUANTITIES, ("nats",) * 6)
    rows = {site: states(gpt2, texts, site) for site in {*result.rows, *result.columns}}
    assert result.count == len(rows[result.rows[0]])
    assert result.documents == len(texts)
    x, y = [rows[site] for site in result.rows], [rows[site] for site in result.columns]
    lengths = [len(gpt2.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    document = torch.arange(len(texts)).repeat_interleave(torch.tensor(lengths))
    tables = matrix_similarities(x, x if against == "all" else y, order=1.01, seed=2, documents=document, **FEW)
    for name in TABLES:
        close(result.value(name), tables[name], 2e-5)
    for name in WITH_ERROR:
        close(result.error(name), tables[f"{name}_covariance"].diagonal().T.sqrt(), 2e-4)
        assert (result.error(name) > 0).all()
        close(result.to("bits").error(name), result.error(name) / math.log(2))
    assert result.error("deviation").isnan().all()
    assert result.paired_error(result, "entropy").amax() > 0
    assert result.difference_error("mutual_information").shape == (4, 4, len(result.columns))
    assert "over 4 documents" in repr(result)
    close(result.value("entropy"), tables["row_entropy"][:, None].expand(result.value("entropy").shape), 2e-5)
    assert torch.equal(result.value(), result.value("dime"))


@pytest.mark.model
def test_the_numbers_say_where_they_come_from(model, texts):
    result = measured(model, texts, order=2, n_samples=30, seed=4)
    settings = result.provenance.settings
    assert {name: settings[name] for name in ("order", "kernel", "n_samples", "permutations", "seed")} == {
        "order": 2.0, "kernel": "gaussian", "n_samples": 30, "permutations": 4, "seed": 4,
    }  # fmt: skip
    accumulator = MatrixAccumulator(model, **FEW)
    tle.stream(model, texts, [accumulator], **QUIET)
    result = accumulator.compute(settings={"positions": "None"}, corpus={"documents": 4}, interrupted=True)
    assert result.provenance.settings["positions"] == "None"
    assert result.provenance.settings["order"] == 1.01
    assert result.provenance.interrupted


@pytest.mark.model
def test_a_sample_is_of_the_tokens_that_token_sample_chooses(model, texts):
    sample = TokenSample(12, 5)
    documents, positions = [], []
    for document, text in enumerate(texts):
        length = len(model.tokenizer(text, add_special_tokens=False)["input_ids"])
        documents += [document] * length
        positions += range(length)
    whole = {site: states(model, texts, site) for site in (Site("embed", -1), Site("resid_post", 2))}
    sample.update(torch.tensor(documents), torch.tensor(positions), whole)
    rows = sample.whole()
    result = measured(model, texts, sites="embed", n_samples=12, seed=5)
    tables = matrix_similarities([rows[Site("embed", -1)]], [rows[Site("resid_post", 2)]], seed=5, **FEW)
    assert result.count == 12
    assert result.documents == len(sample.documents.unique())
    for name in TABLES:
        close(result.value(name), tables[name], 2e-5)
    assert abs(result.value("dime") - measured(model, texts, sites="embed", n_samples=12, seed=6).value("dime")) > 1e-4


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.parametrize("n_samples", [15, 1000])
def test_any_batches_and_any_parts_give_the_same(model, texts, n_samples):
    options = {"n_samples": n_samples, "against": "all"}
    whole = measured(model, texts, **options)
    for batch_size in (1, 3):
        close(measured(model, texts, batch_size=batch_size, **options).values, whole.values, 1e-4)
    merged = MatrixAccumulator(model, **FEW, **options)
    tle.stream(model, texts[:1], [merged], **QUIET)
    for first, last in ((1, 3), (3, 4)):
        part = MatrixAccumulator(model, first_document=first, **FEW, **options)
        tle.stream(model, texts[first:last], [part], **QUIET)
        merged.merge(part)
    result = merged.compute()
    close(result.values, whole.values, 1e-4)
    assert (result.count, result.documents) == (whole.count, whole.documents)


@pytest.mark.model
def test_parts_that_do_not_go_together(model, texts):
    def accumulator(**options):
        made = MatrixAccumulator(model, **{**FEW, "n_samples": 10, **options})
        tle.stream(model, texts[:2], [made], **QUIET)
        return made

    first = accumulator()
    with pytest.raises(InputError, match="came twice; where a corpus is read in parts"):
        first.merge(accumulator())
    for name, value in {
        "order": 2, "permutations": 5, "n_samples": 11, "seed": 1, "sites": "embed", "against": "all", "massive": "drop",
    }.items():  # fmt: skip
        named = {"n_samples": "size", "sites": "rows", "against": "columns"}.get(name, name)
        with pytest.raises(InputError, match=f"cannot merge: {named} is"):
            first.merge(accumulator(first_document=9, **{name: value}))
    with pytest.raises(InputError, match="cannot merge: other is None here and '"):
        first.merge(accumulator(first_document=9, other=model))
    with pytest.raises(InputError, match=r"cannot merge: other is '.*' here and None there"):
        accumulator(other=model).merge(accumulator(first_document=9))
    with pytest.raises(InputError, match=r"cannot merge: against is 'output' here and 'resid_post\.2' there"):
        first.merge(accumulator(first_document=9, against="resid_post.2"))
    with pytest.raises(InputError, match="cannot merge: model is"):
        first.merge(MatrixAccumulator(tle.demo_model(), n_samples=10, **FEW))
    first.merge(accumulator(first_document=9))
    assert first.sample.seen == 2 * accumulator().sample.seen


@pytest.mark.model
def test_another_models_sites_are_the_columns(model, texts):
    other = make_model("llama")
    result = measured(model, texts, other=other, against="all", sites="resid_post")
    assert result.rows == result.columns == tuple(Site("resid_post", i) for i in range(3))
    assert result.other is not None
    assert result.other.weights != result.provenance.weights
    x, y = ([states(m, texts, site) for site in result.rows] for m in (model, other))
    tables = matrix_similarities(x, y, **FEW)
    for name in TABLES:
        close(result.value(name), tables[name], 2e-5)
    assert not torch.allclose(result.value(), result.value().T, atol=1e-4)


@pytest.mark.model
def test_massive_states_are_counted_and_left_out_where_asked(model, texts):
    def plant(activation, hook):
        changed = activation.clone()
        changed[:, 2, 5] = 5e5
        return changed

    def run(texts, **options):
        accumulator = MatrixAccumulator(model, **FEW, **options)
        tle.stream(model, texts, [accumulator], interventions=[("blocks.1.hook_resid_post", plant)], **QUIET)
        return accumulator

    kept, dropped = run(texts).compute(), run(texts, massive="drop").compute()
    long_enough = sum(len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) >= 2 for text in texts)
    assert kept.massive_tokens == dropped.massive_tokens == long_enough > 2
    assert dropped.count == kept.count - long_enough
    assert (kept.massive, dropped.massive) == ("keep", "drop")
    assert not torch.allclose(kept.values, dropped.values, atol=1e-3)
    merged = run(texts[:2], massive="drop")
    merged.merge(run(texts[2:], massive="drop", first_document=2))
    assert merged.compute().massive_tokens == long_enough


@pytest.mark.model
def test_results_are_saved_and_change_their_unit(model, texts, tmp_path):
    result = measured(model, texts)
    again = tle.load(result.save(tmp_path / "matrix.safetensors"))
    assert torch.equal(again.values, result.values)
    assert again.quantities == QUANTITIES
    close(result.to("bits").value("entropy"), result.value("entropy") / math.log(2), 1e-12)
    assert "dime (nats)" in repr(result)


@pytest.mark.model
def test_too_few_tokens_give_no_number_and_equal_states_are_named(model):
    accumulator = MatrixAccumulator(model, **FEW)
    empty = accumulator.compute()
    assert empty.values.shape == (6, 4, 1)
    assert bool(empty.values.isnan().all())
    assert (empty.count, empty.documents) == (0, 0)
    one = measured(model, "the cat", positions=0)
    assert one.count == 1
    assert bool(one.values.isnan().all())
    equal = measured(model, ["the"] * 6, positions=0)
    assert bool(equal.values.isnan().all())
    assert "NaN: too few rows, or more than half of the states are equal" in repr(equal)


@pytest.mark.model
def test_a_site_of_equal_states_costs_no_other(model, texts):
    def one_state(activation, hook):
        return torch.ones_like(activation)

    edits = {"interventions": [("blocks.0.hook_resid_post", one_state)]}
    given = {"sites": ("embed", "resid_post"), "layers": [0], "against": ["embed"]}
    accumulator = MatrixAccumulator(model, **FEW, **given)
    tle.stream(model, texts, [accumulator], **edits, **QUIET)
    result = accumulator.compute()
    assert result.values.isnan().all(2).all(0).tolist() == [False, True]
    assert not result.values[:, 0].isnan().any()
    assert "more than half of the states are equal, at resid_post.0" in repr(result)
    assert "bandwidth" not in repr(result)


@pytest.mark.model
def test_arguments_out_of_range(model):
    for options, message in [
        ({"order": -1}, "order must be one number"),
        ({"permutations": 1}, "permutations must be an int of at least 2"),
        ({"n_samples": 1}, "n_samples must be an int of at least 2"),
        ({"seed": -1}, "seed must be an int"),
        ({"first_document": -1}, "first_document must be an int"),
        ({"massive": "clip"}, "massive must be one of"),
        ({"against": "nothing"}, "against must be"),
        ({"sites": "pattern"}, "pattern"),
    ]:
        with pytest.raises(InputError, match=message):
            MatrixAccumulator(model, **options)
    with pytest.raises(InputTypeError, match="n_samples must be an int"):
        MatrixAccumulator(model, n_samples=1e3)


@pytest.mark.model
def test_the_bar_of_a_corpus(model, texts, capsys):
    accumulator = MatrixAccumulator(model, progress=True, **FEW)
    tle.stream(model, texts, [accumulator], **QUIET)
    accumulator.compute()
    assert "4/4" in capsys.readouterr().err
