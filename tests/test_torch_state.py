"""Numbers do not depend on the state of torch: every public function, inside and outside of each; and nothing stays changed."""

from __future__ import annotations

import inspect
import threading
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property, partial

import numbers_of_tensors
import pytest
import torch
from all_numbers import OF_THE_RUN, Record
from digests import differences, digests
from tiny_models import cached_model, kinds, make_model

import tl_entropy as tle
from tl_entropy.torch_state import Steady, each, plain, steady, yours

QUIET = {"progress": False}
TEXTS = ["the cat sat on the mat", "def f(x):\n    return x + 1", "dog and cat and dog and the mat sat"]


# --- states that a caller may have put torch into


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def rounded_products():
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextmanager
def rounded_backends():
    """The same by newer names, of all backends at once."""
    before = torch.backends.fp32_precision
    torch.backends.fp32_precision = "bf16"
    try:
        yield
    finally:
        torch.backends.fp32_precision = before


STATES = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": default_device,
    "in a device's context": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic": deterministic,
    "products": rounded_products,
    **({"backends": rounded_backends} if hasattr(torch.backends, "fp32_precision") else {}),
}
"""One by one."""


@contextmanager
def all_at_once():
    with ExitStack() as stack:
        for name in ("bfloat16", "meta", "autocast", "inference", "deterministic", "products"):
            stack.enter_context(STATES[name]())
        yield


def settings():
    """What of torch may have been changed."""
    found = [torch.get_default_dtype(), torch.empty(0).device, torch.is_grad_enabled(), torch.is_inference_mode_enabled()]
    found += [torch.is_autocast_enabled("cpu"), torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()]
    if hasattr(torch.backends, "fp32_precision"):
        backends = torch.backends
        owners = (
            backends,
            backends.cudnn,
            backends.cuda.matmul,
            backends.mkldnn.matmul,
            backends.mkldnn.conv,
            backends.cudnn.conv,
        )
        return [*found, *(owner.fp32_precision for owner in owners)]
    return [*found, torch.get_float32_matmul_precision()]


def test_these_states_do_change_numbers():
    """Else the tests below would show nothing."""
    x, rows = torch.randn(64, 64), torch.randn(8, 64)
    for name in ("float64", "float16", "bfloat16"):
        with STATES[name]():
            assert torch.zeros(1).dtype != torch.float32
    for name in ("meta", "in a device's context"):
        with STATES[name]():
            assert torch.zeros(1).device.type == "meta"
    with STATES["autocast"]():
        assert (rows @ x).dtype == torch.bfloat16
    with STATES["inference"]():
        assert (rows @ x).is_inference()


# --- every public function in every state


@cache
def calls_of_tensors():
    """Calls of every function of ``functional``, whose arguments were made outside of any state."""
    calls = {}

    def keep(name, function, *given, **options):
        if "gradient" not in name:  # those are the test's own, and there are none inside ``torch.no_grad``
            calls[name.replace("/", ": ")] = partial(function, *given, **options)  # behind a slash stands a part of a value
        return function(*given, **options)

    numbers_of_tensors.write_tensors(keep, dtypes=[torch.float32])
    return calls


