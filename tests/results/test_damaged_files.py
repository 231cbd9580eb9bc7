"""Files that were damaged on the way: none loads with other numbers, and none raises anything but a FileError."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import hand_made
import pytest
import torch
from crossings import same
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import LONG

import tl_entropy as tle
from tl_entropy.errors import FileError, SaveError
from tl_entropy.lenses.tuned import TunedLens
from tl_entropy.results import base, files
from tl_entropy.results.base import Result
from tl_entropy.results.files import check_folder, digest, replacing

TRIALS = 2000 if LONG else 60
KEPT = Path(__file__).parent / "saved_by_0_5_0"
RESULTS = {
    "LensEntropy": lambda: hand_made.lens(),
    "LayerDivergence": lambda: hand_made.divergence("output"),
    "TokenSurprisal": lambda: hand_made.surprisal("the cat", "sat"),
    "TunedLens": lambda: lens_of(2, 4),
}
RESULTS |= {
    path.stem: partial(tle.load, path)
    for folder in (KEPT, KEPT.with_name("saved_since_0_5_0"))
    for path in sorted(folder.glob("*.safetensors"))
    if path.stem not in RESULTS
}  # every other kind that is written, and its variants


def lens_of(layers, d_model):
    return TunedLens(torch.randn(layers, d_model, d_model), torch.randn(layers, d_model), hand_made.origin("tiny"))


def parts(path):
    """The metadata and the tensors of a file."""
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def test_a_digest_is_of_numbers_and_not_of_strides():
    """A column of a table of one row is contiguous, whatever its stride."""
    column = torch.arange(8.0).view(1, 8)[:, 4]
    assert column.is_contiguous()
    assert column.stride() == (8,)
    assert digest("", {"a": column}) == digest("", {"a": torch.tensor([4.0])})
    assert digest("", {"a": torch.zeros(0, 3)}) != digest("", {"a": torch.zeros(3, 0)})


def put(path, content):
    """As a new file: some file systems write one that was cut and filled again to the disk at once, and wait for it."""
    path.unlink()
    path.write_bytes(content)


def is_the_same_or_refused(path, whole):
    try:
        found = tle.load(path)
    except FileError:
        return
    assert type(found) is type(whole)
    same(found, whole, 0.0)


@pytest.mark.thinned
@pytest.mark.parametrize("name", RESULTS)
def test_flipped_bits_and_cuts_are_seen(tmp_path, name):
    whole, path = RESULTS[name](), tmp_path / "r.safetensors"
    raw = whole.save(path).read_bytes()
    same(tle.load(path), whole, 0.0)
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    draw = random.Random(0)
    for low, high in ((0, start), (start, len(raw))):
        for _ in range(TRIALS // 2 if low < high else 0):  # a distance may hold no tensor
            bad = bytearray(raw)
            bad[draw.randrange(low, high)] ^= 1 << draw.randrange(8)
            put(path, bad)
            is_the_same_or_refused(path, whole)
    for _ in range(TRIALS // 4):
        put(path, raw[: draw.randrange(len(raw))])
        with pytest.raises(FileError):
            tle.load(path)
    for place in range(start, len(raw), max(1, (len(raw) - start) // 20)):
        bad = bytearray(raw)
        bad[place] ^= 0x10
        put(path, bad)
        with pytest.raises(FileError, match="its digest is not that of its contents"):
            tle.load(path)


def test_every_kind_is_here():
    """A new kind of result needs a file in ``saved_since_0_5_0``; all else that is saved is in ``attack/test_files.py``."""
    for name in tle.__all__:
        getattr(tle, name)
    kinds = {name for name, kind in Result.kinds.items() if kind.__module__.startswith("tl_entropy.")}
    assert kinds <= {type(make()).__name__ for make in RESULTS.values()}


def test_flipped_bits_of_an_exported_lens_are_seen(tmp_path):
    lens = RESULTS["TunedLens"]()
    path = lens.export(tmp_path / "lens") / "params.pt"
    raw, draw = path.read_bytes(), random.Random(0)
    for _ in range(4 * TRIALS):
        bad = bytearray(raw)
        bad[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        put(path, bad)
        try:
            found = tle.load_tuned_lens(path.parent)
        except FileError:
            continue
        assert torch.equal(found.weights, lens.weights)
        assert torch.equal(found.biases, lens.biases)


def change(fields, **changed):
    return {**fields, **changed}


LATER = {"schema": 99}
CHANGES = {
    "a field is missing": (lambda f: {k: v for k, v in f.items() if k != "sites"}, r"fields are missing: sites"),
    "all fields are missing": (lambda f: {}, "fields are missing"),
    "an unknown field": (lambda f: change(f, later=1), r"fields are unknown: later"),
    "fewer sites than tensors": (lambda f: change(f, sites=f["sites"][:2]), "sites and entropy do not fit: 2 and 4 of site"),
    "another unit": (lambda f: change(f, unit="hartleys"), "unit is 'hartleys', not"),
    "no site": (lambda f: change(f, sites=["embed", *f["sites"][1:]]), "sites is "),
    "a site of no such name": (lambda f: change(f, sites=[{"$site": "nowhere.3"}, *f["sites"][1:]]), "damaged"),
    "a truth for a number": (lambda f: change(f, orders=[True]), "orders is "),
    "no provenance": (lambda f: change(f, provenance=None), "provenance is None"),
    "a provenance of other fields": (lambda f: change(f, provenance={"$provenance": {"$map": [["model", "x"]]}}), "damaged"),
    "a list": (lambda f: [], "damaged"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_header_is_checked_even_where_its_digest_is_right(tmp_path, name):
    edit, message = CHANGES[name]
    metadata, tensors = parts(hand_made.lens().save(tmp_path / "r.safetensors"))
    whole = json.loads(metadata["tl_entropy"])
    for old in (False, True):  # of 0.5.0 there is no digest
        text = json.dumps({k: v for k, v in whole.items() if k != "layout" or not old} | {"fields": edit(whole["fields"])})
        signed = {} if old else {"digest": digest(text, tensors)}
        save_file(tensors, tmp_path / "b.safetensors", metadata={"tl_entropy": text, **signed})
        with pytest.raises(FileError, match=message):
            tle.load(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "its header is not that of a result"), ("{", "damaged"), ("[" * 100_000, "RecursionError"), ("1", "damaged"),
        ('{"schema": 1, "kind": "LensEntropy"}', "its header is not that of a result"),
        ('{"schema": "2", "kind": "LensEntropy", "fields": {}}', "its schema is '2', no whole number"),
        ('{"schema": 99, "kind": "LensEntropy", "fields": {}}', "has schema 99, this tl_entropy reads up to"),
        ('{"layout": 99, "schema": 1, "kind": "LensEntropy", "fields": {}}', "has layout 99, this tl_entropy reads up to"),
        ('{"schema": 1, "kind": ["x"], "fields": {}}', "holds a"), ('{"schema": 1, "kind": "Other", "fields": {}}', "'Other'"),
    ],
)  # fmt: skip
def test_headers_that_are_none(tmp_path, text, message):
    for signed in ({}, {"digest": digest(text, {})}):
        save_file({}, tmp_path / "b.safetensors", metadata={"tl_entropy": text, **signed})
        with pytest.raises(FileError, match=message):
            tle.load(tmp_path / "b.safetensors")


def test_tensors_are_checked_as_well(tmp_path):
    metadata, tensors = parts(hand_made.lens().save(tmp_path / "r.safetensors"))
    text = metadata["tl_entropy"]
    for changed, message in (
        ({"entropy": tensors["entropy"][:, :, 0]}, "entropy is "),
        ({"token": tensors["token"].double()}, "token is torch.float"),
        ({"token": tensors["token"][1:]}, "do not fit"), ({"more": tensors["token"] + 1}, "fields are unknown: more"),
    ):  # fmt: skip
        given = tensors | changed
        save_file(given, tmp_path / "b.safetensors", metadata={"tl_entropy": text, "digest": digest(text, given)})
        with pytest.raises(FileError, match=message):
            tle.load(tmp_path / "b.safetensors")
    save_file(tensors, tmp_path / "b.safetensors", metadata={"tl_entropy": text})
    with pytest.raises(FileError, match="its digest is not"):
        tle.load(tmp_path / "b.safetensors")


def test_a_comparison_whose_index_was_changed(tmp_path):
    whole = hand_made.compared()
    folder = whole.save(tmp_path / "c")
    raw = (folder / "comparison.json").read_bytes()
    draw = random.Random(0)
    for _ in range(TRIALS):
        bad = bytearray(raw)
        bad[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        put(folder / "comparison.json", bad)
        try:
            found = tle.load(folder)
        except FileError:
            continue
        assert (found.names, found.notes) == (whole.names, whole.notes)


@pytest.mark.parametrize("name", ["comparison.json", "config.json"])
def test_json_that_is_nested_too_deeply(name, tmp_path):
    folder = hand_made.compared().save(tmp_path / "c") if name == "comparison.json" else RESULTS["TunedLens"]().export(tmp_path)
    (folder / name).write_text("[" * 100_000)
    with pytest.raises(FileError, match="nested too deeply"):
        (tle.load if name == "comparison.json" else tle.load_tuned_lens)(folder)


@pytest.mark.long
def test_reading_takes_no_more_than_twice_the_file(tmp_path):
    size = lens_of(4, 2000).save(tmp_path / "r.safetensors").stat().st_size
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import hand_made, tl_entropy as tle, tl_entropy.lenses.tuned
hand_made.lens().save("small.safetensors")
tle.load("small.safetensors")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tle.load("r.safetensors")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(tle.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    peak = int(done.stdout)
    assert peak < 2.2 * size


# --- writing -------------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_of_ours_that_leaves_nothing(tmp_path):
    small, target = hand_made.surprisal("the cat"), tmp_path / "r.safetensors"
    big = hand_made.surprisal(*["the cat"] * 500)
    small.save(target)
    signalled, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            SaveError, match=r"r\.safetensors cannot be written .*; it takes \d+ bytes; its disk has \d+ bytes left"
        ):
            big.save(target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, signalled)
    assert [path.name for path in tmp_path.iterdir()] == ["r.safetensors"]
    same(tle.load(target), small, 0.0)


def test_what_a_killed_save_left_is_taken_away_and_what_is_being_written_is_not(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    target = tmp_path / "r.safetensors"
    with replacing(target) as waiting:
        waiting.write_text("half")
        host = waiting.name.removeprefix(".r.safetensors.").rpartition(f".{os.getpid()}.")[0]
        killed, elsewhere = (tmp_path / f".r.safetensors.{name}.{done.stdout.strip()}.0.tmp" for name in (host, "elsewhere"))
        killed.write_text("half"), elsewhere.write_text("half")
        hand_made.lens().save(target)
        assert not killed.exists()
        assert elsewhere.exists(), "another machine's may be being written"
        assert waiting.exists()
    assert target.read_text() == "half", "the last to end has the name"


def killed(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)


def half(tensors, path, metadata=None):
    Path(path).write_bytes(b"half")
    killed()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("when", ["while it is written", "before it is renamed"])
@pytest.mark.parametrize("name", ["LensEntropy.safetensors", "ModelComparison"])
def test_after_a_save_that_was_killed_the_next_leaves_no_waiting_file(tmp_path, name, when, monkeypatch):
    kept, target = KEPT / name, tmp_path / name
    whole = tle.load(kept)
    whole.save(target)
    with monkeypatch.context() as patched:
        if when == "while it is written":
            patched.setattr(base, "save_file", half)
        else:
            patched.setattr(Path, "replace", killed)
        if not (process := os.fork()):
            with suppress(BaseException):
                whole.save(target)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert list(tmp_path.rglob("*.tmp")), "what was killed left its file"
    same(tle.load(target), whole, 0.0)
    whole.save(target)
    assert not list(tmp_path.rglob("*.tmp"))
    same(tle.load(target), whole, 0.0)


def test_where_a_process_cannot_be_asked_for_nothing_is_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "os", SimpleNamespace(name="nt", getpid=os.getpid, path=os.path, kill=None))
    with replacing(tmp_path / "r.safetensors") as waiting:
        host = waiting.name.removeprefix(".r.safetensors.").rpartition(f".{os.getpid()}.")[0]
        other = tmp_path / f".r.safetensors.{host}.{os.getpid() + 1}.0.tmp"
        other.write_text("half"), waiting.write_text("whole")
        with replacing(tmp_path / "r.safetensors") as again:
            again.write_text("again")
        assert other.exists()


def test_a_link_leads_to_the_file_that_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "r.safetensors"
    link.symlink_to(tmp_path / "there" / "r.safetensors")
    for _ in range(2):
        hand_made.lens().save(link)
        assert link.is_symlink()
        assert (tmp_path / "there" / "r.safetensors").is_file()


def test_folders_that_cannot_be_written_to_are_met_before(tmp_path, monkeypatch):
    check_folder("--out", tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"--out: .*file is a file, so there is no folder"):
        check_folder("--out", tmp_path / "file" / "folder")
    with pytest.raises(SaveError, match="cannot be written"):
        hand_made.lens().save(tmp_path / "file" / "r.safetensors")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SaveError, match="is read-only"):
        check_folder("--out", tmp_path)
