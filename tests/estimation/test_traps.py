"""What is easily done wrong with entropy-estimation models: bits that are not there, answers that were read, memories that pay.

Others of these are where they belong: the bound on known sources (``test_sweep``), masks under an optimiser and kernels
(``test_mixing``), states of padded rows and rotary positions (``test_memory``), cells and hooks (``test_models``), windows and
real tokens (``analyses/tokens/test_declared``), float16 and float memories (``test_training``), scales (``functional``).
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from small_models import drawn, rows, small_model

import tl_entropy as tle
from tl_entropy.estimation.config import Stack
from tl_entropy.estimation.mixing import mixer_of
from tl_entropy.estimation.showing import Showing
from tl_entropy.functional.quantisation import quantized_bits
from tl_entropy.functional.tokens.losses import min_max

TEXTS = ["import os\nimport sys", "def f(x): return", "x = 1"]
QUIET = {"progress": False}
LONG = "import os, sys, re, json, time, math"
ORACLE = "no entropy of that token"


@torch.no_grad()
def test_noise_without_a_limit_buys_no_bits():
    config = tle.EstimationConfig(kind="memory", numbers=4, noise=1 / 16)
    assert config.memory_bits is None
    with pytest.raises(tle.InputError, match="bits need a limit"):
        dataclasses.replace(config, bits=4)
    model = drawn({"kind": "memory", "mixer": "heads", "numbers": 4, "noise": 1 / 16})
    wide = copy.deepcopy(model)
    for parameter in wide.memory.down.parameters():  # what training does: it moves numbers apart until noise does not matter
        parameter.mul_(8)
    narrow, more = (
        tle.functional.effective_bits(tle.memories(one, TEXTS, **QUIET).numbers.abs().amax(0), 1 / 16) for one in (model, wide)
    )
    assert (more - narrow > 1.5).all()
    with pytest.raises(tle.InputError, match="memory_bits"):
        tle.token_surprisal(model, TEXTS, **QUIET).bits_per_byte()


def test_an_oracles_results_say_that_it_has_read_the_answer_and_a_causal_models_do_not():
    for name, said in (("memory attention token", True), ("past attention token", False), ("causal attention", False)):
        model = small_model(name)
        for result in (
            tle.lens_entropy(model, TEXTS, **QUIET), tle.token_surprisal(model, TEXTS, **QUIET),
            tle.conditional_entropy(model, TEXTS[2], **QUIET), tle.confidence(model, TEXTS, **QUIET),
            tle.token_reliance(model, TEXTS, tle.ablate("mlp_out.1"), **QUIET), tle.layer_divergence(model, TEXTS, **QUIET),
        ):  # fmt: skip
            assert (ORACLE in str(result)) == said, (name, type(result))


@torch.no_grad()
def test_a_flat_mixer_hands_on_one_sum_for_all_components_and_the_others_do_not():
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    for kind, kernel, alike in (("conv", 1, True), ("conv", 4, False), ("heads", 1, False)):
        torch.manual_seed(0)
        mixer = mixer_of(Stack(kind, 9, 16, 1, 4, kernel, True, 0))
        moved = mixer(x[..., order], None, Showing()) - mixer(x, None, Showing())[..., order]
        assert (float(moved.abs().max()) < 1e-5) == alike


def test_a_document_that_is_trained_on_is_no_held_out_text():
    options = {"steps": 1, "batch_size": 1, **QUIET}
    small = {"n_layers": 1, "d_model": 8}
    with pytest.warns(UserWarning, match="validation: 1 of its 2 documents is among those that are trained on"):
        tle.train_estimation(drawn({"kind": "causal"}, **small), [LONG, "y = 2"], validation=[LONG, "y = 2"], **options)
    tle.train_estimation(drawn({"kind": "causal"}, **small), [LONG, "y = 2"], validation=["y = 2"], **options)  # by chance


def test_a_scale_of_its_own_is_an_eighth_of_sixteen_numbers_at_eight_bits():
    given, own = (quantized_bits(16, "int8", scale=scale) for scale in (0.1, "bfloat16"))
    assert (own - given) / given == 1 / 8
    assert quantized_bits(16, "int8") - given == 32, "exact, it is a float"
    assert quantized_bits(16, "grid", bits=8) == given, "nothing to send"


def test_reliance_on_a_memory_is_said_to_be_no_entropy_and_its_scale_is_gone_from_min_max_values():
    model = small_model("memory attention token")
    found = tle.token_reliance(model, TEXTS, {"memory": tle.occlude("memory")}, metrics=("l1",), **QUIET)
    assert "reliance is not entropy, nor an estimate of it" in str(found)
    values = found.values[:, 0, 0]
    assert torch.allclose(min_max(100 * values), min_max(values), atol=1e-12), "of a text that relies a hundred times as much"


def test_padding_on_the_left_moves_a_convolutions_positions_and_is_refused():
    model = small_model("causal flat")
    with pytest.raises(tle.ModelError, match="positions do not follow the mask"):
        tle.conditional_entropy(model, TEXTS[2], method="pad_shift", **QUIET)
    tokens, mask = rows(9, 5, model=model)
    tokens[1], mask[1] = tokens[1].roll(4), mask[1].roll(4)
    cache = model.run_with_cache(tokens, attention_mask=mask)[1]
    with pytest.raises(tle.ModelError, match="padding on the left"):
        tle.lens_entropy(model, (cache, tokens, mask), **QUIET)
    right, real = rows(9, 5, model=model)
    cache = model.run_with_cache(right, attention_mask=real)[1]
    read = tle.lens_entropy(model, (cache, right, real), **QUIET)
    assert torch.allclose(read.entropy, tle.lens_entropy(model, (right, real), **QUIET).entropy, atol=1e-5)
    shifted = tle.conditional_entropy(small_model("causal attention"), TEXTS[2], method="pad_shift", **QUIET)
    cut = tle.conditional_entropy(small_model("causal attention"), TEXTS[2], **QUIET)
    assert torch.allclose(shifted.entropy, cut.entropy, atol=1e-5), "rotary positions are of distances"
