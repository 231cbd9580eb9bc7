"""What is left of a pass that an error ends: the result of what came before, whatever the error and the function."""

from __future__ import annotations

from http.client import IncompleteRead

import pytest
import torch
from public import READERS, READINGS, VARIANTS, Breaking
from tiny_models import LONG

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError, keeping, partial_of
from tl_entropy.results.printing import Printed

pytestmark = pytest.mark.model
QUIET = {"progress": False}
GOOD = ("the cat sat on the mat", "def f(x):\n    return x + 1", "dog and cat and dog")


class Broken(Exception):
    """Of the user's own."""


def breaking(error, good=GOOD):
    yield from good
    raise error


def null(good=GOOD):
    yield from ({"text": text} for text in good)
    yield {"text": None}


FUNCTIONS = {
    "lens_entropy": lambda model, inputs: tle.lens_entropy(model, inputs, **QUIET),
    "lens_entropy, summary": lambda model, inputs: tle.lens_entropy(model, inputs, keep="summary", batch_size=1, **QUIET),
    "layer_divergence": lambda model, inputs: tle.layer_divergence(model, inputs, **QUIET),
    "head_entropy": lambda model, inputs: tle.head_entropy(model, inputs, **QUIET),
    "token_surprisal": lambda model, inputs: tle.token_surprisal(model, inputs, batch_size=2, **QUIET),
    "token_reliance": lambda model, inputs: tle.token_reliance(model, inputs, tle.ablate("attn_out.1"), **QUIET),
    "gradient_reliance": lambda model, inputs: tle.gradient_reliance(model, inputs, "embed", **QUIET),
    "conditional_entropy": lambda model, inputs: tle.conditional_entropy(model, inputs, batch_size=64, **QUIET),
    "layer_similarity": lambda model, inputs: tle.layer_similarity(model, inputs, **QUIET),
    "layer_geometry": lambda model, inputs: tle.layer_geometry(model, inputs, measures=("effective_rank",), **QUIET),
    "site_means": lambda model, inputs: tle.site_means(model, inputs, "embed", **QUIET),
}


def numbers(result):
    """All tensors of a result, or the means of a mapping."""
    fields = result if isinstance(result, dict) else vars(result)
    return {str(name): value for name, value in fields.items() if isinstance(value, torch.Tensor)}


@pytest.mark.thinned
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_what_came_before_an_error_is_at_hand(gpt2, function):
    expected = numbers(function(gpt2, list(GOOD)))
    own, foreign = InputError("no more of it"), Broken("the file is gone")
    for given, error in ((null(), InputTypeError), (breaking(own), InputError), (breaking(foreign), Broken)):
        with pytest.raises(error) as caught:
            function(gpt2, given)
        found = numbers(caught.value.partial)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(
                value, expected[name], rtol=1e-5, atol=1e-6, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
            )
        if isinstance(caught.value.partial, tle.results.Result):
            assert caught.value.partial.provenance.interrupted
    assert foreign.__notes__ == ["tl_entropy: what was measured before this error is its attribute 'partial'"]
    assert not hasattr(own, "__notes__")


NONE_LEFT = {"stream": "its accumulators keep what came", "train_tuned_lens": "it reads before it trains: the texts read"}
ENDINGS = (Broken, ConnectionError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit)


@pytest.mark.thinned
@pytest.mark.filterwarnings("ignore:interrupted after")
@pytest.mark.parametrize("name", [name for name in READERS | VARIANTS if name not in NONE_LEFT])
def test_whatever_ends_the_inputs_of_whatever_function_what_was_measured_is_at_hand(gpt2, name):
    function = (READERS | VARIANTS)[name]
    texts = [*GOOD, *GOOD] if "similarity" in name else GOOD
    for kind in ENDINGS if LONG or name == "lens_entropy" else (Broken, KeyboardInterrupt):
        error = kind("it ends here")
        inputs = Breaking(texts, error, READINGS.get(name, 1))
        try:
            partial, caught = function(gpt2, inputs if name in READINGS else iter(inputs)), None
        except kind as ended:
            partial, caught = ended.partial, ended
        if kind is not KeyboardInterrupt:  # which gives a result, where that is one
            assert caught is error
        if caught is not None:
            assert caught.__notes__ == ["tl_entropy: what was measured before this error is its attribute 'partial'"]
        assert isinstance(partial, Printed | dict | tle.LabelPlan), name
        if name not in ("EntropyMonitor", "compare_models") and hasattr(partial, "provenance"):
            assert partial.provenance.interrupted


def test_the_inputs_of_an_iterator_that_has_to_be_read_several_times_are_kept(gpt2):
    with pytest.raises(Broken) as caught:
        tle.soft_information(gpt2, iter(Breaking(GOOD, Broken())), **QUIET)
    assert caught.value.partial == list(GOOD)
    with pytest.raises(Broken) as caught:
        tle.soft_information(gpt2, Breaking(GOOD, Broken()), **QUIET)
    assert caught.value.partial.n_documents == 3, "a label plan, which is all that was made by then"


