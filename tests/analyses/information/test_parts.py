"""Assignments that several processes write: put together they are what one writes, whoever is killed at it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from states import READ, TOKENS, differences, model, plan

import tl_entropy as tle
from tl_entropy.analyses.information import part_files, store
from tl_entropy.analyses.information.parts import AssignmentParts
from tl_entropy.errors import FileError, InputError

pytestmark = pytest.mark.model

OPTIONS = {"layers": [1], "n_bins": 8, "folds": 2}


@cache
def alone(folder):
    """What one process finds that writes into a folder."""
    return tle.soft_information(model(), TOKENS, labels=plan(), keep="assignments", folder=folder, **OPTIONS, **READ)


def assert_same(one, other):
    assert differences(one, other, leave=("provenance",)) == []


@pytest.fixture
def written(tmp_path):
    """What two have written, of which the second has read what lies between the documents of the first."""
    both = [AssignmentParts(model(), plan(), folder=str(tmp_path / "parts"), **OPTIONS) for _ in range(2)]
    for one, documents in zip(both, ([range(2), range(5, 8)], range(2, 5)), strict=True):
        tle.stream(model(), TOKENS, [one], documents=documents, **READ)
    both[1].merge(both[0])
    return both[1]


def test_they_are_those_of_one_process(written, tmp_path):
    whole = alone(tmp_path / "alone")
    assert_same(written.compute(), whole)  # out of the parts
    assert_same(written.put_together(progress=False), whole)
    mine, theirs = (tle.load_assignments(tmp_path / name) for name in ("parts", "alone"))
    assert (mine.codes("resid_post.1", 8) == theirs.codes("resid_post.1", 8)).all()
    assert torch.equal(mine._slots, theirs._slots)
    files = [{path.name for path in one.folder.iterdir()} - {store.LOCK} for one in (mine, theirs)]
    assert files[0] == files[1]


def test_who_is_killed_while_they_are_put_together_is_followed_by_another(written, monkeypatch, tmp_path):
    data, left = part_files.PartsReader.data, [2]

    def killed(one, name, size):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        yield from data(one, name, size)

    with monkeypatch.context() as patched:
        patched.setattr(part_files.PartsReader, "data", killed)
        with pytest.raises(KeyboardInterrupt):
            written.put_together(progress=False)
    with pytest.raises(FileError, match="holds no assignments"):
        tle.load_assignments(tmp_path / "parts")
    assert_same(written.put_together(progress=False), alone(tmp_path / "alone"))


def test_what_is_damaged_or_not_there_is_told(written, tmp_path):
    path = next(path for path in (tmp_path / "parts" / store.PARTS).rglob("*") if path.name == "resid_post.1.8-0")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="is damaged at row"):
        written.put_together(progress=False)
    path.unlink()
    with pytest.raises(FileError, match="all processes have to see one folder"):
        written.put_together(progress=False)


def test_what_nobody_has_seen_is_nothing(tmp_path):
    with pytest.raises(InputError, match="no position with a label"):
        AssignmentParts(model(), plan(), folder=str(tmp_path), **OPTIONS).put_together(progress=False)


def test_a_folder_that_killed_processes_left_is_cleared(written, tmp_path):
    alone(tmp_path / "parts")
    assert not (tmp_path / "parts" / store.PARTS).exists()
