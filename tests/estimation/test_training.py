"""Training: windows, losses, interruption; and what is known of coins and their copies."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import drawn
from tiny_models import LONG
from torch.optim.optimizer import register_optimizer_step_pre_hook

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.errors import FileError, SaveError
from tl_entropy.estimation.training import _Step
from tl_entropy.estimation.windows import Windows, validated

QUIET = {"progress": False}
TEXT = "import os\nimport sys\n\n\ndef f(x):\n    return x\n" * 4


def coins(n: int, seed: int, *, fair: int = 8) -> list[torch.Tensor]:
    """Coins and their copy, begun by 2: H = ln 2 / 2 a token."""
    drawn_now = torch.randint(0, 2, (n, fair), generator=torch.Generator().manual_seed(seed))
    return [torch.cat([torch.tensor([2]), row, row]) for row in drawn_now]


def coin_model(**options):
    sizes = {"n_ctx": 17, "d_model": 24, "n_layers": 1, "d_vocab": 3, "bos_token_id": 2, "n_heads": 8}
    return tle.estimation_model(tle.EstimationConfig(**sizes | options))


def small(**options):
    return drawn({"kind": "causal", **options}, n_layers=1, d_model=8)


def trained(model=None, **options):
    model = model or small()
    return model, tle.train_estimation(model, [TEXT], validation=[TEXT[:60]], **{"steps": 4, "batch_size": 2} | QUIET | options)


def test_windows_are_a_function_of_seed_and_step_and_lie_inside_documents():
    adapter = Adapter(small())
    windows = Windows.of(adapter, ["abcdefghijklmnopqrstuvwxyz" * 3, "xyz"], "texts")
    rows, mask = windows.drawn(64, 5, seed=1, short=0.5)
    assert torch.equal(rows, windows.drawn(64, 5, seed=1, short=0.5)[0])
    assert not torch.equal(rows, windows.drawn(64, 6, seed=1, short=0.5)[0])
    assert (rows[:, 0] == 256).all()
    lengths = mask.sum(1) - 1
    assert lengths.max() == 23
    assert lengths[lengths > 3].min() < 8
    for row, n in zip(rows, lengths.tolist(), strict=True):
        assert bytes(row[1 : n + 1].tolist()).decode() in "abcdefghijklmnopqrstuvwxyz" * 3
    assert windows.drawn(64, 5, seed=1, short=0.0)[1].sum(1).min() >= 4


@torch.no_grad()
def test_a_validation_is_a_mean_over_all_tokens_in_neighbouring_windows():
    model = small()
    found = validated(model, Windows.of(Adapter(model), ["ab", TEXT[:50]], "validation"), batch_size=2)
    nats = []
    for text in (b"ab", *(TEXT[i : i + 23][: 50 - i].encode() for i in (0, 23, 46))):
        row = torch.tensor([[256, *text]])
        nats += torch.nn.functional.cross_entropy(model(row)[0, :-1], row[0, 1:], reduction="none").tolist()
    assert math.isclose(found, sum(nats) / 52, rel_tol=1e-5)
    short = ["ab", TEXT[:23]]
    found, result = validated(model, Windows.of(Adapter(model), short, ""), 2), tle.token_surprisal(model, short, **QUIET)
    assert math.isclose(found, result.loss(), rel_tol=1e-5), "of one window each, what a measurement gives"


def test_a_model_says_that_it_was_trained_on_its_grid():
    for straight in (True, False):
        model = small(kind="memory", numbers=2, limit=1.0, bits=2, straight_through=straight)
        trained(model, steps=2)
        found = tle.token_surprisal(model, TEXT[:20], **QUIET)
        assert ("straight through" in str(found.provenance)) == straight
        assert model.at_bits(None).config.straight_through is False


def test_a_trainings_loss_is_over_tokens_not_rows_and_weights_weigh_them():
    seen = []

    def ones(tokens, mask):
        seen.append((tokens, mask))
        return torch.ones(tokens.shape[0], tokens.shape[1] - 1)

    model, [one, other] = small(), (torch.randint(0, 250, (1, n)) for n in (9, 4))
    tokens, mask = torch.zeros(2, 9).long(), torch.arange(9) < torch.tensor([[9], [4]])
    tokens[0], tokens[1, :4] = one[0], other[0]
    each = [model(row, return_type="loss") for row in (one, other)]
    assert torch.allclose(_Step(model, None, "float32")(tokens, mask)[0], (8 * each[0] + 3 * each[1]) / 11, atol=1e-5)
    plain = trained(steps=3, short=1.0)[1]
    assert trained(steps=3, short=1.0, weights=ones)[1].training == plain.training
    first = trained(
        steps=3, short=1.0, weights=lambda tokens, mask: (torch.arange(tokens.shape[1] - 1) < 2).expand(len(tokens), -1)
    )[1]
    assert first.training != plain.training
    assert all(tokens.shape == mask.shape for tokens, mask in seen)
    with pytest.raises(tle.InputError, match="weights must give numbers from 0 on"):
        trained(weights=lambda tokens, mask: torch.ones(3))


def test_a_state_with_another_bit_is_refused(tmp_path):
    trained(steps=2, every=2, out=tmp_path)
    path = tmp_path / "state.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 1
    path.write_bytes(whole)
    with pytest.raises(FileError, match=r"cannot be read as the state of a training .*its digest is not"):
        trained(steps=2, every=2, out=tmp_path)


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path):
    options = {"kind": "memory", "numbers": 2, "limit": 1.0, "noise": 0.5}
    settings = {"steps": 6, "every": 2}
    whole, history = trained(small(**options), **settings)

    def stop(step):
        if step == 5:
            with pytest.raises(SaveError, match="out: somebody else is writing"):
                trained(small(**options), **settings, out=tmp_path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as ended:
        trained(small(**options), **settings, out=tmp_path, monitor=stop)
    assert ended.value.partial.steps == (2, 4)
    again, later = trained(small(**options), **settings, out=tmp_path)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert (later.steps, later.validation, later.tokens) == (history.steps, history.validation, history.tokens)
    assert later.seconds[1] < later.seconds[2]
    loaded = tle.load_model(tmp_path, device="cpu")
    assert Adapter(loaded).fingerprint == Adapter(again).fingerprint
    assert "trained for 6 steps of 2 windows, seed 0" in loaded.tl_entropy_notes
    with pytest.raises(tle.InputError, match="the state of a training with other settings"):
        trained(small(**options), steps=8, out=tmp_path)


def test_a_state_of_other_texts_or_of_a_model_of_another_seed_is_no_one_elses(tmp_path):
    options = {"steps": 2, "every": 2, "out": tmp_path}
    model, history = trained(**options)
    again = trained(**options)[1]
    assert (again.validation, again.seconds) == (history.validation, history.seconds), "nothing is left to do"
    other = TEXT.replace("x", "y")
    run = {"batch_size": 2, **options, **QUIET}
    for texts, held_out, seed in (([other], [TEXT[:60]], 1), ([TEXT], [other[:60]], 1), ([TEXT], [TEXT[:60]], 3)):
        config = tle.EstimationConfig(**model.config.as_dict() | {"d_vocab": None})
        with pytest.raises(tle.InputError, match="a training on other texts, or of a model of another seed"):
            tle.train_estimation(tle.estimation_model(config, "bytes", seed=seed), texts, validation=held_out, **run)


def test_a_folder_with_another_model_and_a_model_of_half_precision_are_refused_before_the_training(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    steps = list[int]()
    with pytest.raises(SaveError, match=r"out: .* holds another model"):
        trained(out=tmp_path, monitor=steps.append)
    with pytest.raises(tle.InputError, match="model is in float16"):
        trained(small().half(), monitor=steps.append)
    assert not steps
    assert trained(small().double())[1].loss > 0


def test_every_step_has_a_noise_of_its_own():
    model, seen = small(kind="memory", numbers=2, limit=1.0, noise=0.5), list[int]()
    trained(model, steps=3, monitor=lambda step: seen.append(model.memory.drawn))
    assert seen == [0, 1, 2, 3]


def test_noise_rises_over_the_share_of_the_steps_that_is_said():
    model, seen = small(kind="memory", numbers=2, limit=1.0, noise=0.5), list[float]()
    _, history = trained(model, steps=8, noise_up=0.5, monitor=lambda step: seen.append(model.memory.rise))
    assert seen[1:] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert history.settings["noise_up"] == 0.5
    assert history.training != trained(small(kind="memory", numbers=2, limit=1.0, noise=0.5), steps=8)[1].training
    model.memory.rise = 0.25
    state = torch.zeros(500, 8)
    plain, noisy = (model.train(on).memory(state) for on in (False, True))
    assert 0.12 < float((noisy - plain).detach().abs().max()) <= 0.125
    with pytest.raises(tle.InputError, match="noise_up must be"):
        trained(noise_up=1.5)


def test_every_step_has_the_rate_of_its_schedule_and_a_gradient_of_norm_1_at_most():
    model, norms, rates = small(), list[float](), list[float]()
    with torch.no_grad():
        model.unembed.W_U.mul_(50)

    def look(optimizer, args, kwargs):
        parts = [p.grad.norm() for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.stack(parts).norm()))
        rates.extend(group["lr"] for group in optimizer.param_groups)

    handle = register_optimizer_step_pre_hook(look)
    try:
        trained(model, steps=4, warm_up=2, down=0.5, learning_rate=1e-3)
    finally:
        handle.remove()
    assert norms == pytest.approx([1.0] * 4, abs=1e-4)
    assert rates == pytest.approx([0.5e-3] * 2 + [1e-3] * 4 + [0.5e-3] * 2)


def test_seeds_fix_a_training_and_monitors_do_not_disturb_it():
    plain, _ = trained()
    model = small()
    monitor = tle.EntropyMonitor(model, [TEXT[:40]], every=2)
    trained(model, monitor=monitor)
    assert monitor.history.steps.tolist() == [0, 2, 4]
    assert not model.training
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    other = trained(seed=1)[0]
    assert Adapter(other).fingerprint != Adapter(plain).fingerprint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps must be an int of at least 1"),
        ({"precision": "float16"}, "precision must be one of"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"short": 2.0}, "short must be"),
        ({"validation": [""]}, "validation: inputs hold nothing to measure"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(options, said):
    with pytest.raises(tle.TLEntropyError, match=said):
        tle.train_estimation(small(), [TEXT], **{"validation": [TEXT], "steps": 1} | QUIET | options)
    with pytest.raises(tle.InputTypeError, match="model must be an EstimationModel"):
        tle.train_estimation(torch.nn.Linear(1, 1), [TEXT], validation=[TEXT], steps=1)


def test_a_loss_that_is_no_number_ends_it_with_what_was_seen():
    with pytest.raises(tle.NonFiniteError) as ended:
        trained(steps=40, every=1, learning_rate=1e30, warm_up=1)
    assert isinstance(ended.value.partial, tle.TrainingHistory)


@pytest.mark.skipif(not LONG, reason="trains")
@pytest.mark.parametrize("mixer", ["heads", "attention"])
def test_a_causal_model_reaches_the_entropy_of_coins_and_their_copy(mixer):
    model = coin_model(mixer=mixer, **({"n_layers": 2, "n_heads": 4} if mixer == "attention" else {}))
    history = tle.train_estimation(
        model, coins(4000, 0), validation=coins(300, 1), steps=400, batch_size=64, short=0.0, **QUIET
    )
    assert math.log(2) / 2 - 0.001 < history.loss < math.log(2) / 2 + 0.02
    losses = tle.token_surprisal(model, coins(50, 2), **QUIET)
    assert losses.surprisal[losses.position % 16 >= 8].mean() < 0.05, "copies are free"


@pytest.mark.skipif(not LONG, reason="trains")
def test_a_float_holds_bits_that_nobody_has_charged_and_a_grid_does_not():
    """One unbounded number at 4 bits would "code" coins and their copy below their entropy; on the grid it does not."""
    model = coin_model(kind="memory", mixer="heads", encoder_width=32, numbers=1)
    free = tle.train_estimation(model, coins(4000, 0), validation=coins(300, 1), steps=1500, batch_size=64, short=0.0, **QUIET)
    entropy, charge = math.log(2) / 2, 4 * math.log(2) / 16
    assert free.loss + charge < entropy, "which is less than anything can be coded with"
    bounded = coin_model(kind="memory", mixer="heads", encoder_width=32, numbers=1, limit=1.0, noise=1 / 15, bits=4)
    grid = tle.train_estimation(
        bounded, coins(4000, 0), validation=coins(300, 1), steps=1500, batch_size=64, short=0.0, **QUIET
    )
    assert grid.loss + charge > entropy
