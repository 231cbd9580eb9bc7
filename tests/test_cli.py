"""The command line: what it writes, and one clear line for what is wrong."""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import refused_in_one_line, run
from safetensors.torch import save_file

import tl_entropy as tle
from tl_entropy import cli, demo
from tl_entropy.analyses.models import comparison
from tl_entropy.capture.feeding import Feeder

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("blank_figures")]

BUNDLED = str(Path(demo.__file__).parent / "stdlib-gpt2-3m")


def test_demo_prints_a_table_and_writes_figures_and_a_result(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tle, "demo_texts", lambda n: ["def f(x):\n    return x\n"] * n)
    status, out, _ = run(monkeypatch, capsys, "demo", "--documents", 2, "--out", tmp_path / "d", "--unit", "bits")
    assert status == 0
    assert "resid_post.5" in out
    assert str(tmp_path / "d") in out
    assert {p.name for p in (tmp_path / "d").iterdir()} == {"lens.safetensors", "profile.csv", "profile.png", "heatmap.png"}
    result = tle.load(tmp_path / "d" / "lens.safetensors")
    assert result.unit == "bits"
    assert result.documents == (0, 1)
    assert len(pd.read_csv(tmp_path / "d" / "profile.csv")) == 7 * 3


def test_lens_on_a_folder_a_file_and_texts(monkeypatch, capsys, tmp_path):
    (tmp_path / "a.txt").write_text("import os\nimport sys\n")
    arguments = ("lens", "--model", BUNDLED, "--orders", "0.5,1,inf", "--top-k", 2, "--sites", "embed,resid_post,mlp_out")
    status, out, err = run(monkeypatch, capsys, *arguments, "--file", tmp_path / "a.txt", "--out", tmp_path / "o")
    assert (status, "order inf" in out) == (0, True), err
    from_file = tle.load(tmp_path / "o" / "lens.safetensors")
    assert from_file.names == {0: "a.txt"}
    status, _, err = run(monkeypatch, capsys, *arguments, "--text", "import os\nimport sys\n", "--out", tmp_path / "p")
    assert status == 0, err
    assert (tle.load(tmp_path / "p" / "lens.safetensors").entropy == from_file.entropy).all()


@pytest.mark.parametrize("command", ["lens", "divergence", "heads", "information"])
def test_without_a_model_the_bundled_one_reads(command, monkeypatch, capsys, tmp_path):
    texts = [part for text in LONGER for part in ("--text", text)]
    status, out, err = run(monkeypatch, capsys, command, *texts, "--out", tmp_path / "o")
    assert status == 0, err
    assert "no --model given: the bundled model reads" in err
    assert "stdlib-gpt2-3m" in out


def test_lens_summary_of_a_data_set(monkeypatch, capsys, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"code": ["import os\n", "x = 1\n", "pass\n"]}).to_csv(str(tmp_path / "rows.csv"))
    status, _, err = run(
        monkeypatch, capsys, "lens", "--model", BUNDLED, "--dataset", tmp_path, "--column", "code", "--limit", 2,
        "--summary", "--out", tmp_path / "o",
    )  # fmt: skip
    assert status == 0, err
    assert tle.load(tmp_path / "o" / "lens.safetensors").documents == 2


CODE = ["import os\nimport sys\ndef f(x):\n    return x\n", "import sys\nimport os\ndef g(x):\n    return f(x)\n"]
LONGER = [4 * text for text in CODE]  # for labels that two documents hold
INFORMATION = ("information", "--model", BUNDLED, "--text", LONGER[0], "--text", LONGER[1])


