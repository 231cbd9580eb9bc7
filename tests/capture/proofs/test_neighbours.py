"""Models in which the rows of a batch change each other's states: found, read row by row, and said."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import transformers as tr
from tiny_models import VOCAB, booted, cached_model, kinds

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.errors import ModelError

pytestmark = [pytest.mark.model, pytest.mark.skipif(kinds()[0] != "bridge", reason="needs a TransformerBridge")]

QUIET = {"progress": False}
GENERATOR = torch.Generator().manual_seed(0)
ROWS = [torch.randint(1, VOCAB, (n,), generator=GENERATOR) for n in (9, 5, 9, 12, 7)]
SAID = "every row was read alone: those of a batch change each other's states"


def mixing(kind: str):
    """GPT-2 with an MLP that looks at other rows, and a copy of the Hugging Face model."""
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    class Experts(GPT2MLP):
        """Four experts that take so many tokens of a batch, the first ones; others pass by."""

        def forward(self, x):
            flat = x.flatten(0, -2)
            expert = flat[:, :4].argmax(-1)
            chosen = torch.nn.functional.one_hot(expert, 4)
            place = chosen.cumsum(0).gather(1, expert[:, None])
            room = math.ceil(1.25 * len(flat) / 4) if kind == "capacity" else 24
            return super().forward(x) * (place <= room).view(*x.shape[:-1], 1)

    class BatchNorm(GPT2MLP):
        def forward(self, x):
            out = super().forward(x)
            return out - out.mean(0, keepdim=True) + 0.5 * out

    class Packed(GPT2MLP):
        """One that is quantised, so that it may round in steps, and in which other rows move a row by some of them."""

        def __init__(self, *args):
            super().__init__(*args)
            self.register_buffer("packed", torch.ones(2, 2, dtype=torch.int8))

        def forward(self, x):
            out = super().forward(x)
            return out + 0.03 * out.mean(0, keepdim=True)

    torch.manual_seed(0)
    config = tr.GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    source = tr.GPT2LMHeadModel(config)
    made = {"batch norm": BatchNorm, "packed": Packed}.get(kind, Experts)
    source.transformer.h[0].mlp = made(128, config)
    twin = copy.deepcopy(source).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (0 if parameter.ndim > 1 else parameter * (parameter != 0)))
    torch.manual_seed(0)
    return booted(source, "mixing", std=0.2), twin


@pytest.fixture(params=["capacity", "full at 24", "batch norm", "packed"])
def mixed(request):
    return mixing(request.param)


@pytest.mark.thinned
def test_rows_are_read_alone_and_results_say_so(mixed):
    model, _ = mixed
    together = Adapter(model)
    assert together.sight.neighbours > 1
    assert together.sight.later < 0.1
    assert together.sight.mask < 0.1
    right = tle.lens_entropy(model, ROWS, batch_size=1, **QUIET)
    for batch_size in (None, 3):
        found = tle.lens_entropy(model, ROWS, batch_size=batch_size, **QUIET)
        torch.testing.assert_close(found.entropy, right.entropy, atol=1e-6, rtol=0)
        assert SAID in found.provenance.state
    for ask in (tle.token_surprisal, tle.conditional_entropy, tle.layer_similarity):
        one, more = (ask(model, ROWS, batch_size=n, **QUIET) for n in (1, None))
        values = [getattr(x, "surprisal", getattr(x, "entropy", getattr(x, "values", None))) for x in (one, more)]
        torch.testing.assert_close(values[0], values[1], atol=1e-6, rtol=0, equal_nan=True)


def test_what_is_read_alone_is_what_hugging_face_reads_alone(mixed):
    model, twin = mixed
    with torch.no_grad():
        right = torch.cat([twin(row[None]).logits[0].double().log_softmax(-1) for row in ROWS])
        beside = twin(torch.stack([*[ROWS[0]] * 6, ROWS[2], ROWS[0]])).logits[-1].double().log_softmax(-1)
    found = tle.lens_entropy(model, ROWS, sites="resid_post", **QUIET)
    torch.testing.assert_close(found.entropy[:, -1, 0].double(), -(right.exp() * right).sum(-1), atol=1e-4, rtol=0)
    moved = (-(beside.exp() * beside).sum(-1) - found.entropy[:9, -1, 0]).abs().max()
    assert moved > 1e-3, "together they are something else"


def test_another_model_in_which_rows_change_each_other_reads_them_alone(mixed):
    model, _ = mixed
    plain = cached_model("gpt2", "bridge")
    right = tle.layer_similarity(plain, ROWS, other=model, batch_size=1, **QUIET)
    found = tle.layer_similarity(plain, ROWS, other=model, batch_size=5, **QUIET)
    torch.testing.assert_close(found.values, right.values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mixed", ["full at 24", "batch norm"], indirect=True)
def test_texts_are_written_alone(mixed):
    model, _ = mixed
    prompts = [ROWS[0][:4], ROWS[2][:4]]
    right = [tle.lens_entropy(model, [prompt], max_new_tokens=3, **QUIET).entropy for prompt in prompts]
    found = tle.lens_entropy(model, prompts, max_new_tokens=3, **QUIET).entropy
    torch.testing.assert_close(found, torch.cat(right), atol=1e-6, rtol=0)


def test_caches_of_several_rows_are_refused(mixed):
    model, _ = mixed
    tokens = torch.stack([ROWS[0], ROWS[2]])
    _, cache = model.run_with_cache(tokens)
    with pytest.raises(ModelError, match=r"the rows of a batch change each other's states .* make a cache of each row"):
        tle.lens_entropy(model, (cache, tokens), **QUIET)
    _, cache = model.run_with_cache(tokens[:1])
    found = tle.lens_entropy(model, (cache, tokens[:1]), **QUIET)
    torch.testing.assert_close(found.entropy, tle.lens_entropy(model, ROWS[:1], **QUIET).entropy, atol=1e-6, rtol=0)


def test_rows_of_other_models_share_their_passes(any_model):
    adapter = Adapter(any_model)
    assert adapter.sight.neighbours <= 0.1
    assert not adapter.alone
    assert SAID not in adapter.provenance().state
