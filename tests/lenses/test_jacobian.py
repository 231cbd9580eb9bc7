"""The Jacobian lens: its files, its numbers against dense float64, objects of TransformerLens, and what it must refuse."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from tiny_models import ARCHITECTURES, cached_model, kinds

import tl_entropy as tle
from tl_entropy import functional
from tl_entropy.errors import FileError, InputError, InputTypeError
from tl_entropy.lenses.jacobian import as_lens
from tl_entropy.sites import Site

WIDTH, LAYERS = 32, 3
META = {"estimator": "jacobian_lens", "corpus": "wikitext"}
RAW = ("gpt2", "bridge") if "bridge" in kinds() else ("gpt2", "hooked raw")
RAW_NAMES = [name for name, kind, compatible in ARCHITECTURES if kind == RAW[1] and not compatible and name != RAW[0]]
QUIET = {"progress": False, "sites": "resid_post", "metrics": ("kl",)}


def matrices(seed=0, layers=(0, 1), noise=0.3, width=WIDTH):
    draw = torch.Generator().manual_seed(seed)
    return {layer: torch.eye(width) + noise * torch.randn(width, width, generator=draw) for layer in layers}


def saved(folder, **changes):
    payload = {"J": matrices(), "n_prompts": 40, "source_layers": [0, 1], "d_model": WIDTH, "metadata": META, **changes}
    torch.save({name: value for name, value in payload.items() if value is not None}, folder / "lens.pt")
    return folder / "lens.pt"


def theirs(**changes):
    """What an object of TransformerLens has."""
    return SimpleNamespace(**{"jacobians": matrices(), "n_prompts": 40, "d_model": WIDTH, "metadata": META, **changes})


def test_a_file_and_an_object_are_one_lens(tmp_path):
    of_file, of_object = tle.load_jacobian_lens(saved(tmp_path)), tle.load_jacobian_lens(theirs())
    assert torch.equal(of_file.weights, of_object.weights)
    assert of_file.layers == (0, 1)
    assert of_file.digest == of_object.digest
    assert of_file.name == f"Jacobian lens (jacobian_lens, 40 prompts, lens.pt, {of_file.digest})"
    assert of_object.name == f"Jacobian lens (jacobian_lens, 40 prompts, memory, {of_file.digest})"
    assert tle.load_jacobian_lens(theirs(jacobians=matrices(1))).digest != of_file.digest
    half = saved(tmp_path, J={layer: matrix.half() for layer, matrix in matrices().items()})
    torch.testing.assert_close(tle.load_jacobian_lens(half).weights, of_file.weights, atol=2e-3, rtol=0)


def test_the_checkpoint_of_a_fit_is_a_sum(tmp_path):
    sums = {layer: 7 * matrix for layer, matrix in matrices().items()}
    lens = tle.load_jacobian_lens(saved(tmp_path, J=None, n_prompts=None, jacobian_sum=sums, n_done=7, target_layer=2))
    torch.testing.assert_close(lens.weights, torch.stack(list(matrices().values())), atol=1e-6, rtol=0)
    assert (lens.prompts, lens.metadata["target_layer"]) == (7, 2)


def test_what_is_read_is_the_matrix_times_the_state():
    lens, rows = as_lens(theirs()), torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(4))
    for site, layer in ((Site("resid_post", 0), 0), (Site("resid_pre", 1), 0), (Site("resid_post", 1), 1)):
        truth = rows.double() @ matrices()[layer].double().T
        torch.testing.assert_close(lens(site, rows).double(), truth, atol=1e-5, rtol=0)
        torch.testing.assert_close(lens(site, rows.double()), truth, atol=1e-12, rtol=0)
    assert torch.equal(lens(Site("resid_post", 2), rows), rows)


@pytest.mark.model
def test_measurements_take_it_and_their_provenance_names_it(texts):
    model = cached_model(*RAW)
    for given in (theirs(), tle.load_jacobian_lens(theirs())):
        result = tle.layer_divergence(model, texts[0], lens=given, prepend_bos=True, **QUIET)
        tokens = torch.tensor([[0, *model.tokenizer(texts[0], add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            own, cache = model.run_with_cache(tokens)
            for layer, matrix in matrices().items():
                logits = model.unembed(model.ln_final(cache[f"blocks.{layer}.hook_resid_post"] @ matrix.T))[0, 1:]
                truth = functional.kl_divergence(own[0, 1:].double(), logits.double())
                torch.testing.assert_close(result.metric("kl")[:, layer].double(), truth, atol=5e-5, rtol=1e-4)
        assert result.metric("kl")[:, -1].abs().max() < 1e-6
        assert result.provenance.settings["lens"] == as_lens(given).name
    entropy = tle.lens_entropy(model, texts[0], lens=theirs(), sites="resid_post", progress=False)
    assert "40 prompts" in entropy.provenance.settings["lens"]
    confidence = tle.confidence(model, texts[0], lens=theirs(), sites="resid_post", progress=False)
    assert "40 prompts" in confidence.provenance.settings["lens"]
    tokens = tle.token_surprisal(model, texts[0], lens=theirs(), sites="resid_post", progress=False)
    assert "40 prompts" in tokens.provenance.settings["lens"]


@pytest.mark.model
@pytest.mark.parametrize("name", RAW_NAMES)
def test_on_every_kind_of_model_it_is_the_dense_readout_of_the_carried_state(name):
    model, tokens = cached_model(name, RAW[1]), torch.tensor([[0, 5, 9, 7, 3]])
    result = tle.lens_entropy(model, tokens, lens=theirs(), sites="resid_post", include_special=True, progress=False)
    readout = tle.Adapter(model).readout
    with torch.no_grad():
        own, cache = model.run_with_cache(tokens)
        for layer, matrix in enumerate([*matrices().values(), torch.eye(WIDTH)]):
            logits = readout.scale * model.unembed(model.ln_final(cache[f"blocks.{layer}.hook_resid_post"] @ matrix.T))[0]
            logits = logits if readout.softcap is None else readout.softcap * torch.tanh(logits / readout.softcap)
            truth = functional.shannon_entropy(logits.double())
            torch.testing.assert_close(result.entropy[:, layer, 0].double(), truth, atol=5e-5, rtol=0)
    torch.testing.assert_close(truth, functional.shannon_entropy(own[0].double()), atol=5e-5, rtol=0)


@pytest.mark.model
@pytest.mark.skipif("bridge" not in kinds(), reason="TransformerLens's lens reads bridges")
def test_it_reads_as_transformer_lens_does():
    analysis = pytest.importorskip("transformer_lens.tools.analysis")
    model = cached_model("gpt2", "bridge")
    lens = analysis.JacobianLens(matrices(), n_prompts=40, d_model=WIDTH)
    tokens = torch.tensor([[0, 5, 9, 7, 3]])
    readout = lens.readout(model, tokens, return_full_logits=True)
    result = tle.lens_entropy(model, tokens, lens=lens, sites="resid_post", include_special=True, progress=False)
    for layer in (0, 1):
        truth = functional.shannon_entropy(readout.lens_logits[layer].double())
        torch.testing.assert_close(result.entropy[:, layer, 0].double(), truth, atol=5e-5, rtol=0)


@pytest.mark.model
def test_models_that_it_does_not_fit(texts):
    model = cached_model(*RAW)
    for lens, options, words in (
        (theirs(), {"sites": ("embed", "resid_post")}, "no matrix for embed"),
        (theirs(), {"sites": "mlp_out"}, "no matrix for mlp_out"),
        (theirs(jacobians=matrices(layers=(1,))), {}, "matrices for layers 1, and none for resid_post.0"),
        (theirs(jacobians=matrices(layers=(0, 2))), {}, "model with more layers"),
        (theirs(jacobians=matrices(width=16), d_model=16), {}, "d_model 16"),
        (theirs(metadata={"model_name": "another"}), {}, "fitted for 'another'"),
        (theirs(metadata={"target_layer": 1}), {}, "to layer 1"),
    ):
        with pytest.raises(InputError, match=words):
            tle.layer_divergence(model, texts[0], lens=lens, **{**QUIET, **options})
    if "bridge" in kinds():
        with pytest.raises(InputError, match="weights have been processed"):
            tle.layer_divergence(cached_model("gpt2", "bridge", compatible=True), texts[0], lens=theirs(), **QUIET)


def test_identity_share_and_noise_are_their_definitions():
    one, two = as_lens(theirs()), as_lens(theirs(jacobians=matrices(1)))
    share, noise = one.identity_share(), one.noise_floor(two)
    eye = torch.eye(WIDTH, dtype=torch.float64)
    for i, layer in enumerate((0, 1)):
        j, k = (made[layer].double() for made in (matrices(), matrices(1)))
        along = (j * eye).sum() / eye.norm()  # the length along the identity
        assert share["share"][i] == pytest.approx(float(along**2 / j.norm() ** 2))
        assert noise["noise"][i] == pytest.approx(float((j - k).norm() ** 2 / (j.norm() ** 2 + k.norm() ** 2)))
        assert noise["cosine"][i] == pytest.approx(float((j * k).sum() / (j.norm() * k.norm())))
    assert share["layer"].tolist() == [0, 1]
    # Without the identity the two fits have nothing in common; with it, half of the norm is common at least.
    assert (noise["noise_apart"] > 0.9).all()
    assert one.noise_floor(theirs())["noise"].tolist() == [0.0, 0.0]
    scaled = as_lens(theirs(jacobians={0: 3 * torch.eye(WIDTH)}))
    assert scaled.identity_share()["share"].tolist() == pytest.approx([1.0])
    with pytest.raises(InputError, match="other has layers"):
        one.noise_floor(scaled)
    with pytest.raises(InputTypeError, match="other must be a Jacobian lens"):
        one.noise_floor(3)


@pytest.mark.model
def test_sites_not_asked_for_are_those_that_it_has(tmp_path):
    model = cached_model(*RAW)
    for layers in ((0, 1), (1,)):
        lens = tle.load_jacobian_lens(theirs(jacobians=matrices(layers=layers)))
        expected = [f"resid_post.{i}" for i in (*layers, 2)]
        for function in (tle.lens_entropy, tle.layer_divergence, tle.unigram_distance):
            found = function(model, ["the cat sat"], lens=lens, progress=False)
            assert [str(site) for site in found.sites] == expected
    assert [str(site) for site in tle.lens_entropy(model, "the cat", lens=lens, layers=1, progress=False).sites] == [
        expected[0]
    ]
    assert [str(site) for site in tle.lens_entropy(model, "the cat", progress=False).sites][:2] == ["embed", "resid_post.0"]


@pytest.mark.model
def test_a_saved_lens_is_the_same_here_and_in_transformer_lens(tmp_path):
    lens = tle.load_jacobian_lens(theirs())
    again = tle.load_jacobian_lens(lens.save(tmp_path / "sub" / "own.pt"))
    assert (again.digest, again.prompts, dict(again.metadata)) == (lens.digest, 40, META)
    JacobianLens = pytest.importorskip("transformer_lens.tools.analysis.jacobian_lens").JacobianLens
    assert torch.equal(JacobianLens.load(str(tmp_path / "sub" / "own.pt")).jacobians[1], lens.weights[1])


def test_files_that_are_no_lens(tmp_path):
    with pytest.raises(FileError, match="there is no file"):
        tle.load_jacobian_lens(tmp_path / "none.pt")
    for changes in (
        {"J": None}, {"J": {}}, {"J": {0: torch.eye(3), 1: torch.eye(4)}}, {"J": {0: torch.full((3, 3), torch.nan)}},
        {"J": {"a": torch.eye(3)}}, {"J": {0: 3}}, {"n_prompts": "many"},
        {"J": None, "jacobian_sum": matrices(), "n_prompts": 0},
    ):  # fmt: skip
        with pytest.raises(FileError, match="source"):
            tle.load_jacobian_lens(saved(tmp_path, **changes))
    (tmp_path / "lens.pt").write_bytes(saved(tmp_path).read_bytes()[:2000])
    with pytest.raises(FileError, match="damaged"):
        tle.load_jacobian_lens(tmp_path / "lens.pt")
    with pytest.raises(InputTypeError, match="source must be a file"):
        tle.load_jacobian_lens(3)


@pytest.mark.parametrize(
    ("weights", "layers", "message"),
    [
        (torch.eye(3), (0,), "must be [layer, d_model, d_model]"),
        (torch.ones(1, 3, 2), (0,), "must be [layer, d_model, d_model]"),
        (torch.ones(2, 3, 3), (0,), "one for each layer"),
        (torch.ones(2, 3, 3), (1, 0), "must rise from 0 or more; got (1, 0)"),
        (torch.ones(2, 3, 3), (-1, 0), "must rise from 0 or more"),
        (torch.full((1, 3, 3), torch.nan), (0,), "must be finite"),
    ],
)
def test_matrices_that_are_no_lens(weights, layers, message):
    with pytest.raises(InputError, match=re.escape(message)):
        tle.JacobianLens(weights, layers, 1, "memory")


@pytest.mark.parametrize("rows", [torch.ones(2, 4), torch.ones(2, 3, dtype=torch.long)])
def test_rows_that_it_cannot_read(rows):
    with pytest.raises(InputError, match=re.escape("rows must be floating-point and [..., 3]")):
        tle.JacobianLens(torch.ones(1, 3, 3), (0,), 1, "memory")(Site("resid_post", 0), rows)