@cache
def calls_of_models():
    """Calls of every function that measures models, reads results or makes what measures, and of the results' methods."""
    model, texts = cached_model("gpt2", kinds()[0]), TEXTS
    batch = {"batch_size": 2, **QUIET}
    lens = tle.train_tuned_lens(model, texts, steps=2, tokens_per_step=16, **QUIET)
    means, places = tle.head_means(model, texts, **QUIET), tle.site_means(model, texts, ("z.1", "resid_post.0"), **QUIET)
    entropies, divergence = tle.lens_entropy(model, texts, **QUIET), tle.layer_divergence(model, texts, **QUIET)
    surprisal, plan = tle.token_surprisal(model, texts, **QUIET), tle.label_plan(model, texts, labels=("token", "position"))
    profiles = {str(i): entropies.select(documents=i) for i in range(3)}
    vector = torch.linspace(-1, 1, 32)
    edited = partial(tle.lens_entropy, model, texts, **batch)
    tokens = model.tokenizer(texts[0], return_tensors="pt")["input_ids"]
    _, kept = model.run_with_cache(tokens)

    made = [tle.HeadAccumulator, tle.CKAAccumulator, tle.GeometryAccumulator, tle.SurprisalAccumulator]
    made += [partial(tle.LensAccumulator, keep="summary"), partial(tle.SoftAccumulator, plan=plan, n_bins=10)]

    def streamed(*made):
        accumulators = [make(model) for make in made]
        tle.stream(model, texts, accumulators, **batch)
        return [accumulator.compute() for accumulator in accumulators]

    return {
        "lens_entropy": partial(tle.lens_entropy, model, texts, orders=(0.5, 1, 2), surprisal=True, top_k=2, **batch),
        "lens_entropy, summary": partial(tle.lens_entropy, model, texts, keep="summary", **batch),
        "lens_entropy, tuned": partial(tle.lens_entropy, model, texts, lens=lens, **batch),
        "lens_entropy, generated": partial(tle.lens_entropy, model, texts, max_new_tokens=2, temperature=0.7, **batch),
        "lens_entropy, cache": partial(tle.lens_entropy, model, (kept, tokens), **QUIET),
        "layer_divergence": partial(tle.layer_divergence, model, texts, surprisal=True, targets=(7, 9), **batch),
        "layer_divergence, summary": partial(tle.layer_divergence, model, texts, against="previous", keep="summary", **batch),
        "head_entropy": partial(tle.head_entropy, model, texts, **batch),
        "head_entropy, readout": partial(tle.head_entropy, model, texts, of="readout", **batch),
        "soft_information": partial(tle.soft_information, model, texts, labels=plan, n_bins=10, layers=[1], **batch),
        "label_plan": partial(tle.label_plan, model, texts, labels={"own": lambda tokens: tokens % 3, "two": tle.ngram(2)}),
        "layer_similarity": partial(tle.layer_similarity, model, texts, against="all", **batch),
        "matrix_renyi": partial(tle.layer_similarity, model, texts, method="matrix_renyi", permutations=2, **batch),
        "layer_geometry": partial(tle.layer_geometry, model, texts, **batch),
        "token_surprisal": partial(tle.token_surprisal, model, texts, **batch),
        "token_surprisal, summary": partial(tle.token_surprisal, model, texts, keep="summary", **batch),
        "confidence": partial(tle.confidence, model, texts, sites=("embed", "resid_post"), **batch),
        "unigram_distance": partial(tle.unigram_distance, model, texts, **batch),
        "token_reliance": partial(tle.token_reliance, model, texts, tle.ablate("mlp_out.1"), **batch),
        "token_reliance, tokens": partial(tle.token_reliance, model, [texts[0]], "tokens", **batch),
        "gradient_reliance": partial(tle.gradient_reliance, model, [texts[0]], "embed", **QUIET),
        "conditional_entropy": partial(tle.conditional_entropy, model, [texts[0]], **QUIET),
        "head_means": partial(tle.head_means, model, texts, **batch),
        "site_means": partial(tle.site_means, model, texts, ("z.1", "mlp_out"), **batch),
        "ablate_heads": lambda: edited(interventions=tle.ablate_heads([(0, 1), (1, 0)], means=means)),
        "ablate": lambda: edited(interventions=tle.ablate("attn_out.1")),
        "steer": lambda: edited(interventions=tle.steer(vector, layer=1)),
        "occlude": lambda: edited(interventions=tle.occlude("resid_post.0", [0, -1], means=places)),
        "mask_attention": lambda: edited(interventions=tle.mask_attention(1)),
        "quantize": lambda: edited(interventions=tle.quantize("resid_post.0", "int4")),
        "add_noise": lambda: edited(interventions=tle.add_noise("resid_post.0", 0.5)),
        "accumulators": lambda: streamed(*made),
        "layer_dynamics": partial(tle.layer_dynamics, entropies, divergence, order=1.0),
        "profile_distance": partial(tle.profile_distance, profiles["0"], profiles["1"], order=1.0),
        "pairwise_distances": partial(tle.pairwise_distances, profiles, metric="wasserstein", order=1.0, **QUIET),
        "profile_embedding": lambda: tle.profile_embedding(tle.pairwise_distances(profiles, order=1.0, **QUIET)),
        "compare_models": partial(tle.compare_models, {"a": model, "b": model}, texts, **QUIET),
        "contrast": partial(tle.contrast, entropies, edited(interventions=tle.ablate("mlp_out.1"))),
        "align_tokens": partial(tle.align_tokens, surprisal, surprisal),
        "token_correlation": partial(tle.token_correlation, surprisal, surprisal, folds=2),
        "train_tuned_lens": partial(tle.train_tuned_lens, model, texts, steps=2, tokens_per_step=16, **QUIET),
        "EntropyMonitor": lambda: monitored(model),
        "demo_lens": tle.demo_lens,
    }


