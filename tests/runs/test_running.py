"""A run in one process: it goes on where it ended, says what is damaged or refused, and one failure leaves others alone."""

from __future__ import annotations

import re
import shutil

import pandas as pd
import pytest
import torch
import yaml
from command import run as command
from runs_in_folders import assert_same_result, is_quiet, texts
from safetensors.torch import save_file
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.analyses import distributed
from tl_entropy.analyses.information import soft
from tl_entropy.capture.vocabulary import Vocabulary
from tl_entropy.errors import InputError, ModelError, SaveError
from tl_entropy.runs import models, running, sharing, states
from tl_entropy.runs.ask import Ask
from tl_entropy.runs.folder import RunFolder, write_json
from tl_entropy.runs.inputs import Documents
from tl_entropy.runs.status import estimates, status_of
from tl_entropy.runs.workers import Worker

LENS = {"lens_entropy": {"keep": "summary", "layers": [0], "batch_size": 2}}  # two documents, then it may be saved
SOFT = {"soft_information": {"n_bins": 8, "folds": 3, "layers": [0], "batch_size": 2}}
COSTS = {"token_surprisal": {"keep": "summary"}}


class Killed(BaseException):
    """A stand-in for the end of a process."""


@pytest.fixture(autouse=True)
def at_hand(monkeypatch, tmp_path):
    """Every model is the same tiny one, at hand; and a folder of that name is there."""
    monkeypatch.setattr(models, "load_model", lambda *_, **__: cached_model("gpt2", kinds()[0]))
    monkeypatch.setattr(running, "POLL", 0.0)
    monkeypatch.setattr("gc.collect", lambda: 0)  # of all that the tests have loaded
    monkeypatch.chdir(tmp_path)
    for name in ("step_1", "step_2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")


@pytest.fixture
def asked():
    return {"models": "./step_1", "inputs": {"text": texts(9)}, "analyses": [LENS], "unit_documents": 4, "save_every": 1e-9}


@pytest.fixture(scope="module")
def found_alone():
    return {}


@pytest.fixture
def alone(asked, tmp_path, found_alone):
    """What the run finds that nobody disturbs; it is made once."""
    if not found_alone:
        found_alone[0] = tle.run(tmp_path / "alone", asked, progress=False).result("./step_1", "lens_entropy")
    return found_alone[0]


def assert_as_alone(folder, asked, alone):
    """Go on with a run, and look whether it ends with what was found alone."""
    results = tle.run(folder, asked, progress=False)
    assert not results.failed
    assert_same_result(results.result("./step_1", "lens_entropy"), alone)
    assert is_quiet(folder)


def killed_after(saves, monkeypatch, folder, asked):
    """A run whose process ends after so many saves."""
    save, left = states.save, [saves]

    def saved(*arguments):
        save(*arguments)
        left[0] -= 1
        if not left[0]:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(states, "save", saved)
        with pytest.raises(Killed):
            tle.run(folder, asked, progress=False)
    return folder


def state_in(folder):
    [path] = folder.rglob("state-*.safetensors")
    return path


@pytest.mark.parametrize("saves", [1, *(pytest.param(saves, marks=pytest.mark.long) for saves in (2, 3, 4))])
def test_it_goes_on_where_it_ended_also_elsewhere(saves, alone, asked, monkeypatch, tmp_path):
    shutil.move(killed_after(saves, monkeypatch, tmp_path / "killed", asked), tmp_path / "elsewhere")
    held = sum(stop - first for first, stop in states.held(state_in(tmp_path / "elsewhere")))
    take, taken = sharing._SharedPass._take, []
    monkeypatch.setattr(sharing._SharedPass, "_take", lambda one, parts: (taken.extend(parts), take(one, parts)))
    assert_as_alone(tmp_path / "elsewhere", asked, alone)
    assert sum(map(len, taken)) == 9 - held, "what was held is not read again"


@pytest.mark.parametrize("keep", [0.5, *(pytest.param(keep, marks=pytest.mark.long) for keep in (0, 10, -1))])
def test_a_state_that_was_cut_is_told_and_read_again(keep, alone, asked, monkeypatch, tmp_path):
    whole = (path := state_in(killed_after(2, monkeypatch, tmp_path / "killed", asked))).read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.warns(UserWarning, match=r"cannot be read and is now .*damaged.*; its documents are read again"):
        assert_as_alone(tmp_path / "killed", asked, alone)
    assert len(list((tmp_path / "killed" / "damaged").iterdir())) == 1