def test_information_writes_a_result_a_table_and_figures(monkeypatch, capsys, tmp_path):
    status, out, err = run(monkeypatch, capsys, *INFORMATION, "--unit", "bits", "--out", tmp_path / "o")
    assert status == 0, err
    assert "I(next_token;Z)" in out
    assert "resid_post.5" in out
    assert str(tmp_path / "o" / "information_plane.png") in out
    names = {"information.safetensors", "information.csv", "information.png", "entropy.png", "information_plane.png"}
    assert {p.name for p in (tmp_path / "o").iterdir()} == names
    result = tle.load(tmp_path / "o" / "information.safetensors")
    assert (result.unit, result.documents, result.labels) == ("bits", 2, ("token", "next_token"))
    expected = tle.soft_information(tle.demo_model(), LONGER, progress=False).to("bits")
    assert result.plug_in == pytest.approx(expected.plug_in, abs=1e-5)
    table = pd.read_csv(tmp_path / "o" / "information.csv")
    assert len(table) == 7 * 2
    assert table["plug_in"].to_list() == pytest.approx(result.value("plug_in").flatten().tolist())


def test_information_keeps_assignments_for_other_labels_later(monkeypatch, capsys, tmp_path):
    kept = ("--assignments", tmp_path / "kept", "--layers", "0", "--sites", "resid_post", "--n-bins", "10")
    status, _, err = run(monkeypatch, capsys, *INFORMATION, *kept, "--out", tmp_path / "o")
    assert status == 0, err
    found = tle.load_assignments(tmp_path / "kept").information(("token", "next_token"), progress=False)
    written = tle.load(tmp_path / "o" / "information.safetensors")
    assert torch.equal(found.value("plug_in"), written.value("plug_in"))
    status, _, err = run(monkeypatch, capsys, *INFORMATION, *kept, "--out", tmp_path / "p")
    assert status == 2
    assert "holds assignments already" in err


def test_information_of_heads_and_long_ngrams_for_several_seeds(monkeypatch, capsys, tmp_path):
    status, out, err = run(
        monkeypatch, capsys, *INFORMATION, "--heads", "--labels", "token, 4-gram,next_5-gram", "--seed", "0,1", "--n-bins",
        "20,10", "--sites", "embed,resid_post", "--center", "--folds", 2, "--window", 16, "--out", tmp_path,
    )  # fmt: skip
    assert status == 0, err
    assert "36 heads not shown" in out
    assert "over 2 seeds of anchors, of which means are shown" in out
    result = tle.load(tmp_path / "information.safetensors")
    assert result.labels == ("token", "4-gram", "next_5-gram")
    assert result.sides == ("input", "input", "output")
    assert (result.n_bins, result.seeds) == ((20, 20, 10, 10), (0, 1, 0, 1))
    assert result.select(sites="z").heads == 6 * tuple(range(6))
    assert len(result.fold_tokens) == 2
    assert result.provenance.settings["centered"] is True
    assert result.provenance.settings["window"] == 16
    figures = {p.name for p in tmp_path.iterdir()} - {"information.safetensors", "information.csv"}
    expected = {"information.png", "entropy.png", "heads_z_token.png"}
    assert figures == expected, "no plane, since two label sets are on the input side"
    assert "tl-entropy: no heads_z_4-gram.png: " in err


def test_information_without_a_value_still_writes_the_rest(monkeypatch, capsys, tmp_path):
    arguments = ("information", "--model", BUNDLED, "--text", CODE[0], "--labels", "10-gram", "--out", tmp_path)
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert status == 0, err
    assert "nan (10-gram): one fold of documents: " in out
    assert "tl-entropy: no information.png: " in err
    assert {p.name for p in tmp_path.iterdir()} == {"information.safetensors", "information.csv", "entropy.png"}


LENS = str(Path(demo.__file__).parent / "stdlib-gpt2-3m-lens.safetensors")
DIVERGENCE = ("divergence", "--model", BUNDLED, "--text", CODE[0], "--text", CODE[1])


