"""The folder of a run: what was asked is written once, and everything else is refused by what differs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import tl_entropy as tle
from tl_entropy.demo import FOLDER
from tl_entropy.errors import FileError, InputError, SaveError
from tl_entropy.runs import folder
from tl_entropy.runs.ask import Ask
from tl_entropy.runs.folder import RunFolder, create, read_json

ASKED = {"models": str(FOLDER), "inputs": {"text": ["import os"]}, "analyses": ["lens_entropy"]}


@pytest.fixture
def there(tmp_path):
    folder = RunFolder(tmp_path / "study")
    folder.open(Ask.of(ASKED))
    return folder


def test_the_same_ask_goes_on_and_another_is_refused_by_what_differs(there):
    there.open(Ask.of(ASKED))
    asked = {**ASKED, "unit_documents": 3, "analyses": ["lens_entropy", "head_entropy"]}
    with pytest.raises(InputError, match=re.escape("unit_documents: 500 in the folder, now 3")) as error:
        there.open(Ask.of(asked))
    assert 'analyses: {"lens_entropy"' in str(error.value)


def test_a_folder_with_files_of_others_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileError, match=re.escape("holds files that are not a run's (thesis.tex)")):
        RunFolder(tmp_path).open(Ask.of(ASKED))
    (tmp_path / "file").touch()
    with pytest.raises(SaveError, match="is a file"):
        RunFolder(tmp_path / "file").open(Ask.of(ASKED))


def test_what_a_run_left_that_was_killed_while_it_began_is_its_own(tmp_path):
    (tmp_path / ".run.json.host.1.0.tmp").write_text("{")
    RunFolder(tmp_path).open(Ask.of(ASKED))


def test_where_another_process_begins_the_run_at_the_same_moment_it_is_one_run(tmp_path, monkeypatch):
    listed = Path.iterdir

    def late(path):
        monkeypatch.undo()
        RunFolder(tmp_path).open(Ask.of(ASKED))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", late)
    RunFolder(tmp_path).open(Ask.of(ASKED))
    with pytest.raises(InputError, match="unit_documents: 500 in the folder, now 3"):
        RunFolder(tmp_path).open(Ask.of({**ASKED, "unit_documents": 3}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index | {"schema": 2}, "has schema 2, this tl_entropy reads up to 1; upgrade"),
        (lambda index: index | {"kind": "ModelComparison"}, "is not the index of a run"),
        (lambda index: index | {"ask": {**index["ask"], "evict": True}}, "is damaged: its digest is not that of its contents"),
        (lambda index: "{", "cannot be read as the index of a run"),
    ],
)
def test_an_index_that_cannot_be_trusted_is_refused(there, change, message):
    path = there.path / "run.json"
    changed = change(json.loads(path.read_text()))
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    for reading in (tle.load, lambda path: RunFolder(path).open(Ask.of(ASKED))):
        with pytest.raises(FileError, match=re.escape(message)):
            reading(there.path)


def test_other_versions_than_it_began_with_are_told(there, monkeypatch):
    monkeypatch.setattr(folder, "library_versions", lambda: {"tl-entropy": "99.0", "torch": "1"})
    with pytest.warns(UserWarning, match=r"began with tl-entropy .*, now 99.0; torch .*, now 1; .*numbers of both"):
        there.open(Ask.of(ASKED))


def test_a_small_file_that_is_kept_is_put_aside_where_it_is_damaged(there):
    path = there.path / "inputs.json"
    assert there.kept(path) is None
    path.write_text('{"documents": 3}')
    assert there.kept(path) == {"documents": 3}
    path.write_text("")
    with pytest.warns(UserWarning, match=r"inputs.json cannot be read and is now .*damaged"):
        assert there.kept(path) is None
    assert [file.name for file in (there.path / "damaged").iterdir()] == ["inputs.json"]


def test_load_gives_what_is_there(there):
    results = tle.load(there.path)
    assert isinstance(results, tle.RunResults)
    assert (results.models, results.analyses, len(results.to_pandas())) == ((), ("lens_entropy",), 0)


def test_damaged_files_are_put_aside_one_beside_the_other(there):
    for expected in ("work+a.bin", "work+a.bin.1"):
        (path := there.path / "work" / "a.bin").touch()
        assert there.put_aside(path).name == expected
        assert not path.exists()
    assert there.put_aside(there.path / "work" / "a.bin").name == "work+a.bin.2", "somebody else was first"


def test_small_files_are_made_once_and_read_where_they_are_whole(tmp_path):
    path = tmp_path / "new" / "a.json"
    assert create(path, {"a": 1})
    assert not create(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    path.write_text("[")
    assert read_json(path) is None
    assert [one.name for one in path.parent.iterdir()] == ["a.json"]
    with pytest.raises(SaveError, match="cannot be written"):
        create(path / "below" / "a.json", {})