@pytest.mark.long
def test_a_flipped_bit_in_a_state_is_told_and_read_again(alone, asked, monkeypatch, tmp_path):
    content = bytearray((path := state_in(killed_after(2, monkeypatch, tmp_path / "killed", asked))).read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="its documents are read again"):
        assert_as_alone(tmp_path / "killed", asked, alone)


@pytest.mark.long
def test_a_bit_that_is_flipped_in_the_state_of_another_is_found_when_all_are_added_up(alone, asked, monkeypatch, tmp_path):
    path = state_in(killed_after(2, monkeypatch, tmp_path / "killed", asked))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.with_name(states.name_of(7)).write_bytes(content)
    path.unlink()
    with pytest.warns(UserWarning, match="its documents are read again"):
        assert_as_alone(tmp_path / "killed", asked, alone)


def test_states_that_hold_the_same_documents_are_never_added(alone, asked, monkeypatch, tmp_path):
    path = state_in(killed_after(2, monkeypatch, tmp_path / "killed", asked))
    shutil.copy(path, path.with_name(states.name_of(7)))
    assert_as_alone(tmp_path / "killed", asked, alone)


def test_a_state_that_a_file_system_shows_late_is_waited_for(alone, asked, monkeypatch, tmp_path):
    """The folder is listed once without what another has written, as the states are about to be added up."""
    path = state_in(killed_after(2, monkeypatch, tmp_path / "killed", asked))
    shutil.move(path, other := path.with_name(states.name_of(7)))
    held, hidden = sharing._SharedPass._held, []

    def late(one):
        found = held(one)
        if not hidden and (one.of.place / "result.json").exists():
            hidden.append(found.pop(other))
        return found

    monkeypatch.setattr(sharing._SharedPass, "_held", late)
    assert_as_alone(tmp_path / "killed", asked, alone)
    assert hidden


EVERY = [
    {"lens_entropy": {"top_k": 2}},
    {"lens_entropy": {"keep": "summary"}},
    "layer_divergence",
    {"layer_divergence": {"keep": "summary"}},
    "head_entropy",
    {"head_entropy": {"of": "readout", "keep": "summary"}},
    {"soft_information": {"n_bins": 8, "folds": 3, "labels": ["token", "4-gram"]}},
    {"soft_information": {"n_bins": 8, "folds": 3, "center": True, "seed": [0, 1]}},
    {"soft_information": {"n_bins": 8, "folds": 3, "center": True, "seed": [0, 1], "keep": "assignments"}},
    "layer_similarity",
    {"layer_similarity": {"method": "matrix_renyi", "n_samples": 32}},
    {"layer_similarity": {"rows": "documents"}},
    {"layer_geometry": {"n_samples": 32}},
    "token_surprisal",
    {"token_surprisal": {"keep": "summary"}},
    {"gradient_reliance": {"site": "embed"}},
    {"lens_entropy": {"max_new_tokens": 2}},
    {"lens_entropy": {"max_new_tokens": 2, "temperature": 1.0}},
    {"entropy_calibration": {"prompt_tokens": 2, "steps": 2}},
    {"lens_entropy": {"interventions": [{"ablate": "mlp_out.1"}, {"ablate_heads": [[0, 1]]}]}},
    {"token_reliance": {"on": {"a head": {"ablate_heads": [[0, 1]]}, "an MLP": {"ablate": "mlp_out.1"}}, "metrics": ["kl"]}},
    {"lens_entropy": {"lens": "lens", "keep": "summary"}},
    {"lens_entropy": {"interventions": [{"steer": {"vector": "vector", "site": "resid_post.1", "scale": 2}}]}},
    {"confidence": {"keep": "summary"}},
    {"unigram_distance": {"keep": "summary"}},
]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("analysis", EVERY, ids=str)
def test_every_analysis_goes_on_from_the_state_of_another_worker(analysis, asked, monkeypatch, tmp_path):
    batches = {"batch_size": 2}
    if "lens" in str(analysis):
        origin = tle.Adapter(cached_model("gpt2", kinds()[0])).provenance(settings={})
        tle.TunedLens(torch.full((3, 32, 32), 0.01), torch.zeros(3, 32), origin).save(tmp_path / "lens")
    save_file({"v": torch.arange(32.0)}, tmp_path / "vector")
    name, options = next(iter(analysis.items())) if isinstance(analysis, dict) else (analysis, {})
    short = {"text": [text[:60] for text in texts(9)]}  # some refuse documents of several windows
    asked = {**asked, "inputs": short, "analyses": [{name: {**options, **batches}}]}
    alone = tle.run(tmp_path / "alone", asked, progress=False)
    assert not alone.failed
    path = state_in(killed_after(3, monkeypatch, tmp_path / "killed", asked))
    path.replace(path.with_name(states.name_of(7)))
    results = tle.run(tmp_path / "killed", asked, progress=False)
    assert not results.failed
    assert_same_result(results.result("./step_1", name), alone.result("./step_1", name))


