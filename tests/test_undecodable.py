"""Names that UTF-8 has no bytes for: results of them are printed, drawn, and written everywhere."""

from __future__ import annotations

import os
import sys

import hand_made
import pandas as pd
import pytest
import torch
from gallery import comparison

import tl_entropy as tle
from tl_entropy.errors import printable
from tl_entropy.labels import LabelPlan
from tl_entropy.labels.slots import DocumentTokens
from tl_entropy.results.files import plain, unplain

HALF = "a\ud800"


@pytest.mark.model
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all names of files are UTF-8")
def test_a_file_whose_name_is_not_utf_8(tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt"), "w") as file:
        file.write("import os\n")
    result = tle.token_surprisal(tle.demo_model(), tmp_path, progress=False)
    assert result.names == {0: r"caf\xe9.txt"}
    result.per_document().to_csv(tmp_path / "documents.csv")
    assert r"caf\xe9.txt" in pd.read_csv(tmp_path / "documents.csv").to_string()
    page = tle.plots.tokens(result, title=HALF)
    assert r"a\ud800" in page.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(repr(page).encode()) > 0
    assert tle.load(result.save(tmp_path / "result.safetensors")).names == result.names
    tle.plots.token_text(result).figure.savefig(tmp_path / "text.png")


@pytest.mark.model
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all names of files are UTF-8")
def test_a_folder_whose_name_is_not_utf_8_holds_whatever_is_saved(tmp_path):
    place = tmp_path / os.fsdecode(b"caf\xe9")
    result = hand_made.lens()
    assert torch.equal(tle.load(result.save(place / os.fsdecode(b"\xe9.safetensors"))).entropy, result.entropy)
    compared = comparison(2, 5, 2)
    assert tle.load(compared.save(place / "compared")).names == compared.names
    found = tle.LensAccumulator(tle.demo_model(), keep="summary")
    tle.stream(tle.demo_model(), "import os", [found], progress=False)
    assert torch.equal(tle.load_accumulator(found.save(place / "sums")).compute().sums, found.compute().sums)
    model = tle.estimation_model(tle.EstimationConfig(n_ctx=8, d_model=8, n_layers=1), "bytes")
    with pytest.raises(tle.SaveError, match="surrogates not allowed"):  # by the library tokenizers
        model.save(place / "model")
    assert not (place / "model").exists()
    lens = tle.demo_lens()
    assert torch.equal(tle.load_tuned_lens(lens.save(place / "lens")).weights, lens.weights)


def test_names_that_users_give(tmp_path):
    a, b = hand_made.lens(seed=0), hand_made.lens(seed=1)
    axes = tle.plots.profile({HALF: a, "b": b})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [r"a\ud800", "b"]
    axes.figure.savefig(tmp_path / "profile.png")
    assert tle.plots.profile([a, b], labels=[HALF, "b"]).get_legend() is not None
    for found in (tle.pairwise_distances({HALF: a, "b": b}), tle.pairwise_distances([a, b], names=[HALF, "b"])):
        assert found.names == (r"a\ud800", "b")
        found.to_pandas().to_csv(tmp_path / "distances.csv")


def test_names_and_values_of_labels():
    yes = torch.arange(4) > 0
    plan = LabelPlan.from_documents([DocumentTokens(torch.tensor([-1, 1, 2, 3]), yes, yes)], {HALF: [["x", "y\udc01", "x"]]})
    assert plan.names == (r"a\ud800",)
    assert set(plan.texts(0, {})) == {"x", r"y\udc01"}


def test_files_hold_any_text():
    assert unplain(plain({HALF: HALF})) == {r"a\ud800": r"a\ud800"}
    assert unplain({"$map": [[0, "caf\udce9"]]}) == {0: r"caf\xe9"}, "of files of 0.5.0"


def test_other_texts_stay():
    for text in ("", "café", "\U0001f600", "a\\xe9", "\x00\n"):
        assert printable(text) == text
