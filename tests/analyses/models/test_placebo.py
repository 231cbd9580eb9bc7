"""Placebos: what is matched, effects by hand, ranks and errors, and what is refused."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from hand_made import origin
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.capture.interventions import as_interventions
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results import Placebo

RAW = ("gpt2", "bridge") if "bridge" in kinds() else ("gpt2", "hooked raw")
VECTOR = torch.arange(32.0)


def losses(model, inputs, interventions):
    return tle.token_surprisal(model, inputs, interventions=interventions, progress=False).per_document()["loss"]


def result_of(effects, unit="nats"):
    effects = torch.tensor(effects, dtype=torch.float64)
    return Placebo(effects, tuple(f"edit {i}" for i in range(len(effects))), 0, origin("tiny"), unit)


@pytest.mark.model
def test_effects_are_the_differences_that_each_edit_makes(texts):
    model = cached_model(*RAW)
    edit = tle.ablate_heads([(1, 0)])
    found = tle.placebo(model, texts[:2], edit, losses, n=3, seed=1)
    plain, changed = losses(model, texts[:2], None), losses(model, texts[:2], edit)
    assert found.effects[0].tolist() == pytest.approx((changed - plain).tolist(), abs=1e-9)
    again = tle.placebo(model, texts[:2], edit, losses, n=3, seed=1)
    assert torch.equal(found.effects, again.effects)
    assert found.edits == again.edits
    other = found.edits[1]
    heads = [tuple(map(int, pair.split("."))) for pair in other.removeprefix("ablate heads ").split(", ")]
    truth = losses(model, texts[:2], tle.ablate_heads(heads)) - plain
    assert found.effects[1].tolist() == pytest.approx(truth.tolist(), abs=1e-9)
    assert found.provenance.settings["edit"] == "ablate heads 1.0"


@pytest.mark.model
def test_steering_is_matched_by_directions_of_the_same_length(texts):
    model = cached_model(*RAW)
    adapter, generator = tle.Adapter(model), torch.Generator().manual_seed(0)
    for scale, layer in ((2.0, 1), (-0.5, -1)):
        [real] = as_interventions(tle.steer(VECTOR, layer=layer, scale=scale), adapter.n_layers)
        added = []
        for _ in range(2):
            drawn = real.matched(adapter, generator)
            assert [name for name, _ in drawn.hooks] == [name for name, _ in real.hooks]
            added.append(drawn.hooks[0][1](torch.zeros(1, 1, 32, dtype=torch.float64), None).flatten())
        assert [float(x.norm()) for x in added] == pytest.approx([abs(scale) * float(VECTOR.norm())] * 2)
        assert abs(float(added[0] @ added[1])) < 0.9 * float(added[0].norm() ** 2)


@pytest.mark.model
def test_heads_are_matched_by_others_of_the_same_layers():
    model = cached_model(*RAW)
    adapter, generator = tle.Adapter(model), torch.Generator().manual_seed(0)
    heads = adapter.heads_of(0)
    for _ in range(5):
        drawn = tle.ablate_heads([(0, 0), (2, 1)]).matched(adapter, generator).name
        pairs = [tuple(map(int, pair.split("."))) for pair in drawn.removeprefix("ablate heads ").split(", ")]
        assert [layer for layer, _ in pairs] == [0, 2]
        assert pairs[0][1] != 0
        assert pairs[1][1] != 1
    others = heads - 1
    with pytest.warns(UserWarning, match=f"n: {others} different placebos? of this edit found, and 20 asked for"):
        found = tle.placebo(model, ["the cat"], tle.ablate_heads([(0, 0)]), lambda *_, **__: 1.0, n=20)
    assert sorted(found.edits[1:]) == [f"ablate heads 0.{head}" for head in range(1, heads)]
    assert found.provenance.settings["n"] == others
    with pytest.raises(InputError, match="has 0 other heads"):
        tle.ablate_heads([(0, head) for head in range(heads)]).matched(adapter, generator)


@pytest.mark.model
def test_any_edit_is_matched_by_a_function(texts):
    model, drawn = cached_model(*RAW), []

    def matched(generator):
        drawn.append(int(torch.randint(3, (1,), generator=generator)))
        return tle.occlude("resid_post.1", drawn[-1])

    found = tle.placebo(model, texts[:1], tle.occlude("resid_post.1", 0), losses, n=2, matched=matched)
    assert found.edits[1:] == tuple(f"occlude resid_post.1 at {position} to 0" for position in drawn)
    with pytest.raises(InputError, match="nothing is matched to 'ablate mlp_out"):
        tle.placebo(model, texts[:1], tle.ablate("mlp_out.1"), losses, n=2)


@pytest.mark.model
def test_positions_are_matched_by_as_many_others_of_each_document():
    model, lengths = cached_model(*RAW), {}
    adapter, generator = tle.Adapter(model), torch.Generator().manual_seed(0)
    inputs = [torch.arange(1, 9), torch.arange(1, 5)]
    for edit in (tle.occlude("embed", [0, -1, 6]), tle.mask_attention([0, -1, 6])):
        drawn = edit.matched(adapter, generator)
        found = tle.site_means(model, inputs, "embed", positions=None, prepend_bos=False, progress=False)
        assert found
        [(_, other)] = drawn.hooks
        for document, length in enumerate((8, 4)):
            meant = {i % length for i in (0, -1, 6) if -length <= i < length}
            chosen = set(other.drawn(length, document).tolist())
            assert len(chosen) == min(len(meant), length - len(meant))
            assert not chosen & meant
            lengths[document] = len(chosen)
        assert drawn.name != edit.matched(adapter, generator).name
    assert lengths == {0: 3, 1: 2}
    effects = tle.placebo(model, inputs, tle.occlude("embed", [0, 1]), losses, n=2)
    again = tle.placebo(model, inputs, tle.occlude("embed", [0, 1]), losses, n=2)
    assert torch.equal(effects.effects, again.effects)
    assert float(effects.effects[1:].abs().max()) > 1e-4
    for everything in (tle.occlude("embed"), tle.mask_attention(slice(None))):
        with pytest.raises(InputError, match="at all positions, and there are no others"):
            everything.matched(adapter, generator)


@pytest.mark.model
@pytest.mark.parametrize("edit", [tle.occlude("embed", [0, 1]), tle.mask_attention([0, 1])], ids=["occlude", "mask"])
def test_positions_are_drawn_once(edit):
    model = cached_model(*RAW)
    inputs = [torch.arange(1, 6), torch.arange(1, 4), torch.arange(1, 3)]  # 3 draws of two in three, one of one, none
    with pytest.warns(UserWarning, match="n: 3 different placebos of this edit found, and 20 asked for"):
        found = tle.placebo(model, inputs, edit, losses, n=20)
    assert len(found.edits) == 4
    assert found.provenance.settings["n"] == 3
    seen = []

    def positions(model, inputs, interventions):
        seen.append([] if interventions is None else [interventions[0].hooks[0][1]])
        return losses(model, inputs, interventions)

    tle.placebo(model, [torch.arange(1, 6)] * 2, edit, positions, n=9, seed=2)  # 9 there are: 3 in each of two documents
    draws = {tuple(tuple(one.drawn(5, document).tolist()) for document in (0, 1)) for [one] in seen[2:]}
    assert len(draws) == 9
    with pytest.raises(InputError, match="no document has other positions to match it by"):
        tle.placebo(model, [torch.arange(1, 3)], edit, losses, n=2)
    with pytest.raises(InputError, match="measure never made a pass with the edit"):
        tle.placebo(model, inputs, edit, lambda *_, **__: 1.0, n=2)


def test_rank_p_error_and_table():
    found = result_of([[3.0, 1.0], [2.0, 2.0], [-5.0, 0.0], [1.0, 0.0], [0.5, 0.0]])
    assert (found.effect, found.rank, found.p_value) == (2.0, 2, 0.6)  # one as large, one larger without its sign
    assert found.se == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert found.placebos.tolist() == [2.0, -2.5, 0.5, 0.25]
    frame = found.to_pandas()
    assert frame["kind"].tolist() == ["real", *["placebo"] * 4]
    assert frame["effect"].tolist() == [2.0, 2.0, -2.5, 0.5, 0.25]
    assert "2 of 4, p = 0.6" in repr(found)
    assert math.isnan(result_of([[1.0], [2.0]]).se)
    bits = found.to("bits")
    assert (bits.effect, bits.rank) == (pytest.approx(2 / math.log(2)), 2)
    with pytest.raises(InputError, match="neither nats nor bits"):
        result_of([[1.0], [2.0]], unit="").to("bits")


@pytest.mark.model
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"measure": 3}, InputTypeError, "measure must be a function"),
        ({"measure": lambda *_, **__: "much"}, InputTypeError, "measure must give a number"),
        ({"measure": lambda *_, **__: math.nan}, InputError, "finite"),
        ({"measure": lambda *_, **__: pd.DataFrame([[1.0, 2.0]])}, InputError, "one for each document"),
        ({"measure": lambda *_, interventions: [1.0] * (1 + bool(interventions))}, InputError, "1 values without"),
        ({"inputs": iter(["the cat"])}, InputError, "read once"),
        ({"edit": []}, InputError, "edit is empty"),
        ({"n": 0}, InputError, "n must be"),
        ({"seed": 0.5}, InputTypeError, "seed"),
        ({"unit": "hartleys"}, InputError, "unit must be"),
    ],
)
def test_what_is_refused(change, error, words):
    given = {"inputs": ["the cat"], "edit": tle.steer(VECTOR, layer=0), "measure": lambda *_, **__: 1.0, "n": 2, **change}
    positional = [given.pop(name) for name in ("inputs", "edit", "measure")]
    with pytest.raises(error, match=words):
        tle.placebo(cached_model(*RAW), *positional, **given)