@pytest.mark.long
def test_a_full_disk_ends_it_and_what_was_saved_stays(alone, asked, monkeypatch, tmp_path):
    save, left = states.save, [2]

    def saved(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise SaveError("path: no room")
        save(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(states, "save", saved)
        with pytest.raises(SaveError, match="no room"):
            tle.run(tmp_path / "full", asked, progress=False)
    assert state_in(tmp_path / "full")
    assert_as_alone(tmp_path / "full", asked, alone)


@pytest.mark.long
def test_it_finds_what_the_function_finds_and_then_does_nothing(asked, monkeypatch, tmp_path):
    asked = {**asked, "unit_documents": 20}
    results = tle.run(tmp_path / "study", asked, progress=False)
    direct = tle.lens_entropy(cached_model("gpt2", kinds()[0]), texts(9), keep="summary", layers=[0], progress=False)
    found = results.result("./step_1", "lens_entropy")
    assert found.provenance.corpus["digest"] == direct.provenance.corpus["digest"]
    pd.testing.assert_frame_equal(found.mean_profile(), direct.mean_profile())
    monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert tle.run(tmp_path / "study", asked, progress=False).models == results.models


def test_inputs_that_changed_are_refused(asked, tmp_path):
    (file := tmp_path / "texts.txt").write_text("\n".join(texts(5)))
    asked = {**asked, "inputs": {"file": str(file), "lines": True}}
    folder = RunFolder(tmp_path / "study")
    folder.open(Ask.of(asked))
    running._the_same(folder, Documents.of(asked["inputs"]))
    other = [*texts(3), "another", *texts(5)[4:]]
    for changed, how in ((other, "(texts; document 3 is the first that differs)"), (texts(6), "(5 documents, now 6)")):
        file.write_text("\n".join(changed))
        with pytest.raises(InputError, match=re.escape(f"inputs are not those with which this run began {how}")):
            tle.run(tmp_path / "study", asked, progress=False)
    (folder.path / "inputs.json").write_text("")  # cut off: the hashes are still there
    with pytest.warns(UserWarning, match="inputs.json cannot be read"), pytest.raises(InputError, match="5 documents, now 6"):
        running._the_same(folder, Documents.of(asked["inputs"]))
    file.write_text("\n".join(texts(5)))
    assert running._the_same(folder, Documents.of(asked["inputs"])).count == 5
    assert (folder.path / "inputs.json").exists()


@pytest.mark.parametrize("analysis", [LENS, pytest.param(SOFT, marks=pytest.mark.long)])
def test_a_file_that_grows_while_it_is_read_is_told_and_nothing_of_it_is_saved(analysis, asked, monkeypatch, tmp_path):
    paths = [tmp_path / f"{i}.txt" for i in range(6)]
    for path, text in zip(paths, texts(6), strict=True):
        path.write_text(text)
    asked = {**asked, "inputs": {"file": list(map(str, paths))}, "unit_documents": 2, "analyses": [analysis]}
    of = Documents.of

    def grows(given):
        found = of(given)
        with paths[3].open("a") as file:
            file.write(" and more")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Documents, "of", grows)
        with pytest.warns(UserWarning, match=r"document 3, .*3.txt, changed while the run was reading"):
            results = tle.run(tmp_path / "study", asked, progress=False)
    assert len(results.failed) == 1
    held = [part for path in (tmp_path / "study").rglob("state-*.safetensors") for part in states.held(path)]
    assert held == ([(0, 2)] if analysis is LENS else [])
    with pytest.raises(InputError, match="document 3 is the first that differs"):
        tle.run(tmp_path / "study", asked, progress=False)
    paths[3].write_text(texts(6)[3])
    found, whole = (tle.run(tmp_path / name, asked, progress=False) for name in ("study", "anew"))
    assert not found.failed
    [name] = found.analyses
    assert_same_result(*(one.result("./step_1", name) for one in (found, whole)))


def test_another_model_under_the_same_name_is_refused(asked, monkeypatch, tmp_path):
    path = tmp_path / "study" / "models" / "step_1" / "model.json"
    RunFolder(tmp_path / "study").open(Ask.of(asked))
    write_json(path, {"model": "./step_1", "step": 1, "weights": "0" * 16})
    with pytest.warns(UserWarning, match="failed, and the run goes on without it"):
        results = tle.run(tmp_path / "study", asked, progress=False)
    assert "has other weights" in results.failed["./step_1", "lens_entropy"]


def test_a_tokenizer_that_makes_other_tokens_than_before_is_refused(alone, asked, monkeypatch, tmp_path):
    folder = killed_after(2, monkeypatch, tmp_path / "killed", asked)
    with monkeypatch.context() as patched:
        patched.setattr(Vocabulary, "encode", lambda _, text: list(text.encode()))
        with pytest.warns(UserWarning, match="makes other tokens of document 0"):
            results = tle.run(folder, asked, progress=False)
    assert "restore its tokenizer" in results.failed["./step_1", "lens_entropy"]
    assert_as_alone(folder, asked, alone)


def test_a_unit_of_which_an_analysis_reads_other_tokens_than_the_one_before_is_refused(asked, monkeypatch, tmp_path):
    """The changed document is the sixth, whose tokens are not looked at when the model is loaded."""
    encode, first = Vocabulary.encode, tmp_path / "study" / "models" / "step_1" / "lens_entropy.safetensors"

    def changed(one, text):
        ids = encode(one, text)
        return [*ids, 7] if first.exists() and text == texts(9)[5] else ids

    monkeypatch.setattr(Vocabulary, "encode", changed)
    with pytest.warns(UserWarning, match="other tokens of the documents 4 to 7 than when another analysis or process"):
        results = tle.run(tmp_path / "study", {**asked, "analyses": [LENS, COSTS]}, progress=False)
    assert list(results.failed) == [("./step_1", "token_surprisal")]
    lines = (first.parent / "tokens.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [["0", "4"], ["4", "8"], ["8", "9"]]


def test_a_hash_of_tokens_that_was_cut_off_says_nothing(tmp_path):
    path = tmp_path / "tokens.txt"
    running.same_tokens(path, range(4), 5)
    path.write_text(path.read_text() + "4 8 00ab")
    running.same_tokens(path, range(4), 5)
    running.same_tokens(path, range(4, 8), 6)
    with pytest.raises(ModelError, match="documents 0 to 3"):
        running.same_tokens(path, range(4), 6)


@pytest.mark.long
def test_a_label_plan_is_made_once_and_kept_until_the_result_is_there(asked, monkeypatch, tmp_path):
    asked, made, plan = {**asked, "analyses": [SOFT]}, [], soft._planned
    monkeypatch.setattr(soft, "_planned", lambda *given, **options: made.append(0) or plan(*given, **options))
    whole = tle.run(tmp_path / "alone", asked, progress=False).result("./step_1", "soft_information")
    folder = killed_after(2, monkeypatch, tmp_path / "killed", asked)
    [kept] = folder.rglob("once-*.safetensors")
    assert_same_result(tle.run(folder, asked, progress=False).result("./step_1", "soft_information"), whole)
    assert len(made) == 2
    assert is_quiet(folder)
    folder = killed_after(2, monkeypatch, tmp_path / "damaged", asked)
    (tmp_path / "damaged" / kept.relative_to(tmp_path / "killed")).write_bytes(b"half of it")
    with pytest.warns(UserWarning, match=r"once-label-plan.*cannot be read and is now .*damaged"):
        results = tle.run(folder, asked, progress=False)
    assert_same_result(results.result("./step_1", "soft_information"), whole)
    assert len(made) == 4


@pytest.mark.long
def test_assignments_are_kept_beside_the_result_and_made_anew_with_it(asked, monkeypatch, tmp_path):
    asked = {**asked, "analyses": [{"soft_information": {**SOFT["soft_information"], "keep": "assignments"}}]}
    alone = tle.run(tmp_path / "alone", asked, progress=False)
    folder = killed_after(2, monkeypatch, tmp_path / "killed", asked)
    moved = shutil.move(folder, tmp_path / "moved")
    for _ in range(2):  # the second time since the result is lost
        result = tle.run(moved, asked, progress=False).result("./step_1", "soft_information")
        assert_same_result(result, alone.result("./step_1", "soft_information"))
        kept, same = (
            tle.load_assignments(place / RunFolder(place).assignments("step_1", "soft_information").relative_to(place))
            for place in (tmp_path / "moved", tmp_path / "alone")
        )
        assert (kept.codes("resid_post.0", 8) == same.codes("resid_post.0", 8)).all()
        assert_same_result(kept.information(folds=3, progress=False), same.information(folds=3, progress=False))
        assert is_quiet(moved)
        RunFolder(tmp_path / "moved").result("step_1", "soft_information").unlink()


def test_a_label_plan_that_another_makes_is_waited_for(asked, monkeypatch, tmp_path):
    asked = {**asked, "analyses": [SOFT]}
    folder, waited = RunFolder(tmp_path / "study"), []
    folder.open(Ask.of(asked))
    claimed = sharing.made_once(folder.work("step_1", "soft_information"), "label plan").with_suffix(".json")
    with Worker(folder.workers) as other:
        assert other.claim(claimed)
        monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("there is nothing to do yet"))

        def wait(_):
            waited.append(0)
            other.release(folder.path)
            monkeypatch.setattr(models, "load_model", lambda *_, **__: cached_model("gpt2", kinds()[0]))

        monkeypatch.setattr(running.time, "sleep", wait)
        assert not tle.run(folder.path, asked, progress=False).failed
    assert waited


def test_one_that_fails_is_told_the_others_go_on_and_it_is_tried_again(asked, monkeypatch, tmp_path):
    asked = {**asked, "models": "./step_*", "inputs": {"text": texts(2)}}

    def loaded(place, **_):
        if place.endswith("step_1"):
            raise ModelError("model: half of it is missing")
        return cached_model("gpt2", kinds()[0])

    at_hand = models.load_model
    monkeypatch.setattr(models, "load_model", loaded)
    with pytest.warns(UserWarning, match="half of it is missing"):
        results = tle.run(tmp_path / "study", asked, progress=False)
    assert list(results.failed) == [("./step_1", "lens_entropy")]
    assert results.result("./step_2", "lens_entropy").tokens
    assert status_of(tmp_path / "study").count("failed") == 1
    monkeypatch.setattr(models, "load_model", at_hand)
    again = tle.run(tmp_path / "study", asked, progress=False)
    assert not again.failed
    assert again.same_weights == (("./step_1", "./step_2"),)


@pytest.mark.long
@pytest.mark.parametrize(("bound", "documents"), [(1e3, 4), (1e-9, 9)])
def test_enough_is_enough(bound, documents, asked, tmp_path):
    results = tle.run(tmp_path / "study", {**asked, "stop_when": {"lens_entropy": bound}}, progress=False)
    assert results.result("./step_1", "lens_entropy").provenance.corpus["documents"] == documents
    assert is_quiet(tmp_path / "study")


def test_processes_that_torchrun_has_started_need_not_meet(asked, monkeypatch, tmp_path):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_known", [])
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *_, **__: pytest.fail("another one is waited for"))
    asked = {**asked, "inputs": {"text": texts(2)}}
    assert not tle.run(tmp_path / "study", asked, progress=False).failed


