"""Several models compared: everything equals what the separate functions give, and every pair is compared as it can be."""

from __future__ import annotations

import dataclasses
import math
import sys

import pytest
import torch
from letters import Shuffled
from tiny_models import VOCAB, cached_model, kinds, make_model, tiny_tokenizer

import tl_entropy as tle
from tl_entropy.analyses.measuring import measure_all
from tl_entropy.analyses.models import comparison as comparison_module
from tl_entropy.analyses.models.comparison import compare_models
from tl_entropy.analyses.profiles.distances import pairwise_distances
from tl_entropy.analyses.profiles.dynamics import layer_dynamics
from tl_entropy.analyses.states.similarity import layer_similarity
from tl_entropy.capture.adapter import Adapter
from tl_entropy.demo import FOLDER
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError

pytestmark = pytest.mark.model

QUIET = {"progress": False}
TEXTS = ["the cat sat on the mat", "def f(x):\n    return x + 1", "the", "dog and cat and dog and the mat sat"]
METRICS = ("jsd", "fisher_rao")


@pytest.fixture(scope="module")
def models():
    """Two with the same tokens, and one of another vocabulary, width and depth."""
    return {"gpt2": cached_model("gpt2", kinds()[0]), "small": other_weights(), "code": tle.demo_model()}


def other_weights(seed=3):
    """A model of the tiny tokenizer, with weights of its own and one layer less."""
    if "bridge" not in kinds():
        model = make_model("gpt2", "hooked")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.3)
        return model
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=VOCAB, n_positions=48, n_embd=24, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    source = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15 + (0 if parameter.ndim > 1 else parameter * (parameter != 0)))
    source.config.architectures = ["GPT2LMHeadModel"]
    source.config._attn_implementation = "eager"
    return TransformerBridge.boot_transformers(
        "tiny/small", hf_model=source, tokenizer=tiny_tokenizer(), device="cpu", dtype=torch.float32
    )


@pytest.fixture(scope="module")
def result(models):
    return compare_models(models, TEXTS, **QUIET)


def same(mine, theirs, *, ignoring=()):
    """Two results, field by field, and where they come from but for the time."""
    assert type(mine) is type(theirs)
    for item in dataclasses.fields(theirs):
        a, b = getattr(mine, item.name), getattr(theirs, item.name)
        if isinstance(b, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12, equal_nan=True, msg=item.name)
        elif isinstance(b, tle.Provenance):
            plain = [{**dataclasses.asdict(origin), "created": ""} for origin in (a, b)]
            for each in plain:
                each["settings"] = {key: value for key, value in each["settings"].items() if key not in ignoring}
            assert plain[0] == plain[1], item.name
        else:
            assert a == b, item.name


# --- the same as one by one


def test_every_part_is_what_its_own_function_gives(models, result):
    assert result.names == ("gpt2", "small", "code")
    for name, model in models.items():
        lens = tle.lens_entropy(model, TEXTS, **QUIET)
        same(result.lenses[name], lens)
        both = [tle.layer_divergence(model, TEXTS, metrics=METRICS, against=to, **QUIET) for to in ("output", "previous")]
        same(result.dynamics[name], layer_dynamics(lens, *both))
        same(result.similarity[name], layer_similarity(model, TEXTS, against="all", **QUIET))
    same(result.distances, pairwise_distances(result.lenses, **QUIET))


def test_models_of_the_same_tokens_meet_at_every_token(models, result):
    found = result.across["gpt2", "small"]
    assert (found.over, found.count) == ("tokens", result.lenses["gpt2"].n_tokens)
    same(
        found,
        layer_similarity(models["gpt2"], TEXTS, other=models["small"], against="all", window=48, **QUIET),
    )
    assert tuple(found.value().shape) == (4, len(result.lenses["small"].sites))


def test_models_of_other_tokens_meet_at_documents(models, result):
    for one in ("gpt2", "small"):
        found = result.across[one, "code"]
        assert (found.over, found.count) == ("documents", 4)
        expected = layer_similarity(models[one], TEXTS, other=models["code"], against="all", rows="documents", **QUIET)
        same(found, expected)
        assert f"{one}, code: not the same tokens in the same windows" in repr(result)
    assert list(result.across) == [("gpt2", "small"), ("gpt2", "code"), ("small", "code")]
    assert len(result.notes) == 2


