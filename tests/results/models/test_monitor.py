"""Histories of a training: units, tables, files, and what may be joined."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hand_made import origin, stream

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results import load
from tl_entropy.results.models.monitor import MOST_SHOWN, EntropyHistory
from tl_entropy.sites import Site

ERRORS = ("entropy_se", "loss_se")


def read(**corpus):
    return dataclasses.replace(origin("tiny"), corpus=corpus)


def history(steps=(0, 10, 20), n_layers=2, **changes):
    n_steps = len(steps)
    sites = stream(n_layers)
    entropy = torch.arange(float(n_steps * len(sites)), dtype=torch.float64).view(n_steps, -1) / 4 + steps[0]
    parts = {
        "steps": torch.tensor(steps), "entropy": entropy, "entropy_se": 0.1 + 0 * entropy,
        "loss": entropy[:, -1] + 1, "loss_se": 0.2 + 0 * entropy[:, -1], "sites": sites, "tokens": 12, "loss_tokens": 9,
        "documents": 3, "provenance": origin("tiny", sites=tuple(map(str, sites)), prepend_bos=True),
    }  # fmt: skip
    return EntropyHistory(**{**parts, **changes})


def test_the_output_is_the_last_site():
    found = history()
    assert found.output.tolist() == found.entropy[:, 2].tolist()
    assert found.sites[-1] == Site("resid_post", 1)


def test_units():
    nats = history()
    bits = nats.to("bits")
    for name in ("entropy", "loss", *ERRORS):
        torch.testing.assert_close(getattr(bits, name), getattr(nats, name) / math.log(2))
    assert bits.unit == "bits"
    torch.testing.assert_close(bits.to("nats").entropy, nats.entropy)


def test_files_keep_everything(tmp_path):
    before = history().to("bits")
    after = load(before.save(tmp_path / "history.safetensors"))
    assert type(after) is EntropyHistory
    for item in dataclasses.fields(EntropyHistory):
        mine, theirs = getattr(before, item.name), getattr(after, item.name)
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
            assert mine.dtype == theirs.dtype
        else:
            assert mine == theirs
    assert after.joined([after, history((30,)).to("bits")]).steps.tolist() == [0, 10, 20, 30]


def test_the_long_form():
    found = history()
    frame = found.to_pandas()
    assert list(frame) == ["step", "site", "layer", "entropy", "se", "loss", "loss_se"]
    assert len(frame) == 9
    line = frame[(frame["step"] == 10) & (frame["layer"] == 0)].iloc[0]
    assert (line["site"], line["entropy"], line["loss"]) == ("resid_post", found.entropy[1, 1].item(), found.loss[1].item())
    np.testing.assert_array_equal(frame["se"], 0.1)
    np.testing.assert_array_equal(frame["loss_se"], 0.2)


def test_it_prints_first_some_and_last_steps():
    text = repr(history())
    assert "EntropyHistory: 3 steps x 3 sites, 12 tokens of 3 documents, nats; tiny" in text
    assert "loss" in text
    assert "2.000 ± 0.100" in text  # entropy at the output at the last step
    assert "3.000 ± 0.200" in text
    assert "between" not in text
    long = history(tuple(range(0, 500, 5)))
    heads = repr(long).splitlines()[1].split("step ")[1:]
    assert len(heads) == MOST_SHOWN
    assert (heads[0].strip(), heads[-1].strip()) == ("0", "495")
    assert "94 more steps between" in repr(long)
    assert "± standard error" in long._repr_html_()
    alone = history((5,), entropy_se=torch.full((1, 3), math.nan), loss_se=torch.full((1,), math.nan))
    assert "nan" not in repr(alone)


def test_joined_histories_are_one():
    first, second = history((0, 10)), history((20, 21))
    whole = EntropyHistory.joined([first, second])
    assert whole.steps.tolist() == [0, 10, 20, 21]
    for name in ("entropy", "loss", *ERRORS):
        torch.testing.assert_close(getattr(whole, name), torch.cat([getattr(first, name), getattr(second, name)]))
    later = dataclasses.replace(second.provenance, weights="other")
    settings = {**second.provenance.settings, "compiled": True, "readout_error": 1e-6}
    later = dataclasses.replace(later, settings=settings)
    assert EntropyHistory.joined([first, dataclasses.replace(second, provenance=later)]).provenance == later


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([], InputError, "parts is empty"),
        ([history(), 3], InputTypeError, "parts must be histories"),
        ([history(), history()], InputError, "steps must rise strictly; step 20 is followed by 0"),
        ([history((0, 5, 5))], InputError, "step 5 is followed by 5"),
        ([history((0,)), history((1,), n_layers=3)], InputError, "sites is embed, resid_post.0, resid_post.1 at step 0"),
        ([history((0,)), history((1,)).to("bits")], InputError, "unit is nats at step 0 and bits at step 1"),
        ([history((0,)), history((1,), tokens=13)], InputError, "tokens is 12 at step 0 and 13 at step 1"),
        ([history((0,)), history((1,), loss_tokens=8)], InputError, "loss_tokens"),
        ([history((0,)), history((1,), documents=4)], InputError, "documents"),
        ([history((0,)), history((1,), provenance=origin("big"))], InputError, "model is tiny"),
        ([history((0,)), history((1,), provenance=origin("tiny", prepend_bos=False))], InputError, "settings"),
        (
            [history((0,)), history((1,), provenance=dataclasses.replace(history().provenance, corpus={"bytes": 3}))],
            InputError,
            "corpus",
        ),
    ],
)
def test_what_is_not_joined(parts, error, message):
    with pytest.raises(error, match=message):
        EntropyHistory.joined(parts)


def test_a_history_of_before_there_were_digests_goes_on():
    parts = [history((0,), provenance=read(bytes=3)), history((1,), provenance=read(bytes=3, digest="1"))]
    assert EntropyHistory.joined(parts).steps.tolist() == [0, 1]