def test_status_and_estimates_come_from_files_alone(asked, monkeypatch, tmp_path):
    folder = killed_after(2, monkeypatch, tmp_path / "study", {**asked, "analyses": [LENS, COSTS]})
    monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    now = status_of(folder)
    [begun, unbegun] = now.jobs
    assert (begun.state, begun.units[0], unbegun.state, now.documents) == ("begun", 3, "open", 9)
    assert 0 < begun.documents < 9
    told = []
    assert estimates(folder, told.append, most=10) == {}
    assert "states of 0 MB are not read; --estimates reads them" in told[0]
    [result] = estimates(folder).values()
    assert result.provenance.corpus["documents"] == begun.documents
    assert result.mean_profile()["mean"].notna().all()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_status_tells_of_those_at_work_and_of_the_time_left(asked, tmp_path):
    folder = RunFolder(tmp_path / "study")
    folder.open(Ask.of(asked))
    write_json(folder.path / "inputs.json", {"documents": 9, "digest": ""})
    with Worker(folder.workers) as worker:
        worker.claim(folder.work("step_1", "lens_entropy") / "pass-0" / "unit-0.json")
        worker.tell({"model": "./step_1", "analysis": "lens_entropy", "began": 0.0, "time": 6.0, "memory": 1, "documents": 3})
        now = status_of(folder.path)
        assert [job.units for job in now.jobs] == [(3, 0, 1)]
        assert (now.count("begun"), now.seconds_left, now.workers[0]["worker"]) == (1, 18.0, 0)
    assert status_of(folder.path).seconds_left is None, "nobody is at work"


