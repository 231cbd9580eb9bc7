"""Assignments on the disk against sums on the same texts, what is asked of them later, and folders that are not whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.analyses.information import parts, store, writing as module
from tl_entropy.analyses.sharing import shared
from tl_entropy.errors import FileError, InputError, InputTypeError, SaveError
from tl_entropy.functional.information.coding import decoded
from tl_entropy.labels import ngram

pytestmark = pytest.mark.model

WORDS = "the cat sat on mat and dog return x".split()
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS, 40 + 5 * (i % 5))) for i in range(24)]
OPTIONS = {"layers": [1], "sites": "resid_post", "n_bins": 20, "progress": False}
FEW = {"layers": [1], "sites": "resid_post", "n_bins": 12, "progress": False}
LABELS = ("token", "bigram", "position")
VALUES = ("entropy", "plug_in", "null", "ceiling", "corrected_ceiling", "lower", "fold_jackknife", "information")
COUNTS = ("tokens", "classes", "singletons", "coverage", "fold_tokens", "in_two_folds", "temperatures")
NAMES = ("sites", "heads", "labels", "sides", "n_bins", "seeds", "documents", "dropped", "one_fold", "label_texts")


def model():
    return cached_model("gpt2", kinds()[0])


@cache
def kept():
    """A folder, and what the pass that wrote it returned."""
    folder = Path(mkdtemp(prefix="tl_entropy")) / "new" / "one"
    return folder, tle.soft_information(
        model(), TEXTS, labels=LABELS, keep="assignments", folder=folder, keep_labels=True, **OPTIONS
    )


@pytest.fixture
def copy(tmp_path):
    """A folder of one's own, of one site."""
    folder = tmp_path / "copy"
    tle.soft_information(model(), TEXTS[:6], keep="assignments", folder=folder, **FEW)
    return folder


def assert_same(mine, theirs, tolerance):
    for name in VALUES:
        torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), atol=tolerance, rtol=0, equal_nan=True, msg=name)
    for name in NAMES:
        assert getattr(mine, name) == getattr(theirs, name), name
    for name in COUNTS:
        assert torch.equal(getattr(mine, name), getattr(theirs, name)), name


def test_values_are_those_of_sums_within_a_millionth_of_a_nat():
    found = kept()[1]
    expected = tle.soft_information(model(), TEXTS, labels=LABELS, keep_labels=True, **OPTIONS)
    assert_same(found, expected, 1e-6)
    torch.testing.assert_close(found.error(), expected.error(), atol=1e-6, rtol=0)
    assert torch.equal(found.label_counts, expected.label_counts)
    for name in ("label_information", "label_corrected", "label_se", "label_entropy"):  # of few rows each
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-4, rtol=0, equal_nan=True)
    assert found.provenance.settings.items() >= {"keep": "assignments"}.items()
    same = {**expected.provenance.settings, "keep": "assignments"}
    assert found.provenance.settings == same
    assert found.provenance.corpus == expected.provenance.corpus


@pytest.mark.long
def test_heads_and_several_draws_are_kept(tmp_path):
    options = {"layers": [0], "n_bins": [6, 10], "heads": True, "labels": "token", "progress": False}
    found = tle.soft_information(model(), TEXTS[:5], keep="assignments", folder=tmp_path / "a", **options)
    assert_same(found, tle.soft_information(model(), TEXTS[:5], **options), 1e-5)


@pytest.mark.parametrize("valid", ["common", pytest.param("own", marks=pytest.mark.long)])
def test_other_labels_and_folds_come_without_a_pass(valid):
    folder, _ = kept()
    language = ["a" if i % 3 else "b" for i in range(len(TEXTS))]
    asked = {"trigram": "trigram", "ahead": ngram(4, "output"), "language": language, "even": lambda ids: (ids % 2).tolist()}
    found = tle.load_assignments(folder).information(asked, valid=valid, folds=5, progress=False)
    expected = tle.soft_information(model(), TEXTS, labels=asked, valid=valid, folds=5, **OPTIONS)
    assert_same(found, expected, 3e-6)  # few trigrams are in two folds
    assert (found.provenance.settings["folds"], found.provenance.weights) == (5, expected.provenance.weights)