def monitored(model):
    monitor = tle.EntropyMonitor(model, TEXTS, every=1)
    monitor(0)
    return monitor.history


class Kept(Record):
    """Keeps the values, since digests are taken by code that may itself depend on the state."""

    def __init__(self):
        self.values = {}

    def fields(self, name, function, *given, **options):
        try:
            self.values[name] = function(*given, **options)
        except tle.TLEntropyError as error:  # a method that is of another kind of result
            self.values[name] = type(error).__name__
            return None
        return self.values[name]

    def digests(self):
        found = {}
        for name, value in self.values.items():
            found |= {where: n for where, n in digests(value, name).items() if OF_THE_RUN.isdisjoint(where.split("/"))}
        return found


def kept(calls, *, methods=False):
    record = Kept()
    for name, call in calls.items():
        (record if methods else record.fields)(name, call)
    return record


@cache
def expected(name, of_models, methods):
    calls = calls_of_models() if of_models else calls_of_tensors()
    return kept({name: calls[name]}, methods=methods).digests()


def first_of_each(calls):
    """One call of each function."""
    firsts = {}
    for name in calls:
        firsts.setdefault(name.split(":")[0], name)
    return {name: calls[name] for name in firsts.values()}


def unlike(calls, state, *, of_models, methods=False):
    """What comes out otherwise inside a state; torch's settings must be the same after as before."""
    with state():
        before = settings()
        record = kept(calls, methods=methods)
        assert settings() == before
    right = {where: number for name in calls for where, number in expected(name, of_models, methods).items()}
    return differences(record.digests(), right)


@pytest.mark.thinned
@pytest.mark.parametrize("state", STATES)
def test_functions_of_tensors(state):
    assert unlike(first_of_each(calls_of_tensors()), STATES[state], of_models=False) == []


def test_functions_of_tensors_in_all_states_at_once():
    assert unlike(calls_of_tensors(), all_at_once, of_models=False) == []


@pytest.mark.thinned
@pytest.mark.model
@pytest.mark.parametrize("state", STATES)
def test_measures_of_models(state):
    some = {name: calls_of_models()[name] for name in ("lens_entropy", "layer_geometry", "gradient_reliance")}
    assert unlike(some, STATES[state], of_models=True, methods=True) == []


@pytest.mark.model
@pytest.mark.long
def test_every_measure_and_every_method_of_its_result_in_all_states_at_once():
    assert unlike(calls_of_models(), all_at_once, of_models=True, methods=True) == []


@pytest.mark.model
def test_figures_files_and_the_bundled_model_in_all_states_at_once(tmp_path):
    text = TEXTS[0]
    result = tle.lens_entropy(tle.demo_model(), text, **QUIET)
    with all_at_once():
        again = tle.lens_entropy(tle.demo_model(), text, **QUIET)
        loaded = tle.load(again.save(tmp_path / "result.safetensors"))
        tle.plots.profile(loaded)
        tle.plots.heatmap(loaded)
    assert torch.equal(loaded.entropy, result.entropy)
    assert loaded.provenance.dtype == "float32"