def test_divergence_writes_a_result_a_profile_and_figures(monkeypatch, capsys, tmp_path):
    status, out, err = run(
        monkeypatch, capsys, *DIVERGENCE, "--metrics", "kl,total_variation", "--target", " os", "--unit", "bits",
        "--tuned-lens", LENS, "--top-k", 2, "--out", tmp_path,
    )  # fmt: skip
    assert status == 0, err
    assert "tuned lens" in out
    result = tle.load(tmp_path / "divergence.safetensors")
    expected = tle.layer_divergence(
        tle.demo_model(), CODE, metrics=("kl", "total_variation"), targets=" os", lens=tle.demo_lens(), top_k=2, progress=False
    ).to("bits")
    assert result.divergence.flatten().tolist() == pytest.approx(expected.divergence.flatten().tolist(), abs=1e-5)
    assert result.target_rank.tolist() == expected.target_rank.tolist()
    figures = {"kl.png", "total_variation.png", "decisions.png", "heatmap.png", "targets.png", "targets.csv"}
    assert {p.name for p in tmp_path.iterdir()} == {"divergence.safetensors", "profile.csv"} | figures
    assert len(pd.read_csv(tmp_path / "profile.csv")) == 7 * 4


@pytest.mark.thinned
@pytest.mark.parametrize("summary", [False, True])
def test_divergence_says_when_tokens_settle(monkeypatch, capsys, tmp_path, summary):
    asked = ("--metrics", "jsd", "--settled", "0.5bits", "--rho", 0.6, *["--summary"] * summary)
    status, out, err = run(monkeypatch, capsys, *DIVERGENCE, *asked, "--out", tmp_path)
    assert status == 0, err
    assert "deep-thinking ratio, JSD of at most 0.5 bits, from 0.6 of the depth on" in out
    result = tle.layer_divergence(tle.demo_model(), CODE, metrics="jsd", progress=False)
    expected = result.deep_thinking_ratio(0.6, unit="bits")
    [line] = pd.read_csv(tmp_path / "deep_thinking.csv").to_dict("records")
    assert line["ratio"] == pytest.approx(expected["ratio"][0])
    assert (line["threshold"], line["unit"], line["rho"], line["first_deep"]) == (0.5, "bits", 0.6, 4)
    assert (tmp_path / "settling.png").exists()


@pytest.mark.parametrize(("value", "words"), [("0.5", "a number and its unit"), ("bits", "a number and its unit")])
def test_a_threshold_without_its_unit_is_refused(monkeypatch, capsys, tmp_path, value, words):
    refused_in_one_line(monkeypatch, capsys, tmp_path, (*DIVERGENCE, "--settled", value), words)


def test_divergence_summary_from_layer_to_layer(monkeypatch, capsys, tmp_path):
    status, out, err = run(monkeypatch, capsys, *DIVERGENCE, "--summary", "--against", "previous", "--out", tmp_path)
    assert status == 0, err
    assert "against previous" in out
    assert type(tle.load(tmp_path / "divergence.safetensors")).__name__ == "DivergenceSummary"
    assert not (tmp_path / "heatmap.png").exists()


def test_ablation_gives_the_difference_that_it_makes(monkeypatch, capsys, tmp_path):
    status, out, err = run(
        monkeypatch, capsys, *DIVERGENCE, "--ablate", "3.1, mlp_out.2", "--metrics", "jsd", "--out", tmp_path
    )
    assert status == 0, err
    assert "ablate heads 3.1" in out
    plain = tle.layer_divergence(tle.demo_model(), CODE, metrics="jsd", progress=False)
    edits = [tle.ablate_heads([(3, 1)]), tle.ablate("mlp_out.2")]
    edited = tle.layer_divergence(tle.demo_model(), CODE, metrics="jsd", interventions=edits, progress=False)
    mine = tle.load(tmp_path / "contrast.safetensors").values("jsd")
    assert mine.flatten().tolist() == pytest.approx((edited.metric("jsd") - plain.metric("jsd")).flatten().tolist(), abs=1e-6)
    figures = {f"contrast_{name}.png" for name in ("jsd", "agreement", "decided", "map")}
    assert {p.name for p in tmp_path.iterdir()} == {"contrast.safetensors", "profile.csv"} | figures