@pytest.mark.parametrize("memory", [40_000, pytest.param(1, marks=pytest.mark.long)])
def test_bounded_memory_changes_nothing(memory, monkeypatch):
    folder, expected = kept()
    monkeypatch.setattr("tl_entropy.analyses.information.reduction._BLOCK", 1500)  # several blocks a turn
    assignments = tle.load_assignments(folder)
    found = assignments.information(LABELS, keep_labels=True, memory=memory, progress=False)
    assert_same(found, expected, 1e-6)  # what anchors add to errors is in single precision
    for name in ("information", "entropy", "plug_in", "null", "ceiling", "lower", "fold_jackknife", "corrected_ceiling"):
        torch.testing.assert_close(found.value(name), expected.value(name), atol=1e-10, rtol=0)
    for name in ("label_information", "label_corrected", "label_se", "label_entropy"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-10, rtol=0, equal_nan=True)


def test_what_is_kept_is_every_position_in_order_with_its_assignment():
    folder, result = kept()
    assignments = tle.load_assignments(folder)
    assert repr(assignments).startswith(f"Assignments: {assignments.rows:,} positions of 24 documents at 1 place, 1 draw")
    rows = np.fromfile(folder / "rows", "<i4").reshape(-1, 3)
    ids = [model().tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert rows.tolist() == [[d, p, token] for d, body in enumerate(ids) for p, token in enumerate(body)]
    codes = assignments.codes("resid_post.1", 20)
    assert (codes.shape, codes.dtype) == ((len(rows), 1, 20), np.uint16)
    p = decoded(torch.from_numpy(codes.astype(np.int32)))
    labelled = torch.tensor([p_ > 0 for _, p_, _ in rows.tolist()])
    assert tle.functional.shannon_entropy(p[labelled, 0, :-1].mean(0).log()).item() == pytest.approx(
        result.value("entropy")[0, 0, 0].item(), abs=1e-12
    )
    with pytest.raises(InputError, match=r"no resid_post\.0 with 20 bins"):
        assignments.codes("resid_post.0", 20)


@pytest.mark.long
def test_the_batch_does_not_matter(copy, tmp_path):
    tle.soft_information(model(), TEXTS[:6], keep="assignments", folder=tmp_path / "b", batch_size=1, **FEW)
    one, other = (tle.load_assignments(folder).codes("resid_post.1", 12).astype(int) for folder in (copy, tmp_path / "b"))
    # The same rounding, of states that differ in their own last digits.
    assert np.abs(one - other).max() <= 1
    assert (one != other).mean() < 0.1


@pytest.mark.long
def test_states_without_direction_are_dropped_and_counted(tmp_path):
    class Zeros(tle.Adapter):
        def activations(self, tokens, mask, sites):
            found = super().activations(tokens, mask, sites)
            return {site: torch.where(tokens[..., None] == tokens[0, 3], 0.0, value) for site, value in found.items()}

    zeros = Zeros(model())
    with pytest.raises(InputError, match="no direction"):
        tle.soft_information(zeros, TEXTS[:6], keep="assignments", folder=tmp_path / "a", **FEW)
    options = {**FEW, "invalid": "drop", "batch_size": 100}
    found = tle.soft_information(zeros, TEXTS[:6], keep="assignments", folder=tmp_path / "b", **options)
    expected = tle.soft_information(zeros, TEXTS[:6], **options)
    assert found.dropped > 0
    assert_same(found, expected, 1e-5)
    again = tle.load_assignments(tmp_path / "b").information(progress=False)
    assert_same(again, found, 0)


@pytest.mark.long
def test_centred_states_are_kept_centred(tmp_path):
    options = {**FEW, "center": True}
    found = tle.soft_information(model(), TEXTS, keep="assignments", folder=tmp_path / "a", **options)
    assert_same(found, tle.soft_information(model(), TEXTS, **options), 2e-6)


# --- which way -------------------------------------------------------------------------------------------------------------


def test_auto_takes_what_is_smaller_and_says_so(tmp_path, monkeypatch):
    many = tle.soft_information(model(), TEXTS, labels=LABELS, keep="auto", folder=tmp_path / "b", **FEW)
    settings = many.provenance.settings
    assert settings["keep"] == "assignments"
    assert settings["sums_bytes"] > settings["assignments_bytes"]
    written = sum((tmp_path / "b" / name).stat().st_size for name in ("resid_post.1.12-0", "rows", "tokens", "usable"))
    assert written == settings["assignments_bytes"]
    monkeypatch.setattr(tle.SoftAccumulator, "memory", lambda self: 1000)
    few = tle.soft_information(model(), TEXTS, labels="position", keep="auto", folder=tmp_path / "a", **FEW)
    assert not (tmp_path / "a").exists()
    assert few.provenance.settings["keep"] == "sums"
    assert few.provenance.settings["sums_bytes"] == 1000


class Nobody:
    """A sharing that is in force."""


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"keep": "sums", "folder": "x"}, InputError, "folder: sums are kept in memory"),
        ({"keep": "assignments"}, InputError, "needs a folder"),
        ({"keep": "auto"}, InputError, "needs a folder"),
        ({"keep": "disk", "folder": "x"}, InputError, "keep must be one of"),
        ({"keep": "assignments", "folder": 3}, InputTypeError, "folder must be a path"),
    ],
)
def test_what_does_not_go_together_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        tle.soft_information(model(), TEXTS[:2], **options, **FEW)