@pytest.mark.filterwarnings("ignore:nothing counts of")
def test_options_reach_every_part(models):
    pair = {name: models[name] for name in ("gpt2", "small")}
    sites = ("resid_mid", "resid_post")
    where = {"positions": slice(1, 7), "window": 20, "stride": 5, "batch_size": 3, **QUIET}
    result = compare_models(
        pair, TEXTS, order=2, metrics="kl", distance="wasserstein", estimator="minibatch", massive="normalise", sites=sites,
        layers=(-2, -1), **where,
    )  # fmt: skip
    where["layers"] = (-2, -1)
    for name, model in pair.items():
        lens = tle.lens_entropy(model, TEXTS, orders=2.0, sites=sites, **where)
        same(result.lenses[name], lens)
        both = [
            tle.layer_divergence(model, TEXTS, metrics="kl", against=to, sites=sites, **where) for to in ("output", "previous")
        ]
        same(result.dynamics[name], layer_dynamics(lens, *both))
        options = {"against": "all", "estimator": "minibatch", "massive": "normalise", "sites": sites, **where}
        same(result.similarity[name], layer_similarity(model, TEXTS, **options))
    same(result.distances, pairwise_distances(result.lenses, metric="wasserstein", **QUIET))
    same(result.across["gpt2", "small"], layer_similarity(pair["gpt2"], TEXTS, other=pair["small"], **options))


def test_without_similarity_nothing_else_changes(models, result):
    bare = compare_models(models, TEXTS, similarity=None, **QUIET)
    assert (bare.similarity, bare.across, bare.notes) == ({}, {}, ())
    for name in models:
        same(bare.lenses[name], result.lenses[name])
        same(bare.dynamics[name], result.dynamics[name])


def test_every_model_makes_one_pass_of_its_own(models, monkeypatch):
    calls = []
    run = Adapter.activations

    def counted(self, tokens, mask, sites):
        calls.append(self.model)
        return run(self, tokens, mask, sites)

    monkeypatch.setattr(Adapter, "activations", counted)
    compare_models({"a": models["gpt2"], "b": models["small"]}, TEXTS, similarity=None, batch_size=64, **QUIET)
    assert calls == [models["gpt2"], models["small"]]


def test_one_model_has_no_distances(models):
    result = compare_models({"only": models["gpt2"]}, TEXTS[0], **QUIET)
    assert (result.distances, result.across, list(result.similarity)) == (None, {}, ["only"])


def test_a_model_is_itself_under_another_name(models):
    result = compare_models({"a": models["gpt2"], "b": models["gpt2"]}, TEXTS, **QUIET)
    assert float(result.distances.distances.max()) == 0
    torch.testing.assert_close(result.across["a", "b"].value(), result.similarity["a"].value(), atol=1e-9, rtol=0)
    torch.testing.assert_close(result.across["a", "b"].value().diagonal(), torch.ones(4, dtype=torch.float64))


@pytest.mark.long
def test_an_untrained_copy_of_the_bundled_model_is_told_from_it():
    model, untrained = tle.demo_model(), tle.load_model(FOLDER)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in untrained.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    texts = [text[:200] for text in tle.demo_texts(2)]
    result = compare_models({"trained": model, "untrained": untrained}, texts, similarity=None, **QUIET)
    ends = {name: float(dynamics.value("entropy")[-1]) for name, dynamics in result.dynamics.items()}
    assert ends["untrained"] > 0.99 * math.log(4096) > 2 * ends["trained"]
    assert float(result.distances.distances[0, 1]) > 0.1
    moved = {name: float(dynamics.value("fisher_rao_velocity")[1:].sum()) for name, dynamics in result.dynamics.items()}
    assert moved["trained"] > 5 * moved["untrained"]


