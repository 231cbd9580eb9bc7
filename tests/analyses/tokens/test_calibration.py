"""Entropy calibration: costs and entropies of written and given text, against each of them measured by itself."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.errors import InputError

TEXTS = [
    "the cat sat on the mat, and the dog sat on the cat",
    "def f(x):\n    return x + 1\n",
    "the dog sat on the cat and the mat",
]
QUIET = {"progress": False}


@pytest.fixture(params=kinds())
def model(request):
    return cached_model("gpt2", request.param)


@pytest.mark.thinned
@pytest.mark.parametrize("bos", [True, False])
def test_costs_are_those_of_the_texts_that_were_written_and_given(model, bos):
    found = tle.entropy_calibration(model, TEXTS, prompt_tokens=4, steps=5, temperature=0.0, prepend_bos=bos, **QUIET)
    adapter = tle.Adapter(model)
    for i, text in enumerate(TEXTS):
        ids = torch.tensor([adapter.encode("<|endoftext|>")[0]] * bos + list(adapter.encode(text)))
        given = tle.token_surprisal(model, ids, positions=slice(4, 9), **QUIET)
        torch.testing.assert_close(found.given[i], given.surprisal, atol=1e-5, rtol=0)
        whole = ids[: 4 + bos]
        with torch.no_grad():
            for _ in range(5):
                whole = torch.cat([whole, model(whole[None])[0, -1].argmax()[None]])
            log_p = model(whole[None])[0, 3 + bos : -1].double().log_softmax(-1)
        written = -log_p.gather(1, whole[4 + bos :, None])[:, 0].cpu()
        torch.testing.assert_close(found.own[i], written, atol=2e-5, rtol=0)
        torch.testing.assert_close(found.entropy[i], -(log_p.exp() * log_p).sum(-1).cpu(), atol=2e-5, rtol=0)


def test_means_and_errors_are_of_pairs():
    own, given = torch.tensor([[1.0, 2.0], [3.0, math.nan]]), torch.tensor([[0.5, 1.0], [1.0, 1.0]])
    whole = tle.entropy_calibration(cached_model("gpt2", kinds()[0]), TEXTS[:2], prompt_tokens=2, steps=2, **QUIET)
    found = tle.EntropyCalibration(
        own=own.double(), entropy=own.double() + 1, given=given.double(), document=torch.tensor([0, 5]), prompt_tokens=3,
        provenance=whole.provenance,
    )  # fmt: skip
    profile = found.mean_profile().set_index(["quantity", "step"])
    assert profile.loc[("calibration", 1), "mean"] == 1.25
    assert profile.loc[("calibration", 1), "se"] == pytest.approx(0.75)
    assert profile.loc[("calibration", 2), ["mean", "documents"]].tolist() == [1.0, 1]
    means = found.means().set_index("quantity")
    assert means.loc["calibration", "mean"] == pytest.approx(3.5 / 3)
    assert means.loc["calibration_by_entropy", "mean"] == pytest.approx(6.5 / 3)
    assert means["tokens"].tolist() == [3, 3, 4, 3, 3]
    assert found.to("bits").means()["mean"].iloc[0] == pytest.approx(2 / math.log(2))
    assert found.to_pandas()["step"].tolist() == [1, 2, 1, 2]
    ax = tle.plots.calibration(found, difference=True)
    assert ax.lines[0].get_ydata().tolist() == [1.25, 1.0]


def test_seeds_and_short_documents():
    model = cached_model("gpt2", kinds()[0])
    one, same, other = (
        tle.entropy_calibration(model, TEXTS, prompt_tokens=4, steps=6, seed=seed, **QUIET) for seed in (1, 1, 2)
    )
    assert torch.equal(one.own, same.own)
    assert not torch.equal(one.own, other.own)
    torch.testing.assert_close(one.given, other.given, equal_nan=True, rtol=0, atol=0)
    with pytest.warns(UserWarning, match="1 document of up to 4 tokens left out"):
        found = tle.entropy_calibration(model, ["the", *TEXTS], prompt_tokens=4, steps=6, seed=1, **QUIET)
    assert found.document.tolist() == [1, 2, 3]
    torch.testing.assert_close(found.given, one.given, equal_nan=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens must be"), ({"steps": 0}, "steps must be"),
        ({"prompt_tokens": 50, "steps": 2}, "no document of more than 50 tokens"),
        ({"prompt_tokens": 4, "steps": 100}, "leaves no room for 100 new tokens"),
        ({"temperature": -1.0}, "temperature must be"), ({"seed": -1}, "seed must be"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        tle.entropy_calibration(cached_model("gpt2", kinds()[0]), TEXTS, **{"prompt_tokens": 4, **options}, **QUIET)
