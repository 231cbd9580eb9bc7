"""Comparisons of models as results: units, tables, printing, and folders."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil

import pandas as pd
import pytest
import torch
from hand_made import compared, lens

import tl_entropy as tle
from tl_entropy.errors import FileError, InputError, SaveError
from tl_entropy.results.base import Result
from tl_entropy.results.models.comparison import file_stems

AWKWARD = (("EleutherAI/pythia 70m", 2), ("EleutherAI_pythia_70m", 3), ("../β: {x}?", 2), ("n" * 300, 2))


@pytest.fixture
def result():
    return compared()


def same(mine, theirs):
    """Two results, field by field."""
    assert type(mine) is type(theirs)
    for item in dataclasses.fields(theirs):
        a, b = getattr(mine, item.name), getattr(theirs, item.name)
        if isinstance(b, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=item.name)
        else:
            assert a == b, item.name


def same_comparison(mine, theirs):
    assert (mine.names, mine.notes, list(mine.across)) == (theirs.names, theirs.notes, list(theirs.across))
    for kind in ("lenses", "dynamics", "similarity", "across"):
        assert list(getattr(mine, kind)) == list(getattr(theirs, kind))
        for name, part in getattr(theirs, kind).items():
            same(getattr(mine, kind)[name], part)
    if theirs.distances is None:
        assert mine.distances is None
    else:
        same(mine.distances, theirs.distances)


def test_names_and_unit_are_those_of_the_parts(result):
    assert result.names == ("tiny", "EleutherAI/pythia 70m")
    assert (result.unit, result.to("bits").unit) == ("nats", "bits")


def test_every_part_changes_its_unit_and_comes_back(result):
    bits = result.to("bits")
    for kind in ("lenses", "dynamics", "similarity", "across"):
        for name, part in getattr(bits, kind).items():
            same(part, getattr(result, kind)[name].to("bits"))
    same(bits.distances, result.distances.to("bits"))
    assert float(bits.dynamics["tiny"].value("entropy")[0]) == pytest.approx(
        float(result.dynamics["tiny"].value("entropy")[0]) / math.log(2)
    )
    with pytest.raises(InputError, match="unit must be one of"):
        result.to("hartleys")


def test_the_table_of_all_models_is_their_own_tables_one_below_the_other(result):
    frame = result.to_pandas()
    assert list(frame.columns[:3]) == ["model", "site", "layer"]
    assert list(dict.fromkeys(frame["model"])) == list(result.names)
    for name, dynamics in result.dynamics.items():
        part = frame[frame["model"] == name].drop(columns="model").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, dynamics.to_pandas())
    assert "model" not in result.dynamics["tiny"].to_pandas()


def test_what_is_printed_can_be_recomputed(result):
    printed = repr(result)
    assert printed.startswith("ModelComparison: 2 models, nats\n")
    assert "a note" in printed
    for name, dynamics in result.dynamics.items():
        [line] = [line for line in printed.splitlines() if line.startswith(name) and "±" in line]
        step, left = dynamics.value("fisher_rao_velocity", "vocabulary"), dynamics.value("fisher_rao_to_output", "vocabulary")
        largest = max(range(1, len(step)), key=lambda i, step=step: float(step[i]))
        approach = max(range(1, len(left)), key=lambda i, left=left: float(left[i - 1] - left[i]))
        total = float(step[1:].sum())
        mean, error = (float(part("entropy")[-1]) for part in (dynamics.value, dynamics.error))
        for cell in (
            f"{len(step)}", "14", "4", f"{mean:.3f} ± {error:.3f}", f"{total:.3f}",
            f"{dynamics.sites[largest]} ({float(step[largest]) / total:.0%})", str(dynamics.sites[approach]),
        ):  # fmt: skip
            assert f" {cell}" in line, (cell, line)
    assert "velocity (rad)" in printed
    assert repr(result.distances) in printed


def test_the_notebook_shows_names_as_text_and_the_distances():
    html = compared((("<b>x</b>", 2), ("y", 2)))._repr_html_()
    assert "<b>x</b>" not in html
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "PairwiseDistances" in html


def test_one_model_alone_has_no_distances():
    result = compared((("only", 2),), similarity=False, notes=())
    assert repr(result).startswith("ModelComparison: 1 model, nats\n")
    assert "PairwiseDistances" not in repr(result)
    assert "PairwiseDistances" not in result._repr_html_()
    assert result.to("bits").distances is None


@pytest.mark.parametrize(
    "result",
    [compared(), compared(AWKWARD).to("bits"), compared((("only", 2),), notes=()), compared(similarity=False)],
    ids=["two", "awkward", "one", "bare"],
)
def test_a_folder_gives_the_comparison_back(result, tmp_path):
    folder = tmp_path / "a" / "b c"
    assert result.save(str(folder)) == folder
    same_comparison(tle.load(folder), result)
    parts = 2 * len(result.names) + (result.distances is not None) + len(result.similarity) + len(result.across)
    files = list(folder.iterdir())
    assert len(files) == parts + 1
    assert {file.name for file in files} == {*result.files, "comparison.json"}
    for name, part in result.files.items():
        same(tle.load(folder / name), part)
    assert all(file.is_file() and len(file.name.encode()) < 255 for file in files)
    assert [file.name for file in files if not file.name.endswith(".safetensors")] == ["comparison.json"]


def test_parts_can_be_read_one_by_one(result, tmp_path):
    result.save(tmp_path)
    same(tle.load(tmp_path / "lens_0_tiny.safetensors"), result.lenses["tiny"])
    across = tle.load(tmp_path / "across_0_tiny_1_EleutherAI_pythia_70m.safetensors")
    same(across, result.across["tiny", "EleutherAI/pythia 70m"])


def test_stems_are_safe_and_different():
    stems = file_stems([name for name, _ in AWKWARD])
    assert len({stem.lower() for stem in stems.values()}) == len(AWKWARD)
    for stem in stems.values():
        assert stem.replace(".", "").replace("-", "").replace("_", "").isalnum()
        assert stem.isascii()


def test_a_second_comparison_replaces_the_first(result, tmp_path):
    result.save(tmp_path)
    other = compared((("tiny", 2),), notes=())
    other.save(tmp_path)
    same_comparison(tle.load(tmp_path), other)


def test_a_save_that_fails_leaves_the_old_comparison(result, tmp_path, monkeypatch):
    result.save(tmp_path)
    before = sorted(file.name for file in tmp_path.iterdir())

    def fails(self, path):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(type(result.distances), "save", fails)
        with pytest.raises(OSError, match="no space"):
            compared((("tiny", 4), ("other", 4))).save(tmp_path)
    same_comparison(tle.load(tmp_path), result)
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_the_first_save_that_fails_leaves_no_comparison(result, tmp_path, monkeypatch):
    monkeypatch.setattr(type(result.distances), "save", lambda self, path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        result.save(tmp_path)
    with pytest.raises(FileError, match="saving was interrupted"):
        tle.load(tmp_path)


def test_a_save_killed_at_any_moment_leaves_the_old_comparison_or_the_new(result, tmp_path, monkeypatch):
    """A copy of the folder before and after each file takes its place is what a kill there leaves."""
    new, copies, whole = compared((("tiny", 4), ("other", 4))), [], os.replace
    folder = result.save(tmp_path / "c")

    def copying(old, place):
        for step in (lambda: None, lambda: whole(old, place)):
            step()
            copies.append(shutil.copytree(folder, tmp_path / str(len(copies))))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", copying)
        new.save(folder)
    assert len(copies) > 4 * len(new.files)
    held = [tle.load(copy).names for copy in copies]
    at = held.index(new.names)
    assert 0 < at < len(held)
    for i, copy in enumerate(copies):
        same_comparison(tle.load(copy), result if i < at else new)
        if i % 5 == 0:
            result.save(copy)  # the next save leaves nothing that waits
            same_comparison(tle.load(copy), result)
            assert not [path.name for path in copy.iterdir() if path.name.startswith(".")]


def test_parts_of_two_comparisons_are_not_read_as_one(result, tmp_path):
    folder = result.save(tmp_path / "c")
    result.to("bits").lenses["tiny"].save(folder / "lens_0_tiny.safetensors")
    with pytest.raises(FileError, match="not this comparison's: two were saved into the folder at once"):
        tle.load(folder)


def test_a_part_that_cannot_be_moved_is_found_where_it_waits(result, tmp_path):
    (tmp_path / "distances.safetensors" / "x").mkdir(parents=True)
    with pytest.raises(SaveError, match=r"are left in \.parts.*where load finds them"):
        result.save(tmp_path)
    same_comparison(tle.load(tmp_path), result)


def test_an_index_that_cannot_be_put_in_place_leaves_no_trace(result, tmp_path, monkeypatch):
    def fails(self, *_, **__):
        self.touch()
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.write_bytes", fails)
    with pytest.raises(OSError, match="no space"):
        result.save(tmp_path)
    assert not [file for file in tmp_path.iterdir() if "comparison" in file.name]


def test_refusals(result, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="is a file; a comparison is saved as a folder"):
        result.save(tmp_path / "file")
    with pytest.raises(FileError, match=r"is a folder without comparison\.json"):
        tle.load(tmp_path)
    folder = result.save(tmp_path / "c")
    index = json.loads((folder / "comparison.json").read_text())
    for name in ("layout", "digest"):  # as 0.5.0 wrote it, so that what is changed here is seen for itself
        del index[name]

    def write(text):
        (folder / "comparison.json").write_text(text)

    for text, match in (
        ("{", "damaged"),
        ("[]", "not the index of a comparison"),
        (json.dumps({**index, "kind": "LensEntropy"}), "not the index of a comparison"),
        (json.dumps({**index, "schema": 99}), "has schema 99"),
        (json.dumps({key: value for key, value in index.items() if key != "dynamics"}), "damaged"),
        (json.dumps({**index, "across": [3]}), "damaged"),
        (json.dumps({**index, "across": [["ab", "x.safetensors"]]}), r"across is of \('a', 'b'\).*damaged"),
        (json.dumps({**index, "across": [[["tiny", "tiny"], "x.safetensors"]]}), "across is of .*damaged"),
        (json.dumps({**index, "similarity": [["other", "x.safetensors"]]}), "similarity is of 'other'.*damaged"),
        (json.dumps({**index, "schema": "x"}), "schema is 'x', no whole number.*damaged"),
        (json.dumps({**index, "schema": None}), "schema is None"),
        (json.dumps({**index, "schema": True}), "schema is True"),
        (json.dumps({**index, "distances": 5}), "5 is no name of a file.*damaged"),
        (json.dumps({**index, "distances": "../c/distances.safetensors"}), "is no name of a file"),
        (json.dumps({**index, "distances": ".."}), "is no name of a file"),
        (json.dumps({**index, "lenses": []}), "no lenses"),
        (json.dumps({**index, "lenses": [], "dynamics": []}), "no lenses"),
        (json.dumps({**index, "lenses": [[3, "x.safetensors"]], "dynamics": [[3, "x.safetensors"]]}), "no lenses"),
        (json.dumps({**index, "lenses": [[name, 3] for name in result.names]}), "3 is no name of a file"),
        (json.dumps({**index, "lenses": [[["tiny"], "x.safetensors"]]}), "damaged"),
        (json.dumps({**index, "lenses": {"tiny": "x.safetensors"}}), "damaged"),
        (json.dumps({**index, "waiting": "../c"}), r"'\.\./c' is no name of a folder"),
        (json.dumps({**index, "waiting": 5}), "5 is no name of a folder"),
        (json.dumps({**index, "parts": ["x"]}), "parts have no digests"),
        (json.dumps({**index, "parts": {"x": 5}}), "parts have no digests"),
        (json.dumps({**index, "notes": "abc"}), "notes are no list of texts.*damaged"),
        (json.dumps({**index, "notes": [5]}), "notes are no list of texts.*damaged"),
        (json.dumps({**index, "notes": 5}), "notes are no list of texts.*damaged"),
        (json.dumps({**index, "dynamics": index["lenses"]}), "holds a LensEntropy where the comparison has a LayerDynamics"),
        (json.dumps({**index, "distances": index["lenses"][0][1]}), "holds a LensEntropy where .* a PairwiseDistances"),
    ):
        write(text)
        with pytest.raises(FileError, match=match):
            tle.load(folder)
    write(json.dumps(index))
    (folder / "dynamics_0_tiny.safetensors").unlink()
    with pytest.raises(FileError, match="there is no file"):
        tle.load(folder)


def test_lens_results_keep_their_own_file(tmp_path):
    path = lens().save(tmp_path / "x.safetensors")
    same(tle.load(path), lens())
    assert isinstance(tle.load(path), Result)