def test_the_folder_gives_it_back(result, tmp_path):
    result.save(tmp_path)
    again = tle.load(tmp_path)
    assert (again.names, again.notes) == (result.names, result.notes)
    for kind in ("lenses", "dynamics", "similarity", "across"):
        for name, part in getattr(result, kind).items():
            same(getattr(again, kind)[name], part)


# --- how a pair is compared


def test_texts_cut_at_different_places_are_compared_over_documents(models):
    texts = [f"the cat sat on the mat and {'the dog sat on the cat and ' * 7}" for _ in range(4)]
    pair = {name: models[name] for name in ("gpt2", "small")}  # contexts of 64 and 48
    found = compare_models(pair, texts, **QUIET)
    assert found.lenses["gpt2"].provenance.corpus["cut"] == 0 < found.lenses["small"].provenance.corpus["cut"]
    assert found.across["gpt2", "small"].over == "documents"
    together = compare_models(pair, texts, window=40, **QUIET)
    assert together.across["gpt2", "small"].over == "tokens"
    assert together.lenses["gpt2"].provenance.corpus["cut"] == 4


@pytest.mark.long
def test_text_that_each_generates_is_compared_over_documents(models):
    pair = {name: models[name] for name in ("gpt2", "small")}
    found = compare_models(pair, TEXTS, max_new_tokens=3, **QUIET)
    lenses = found.lenses
    assert lenses["gpt2"].token.tolist() != lenses["small"].token.tolist(), "they write different texts"
    assert int(lenses["gpt2"].generated.sum()) == int(lenses["small"].generated.sum()) == 12
    same(lenses["gpt2"], tle.lens_entropy(pair["gpt2"], TEXTS, max_new_tokens=3, **QUIET))
    assert lenses["gpt2"].provenance.settings["max_new_tokens"] == 3
    assert lenses["gpt2"].provenance.settings["prepend_bos"] is True
    assert found.across["gpt2", "small"].over == "documents"
    options = {"against": "all", "rows": "documents", "max_new_tokens": 3, **QUIET}
    same(found.across["gpt2", "small"], layer_similarity(pair["gpt2"], TEXTS, other=pair["small"], **options))


@pytest.mark.long
def test_text_that_models_of_other_tokens_generate_is_compared_over_documents(models):
    pair = {name: models[name] for name in ("gpt2", "code")}
    found = compare_models(pair, TEXTS, max_new_tokens=2, **QUIET)
    assert found.notes == ("gpt2, code: not the same tokens in the same windows, so their layers are compared over documents",)
    options = {"against": "all", "rows": "documents", "max_new_tokens": 2, **QUIET}
    same(found.across["gpt2", "code"], layer_similarity(pair["gpt2"], TEXTS, other=pair["code"], **options))


def test_ids_are_checked_where_they_were_given_not_where_they_were_written(models, monkeypatch):
    """Ids that mean the same to both, though what the first model writes after them would not."""
    from tl_entropy.capture.vocabulary import Vocabulary

    pair = {name: models[name] for name in ("gpt2", "small")}
    ids = tle.lens_entropy(pair["gpt2"], TEXTS[0], **QUIET).token
    lens = tle.lens_entropy(pair["gpt2"], ids, max_new_tokens=3, **QUIET)
    new = set(lens.token[lens.generated].tolist()) - set(ids.tolist())
    assert new
    strings = Vocabulary.strings

    def other_words(self, wanted):
        found = strings(self, wanted)
        small, sampled = self.model is pair["small"], len(found) > 40
        return {i: text + "?" if small and not sampled and i in new else text for i, text in found.items()}

    monkeypatch.setattr(Vocabulary, "strings", other_words)
    found = compare_models(pair, ids, max_new_tokens=3, similarity=None, **QUIET)
    assert found.names == ("gpt2", "small")


def test_same_ids_of_other_texts_are_not_the_same_tokens(models, monkeypatch):
    """Rows of ids that both models have, which mean something else to the second."""
    from tl_entropy.capture.vocabulary import Vocabulary

    strings = Vocabulary.strings

    def other_words(self, ids):
        found = strings(self, ids)
        return {i: text.upper() for i, text in found.items()} if self.model is models["small"] else found

    monkeypatch.setattr(Vocabulary, "strings", other_words)
    found = compare_models({"a": models["gpt2"], "b": models["small"]}, TEXTS, **QUIET)
    assert found.across["a", "b"].over == "documents"