def test_a_lens_is_kept_as_far_as_it_was_trained(gpt2, monkeypatch):
    step, left = torch.optim.AdamW.step, [3]

    def ends(self, *arguments):
        left[0] -= 1
        if not left[0]:
            raise MemoryError
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", ends)
    with pytest.raises(MemoryError) as caught:
        tle.train_tuned_lens(gpt2, list(GOOD), steps=5, tokens_per_step=8, **QUIET)
    assert caught.value.partial.provenance.settings["steps"] == 2
    assert caught.value.partial.provenance.interrupted
    for kind in (Broken, KeyboardInterrupt):
        with pytest.raises(kind) as foreign:
            tle.train_tuned_lens(gpt2, iter(Breaking(GOOD, kind())), steps=50, window=8, **QUIET)
        assert "documents read before this error" in foreign.value.__notes__[0]
        again = tle.lens_entropy(gpt2, foreign.value.partial, window=8, **QUIET)
        assert torch.equal(again.entropy, tle.lens_entropy(gpt2, list(GOOD), window=8, **QUIET).entropy)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_where_all_was_read_the_accumulator_is_at_hand(gpt2, monkeypatch, kind):
    for owner, call in (
        (tle.MatrixAccumulator, lambda: tle.layer_similarity(gpt2, list(GOOD), method="matrix_renyi", permutations=2, **QUIET)),
        (tle.SoftAccumulator, lambda: tle.soft_information(gpt2, list(GOOD), n_bins=5, layers=[1], **QUIET)),
    ):

        def ends(self, *_, **__):
            raise kind

        with monkeypatch.context() as patch:
            patch.setattr(owner, "_result", ends)
            with pytest.raises(kind) as caught:
                call()
        assert caught.value.__notes__ == [
            "tl_entropy: what was read before this error is its attribute 'partial': compute() gives the result"
        ]
        assert isinstance(caught.value.partial.compute(), tle.results.Result)


def test_what_cannot_be_had_any_more_does_not_hide_the_error():
    def fails(error):
        raise MemoryError("and again")

    with pytest.raises(Broken) as caught, keeping(fails):
        raise Broken
    assert not hasattr(caught.value, "partial")
    assert caught.value.__notes__ == ["tl_entropy: what was measured before this error cannot be had (MemoryError: and again)"]


def test_several_measurements_of_a_pass_have_a_partial_each(gpt2):
    with pytest.raises(Broken) as caught:
        tle.compare_models({"one": gpt2}, Again(Broken()), **QUIET)
    lens, *others = caught.value.partial
    assert lens.documents == (0, 1, 2)
    assert len(others) == 3


class Again:
    """Texts that can be read again and end in an error each time."""

    def __init__(self, error):
        self.error = error

    def __iter__(self):
        return breaking(self.error)


def test_soft_information_keeps_what_states_came(gpt2, monkeypatch):
    texts = list(GOOD) * 2
    plan = tle.label_plan(gpt2, texts)
    with pytest.raises(Broken) as caught:
        tle.soft_information(gpt2, breaking(Broken(), texts[:-1]), labels=plan, **QUIET)
    assert caught.value.partial.documents == 5


@pytest.mark.thinned
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_where_nothing_was_measured_there_is_no_partial(gpt2, function):
    for given in ([*GOOD, None], null([]), breaking(InputError("at once"), [])):
        with pytest.raises((InputError, InputTypeError)) as caught:
            function(gpt2, given)
        assert caught.value.partial is None
    with pytest.raises(Broken) as foreign:
        function(gpt2, breaking(Broken(), []))
    assert not hasattr(foreign.value, "partial")
    assert not hasattr(foreign.value, "__notes__")


def test_a_bad_argument_has_no_partial(gpt2):
    with pytest.raises(InputError) as caught:
        tle.lens_entropy(gpt2, list(GOOD), positions=[], **QUIET)
    assert caught.value.partial is None


def test_prompts_before_an_error_are_generated_for_and_kept(gpt2):
    with pytest.raises(Broken) as caught:
        tle.lens_entropy(gpt2, breaking(Broken()), max_new_tokens=3, **QUIET)
    expected = tle.lens_entropy(gpt2, list(GOOD), max_new_tokens=3, **QUIET)
    assert torch.equal(caught.value.partial.token, expected.token)


def test_a_monitor_keeps_its_history(gpt2):
    texts = [*GOOD]
    monitor = tle.EntropyMonitor(gpt2, Listed(texts))
    monitor(0)
    texts.append(None)
    with pytest.raises(InputTypeError) as caught:
        monitor(1)
    assert caught.value.partial.steps.tolist() == [0]


class Listed:
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(list(self.items))


def test_an_error_inside_keeping_is_raised_as_it_is():
    with pytest.raises(Broken) as caught, keeping(lambda error: (type(error), 1)):
        raise Broken("it")
    assert caught.value.partial == (Broken, 1)
    with pytest.raises(KeyboardInterrupt) as stopped, keeping(lambda error: 1):
        raise KeyboardInterrupt
    assert stopped.value.partial == 1
    with pytest.raises(IncompleteRead) as cut, keeping(lambda error: 2), keeping(lambda error: 1):
        raise IncompleteRead(b"half", 4)
    assert cut.value.partial == b"half", "its own"
    assert (partial_of(cut.value), str(cut.value)) == (2, "IncompleteRead(4 bytes read, 4 more expected)")
    assert cut.value.__notes__ == ["tl_entropy: what was measured before this error is its attribute 'tl_entropy_partial'"]