def test_heads_are_set_to_their_means(monkeypatch, capsys, tmp_path):
    arguments = ("lens", "--model", BUNDLED, "--text", CODE[0], "--text", CODE[1], "--ablate", "0.5", "--surprisal")
    status, _, err = run(monkeypatch, capsys, *arguments, "--to-means", "--out", tmp_path / "o")
    assert status == 0, err
    model = tle.demo_model()
    edit = tle.ablate_heads([(0, 5)], means=tle.head_means(model, CODE, progress=False))
    plain, edited = (
        tle.lens_entropy(model, CODE, surprisal=True, progress=False, **options) for options in ({}, {"interventions": edit})
    )
    mine, expected = tle.load(tmp_path / "o" / "contrast.safetensors"), tle.contrast(plain, edited)
    assert mine.quantities == expected.quantities == ("entropy", "surprisal")
    assert torch.allclose(mine.difference, expected.difference, atol=1e-5, equal_nan=True)


def test_sampled_text_is_measured(monkeypatch, capsys, tmp_path):
    options = {"max_new_tokens": 3, "temperature": 0.8, "seed": 7}
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    arguments = ("divergence", "--model", BUNDLED, "--text", CODE[0], "--metrics", "kl", "--surprisal", *given)
    status, _, err = run(monkeypatch, capsys, *arguments, "--out", tmp_path)
    assert status == 0, err
    mine = tle.load(tmp_path / "divergence.safetensors")
    expected = tle.layer_divergence(tle.demo_model(), CODE[0], metrics="kl", surprisal=True, progress=False, **options)
    assert mine.token.tolist() == expected.token.tolist()
    assert mine.generated.tolist() == expected.generated.tolist()
    assert 0 < int(mine.generated.sum()) <= 3


@pytest.mark.thinned
@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_steering_by_a_vector_in_a_file(kind, monkeypatch, capsys, tmp_path):
    vector = torch.linspace(-1, 1, 192)
    file = tmp_path / f"vector.{kind}"
    if kind == "npy":
        np.save(file, vector.numpy())
    else:
        save_file({"direction": vector}, file)
    where = ("--steer", file, "--steer-at", "resid_post.2", "--steer-scale", "2.5")
    status, _, err = run(monkeypatch, capsys, "lens", "--model", BUNDLED, "--text", CODE[0], *where, "--out", tmp_path / "o")
    assert status == 0, err
    edited = tle.lens_entropy(tle.demo_model(), CODE[0], interventions=tle.steer(vector, layer=2, scale=2.5), progress=False)
    plain = tle.lens_entropy(tle.demo_model(), CODE[0], progress=False)
    mine = tle.load(tmp_path / "o" / "contrast.safetensors").values("entropy")
    assert mine.flatten().tolist() == pytest.approx((edited.entropy - plain.entropy).flatten().tolist(), abs=1e-5)
    assert float(mine.abs().max()) > 0.01


@pytest.mark.thinned
@pytest.mark.parametrize(("of", "summary"), [("pattern", False), ("readout", True)])
def test_heads_writes_maps(of, summary, monkeypatch, capsys, tmp_path):
    arguments = ("heads", "--model", BUNDLED, "--text", CODE[0], "--of", of, "--orders", "1,2", "--out", tmp_path)
    status, out, err = run(monkeypatch, capsys, *arguments, *["--summary"] * summary)
    assert status == 0, err
    assert "layer 5" in out
    result = tle.load(tmp_path / "heads.safetensors")
    expected = tle.head_entropy(tle.demo_model(), CODE[0], of=of, orders=(1.0, 2.0), progress=False)
    assert result.mean_profile()["mean"].to_list() == pytest.approx(expected.mean_profile()["mean"].to_list(), abs=1e-5)
    figures = {"heads_order_1.png", "heads_order_2.png"} | ({"heads_bos_share.png"} if of == "pattern" else set())
    assert {p.name for p in tmp_path.iterdir()} == {"heads.safetensors", "profile.csv"} | figures


