"""What a run is asked for: every mistake is told by its key before anything is loaded; one ask in two spellings is one."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tl_entropy.demo import FOLDER
from tl_entropy.errors import InputError, ModelError, TLEntropyError
from tl_entropy.runs import models
from tl_entropy.runs.ask import Ask, differences, read_config
from tl_entropy.runs.inputs import Documents
from tl_entropy.runs.models import Checkpoint, checkpoints
from tl_entropy.runs.running import run

GOOD = {"models": str(FOLDER), "inputs": {"text": ["import os"]}, "analyses": ["lens_entropy"]}

WRONG = [
    ({"modles": "gpt2"}, "'modles' is no key of a run (did you mean 'models'?); choose from models, inputs"),
    ({"models": None}, "models is missing; give names on the hub"),
    ({"models": []}, "models must name one model at least; got an empty list"),
    ({"models": [3]}, "models[0] must be a model's name or folder, or a mapping with a name; got 3"),
    ({"models": [{"nam": "gpt2"}]}, "models[0].nam is no key of a model; choose from name"),
    ({"models": [{"name": "gpt2", "dtype": "int8"}]}, "models[0].dtype must be one of 'float32'"),
    ({"models": [{"name": "gpt2", "kind": "hook"}]}, "models[0].kind must be one of"),
    ({"models": [{"name": "gpt2", "revisions": [3]}]}, "models[0].revisions must be a text or a list of texts; got [3]"),
    ({"models": [{"name": str(FOLDER), "revision": "a"}]}, "models[0].revisions belong to names on the hub"),
    ({"models": ["./nowhere/step_*"]}, "models[0]: no folder fits the pattern './nowhere/step_*'"),
    ({"models": ["./nowhere"]}, "models[0]: model: there is no folder ./nowhere"),
    ({"inputs": "texts"}, "inputs must be a mapping with text, file or dataset"),
    ({"inputs": {"text": "a", "file": "b"}}, "inputs must have exactly one of text, file and dataset; got text and file"),
    ({"inputs": {"texts": "a"}}, "inputs.texts is no key of inputs; choose from text, file"),
    ({"inputs": {"text": "a", "split": "train"}}, "inputs.split means nothing without inputs.dataset"),
    ({"inputs": {"file": "no such file"}}, "inputs.file: there is nothing at no such file"),
    ({"inputs": {"text": [1]}}, "inputs.text must be a text or a list of texts; got [1]"),
    ({"inputs": {"dataset": "a", "limit": 0}}, "inputs.limit must be an int of at least 1; got 0"),
    ({"analyses": []}, "analyses must name one function at least"),
    ({"analyses": ["lens"]}, "analyses[0] must be one of 'lens_entropy'"),
    ({"analyses": [{"lens_entropy": {}, "head_entropy": {}}]}, "analyses[0] must be one function's name, or a mapping from it"),
    ({"analyses": [{"lens_entropy": [1]}]}, "analyses[0]: the options of lens_entropy must be a mapping"),
    ({"analyses": [{"lens_entropy": {"order": 1}}]}, "analyses[0]: 'order' is not an option (did you mean 'orders'?)"),
    (
        {"analyses": [{"lens_entropy": {"orders": "x"}}]},
        "analyses[0].orders must be a number or a list, each a number; got 'x'",
    ),
    ({"analyses": [{"lens_entropy": {"orders": [-1]}}]}, "analyses[0].orders must be one or several numbers from 0"),
    ({"analyses": ["lens_entropy", {"head_entropy": {"of": "z"}}]}, "analyses[1].of must be 'pattern' or 'readout'; got 'z'"),
    ({"analyses": [{"lens_entropy": {"sites": ["resid"]}}]}, "analyses[0].sites must be one of 'embed'"),
    ({"analyses": [{"lens_entropy": {"window": "long"}}]}, "analyses[0].window must be a whole number or null; got 'long'"),
    ({"analyses": [{"lens_entropy": {"lens": "no lens"}}]}, "analyses[0].lens: "),
    ({"analyses": [{"lens_entropy": {"lens": 1}}]}, "analyses[0].lens must be the file or folder of a tuned lens; got 1"),
    ({"analyses": ["token_reliance"]}, "analyses[0]: token_reliance needs on; give it as an option"),
    ({"analyses": [{"token_reliance": {"on": {"a": {"ablate": "z.1"}}}}]}, "analyses[0].on.a: "),
    (
        {"analyses": [{"head_entropy": {"interventions": [{"stear": 1}]}}]},
        "analyses[0].interventions[0] must be one of 'ablate', 'ablate_heads', 'ablate_neurons', 'occlude', "
        "'mask_attention', 'steer'; got 'stear'",
    ),
    (
        {"analyses": [{"head_entropy": {"interventions": [{"steer": 1}]}}]},
        "analyses[0].interventions[0]: vector must be a safetensors file that holds one tensor [d_model]; got 1",
    ),
    (
        {"analyses": [{"head_entropy": {"interventions": "ablate"}}]},
        "analyses[0].interventions[0] must be a mapping from one of ablate, ablate_heads",
    ),
    (
        {"analyses": [{"head_entropy": {"interventions": {"ablate": {"heads": 1}}}}]},
        "analyses[0].interventions[0]: ablate cannot be given",
    ),
    ({"analyses": [{"layer_similarity": {"other": "a"}}]}, "analyses[0].other cannot be given in a run"),
    (
        {"analyses": [{"lens_entropy": {"documents": [1]}}]},
        "analyses[0].documents cannot be given in a run: a run deals them out",
    ),
    ({"analyses": [{"soft_information": {"labels": ["word"]}}]}, "analyses[0].labels must be of token, bigram"),
    (
        {"analyses": [{"soft_information": {"keep": "auto", "folder": "a"}}]},
        "analyses[0].folder cannot be given in a run: assignments are kept beside the result",
    ),
    ({"analyses": ["gradient_reliance"]}, "analyses[0]: gradient_reliance needs site; give it as an option"),
    (
        {"analyses": ["conditional_entropy"]},
        "analyses[0]: conditional_entropy is no analysis of a run: it takes sequences one by one",
    ),
    ({"analyses": ["compare_models"]}, "analyses[0]: compare_models is no analysis of a run: it needs a second model"),
    (
        {"analyses": [{"lens_entropy": {"max_new_tokens": 2, "temperature": 0.5}}]},
        "unit_documents must be a multiple of the 16 documents behind which lens_entropy samples text at once (its "
        "batch_size), such as 512; got 500",
    ),
    (
        {"analyses": ["entropy_calibration"], "unit_documents": 16, "stop_when": {"entropy_calibration": 1}},
        "stop_when: entropy_calibration is made of several passes",
    ),
    ({"unit_documents": 0}, "unit_documents must be an int of at least 1; got 0"),
    ({"save_every": -1}, "save_every must be a positive number; got -1"),
    ({"stop_when": {"head_entropy": 1}}, "stop_when: 'head_entropy' is none of the analyses of this run; it has lens_entropy"),
    ({"stop_when": {"lens_entropy": 0}}, "stop_when.lens_entropy must be a positive number; got 0"),
    ({"evict": "yes"}, "evict must be true or false; got 'yes'"),
    (
        {"analyses": {"layer_similarity": {"estimator": "minibatch"}}},
        "analyses[0].estimator must be 'exact' in a run: blocks of 'minibatch' would be cut anew where one goes on",
    ),
]


def test_files_that_analyses_name_are_held_to_what_they_were(tmp_path):
    options = {"interventions": [{"steer": {"vector": str(tmp_path / "vector"), "site": "resid_post.1"}}]}
    given = {**GOOD, "analyses": [{"lens_entropy": options}]}
    asked = []
    for value in (1.0, 1.0, 2.0):
        save_file({"direction": torch.full((4,), value)}, tmp_path / "vector")
        asked.append(Ask.of(given).written())
    assert differences(asked[1], asked[0]) == []
    assert differences(asked[2], asked[0])[0].startswith(f'files: {{"{tmp_path}/vector": "')
    save_file({"a": torch.ones(4), "b": torch.ones(4)}, tmp_path / "vector")
    with pytest.raises(InputError, match=r"interventions\[0\]: vector: .*vector must hold one tensor; it has a, b"):
        Ask.of(given)
    (tmp_path / "vector").write_text("no tensor")
    with pytest.raises(InputError, match=r"vector cannot be read .* give a safetensors file"):
        Ask.of(given)
    assert "files" not in Ask.of(GOOD).written()


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_every_mistake_is_told_by_its_key(change, message):
    with pytest.raises(TLEntropyError, match=re.escape(message)):
        Ask.of({**GOOD, **change})


def test_yaml_is_the_same_as_a_dict(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        f"models: [{FOLDER}]\ninputs: {{text: [import os]}}\n"
        "analyses:\n  - lens_entropy: {orders: [0.5, .inf]}\n  - soft_information: {labels: [4-gram]}\n  - lens_entropy\n"
    )
    ask = Ask.of(path)
    assert ask.analyses["lens_entropy"] == ("lens_entropy", {"orders": [0.5, float("inf")]})
    assert ask.analyses["lens_entropy 2"] == ("lens_entropy", {})
    same = {**GOOD, "models": [str(FOLDER)], "analyses": [{"lens_entropy": {"orders": [0.5, float("inf")]}},
            {"soft_information": {"labels": ["4-gram"]}}, "lens_entropy"]}  # fmt: skip
    assert differences(Ask.of(same).written(), ask.written()) == []
    other = Ask.of({**same, "save_every": 7})
    assert differences(other.written(), ask.written()) == ["save_every: 300.0 in the folder, now 7.0"]


def test_the_order_of_keys_says_nothing():
    one, other = (
        {**GOOD, "analyses": [{"lens_entropy": options}]} for options in ({"top_k": 3, "window": 8}, {"window": 8, "top_k": 3})
    )
    assert differences(Ask.of(one).written(), Ask.of(other).written()) == []


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not YAML: "), (None, "cannot be read"), ("- a", "config must be a mapping")]
)
def test_a_file_that_is_no_configuration_is_refused(text, message, tmp_path):
    path = tmp_path / "study.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(TLEntropyError, match=message):
        Ask.of(path)


def test_patterns_stand_for_the_folders_there_are_in_the_order_of_their_numbers(tmp_path):
    for step in (2, 10, 1):
        (tmp_path / f"step_{step}").mkdir()
    found = checkpoints((f"{tmp_path}/step_*",))
    assert [one.step for one in found] == [1, 2, 10]
    assert Checkpoint("allenai/OLMo", "stage1-step140000-tokens294B", {}).step == 140000
    assert Checkpoint("gpt2", None, {}).step is None


def test_patterns_of_revisions_are_asked_of_the_hub(monkeypatch):
    branches = [SimpleNamespace(name=name) for name in ("main", "step10", "step2")]
    monkeypatch.setattr("huggingface_hub.list_repo_refs", lambda name: SimpleNamespace(branches=branches, tags=[]))
    asked = ({"name": "EleutherAI/pythia-70m", "revisions": ["step*"]},)
    assert [one.label for one in checkpoints(asked)] == ["EleutherAI/pythia-70m@step2", "EleutherAI/pythia-70m@step10"]
    with pytest.raises(InputError, match="told by the hub alone"):
        checkpoints(asked, network=False)
    with pytest.raises(InputError, match="have one name in the folder"):
        checkpoints(("a/b", "a_b"))


def test_a_revision_is_fetched_once_without_doubled_weights_and_let_go(monkeypatch, tmp_path):
    asked = {}

    class Api:
        def list_repo_files(self, name, revision):
            return ["model.safetensors", "pytorch_model.bin"]

    def fetched(name, revision, ignore_patterns):
        asked.update(name=name, revision=revision, ignored=ignore_patterns)
        return str(FOLDER)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr(models, "load_model", lambda place, **options: type("Model", (), {"cfg": type("Cfg", (), {})})())
    model = Checkpoint("a/b", "step3", {"dtype": "bfloat16"}).load()
    assert model.cfg.model_name == "a/b@step3"
    assert asked["revision"] == "step3"
    assert "*.bin" in asked["ignored"]


def test_documents_are_counted_and_told_apart(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.txt").write_text("three\n")
    lines = Documents.of({"file": [str(tmp_path)], "lines": True})
    files = Documents.of({"file": str(tmp_path)})
    assert (lines.count, files.count, Documents.of({"text": ["one", "two", "three"]}).digest) == (3, 2, lines.digest)
    (tmp_path / "b.txt").write_text("four\n")
    assert Documents.of({"file": str(tmp_path)}).digest != files.digest
    (tmp_path / "c.txt").write_text("\n")
    with pytest.raises(InputError, match="inputs hold no document"):
        Documents.of({"file": str(tmp_path / "c.txt"), "lines": True})


def test_without_a_network_what_was_downloaded_will_do(monkeypatch):
    def fetched(name, revision, **options):
        if not options.get("local_files_only"):
            raise ConnectionError("no network")
        if revision == "gone":
            raise FileNotFoundError("not in the cache")
        return str(FOLDER)

    monkeypatch.setattr("huggingface_hub.HfApi", lambda: SimpleNamespace(list_repo_files=lambda name, revision: []))
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr(models, "load_model", lambda place, **options: SimpleNamespace(cfg=SimpleNamespace(place=place)))
    assert Checkpoint("a/b", "here", {}).load().cfg.place == FOLDER
    with pytest.raises(ModelError, match=r"a/b cannot be had at revision 'gone' .* look at its name and revisions"):
        Checkpoint("a/b", "gone", {}).load()


def test_only_the_download_of_this_revision_is_removed(monkeypatch):
    removed = []

    def removing(*commits):
        removed.extend(commits)
        return SimpleNamespace(execute=lambda: None, expected_freed_size=7)

    revisions = [SimpleNamespace(refs={ref}, commit_hash=commit) for ref, commit in (("step1", "aa"), ("step2", "bb"))]
    repo = SimpleNamespace(repo_id="a/b", repo_type="model", revisions=revisions)
    cache = SimpleNamespace(repos=[repo], delete_revisions=removing)
    monkeypatch.setattr("huggingface_hub.scan_cache_dir", lambda: cache)
    assert Checkpoint("a/b", "step2", {}).evict() == 7
    assert removed == ["bb"]
    assert Checkpoint("a/b", "step3", {}).evict() == Checkpoint(str(FOLDER), None, {}).evict() == 0


@pytest.mark.parametrize(
    ("environment", "device"), [({"LOCAL_RANK": "3"}, "cuda:1"), ({"SLURM_LOCALID": "0"}, "cuda:0"), ({}, None)]
)
def test_each_process_of_a_machine_has_a_device_of_its_own(environment, device, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert models.own_device() == device


def test_a_data_set_is_read_by_its_column(monkeypatch):
    import datasets

    rows = datasets.Dataset.from_dict({"code": ["one", "two", "three"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows.to_iterable_dataset())
    found = Documents.of({"dataset": "some", "column": "code", "limit": 2})
    assert (found.count, found.digest) == (2, Documents.of({"text": ["one", "two"]}).digest)
    with pytest.raises(InputError, match=r"inputs\.column: some has no column 'text'"):
        Documents.of({"dataset": "some"})


def test_yaml_is_read_as_people_write_it(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("save_every: 1e3\nstop_when: {lens_entropy: 5e-3}\nother: [1e-3, 12, 1.5, 3e, -2E2]")
    assert read_config(path) == {"save_every": 1e3, "stop_when": {"lens_entropy": 5e-3}, "other": [1e-3, 12, 1.5, "3e", -2e2]}
    path.write_text("models: gpt2\nmodels: gpt3")
    with pytest.raises(InputError, match=r"study\.yaml is not YAML: the key 'models' stands there twice .*line 1"):
        read_config(path)


def test_a_run_cannot_lie_in_its_inputs(tmp_path):
    (tmp_path / "a.txt").write_text("import os")
    with pytest.raises(InputError, match=r"study lies in .*, whose files are the inputs"):
        run(tmp_path / "study", {**GOOD, "inputs": {"file": [str(tmp_path)]}})