def test_a_cache_is_written_by_one_process_alone(tmp_path):
    sums = tle.SoftAccumulator(model(), tle.label_plan(model(), TEXTS[:2]))
    with shared(Nobody()), pytest.raises(InputError, match="a cache is read by each process as a whole"):
        parts.kept_as(sums, "assignments", tmp_path / "a", whole=True)


def test_a_disk_without_room_is_refused_before_the_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2, 1, 1))
    with pytest.raises(InputError, match=r"the disk of .* has 0\.0"):
        tle.soft_information(model(), TEXTS[:2], keep="assignments", folder=tmp_path / "a", **FEW)


# --- folders that are not whole --------------------------------------------------------------------------------------------


def test_a_pass_that_was_killed_leaves_a_folder_that_is_not_read_and_written_anew(copy):
    (copy / store.INDEX).unlink()
    with pytest.raises(FileError, match="not written to its end"):
        tle.load_assignments(copy)
    with open(copy / "resid_post.1.12-0", "ab") as file:
        file.write(b"half a row")
    found = tle.soft_information(model(), TEXTS[:6], keep="assignments", folder=copy, **FEW)
    assert_same(tle.load_assignments(copy).information(progress=False), found, 0)


@pytest.mark.long
def test_a_write_that_fails_leaves_what_was_written_and_changes_nothing(tmp_path, monkeypatch):
    plain, calls = store.StoreWriter._put, []

    def full(self, name, data):
        calls.append(name)
        if len(calls) > 4:  # in the middle of the second batch
            with store.saving(self.folder):
                raise OSError(28, "No space left on device")
        return plain(self, name, data)

    monkeypatch.setattr(store.StoreWriter, "_put", full)
    with pytest.raises(SaveError, match="No space left") as caught:
        tle.soft_information(model(), TEXTS, keep="assignments", folder=tmp_path / "a", batch_size=4, **FEW)
    assert caught.value.partial.provenance.interrupted
    found = tle.load_assignments(tmp_path / "a")
    assert found.rows == int(caught.value.partial.provenance.settings["chance_sample"] / caught.value.partial.coverage[0])
    assert found.information(progress=False).documents == 4