@pytest.mark.long
def test_a_state_of_a_later_schema_is_refused_and_stays(asked, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        patched.setattr("tl_entropy.analyses.saving.SCHEMA", 99)
        killed_after(2, monkeypatch, tmp_path / "study", asked)
    with pytest.warns(UserWarning, match="schema 99, this tl_entropy reads up to 1; upgrade"):
        results = tle.run(tmp_path / "study", asked, progress=False)
    assert "upgrade" in results.failed["./step_1", "lens_entropy"]
    assert state_in(tmp_path / "study")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        pytest.param(
            ("run", "study.yaml", "--out", "study"),
            0,
            "RunResults: 1 of 1 result of 1 model in study",
            marks=pytest.mark.long,
        ),
        (("run", "study.yaml", "--plan"), 0, "1 model, 1 analysis: 1 result"),
        (("run", "study.yaml", "--slurm"), 2, "--out is missing; give the folder of the run"),
        (("run", "study.yaml", "--out", "study", "--slurm"), 0, "exec srun tl-entropy run study.yaml --out study"),
        (("run", "study.yaml", "--out", "study", "--slurm", "--plan"), 2, "give one of --plan and --slurm; got both"),
        (("run", "nothing.yaml", "--out", "study"), 2, "config: nothing.yaml cannot be read"),
        (("status", "nowhere"), 2, "nowhere holds no run, since it has no run.json"),
    ],
)
def test_commands(arguments, status, said, asked, monkeypatch, capsys, tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**asked, "inputs": {"text": texts(2)}}))
    ended, out, err = command(monkeypatch, capsys, *arguments)
    assert (ended, said in (err if status else out)) == (status, True), out + err


