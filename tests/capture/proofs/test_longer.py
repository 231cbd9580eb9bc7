"""Models that look back on a short pass, and ahead in longer texts."""

from __future__ import annotations

import pytest
import torch
import transformers as tr
from tiny_models import VOCAB, booted, kinds, make_model

import tl_entropy as tle
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.feeding import out_of_memory
from tl_entropy.errors import ModelError

pytestmark = [pytest.mark.model, pytest.mark.skipif(kinds()[0] != "bridge", reason="needs a TransformerBridge")]

QUIET = {"progress": False}
AHEAD = r"this model looks ahead on longer texts: on {} tokens its states move when only the last token changes"
LONG, SHORT = (torch.arange(1, n)[None] * 7 % VOCAB for n in (61, 15))


def looking(first: int, last: int | None = None):
    """GPT-2 with an MLP that is told of the next token, from a position on and, it may be, up to one."""
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    class Ahead(GPT2MLP):
        def forward(self, x):
            out = super().forward(x).clone()
            stop = min(x.shape[1] - 1, last or x.shape[1])
            out[:, first:stop] += x[:, first + 1 : stop + 1]
            return out

    torch.manual_seed(0)
    config = tr.GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    source = tr.GPT2LMHeadModel(config)
    source.transformer.h[0].mlp = Ahead(128, config)
    return booted(source, "looking", std=0.2)


@pytest.mark.parametrize(("first", "last", "seen"), [(16, None, 24), (30, None, 48), (50, None, 60), (16, 24, 24)])
def test_what_speaks_of_next_tokens_is_refused_at_that_length(first, last, seen):
    model = looking(first, last)
    for ask in (tle.lens_entropy, tle.token_surprisal):
        with pytest.raises(ModelError, match=AHEAD.format(seen)):
            ask(model, LONG, **QUIET)
        ask(model, SHORT, **QUIET)
    with pytest.raises(ModelError, match=AHEAD.format(seen)):
        tle.gradient_reliance(model, LONG, "embed", **QUIET)
    with pytest.raises(ModelError, match=AHEAD.format(seen)):
        tle.conditional_entropy(model, LONG, **QUIET)
    assert tle.layer_similarity(model, LONG, **QUIET).values.isfinite().any()


def test_what_is_declared_is_measured(monkeypatch):
    model = looking(16)
    monkeypatch.setattr(model.cfg, "reads_ahead", True, raising=False)
    assert tle.lens_entropy(model, LONG, **QUIET).entropy.isfinite().all()


def test_it_is_proved_once_for_each_power_of_two_and_once_more_for_other_weights(monkeypatch):
    model = make_model("gpt2")
    lengths = []
    own = Adapter.row_of
    monkeypatch.setattr(Adapter, "row_of", lambda self, length: lengths.append(length) or own(self, length))
    for row, proved in ((SHORT, []), (LONG[:, :40], [24, 40]), (LONG, []), (LONG[:, :20], [])):
        for _ in range(2):
            lengths.clear()
            tle.lens_entropy(model, row, **QUIET)
            assert lengths == proved
            proved = []
    tle.layer_similarity(make_model("gpt2", compatible=True), LONG, **QUIET)
    assert not lengths, "similarity does not speak of next tokens"
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    tle.lens_entropy(model, LONG, **QUIET)
    assert lengths == [60]


def test_where_two_rows_do_not_fit_they_are_read_one_by_one(monkeypatch):
    model = looking(16)
    shapes = []
    own = Adapter.state_and_logits

    def full(self, tokens, *args, **options):
        shapes.append(tuple(tokens.shape))
        if tokens.shape == (2, 24):
            raise torch.OutOfMemoryError
        return own(self, tokens, *args, **options)

    monkeypatch.setattr(Adapter, "state_and_logits", full)
    assert out_of_memory(torch.OutOfMemoryError())
    with pytest.raises(ModelError, match=AHEAD.format(24)):
        tle.lens_entropy(model, LONG, **QUIET)
    assert shapes[-3:] == [(2, 24), (1, 24), (1, 24)]