def test_damage_is_an_error(copy):
    for path in copy.iterdir():
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(flipped) // 2] ^= 4
        for damaged in (flipped, whole[:-7], whole + b"\1\1", None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            with pytest.raises(FileError, match=r"folder: .*"):
                tle.load_assignments(copy).information("position", progress=False)
        path.write_bytes(whole)
    assert tle.load_assignments(copy).rows


def test_a_later_schema_is_named(copy):
    outer = json.loads((copy / store.INDEX).read_text())
    text = outer["contents"].replace('"schema": 1', '"schema": 2')
    digest = store.sha256(text.encode()).hexdigest()
    (copy / store.INDEX).write_text(json.dumps({"digest": digest, "contents": text}))
    with pytest.raises(FileError, match="has schema 2, this tl_entropy reads up to 1"):
        tle.load_assignments(copy)


def test_a_second_pass_into_a_folder_is_refused_before_it_reads(tmp_path):
    class Texts:
        def __iter__(self):
            yield TEXTS[0]
            with pytest.raises(SaveError, match="folder: somebody else is writing"):
                tle.soft_information(model(), None, keep="assignments", folder=tmp_path, **FEW)
            yield TEXTS[1]

    tle.soft_information(model(), Texts(), keep="assignments", folder=tmp_path, **FEW)
    assert tle.load_assignments(tmp_path).documents == 2
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(InputError, match="holds assignments already"):
        tle.soft_information(model(), None, keep="assignments", folder=tmp_path, **FEW)


def test_folders_of_something_else_are_refused(copy, tmp_path):
    with pytest.raises(InputError, match="holds assignments already"):
        tle.soft_information(model(), TEXTS[:2], keep="assignments", folder=copy, **FEW)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"holds other files, such as thesis\.tex"):
        tle.soft_information(model(), TEXTS[:2], keep="assignments", folder=tmp_path / "other", **FEW)
    with pytest.raises(FileError, match="holds no assignments"):
        tle.load_assignments(tmp_path / "other")


def test_plans_of_other_documents_are_refused(copy):
    with pytest.raises(InputError, match="from other tokens"):
        tle.load_assignments(copy).information(tle.label_plan(model(), TEXTS[:5]), progress=False)


def test_assignments_are_not_merged(tmp_path):
    plan = tle.label_plan(model(), TEXTS[:2])
    one, other = (module.AssignmentWriter(tle.SoftAccumulator(model(), plan), tmp_path / name) for name in "ab")
    with pytest.raises(InputError, match="cannot merge"):
        one.merge(other)


class Killed(BaseException):
    """A stand-in for the end of a process."""


OF_EIGHT = {"labels": LABELS, "keep": "assignments", "batch_size": 2, **FEW}


def killed_after(writes, monkeypatch, folder):
    """A pass whose process ends in the middle of a batch, after so many were written."""
    plain, left = store.StoreWriter._put, [3 * writes - 1]

    def put(self, name, data):
        left[0] -= 1
        if not left[0]:
            raise Killed
        return plain(self, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(module, "NOTED_EVERY", -1.0)
        patched.setattr(store.StoreWriter, "_put", put)
        patched.setattr(module.AssignmentWriter, "compute", lambda *_, **__: None)
        with pytest.raises(Killed):
            tle.soft_information(model(), TEXTS[:8], folder=folder, **OF_EIGHT)


@cache
def of_eight():
    folder = Path(mkdtemp(prefix="tl_entropy")) / "one"
    return folder, tle.soft_information(model(), TEXTS[:8], folder=folder, **OF_EIGHT)


@pytest.mark.parametrize("writes", [3, *(pytest.param(writes, marks=pytest.mark.long) for writes in (2, 4))])
def test_a_pass_that_was_killed_goes_on(writes, monkeypatch, tmp_path):
    killed_after(writes, monkeypatch, tmp_path)
    with pytest.raises(FileError, match="not written to its end"):
        tle.load_assignments(tmp_path)
    update, came = module.AssignmentWriter.update, []
    monkeypatch.setattr(
        module.AssignmentWriter, "update", lambda one, batch, hidden: came.append(batch.document) or update(one, batch, hidden)
    )
    whole = tle.soft_information(model(), TEXTS[:8], folder=tmp_path, **OF_EIGHT)
    assert torch.cat(came).unique().tolist() == list(range(2 * writes - 2, 8)), "what was noted is not read again"
    folder, alone = of_eight()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != store.INDEX} == {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != store.INDEX
    }
    assert_same(whole, alone, 0)
    left = {"seconds": 0}
    assert {**whole.provenance.corpus, **left} == {**alone.provenance.corpus, **left}
    assert (whole.provenance.settings, whole.provenance.interrupted) == (alone.provenance.settings, False)