def test_a_lens_is_trained_and_used(monkeypatch, capsys, tmp_path):
    (tmp_path / "held_out.txt").write_text(CODE[1])
    status, out, err = run(
        monkeypatch, capsys, "train-lens", "--model", BUNDLED, "--text", CODE[0], "--steps", 2, "--tokens-per-step", 20,
        "--validation", tmp_path / "held_out.txt", "--out", tmp_path / "o",
    )  # fmt: skip
    assert status == 0, err
    assert "tuned lens" in out
    lens = tle.load_tuned_lens(tmp_path / "o" / "lens.safetensors")
    assert (lens.n_layers, lens.provenance.settings["steps"]) == (6, 2)


@pytest.mark.thinned
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lens", "--model", BUNDLED], "give exactly one of --text, --file and --dataset; got none"),
        (["lens", "--model", BUNDLED, "--text", "a", "--file", "b"], "got --text and --file"),
        (["train-lens", "--text", "a"], "Missing option '--model'"),
        (["lens", "--model", BUNDLED, "--text", "a", "--orders", "one"], "--orders must be numbers"),
        (["lens", "--model", BUNDLED, "--text", "a", "--orders", "-1"], "orders must be"),
        (["lens", "--model", BUNDLED, "--text", "a", "--sites", "nowhere"], "sites must be one of"),
        (["lens", "--model", BUNDLED, "--text", ""], "nothing to measure"),
        (["lens", "--model", BUNDLED, "--file", "/no/such/file"], "/no/such/file"),
        (["lens", "--model", "/no/such/folder", "--text", "a"], "there is no folder /no/such/folder"),
        (["lens", "--model", BUNDLED, "--text", "a", "--kind", "keras"], "--kind must be one of"),
        (["lens", "--model", BUNDLED, "--text", "a", "--device", "nowhere"], "device must be one that PyTorch finds"),
        (
            ["lens", "--model", BUNDLED, "--dataset", "no/such/folder", "--config", "x"],
            "--dataset no/such/folder cannot be opened",
        ),
        (["demo", "--unit", "hartleys"], "--unit must be one of"),
        ([*INFORMATION, "--on-error", "ignore"], "--on-error must be one of"),
        (["information", "--model", BUNDLED], "give exactly one of --text, --file and --dataset; got none"),
        ([*INFORMATION, "--labels", "verb"], "labels must be one of"),
        ([*INFORMATION, "--labels", "0-gram"], "n must be an int of at least 1"),
        ([*INFORMATION, "--labels", "token,token"], "different names"),
        ([*INFORMATION, "--seed", "x"], "--seed must be whole numbers separated by commas"),
        ([*INFORMATION, "--seed", "1,1"], "seed must be one or more different"),
        ([*INFORMATION, "--n-bins", "1"], "--n-bins must be an int of at least 2"),
        ([*INFORMATION, "--sites", "pattern"], "pattern holds no states"),
        ([*INFORMATION, "--folds", "0"], "--folds"),
        ([*INFORMATION, "--unit", "hartleys"], "--unit must be one of"),
        ([*DIVERGENCE, "--metrics", "wasserstein"], "metrics must be one of"),
        ([*DIVERGENCE, "--against", "input"], "against must be 'output', 'previous' or one site"),
        ([*DIVERGENCE, "--target", " two words of many"], "not one"),
        ([*DIVERGENCE, "--ablate", "7.0"], "7.0 does not exist"),
        ([*DIVERGENCE, "--ablate", "3"], "--ablate must be heads, such as 3.1, neurons, such as post.3.17, or"),
        ([*DIVERGENCE, "--ablate", "resid_post.1"], "--ablate must be heads, such as 3.1, neurons, such as post.3.17, or"),
        ([*DIVERGENCE, "--ablate", "3.1.2"], "--ablate must be heads, such as 3.1, neurons, such as post.3.17, or"),
        ([*DIVERGENCE, "--ablate", "3.1", "--summary"], "leave --summary and --max-new-tokens out"),
        ([*DIVERGENCE, "--ablate", "3.1", "--max-new-tokens", "2"], "leave --summary and --max-new-tokens out"),
        ([*DIVERGENCE, "--steer", "v.npy", "--steer-at", "stream.1"], "--steer-at must be a site such as resid_post.3"),
        ([*DIVERGENCE, "--to-means"], "--to-means needs heads"),
        ([*DIVERGENCE, "--steer", "vector.npy"], "--steer and --steer-at go together"),
        ([*DIVERGENCE, "--steer", "no.npy", "--steer-at", "resid_post.1"], "--steer: no.npy cannot be read"),
        ([*DIVERGENCE, "--tuned-lens", "/no/lens"], "/no/lens"),
        (["heads", "--model", BUNDLED, "--text", "a", "--of", "keys"], "of must be one of"),
        (["heads", "--model", BUNDLED, "--text", "a", "--of", "readout", "--norm", "none"], "norm must be one of"),
        (["demo", "--documents", "99"], "--documents"),
        (["dmeo"], "No such command 'dmeo'"),
        (["demo", "--colour"], "No such option"),
    ],
)
def test_bad_arguments_give_one_line_and_a_failure(arguments, message, monkeypatch, capsys, tmp_path):
    refused_in_one_line(monkeypatch, capsys, tmp_path, arguments, message)


