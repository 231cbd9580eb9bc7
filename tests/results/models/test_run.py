"""Results of a run's folder, from its files alone: one table, courses over training steps, and what failed."""

from __future__ import annotations

import json

import pytest
import torch

import tl_entropy as tle
from tl_entropy.demo import FOLDER
from tl_entropy.errors import InputError
from tl_entropy.results.models.run import summary
from tl_entropy.runs.ask import Ask
from tl_entropy.runs.folder import RunFolder, write_json

ANALYSES = [{"lens_entropy": {"layers": [0]}}, "token_surprisal", {"lens_entropy": {"layers": [1]}}]
NAMES = ("lens_entropy", "token_surprisal", "lens_entropy 2")


@pytest.fixture(scope="module")
def lens():
    return tle.lens_entropy(tle.demo_model(), ["import os", "import sys"], layers=[0], progress=False)


@pytest.fixture
def folder(tmp_path, lens):
    """Three checkpoints: one whole, one with the same weights of which a part failed, one that could not be loaded."""
    there = RunFolder(tmp_path / "study")
    there.open(Ask.of({"models": str(FOLDER), "inputs": {"text": ["import os"]}, "analyses": ANALYSES}))
    costs = tle.token_surprisal(tle.demo_model(), ["import os", "import sys"], progress=False)
    for name, step, weights in (("run@step10", 10, "ab"), ("run@step2", 2, "ab"), ("other", None, None)):
        write_json(there.model(name) / "model.json", {"model": name, "step": step, "weights": weights})
    for name in ("run@step10", "run@step2"):
        lens.save(there.result(name, "lens_entropy"))
    costs.save(there.result("run@step10", "token_surprisal"))
    write_json(there.failure("run@step2", "token_surprisal"), {"error": "NonFiniteError: a NaN"})
    write_json(there.failure("other", "lens_entropy 2"), {"error": "ModelError: not there"})
    return there.path


def test_models_stand_in_the_order_of_their_steps(folder):
    results = tle.load(folder)
    assert results.models == ("run@step2", "run@step10", "other")
    assert results.analyses == NAMES
    assert results.same_weights == (("run@step2", "run@step10"),)
    assert results.failed == {
        ("run@step2", "token_surprisal"): "NonFiniteError: a NaN",
        ("other", "lens_entropy 2"): "ModelError: not there",
    }
    assert ("run@step10", "lens_entropy 2") in results.missing
    assert ("run@step10", "lens_entropy") not in results.missing


def test_one_table_has_everything(folder, lens):
    frame = tle.load(folder).to_pandas()
    assert list(frame.columns[:4]) == ["model", "step", "weights", "analysis"]
    of_lens = frame[(frame["model"] == "run@step2") & (frame["analysis"] == "lens_entropy")]
    assert of_lens["mean"].tolist() == lens.mean_profile()["mean"].tolist()
    assert of_lens["step"].tolist() == [2, 2]
    assert (frame["analysis"] == "token_surprisal").sum() == len(
        summary(tle.load(folder).result("run@step10", "token_surprisal"))
    )


def test_a_course_is_what_the_plot_takes(folder, lens):
    course = tle.load(folder).trajectory("lens_entropy")
    assert list(course) == [2, 10]
    assert torch.equal(course[10].entropy, lens.entropy)
    assert tle.plots.course(course).get_xlabel() == "Training step"
    with pytest.raises(InputError, match="no lens_entropy 2 of a model that is named after a step"):
        tle.load(folder).trajectory("lens_entropy 2")


def test_two_trainings_are_told_apart_by_name(folder, lens):
    there = RunFolder(folder)
    write_json(there.model("seed2@step2") / "model.json", {"model": "seed2@step2", "step": 2, "weights": "cd"})
    lens.save(there.result("seed2@step2", "lens_entropy"))
    with pytest.raises(InputError, match="are both of step 2; name one training"):
        tle.load(folder).trajectory("lens_entropy")
    assert list(tle.load(folder).trajectory("lens_entropy", of="seed2")) == [2]


def test_what_is_not_there_is_told_with_the_reason(folder):
    results = tle.load(folder)
    for model, analysis, why in (
        ("run@step2", "token_surprisal", "NonFiniteError: a NaN"),
        ("run@step10", "lens_entropy 2", "it is not done; the run's command goes on with it"),
        ("nobody", "lens_entropy", "model must be one of"),
        ("other", "lens", "analysis must be one of"),
    ):
        with pytest.raises(InputError, match=why):
            results.result(model, analysis)


def test_it_prints_what_is_done_what_failed_and_which_weights_are_equal(folder):
    text = str(tle.load(folder))
    assert "3 of 9 results of 3 models" in text
    assert "equal weights: run@step2, run@step10" in text
    assert "token_surprisal of run@step2 failed: NonFiniteError: a NaN" in text
    assert "<table" in tle.load(folder)._repr_html_()


def test_a_model_whose_file_is_being_written_is_not_there_yet(folder):
    path = folder / "models" / "other" / "model.json"
    for text in ("{", json.dumps({"model": "other"})):
        path.write_text(text)
        assert "other" not in tle.load(folder).models