def test_the_commands_of_a_run_that_is_under_way(asked, monkeypatch, capsys, tmp_path):
    killed_after(2, monkeypatch, tmp_path / "study", asked)
    ended, out, _ = command(monkeypatch, capsys, "status", "study")
    assert ended == 0
    assert "1 result of 9 documents each: 0 done, 1 begun, 0 open, 0 failed" in out
    assert "so far, of ./step_1:\nLensSummary" in out
    ended, out, _ = command(monkeypatch, capsys, "merge", "study", "--out", "merged")
    assert (ended, "0 results done, 1 under way" in out) == (0, True)
    assert len(pd.read_csv(tmp_path / "merged" / "results.csv")) == 2


def test_where_another_process_has_the_result_this_one_leaves_it_alone(asked, monkeypatch, tmp_path):
    """It is written, and what it was made of cleared away, while this one adds up."""
    folder, add_up = RunFolder(tmp_path / "study"), sharing._SharedPass._add_up

    def overtaken(one):
        folder.result("step_1", "lens_entropy").touch()
        shutil.rmtree(folder.path / "work")
        add_up(one)

    monkeypatch.setattr(sharing._SharedPass, "_add_up", overtaken)
    results = tle.run(folder.path, asked, progress=False)
    assert not results.failed
    assert is_quiet(folder.path)