# --- what is not lost ----------------------------------------------------------------------------------------------------


def test_what_was_measured_before_an_error_is_written_and_the_error_is_told(monkeypatch, capsys, tmp_path):
    measure = tle.lens_entropy

    def fails(model, inputs, **options):
        error = tle.InputError("inputs: document 1 is no text")
        error.partial = measure(model, "import os\n", **options)
        raise error

    monkeypatch.setattr(tle, "lens_entropy", fails)
    status, out, err = run(monkeypatch, capsys, "lens", "--model", BUNDLED, "--text", "x", "--summary", "--out", tmp_path / "o")
    assert status == 2
    assert "resid_post.5" in out
    assert "it ends with an error; until then it measured" in err
    assert err.rstrip().endswith("tl-entropy: inputs: document 1 is no text")
    assert tle.load(tmp_path / "o" / "lens.safetensors").documents == 1


@pytest.mark.filterwarnings("ignore:1 document was left out")
def test_files_that_cannot_be_read_are_left_out_where_that_is_asked_for(monkeypatch, capsys, tmp_path):
    (tmp_path / "a.txt").write_text("import os\n"), (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    arguments = ("lens", "--model", BUNDLED, "--file", tmp_path, "--out", tmp_path / "o", "--summary")
    status, out, err = run(monkeypatch, capsys, *arguments, "--on-error", "skip")
    assert (status, "1 document was left out: " in out, "b.txt is not a UTF-8 text file" in out) == (0, True, True), err
    status, _, err = run(monkeypatch, capsys, *arguments)
    assert (status, "b.txt is not a UTF-8 text file" in err) == (2, True)


def test_some_documents_alone_are_read_by_their_numbers(monkeypatch, capsys, tmp_path):
    texts = [part for text in ("import os", "import sys", "def f(x):", "x = 1") for part in ("--text", text)]
    arguments = ("lens", "--model", BUNDLED, *texts, "--out", tmp_path / "o")
    status, _, err = run(monkeypatch, capsys, *arguments, "--documents", "0:1,2:")
    assert status == 0, err
    assert tle.load(tmp_path / "o" / "lens.safetensors").document.unique().tolist() == [0, 2, 3]


ENDED = {
    "lens": ((), "lens"),
    "divergence": ((), "divergence"),
    "divergence, before a change": (("--ablate", "3.1"), "divergence"),
    "heads": ((), "heads"),
    "tokens": ((), "tokens"),
    "information": (("--labels", "token", "--n-bins", "5"), "information"),
}


@pytest.mark.filterwarnings("ignore:interrupted after", "ignore:.* of .* positions")
@pytest.mark.thinned
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("name", ENDED)
def test_sigterm_ends_a_pass_like_ctrl_c(name, ignored, monkeypatch, capsys, tmp_path):
    feed, handler = Feeder.feed, signal.getsignal(signal.SIGTERM)
    (own, file), left = ENDED[name], [2]

    def ends(self, batch, waiting, take_in):
        feed(self, batch, waiting, take_in)
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Feeder, "feed", ends)
    given = (name.split(",")[0], "--model", BUNDLED, *(part for text in CODE for part in ("--text", text)))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else signal.getsignal(signal.SIGINT)
    try:
        status, out, err = run(monkeypatch, capsys, *given, *own, "--batch-size", 1, "--out", tmp_path / "o")
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert "Traceback" not in err
    assert (status, err.splitlines()[-1]) == (130, "tl-entropy: interrupted")
    assert "interrupted" in out
    found = tle.load(tmp_path / "o" / f"{file}.safetensors")
    assert found.provenance.interrupted