@pytest.mark.long
def test_ids_that_are_other_texts_to_another_model_are_refused(models):
    ids = torch.arange(280, 300).view(4, 5)
    with pytest.raises(InputError, match="token ids, which are not the same texts to gpt2 and code; give texts"):
        compare_models(models, ids, similarity=None, **QUIET)
    for given in (ids, [TEXTS[0], ids[0]], {"input_ids": ids}):
        with pytest.raises(InputError, match="inputs hold token ids"):
            compare_models(models, given, max_new_tokens=2, similarity=None, **QUIET)
    found = compare_models({name: models[name] for name in ("gpt2", "small")}, ids, **QUIET)
    assert (found.across["gpt2", "small"].over, found.across["gpt2", "small"].count) == ("tokens", 20)


def test_few_documents_leave_a_pair_out_and_say_so(models):
    found = compare_models({"gpt2": models["gpt2"], "code": models["code"]}, TEXTS[:2], **QUIET)
    assert found.across == {}
    assert list(found.similarity) == ["gpt2", "code"]
    assert found.notes == (
        "gpt2, code: not the same tokens in the same windows, and over documents 4 are needed and there are 2; so the "
        "similarity of their layers is left out",
    )
    assert found.notes[0] in repr(found)


def test_few_tokens_leave_the_similarity_out_and_say_so(models):
    found = compare_models({"a": models["gpt2"], "b": models["small"]}, "the", **QUIET)
    assert (found.similarity, found.across) == ({}, {})
    counted = found.lenses["a"].n_tokens
    assert [note.split(":")[0] for note in found.notes] == ["a", "b"]
    assert f"needs 4 tokens; {counted} count" in found.notes[0]


def test_a_pair_that_cannot_be_compared_does_not_cost_the_rest(models, monkeypatch):
    def refused(*_, **__):
        raise InputError("too much of something")

    monkeypatch.setattr("tl_entropy.analyses.models.comparison.layer_similarity", refused)
    for other in ("small", "code"):  # over tokens and over documents
        found = compare_models({name: models[name] for name in ("gpt2", other)}, TEXTS, **QUIET)
        assert found.across == {}
        assert found.notes == (f"gpt2, {other}: too much of something; so the similarity of their layers is left out",)
        assert list(found.similarity) == ["gpt2", other]


@pytest.mark.parametrize("error", [InputError, NonFiniteError])
def test_distances_that_there_are_none_of_do_not_cost_the_rest(models, monkeypatch, tmp_path, error):
    def refused(*_, **__):
        raise error("no curve")

    pair = {name: models[name] for name in ("gpt2", "small")}
    monkeypatch.setattr("tl_entropy.analyses.models.comparison.pairwise_distances", refused)
    found = compare_models(pair, TEXTS, similarity=None, **QUIET)
    assert found.distances is None
    assert found.notes == ("no curve; so the distances between the models are left out",)
    assert "no curve; so the distances" in repr(found)
    for name, model in pair.items():
        same(found.lenses[name], tle.lens_entropy(model, TEXTS, **QUIET))
    again = tle.load(found.to("bits").save(tmp_path))
    assert (again.distances, again.notes) == (None, found.notes)