@pytest.mark.long
@pytest.mark.parametrize("change", ["settings", "size", "log"])
def test_what_was_asked_or_written_otherwise_is_written_anew(change, monkeypatch, tmp_path):
    killed_after(3, monkeypatch, tmp_path)
    if change == "size":
        (tmp_path / "rows").write_bytes(b"")
    if change == "log":
        (tmp_path / store.CHUNKS).write_bytes((tmp_path / store.CHUNKS).read_bytes().replace(b"rows", b"sums"))
    options = {**OF_EIGHT, "n_bins": 8} if change == "settings" else OF_EIGHT
    found = tle.soft_information(model(), TEXTS[:8], folder=tmp_path, **options)
    assert found.documents == tle.load_assignments(tmp_path).documents == 8


@pytest.mark.long
def test_a_pass_that_was_ended_goes_on_where_the_same_is_asked(monkeypatch, tmp_path):
    plain, calls = store.StoreWriter._put, []

    def full(self, name, data):
        calls.append(name)
        if len(calls) == 10:
            with store.saving(self.folder):
                raise OSError(28, "No space left on device")
        return plain(self, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(module, "NOTED_EVERY", -1.0)
        patched.setattr(store.StoreWriter, "_put", full)
        with pytest.raises(SaveError, match="No space left"):
            tle.soft_information(model(), TEXTS[:8], folder=tmp_path, **OF_EIGHT)
    assert tle.load_assignments(tmp_path).provenance.interrupted
    with pytest.raises(InputError, match="holds assignments already"):
        tle.soft_information(model(), TEXTS[:8], folder=tmp_path, **{**OF_EIGHT, "n_bins": 8})
    whole = tle.soft_information(model(), TEXTS[:8], folder=tmp_path, **OF_EIGHT)
    assert_same(whole, of_eight()[1], 0)
    with pytest.raises(InputError, match="holds assignments already"):
        tle.soft_information(model(), TEXTS[:8], folder=tmp_path, **OF_EIGHT)


@pytest.mark.long
def test_a_process_that_is_killed_leaves_no_folder_that_is_taken_for_whole(tmp_path):
    folder, chunks = tmp_path / "killed", tmp_path / "killed" / store.CHUNKS
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        tle.soft_information(model(), TEXTS * 20, keep="assignments", folder=folder, **{**FEW, "batch_size": 1})
        os._exit(0)
    while not (chunks.exists() and len(chunks.read_bytes().splitlines()) > 3):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with pytest.raises(FileError, match="not written to its end"):
        tle.load_assignments(folder)
    found = tle.soft_information(model(), TEXTS[:6], keep="assignments", folder=folder, **FEW)
    assert_same(tle.load_assignments(folder).information(progress=False), found, 0)
    assert {path.name for path in folder.iterdir()} == {*store.SLOTS, "rows", "chunks", "resid_post.1.12-0", store.INDEX}