@pytest.mark.long
def test_sigterm_ends_a_comparison_and_a_training_with_what_they_have(monkeypatch, capsys, tmp_path):
    measure, left = comparison.measure_all, [2]

    def ends(*arguments, **options):
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGTERM)
        return measure(*arguments, **options)

    texts = [part for text in CODE for part in ("--text", text)]
    (tmp_path / "again").symlink_to(BUNDLED)
    monkeypatch.setattr(comparison, "measure_all", ends)
    two = ("compare", "--model", BUNDLED, "--model", tmp_path / "again", *texts, "--similarity", "none")
    status, out, err = run(monkeypatch, capsys, *two, "--out", tmp_path / "o")
    assert (status, err.splitlines()[-1]) == (130, "tl-entropy: interrupted")
    assert "it ends with an error; until then it measured" in err
    assert len(list((tmp_path / "o").glob("*.safetensors"))) == 2

    step, done = torch.optim.AdamW.step, [2]

    def stops(self, *arguments):
        done[0] -= 1
        if not done[0]:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", stops)
    train = ("train-lens", "--model", BUNDLED, *texts, "--steps", 9, "--tokens-per-step", 8)
    with pytest.warns(UserWarning, match="interrupted after 1 of 9 steps"):
        status, out, err = run(monkeypatch, capsys, *train, "--out", tmp_path / "l")
    assert (status, "wrote" in out) == (0, True), err


def test_a_warning_is_told_in_one_line_and_afterwards_as_before(monkeypatch, capsys):
    before = warnings.formatwarning

    def warns(**_):
        sys.stderr.write(warnings.formatwarning(UserWarning("texts\n were cut"), UserWarning, "inside.py", 3))

    monkeypatch.setattr(sys.modules[cli.main.__module__], "app", warns)
    assert run(monkeypatch, capsys, "lens") == (0, "", "tl-entropy: warning: texts were cut\n")
    assert warnings.formatwarning is before


def test_a_folder_that_cannot_be_written_to_is_met_before_a_model_is_loaded(monkeypatch, capsys, tmp_path):
    (tmp_path / "here").mkdir(), (tmp_path / "file").write_text("")
    arguments = ("lens", "--model", tmp_path / "no model", "--text", "x", "--out", tmp_path / "file")
    refused_in_one_line(monkeypatch, capsys, tmp_path / "here", arguments, "file is a file, so there is no folder")