@pytest.mark.model
def test_an_accumulator_made_in_inference_mode_is_fed_outside_of_it():
    model = cached_model("gpt2", kinds()[0])
    with torch.inference_mode():
        made = tle.LensAccumulator(model, keep="summary")
        tle.stream(model, TEXTS[:1], [made], **QUIET)
    tle.stream(model, TEXTS[1:], [made], **QUIET)
    assert made.compute().documents == 3
    with torch.inference_mode():
        assert not tle.lens_entropy(model, TEXTS, **QUIET).entropy.is_inference()


@pytest.mark.model
def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model = make_model("gpt2", kinds()[0])
        inside = tle.lens_entropy(model, TEXTS, **QUIET)
    torch.testing.assert_close(inside.entropy, tle.lens_entropy(cached_model("gpt2", kinds()[0]), TEXTS, **QUIET).entropy)


# --- what is the caller's own


@pytest.mark.model
def test_what_is_the_callers_own_finds_the_callers_defaults():
    model, found = cached_model("gpt2", kinds()[0]), {}

    def note(name):
        found.setdefault(name, set()).add((torch.get_default_dtype(), torch.empty(0).device.type))

    def hook(activation, hook):
        note("hook")
        return activation + torch.zeros(32, device=activation.device).to(activation.dtype)

    def lens(site, rows):
        note("lens")
        return rows

    def texts():
        for text in TEXTS:
            note("texts")
            yield text

    def labels(tokens):
        note("labels")
        return tokens % 2

    class Own:
        sites = (tle.Site("embed", -1),)

        def update(self, batch, activations):
            note("accumulator")

    def run():
        tle.lens_entropy(model, texts(), lens=lens, interventions=("blocks.1.hook_mlp_out", hook), **QUIET)
        tle.label_plan(model, TEXTS, labels={"own": labels})
        tle.stream(model, TEXTS, [Own()], **QUIET)

    run()
    names = {"hook", "lens", "texts", "labels", "accumulator"}
    assert found == {name: {(torch.float32, "cpu")} for name in names}
    found.clear()
    with default_dtype(torch.float64), default_device():
        run()
    # Inside a model's pass, a default device is the model's.
    assert found == {name: {(torch.float64, "cpu" if name == "hook" else "meta")} for name in names}


def test_what_the_callers_own_calls_here_is_plain_again():
    @steady
    def outer():
        with yours(), default_dtype(torch.float16):
            inner = steady(torch.get_default_dtype)()
            return torch.get_default_dtype(), inner

    assert outer() == (torch.float16, torch.float32)


def test_items_are_made_in_the_state_asked_for():
    def dtypes():
        for _ in range(2):
            yield torch.get_default_dtype()

    with default_dtype(torch.float64):
        with plain():
            read = each(dtypes())
            assert (next(read), torch.get_default_dtype()) == (torch.float64, torch.float32)
            assert list(read) == [torch.float64]
        assert list(each(dtypes(), plain)) == [torch.float32] * 2


# --- the mechanism


def test_gradients_are_on_where_they_were():
    x = torch.randn(5, requires_grad=True)
    assert tle.functional.shannon_entropy(x).requires_grad
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert not tle.functional.shannon_entropy(x).requires_grad
            with torch.enable_grad():
                assert steady(torch.is_grad_enabled)()


def test_a_warning_names_the_callers_line():
    with pytest.warns(UserWarning, match="left out of two_nn") as warned:
        tle.functional.two_nn(torch.randn(12, 3).repeat(2, 1))
    assert warned[0].filename == __file__


def test_everything_is_put_back_after_an_error():
    with all_at_once():
        before = settings()
        with pytest.raises(ZeroDivisionError):
            steady(lambda: 1 / 0)()
        with pytest.raises(ZeroDivisionError):
            steady(lambda: tuple(each(1 / n for n in (1, 0))))()
        assert settings() == before