def test_a_library_that_a_distance_needs_is_asked_for_before_the_first_pass(models, monkeypatch):
    def stream(*_, **__):
        pytest.fail("a model was run")

    monkeypatch.setattr("tl_entropy.analyses.measuring.read", stream)
    for name in ("fdasrsf", "fdasrsf.utility_functions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"tl-entropy\[elastic\]"):
        compare_models(models, TEXTS, distance="elastic_srvf", **QUIET)


# --- what is refused


@pytest.mark.parametrize(
    ("given", "options", "error", "match"),
    [
        ([1], {}, InputTypeError, "models must be a mapping from names to models; got list"),
        ({}, {}, InputError, "for at least one model"),
        ({"": 1}, {}, InputError, "must have a name"),
        ({3: 1}, {}, InputError, "must have a name"),
        ({"a": 1}, {}, InputTypeError, "a: model must be a TransformerLens model"),
        (None, {"sites": "mlp_out"}, InputError, "gpt2: sites must be two or more states .*; got mlp_out.0"),
        (None, {"sites": "embed"}, InputError, "sites must be two or more states .*; got embed"),
        (None, {"sites": "resid_post.2"}, InputError, "sites must be two or more states .*; got resid_post.2"),
        (None, {"order": "1"}, InputTypeError, "order must be one number"),
        (None, {"order": (1.0, 2.0)}, InputTypeError, "order must be one number"),
        (None, {"order": -1}, InputError, "order must be one number from 0 to infinity; got -1"),
        (None, {"order": math.nan}, InputError, "order must be one number from 0 to infinity; got nan"),
        (None, {"metrics": "hellinger"}, InputError, "metrics must be one of"),
        (None, {"metrics": ("kl", "hellinger"), "similarity": None}, InputError, "metrics must be one of .*; got 'hellinger'"),
        (None, {"metrics": 3}, InputError, "metrics must be one of .*; got 3"),
        (None, {"metrics": ()}, InputError, "metrics must hold at least one"),
        (None, {"distance": "cosine"}, InputError, "distance must be one of"),
        (None, {"similarity": "svcca"}, InputError, "similarity must be one of"),
        (None, {"estimator": "fast"}, InputError, "estimator must be one of"),
        (None, {"massive": "ignore"}, InputError, "massive must be one of"),
        (None, {"estimator": "fast", "similarity": None}, InputError, "estimator must be one of"),
        (None, {"massive": "ignore", "similarity": None}, InputError, "massive must be one of"),
        (None, {"estimator": "minibatch", "similarity": None}, InputError, "estimator='minibatch' belongs to similarity='cka'"),
        (None, {"massive": "drop", "similarity": None}, InputError, "massive='drop' belongs to similarity='cka'"),
        (None, {"interventions": tle.ablate("mlp_out.0")}, InputError, "interventions belong to one model"),
        (None, {"windw": 3}, InputTypeError, "did you mean 'window'"),
    ],
)
def test_refusals_come_before_the_first_pass(models, monkeypatch, given, options, error, match):
    def stream(*_, **__):
        pytest.fail("a model was run")

    monkeypatch.setattr("tl_entropy.analyses.measuring.read", stream)
    with pytest.raises(error, match=match):
        compare_models(models if given is None else given, TEXTS, **options, **QUIET)


def test_inputs_that_change_between_readings_are_refused(models):
    model = next(iter(models.values()))
    pair = {"one": model, "again": model}
    with pytest.raises(InputError, match=r"^again: inputs changed between two readings: document 0 .*pass a list"):
        compare_models(pair, Shuffled(TEXTS, TEXTS[::-1]), **QUIET)
    with pytest.raises(InputError, match=r"^one, again: inputs changed between two readings"):
        compare_models(pair, Shuffled(TEXTS, TEXTS, TEXTS[::-1]), **QUIET)
    found = compare_models(pair, Shuffled(TEXTS, TEXTS, TEXTS), **QUIET)
    assert torch.allclose(found.across["one", "again"].value().diagonal(), torch.ones(()).double())


def test_inputs_that_can_be_read_once_are_refused(models):
    with pytest.raises(InputError, match=r"can be read only once; give list\(inputs\)"):
        compare_models(models, iter(TEXTS), **QUIET)
    with pytest.raises(InputError, match=r"give list\(inputs\)"):
        compare_models(models, [TEXTS[0], (text for text in TEXTS)], **QUIET)

    class Once:
        texts = iter(TEXTS)

        def __iter__(self):
            return self.texts

    with pytest.raises(InputError, match=r"give list\(inputs\)"):
        compare_models(models, Once(), **QUIET)


def test_a_cache_is_refused(models):
    tokens = torch.randint(1, VOCAB, (1, 6))
    _, cache = models["gpt2"].run_with_cache(tokens)
    with pytest.raises(InputError, match="an ActivationCache is of one model"):
        compare_models(models, (cache, tokens), **QUIET)


def test_sums_beyond_memory_are_refused_with_the_models_name(models, monkeypatch):
    monkeypatch.setattr("tl_entropy.analyses.states.cka.LARGEST", 5 * 26 * 26 * 8)
    with pytest.raises(InputError, match=r"gpt2: the sums of 4 x 4 sites .*minibatch"):
        compare_models(models, TEXTS, **QUIET)


@pytest.mark.filterwarnings("ignore:hooks that somebody has left on this model")
def test_what_a_model_does_wrong_is_told_with_its_name(models):
    broken = make_model("gpt2", kinds()[0])

    def spoil(activation, hook):
        activation[0, 3] = math.nan
        return activation

    broken.hook_dict["blocks.1.hook_resid_post"].add_hook(spoil)
    with pytest.raises(NonFiniteError, match=r"^broken: blocks\.1\.hook_resid_post has a NaN") as caught:
        compare_models({"gpt2": models["gpt2"], "broken": broken}, TEXTS, **QUIET)
    before = compare_models({"gpt2": models["gpt2"]}, TEXTS, **QUIET)
    partial = caught.value.partial
    assert (partial.names, partial.distances) == (("gpt2",), None)
    same(partial.lenses["gpt2"], before.lenses["gpt2"])
    assert partial.similarity.keys() == {"gpt2"}
    with pytest.raises(NonFiniteError) as caught:
        compare_models({"broken": broken, "gpt2": models["gpt2"]}, TEXTS, **QUIET)
    assert len(caught.value.partial) == 4, "of the first model, what each of its measurements has"


def test_an_interrupt_ends_the_comparison(models, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tle.DivergenceAccumulator, "update", interrupted)
    with pytest.warns(UserWarning, match="interrupted after 0 tokens"), pytest.raises(KeyboardInterrupt) as caught:
        compare_models(models, TEXTS, **QUIET)
    lens, *_ = caught.value.partial
    assert lens.n_tokens, "which came first in the batch"


def test_an_interrupt_leaves_the_models_that_were_measured(models, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison_module, "layer_similarity", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        compare_models(models, TEXTS, **QUIET)
    assert caught.value.partial.names == tuple(models)
    assert caught.value.partial.distances is not None
    assert not caught.value.partial.across


# --- several measurements of one pass


def test_several_measurements_of_one_pass_are_those_of_one_each(models):
    adapter = Adapter(models["gpt2"])
    accumulators = [tle.LensAccumulator(adapter), tle.LensAccumulator(adapter, orders=2.0, keep="summary")]
    reading = {"positions": None, "max_new_tokens": 2, "batch_size": 2, "progress": False, "options": {}}
    first, second = measure_all(accumulators, TEXTS, **reading)
    options = {"max_new_tokens": 2, "batch_size": 2, **QUIET}
    same(first, tle.lens_entropy(adapter, TEXTS, **options))
    same(second, tle.lens_entropy(adapter, TEXTS, orders=2.0, keep="summary", **options))


def test_what_came_before_a_nan_is_kept_of_every_measurement(models, monkeypatch):
    from tl_entropy.capture import stream as stream_module

    adapter, seen = Adapter(models["gpt2"]), []

    def check(batch, activations):
        seen.append(batch.n_rows)
        if len(seen) == 3:
            raise NonFiniteError("a NaN")

    monkeypatch.setattr(stream_module, "check_finite", check)
    accumulators = [tle.LensAccumulator(adapter), tle.DivergenceAccumulator(adapter)]
    reading = {"positions": None, "max_new_tokens": 0, "batch_size": 1, "progress": False, "options": {}}
    with pytest.raises(NonFiniteError) as caught:
        measure_all(accumulators, TEXTS, **reading)
    lens, divergence = caught.value.partial
    assert (lens.documents, divergence.documents) == ((0, 1), (0, 1))
    assert lens.n_tokens == divergence.n_tokens == sum(seen[:2])