def test_a_thread_that_leaves_first_does_not_round_the_products_of_another():
    inside, leave = threading.Event(), threading.Event()

    def first():
        with plain():
            inside.set()
            leave.wait(10)

    with STATES["products"]():
        before = settings()
        other = threading.Thread(target=first)
        other.start()
        inside.wait(10)
        with plain():
            leave.set()
            other.join()
            assert settings()[-3:] != before[-3:]
            assert "bf16" not in settings()
            assert "medium" not in settings()
        assert settings() == before


def test_a_class_is_steady_in_all_that_is_called_from_outside():
    def state():
        return torch.get_default_dtype()

    class Parts(Steady):
        def __init__(self):
            self.made = state()

        def __call__(self):
            return state()

        def method(self):
            return state()

        @property
        def part(self):
            return state()

        @cached_property
        def kept(self):
            return state()

        @classmethod
        def of_class(cls):
            return cls, state()

        @staticmethod
        def alone():
            return state()

    with default_dtype(torch.float64):
        parts = Parts()
        found = [parts.made, parts(), parts.method(), parts.part, parts.kept, parts.alone(), parts.of_class()[1]]
    assert found == [torch.float32] * 7
    assert parts.of_class()[0] is Parts


def test_a_generator_makes_each_item_in_the_plain_state_and_leaves_its_readers_alone():
    class Parts(Steady):
        def numbers(self):
            for _ in range(2):
                yield torch.zeros(1).dtype

    with default_dtype(torch.float64):
        dtypes = [(dtype, torch.zeros(1).dtype) for dtype in Parts().numbers()]
    assert dtypes == [(torch.float32, torch.float64)] * 2
    assert list(steady(lambda: iter(()))()) == []


NO_TENSORS = {"AtPositions", "EstimationConfig", "Intervention", "Provenance", "Site", "StreamReport", "TokenPage"}
"""Public classes that hold what they were given, and make no tensor."""
A_MODEL = {"EstimationModel"}
"""Which computes in the state that it is called in, like those of TransformerLens; what measures it sets the plain one."""


def test_every_public_function_and_class_is_steady():
    for module in (tle, tle.functional, tle.plots):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                assert thing.__code__ is steady(settings).__code__, f"{name}: decorate it with @steady"
            elif inspect.isclass(thing) and not issubclass(thing, Exception) and name not in NO_TENSORS | A_MODEL:
                own = [part for part in vars(thing) if not part.startswith("_") and callable(getattr(thing, part))]
                assert issubclass(thing, Steady) or not own, f"{name}: derive it from Steady"


def test_fake_tensors_are_refused_by_that_name():
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = cached_model("gpt2", kinds()[0])
    with FakeTensorMode():
        fake = torch.ones(3, 5)
        for ask in (lambda: tle.lens_entropy(model, TEXTS, **QUIET), lambda: tle.functional.shannon_entropy(fake)):
            with pytest.raises(tle.ModelError, match=r"FakeTensorMode, in which a tensor .* holds no numbers.*outside"):
                ask()
    with pytest.raises(tle.ModelError, match="a fake tensor has a shape and holds no numbers"):
        tle.functional.shannon_entropy(fake)
    assert tle.lens_entropy(model, TEXTS, **QUIET).entropy.isfinite().all()


def test_what_a_transformed_function_hides_is_refused_by_that_name():
    model = cached_model("gpt2", kinds()[0])

    def asked(x):
        tle.lens_entropy(model, TEXTS, **QUIET)
        return x.sum()

    with pytest.raises(tle.ModelError, match=r"torch\.func transforms holds tensors that are hidden.*call it outside"):
        torch.func.grad(asked)(torch.ones(3))
    numbers = torch.func.grad(lambda x: tle.functional.shannon_entropy(x))(torch.arange(3.0))
    assert numbers.isfinite().all(), "what needs no more than its tensors works there"
