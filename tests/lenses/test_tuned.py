"""The tuned lens as a map: against a slow loop in double, at every site and dtype, and on every model that it must refuse."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.errors import FileError, InputError
from tl_entropy.lenses.files import load_tuned_lens
from tl_entropy.lenses.identity import norm_ignores_mean, signature, stream_has_mean
from tl_entropy.lenses.protocol import check_lens
from tl_entropy.lenses.tuned import TunedLens
from tl_entropy.results import Provenance
from tl_entropy.sites import Site

LAYERS, WIDTH = 3, 32
BOUNDARIES = [
    (Site("embed", -1), 0),
    *((Site("resid_pre", i), i) for i in range(LAYERS)),
    *((Site("resid_post", i), i + 1 if i + 1 < LAYERS else None) for i in range(LAYERS)),
]
ORIGIN = Provenance(model="tiny", weights="unknown", processing="raw", dtype="float32", device="cpu")


def random_lens(*, layers=LAYERS, width=WIDTH, reads_mean=True, signed=None):
    draw = torch.Generator().manual_seed(5)
    weights = 0.3 * torch.randn(layers, width, width, generator=draw)
    if not reads_mean:
        weights = weights - weights.mean(-1, keepdim=True)
    return TunedLens(weights, torch.randn(layers, width, generator=draw), ORIGIN, signature=signed)


def slow(lens, index, rows):
    """y_r = x_r + Σ_c A_rc x_c + b_r, one number after another in double."""
    weights, biases, x = lens.weights.double().numpy(), lens.biases.double().numpy(), rows.double().numpy()
    out = np.array(x)
    if index is None:
        return out
    for n in range(len(x)):
        for r in range(x.shape[1]):
            out[n, r] = x[n, r] + math.fsum(weights[index, r, c] * x[n, c] for c in range(x.shape[1])) + biases[index, r]
    return out


@pytest.mark.parametrize(("site", "index"), BOUNDARIES, ids=lambda value: str(value))
def test_values_are_a_double_loops(site, index):
    lens = random_lens()
    rows = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    assert lens.index(site) == index
    np.testing.assert_allclose(lens(site, rows).numpy(), slow(lens, index, rows), atol=1e-5, rtol=0)
    np.testing.assert_allclose(lens(site, rows.double()).numpy(), slow(lens, index, rows), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_of_the_rows_is_kept_and_products_are_not_rounded_to_it(dtype):
    lens = random_lens()
    rows = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(2)).to(dtype)
    found = lens(Site("resid_post", 0), rows)
    assert found.dtype == dtype
    true = torch.from_numpy(slow(lens, 1, rows))
    assert (found.double() - true).abs().max() <= 1e-5 + torch.finfo(dtype).eps / 2 * true.abs().max()


def test_settings_of_precision_are_left_alone_and_do_not_matter():
    lens, rows = random_lens(), torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(3))
    plain = lens(Site("embed", -1), rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lens(Site("embed", -1), rows), plain)


def test_leading_axes_and_gradients_pass():
    lens = random_lens()
    rows = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(4), requires_grad=True)
    found = lens(Site("resid_pre", 2), rows)
    torch.testing.assert_close(found.flatten(0, 1), lens(Site("resid_pre", 2), rows.flatten(0, 1)))
    found.sum().backward()
    torch.testing.assert_close(rows.grad[0, 0], 1 + lens.weights[2].sum(0))


@pytest.mark.parametrize("name", ["resid_mid", "attn_out", "mlp_out", "z", "pattern", "result"])
def test_sites_between_the_boundaries_are_refused(name):
    with pytest.raises(InputError, match=r"no translator for .*it knows embed, resid_pre and resid_post"):
        random_lens()(Site(name, 0), torch.zeros(1, WIDTH))


@pytest.mark.parametrize("site", [Site("resid_post", 3), Site("resid_pre", 3), Site("resid_pre", -1), Site("resid_post", -2)])
def test_layers_that_the_lens_lacks_are_refused(site):
    with pytest.raises(InputError, match=r"has layers 0 to 2; there is no resid"):
        random_lens()(site, torch.zeros(1, WIDTH))


@pytest.mark.parametrize("rows", [torch.zeros(2, WIDTH + 1), torch.zeros(2, WIDTH, dtype=torch.long), torch.tensor(1.0)])
def test_rows_of_another_kind_are_refused(rows):
    with pytest.raises(InputError, match=r"rows must be floating-point and \[\.\.\., 32\]"):
        random_lens()(Site("embed", -1), rows)


@pytest.mark.parametrize(
    ("weights", "biases"),
    [((2, 4, 4), (3, 4)), ((2, 4, 5), (2, 4)), ((0, 4, 4), (0, 4)), ((2, 4, 4), (4,)), ((4, 4), (1, 4)), ((2, 0, 0), (2, 0))],
)
def test_shapes_that_do_not_fit(weights, biases):
    with pytest.raises(InputError, match="weights and biases of a tuned lens must be"):
        TunedLens(torch.zeros(weights), torch.zeros(biases), ORIGIN)


def test_values_that_are_not_finite():
    with pytest.raises(InputError, match="must be finite"):
        TunedLens(torch.zeros(1, 2, 2), torch.tensor([[0.0, math.nan]]), ORIGIN)


# --- models ---------------------------------------------------------------------------------------------------------------


@pytest.mark.model
def test_an_identity_lens_is_the_logit_lens(gpt2, texts):
    identity = TunedLens(torch.zeros(LAYERS, WIDTH, WIDTH), torch.zeros(LAYERS, WIDTH), ORIGIN)
    options = {"sites": ("embed", "resid_pre", "resid_post"), "progress": False}
    plain, same = (tle.lens_entropy(gpt2, texts, lens=lens, **options) for lens in (None, identity))
    assert torch.equal(plain.entropy, same.entropy)
    other = tle.lens_entropy(gpt2, texts, lens=random_lens(), **options)
    moved = [site != Site("resid_post", LAYERS - 1) for site in plain.sites]
    assert not torch.isclose(plain.entropy, other.entropy)[:, moved].any(0).all()
    assert torch.equal(plain.entropy[:, -1], other.entropy[:, -1])


@pytest.mark.model
def test_only_layer_norm_ignores_the_mean_and_only_processing_takes_it_out(any_model, request):
    name, kind, mode = request.node.callspec.id.split("-")
    layer_norm = name in ("gpt2", "neox", "phi", "cohere")
    assert norm_ignores_mean(tle.Adapter(any_model)) == layer_norm
    centred = mode == "compatible" and layer_norm
    assert stream_has_mean(tle.Adapter(any_model)) != centred, (name, kind, mode)


@pytest.mark.model
def test_a_lens_that_reads_the_mean_is_refused_where_there_is_none(any_model, request):
    adapter = tle.Adapter(any_model)
    sites = adapter.sites(("embed", "resid_post"))
    check_lens(random_lens(reads_mean=False), adapter, sites)
    if stream_has_mean(adapter):
        check_lens(random_lens(), adapter, sites)
    else:
        with pytest.raises(InputError, match=r"this model has the mean taken out.*enable_compatibility_mode"):
            check_lens(random_lens(), adapter, sites)


@pytest.mark.model
@pytest.mark.parametrize("kind", kinds())
def test_a_lens_that_does_not_read_the_mean_says_the_same_of_raw_and_processed_models(kind, texts):
    lens = random_lens(reads_mean=False)
    raw, processed = (
        tle.lens_entropy(cached_model("gpt2", kind, compatible), texts, lens=lens, progress=False).entropy
        for compatible in (False, True)
    )
    torch.testing.assert_close(raw, processed, atol=2e-4, rtol=0)


@pytest.mark.model
def test_models_of_another_shape_are_refused(gpt2):
    adapter = tle.Adapter(gpt2)
    for lens in (random_lens(layers=2), random_lens(width=16)):
        with pytest.raises(InputError, match=r"this model has 3 of 32.*train_tuned_lens"):
            check_lens(lens, adapter, ())


@pytest.mark.model
def test_sites_are_checked_before_a_pass(gpt2):
    adapter = tle.Adapter(gpt2)
    with pytest.raises(InputError, match=r"no translator for mlp_out\.1"):
        check_lens(random_lens(reads_mean=False), adapter, (Site("embed", -1), Site("mlp_out", 1)))


@pytest.mark.model
@pytest.mark.parametrize("kind", kinds())
def test_a_model_is_known_again_whatever_its_processing(kind):
    first = tle.Adapter(cached_model("gpt2", kinds()[0]))
    lens = random_lens(reads_mean=False, signed=signature(first))
    for compatible in (False, True):
        check_lens(lens, tle.Adapter(cached_model("gpt2", kind, compatible)), ())


@pytest.mark.model
def test_other_weights_are_warned_of_once():
    lens = random_lens(reads_mean=False, signed=signature(tle.Adapter(cached_model("gpt2", "bridge"))))
    other = tle.Adapter(cached_model("neox", "bridge"))
    with pytest.warns(UserWarning, match="trained on a model with other weights"):
        check_lens(lens, other, ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_lens(lens, other, ())
        check_lens(random_lens(reads_mean=False), other, ())  # from elsewhere: nothing is known


@pytest.mark.model
def test_checks_run_under_nobodys_hooks(gpt2):
    adapter = tle.Adapter(gpt2)
    plain = signature(adapter)
    with gpt2.hooks([("blocks.0.hook_resid_post", lambda value, hook: value * 0)]):
        assert torch.equal(signature(adapter), plain)
        assert stream_has_mean(adapter)


# --- files ----------------------------------------------------------------------------------------------------------------


def write_published(folder, lens, *, bias=True, dtype=torch.float32, drop=(), config=None, state=None):
    """The folder that tuned-lens 0.2.0 writes: config.json, and a state dict of torch.nn.Linear layers."""
    folder.mkdir(exist_ok=True)
    layers = torch.nn.ModuleList([torch.nn.Linear(lens.d_model, lens.d_model, bias=bias, dtype=dtype) for _ in lens.biases])
    with torch.no_grad():
        for layer, weight, offset in zip(layers, lens.weights, lens.biases, strict=True):
            layer.weight.copy_(weight)
            if bias:
                layer.bias.copy_(offset)
    torch.save(layers.state_dict() if state is None else state, folder / "params.pt")
    whole = {
        "base_model_name_or_path": "gpt2", "d_model": lens.d_model, "num_hidden_layers": lens.n_layers, "bias": bias,
        "base_model_revision": None, "unembed_hash": "86a1b1", "lens_type": "linear_tuned_lens",
    }  # fmt: skip
    whole |= config or {}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in whole.items() if key not in drop}))
    return folder


@pytest.mark.parametrize("bias", [True, False])
def test_the_published_format(tmp_path, bias):
    wanted = random_lens()
    lens = load_tuned_lens(write_published(tmp_path / "gpt2", wanted, bias=bias, drop=("lens_type",)))
    assert torch.equal(lens.weights, wanted.weights)
    assert torch.equal(lens.biases, wanted.biases * bias)
    assert (lens.provenance.model, lens.provenance.processing) == ("gpt2", "raw")
    assert lens.provenance.settings["unembed_hash"] == "86a1b1"
    assert (lens.losses, lens.signature) == (None, None)
    assert repr(lens) == "TunedLens: 3 layers x d_model 32; gpt2, training unknown"
    rows = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    linear = torch.nn.functional.linear(rows, wanted.weights[1], wanted.biases[1] if bias else None)
    torch.testing.assert_close(lens(Site("resid_post", 0), rows), rows + linear)


def test_the_published_format_in_half_precision(tmp_path):
    lens = load_tuned_lens(write_published(tmp_path / "half", random_lens(), dtype=torch.float16))
    assert lens.weights.dtype == lens.biases.dtype == torch.float32
    assert lens.provenance.dtype == "float16"
    assert torch.equal(lens.weights, random_lens().weights.half().float())


def test_what_the_real_package_writes_and_reads(tmp_path, monkeypatch):
    """Skipped unless the package tuned-lens is installed."""
    lenses = pytest.importorskip("tuned_lens.nn.lenses")
    import transformers as tr

    # It looks for HookedTransformer, which TransformerLens 4 refuses to be asked for.
    monkeypatch.setattr("tuned_lens.model_surgery._transformer_lens_available", False)

    config = tr.GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=3, n_head=2)
    model = tr.GPT2LMHeadModel(config)
    theirs = lenses.TunedLens.from_model(model)
    for parameter in theirs.layer_translators.parameters():
        torch.nn.init.normal_(parameter)
    theirs.save(tmp_path / "theirs")
    ours = load_tuned_lens(tmp_path / "theirs")
    rows = torch.randn(4, 8)
    for i in range(3):
        torch.testing.assert_close(ours(Site("resid_pre", i), rows), theirs.transform_hidden(rows, i))
    ours.export(tmp_path / "ours")
    back = lenses.TunedLens.from_model_and_pretrained(model, str(tmp_path / "ours"))
    for i in range(3):
        torch.testing.assert_close(back.transform_hidden(rows, i), theirs.transform_hidden(rows, i))


def test_export_and_read_again(tmp_path):
    lens = load_tuned_lens(random_lens().export(tmp_path / "new" / "lens"))
    assert torch.equal(lens.weights, random_lens().weights)
    assert torch.equal(lens.biases, random_lens().biases)
    assert sorted(torch.load(tmp_path / "new" / "lens" / "params.pt", weights_only=True)) == sorted(
        f"{i}.{part}" for i in range(3) for part in ("weight", "bias")
    )


def test_save_and_load(tmp_path):
    lens = replace(random_lens(signed=torch.arange(3.0)), losses=torch.tensor([[2.0, 1.5, 1.0], [0.5, 0.25, 0.125]]))
    back = load_tuned_lens(lens.save(tmp_path / "lens.safetensors"))
    for name in ("weights", "biases", "losses", "signature"):
        assert torch.equal(getattr(back, name), getattr(lens, name))
    assert back.provenance == lens.provenance
    assert repr(back) == repr(lens)
    assert "resid_post.1      1.000      0.125" in repr(back)
    torch.testing.assert_close(lens.to("bits").losses, lens.losses / math.log(2))


def refused(folder, error, match):
    with pytest.raises(error, match=match):
        load_tuned_lens(folder)


def test_folders_that_are_refused(tmp_path):
    lens = random_lens()
    refused(tmp_path, FileError, "has no config.json")
    refused(tmp_path / "nothing", FileError, "there is no file")
    folder = write_published(tmp_path / "a", lens)
    (folder / "params.pt").unlink()
    refused(folder, FileError, "has no params.pt")
    (folder / "params.pt").write_bytes(b"PK\x03\x04 no zip")
    refused(folder, FileError, r"params.pt cannot be read as tensors")
    (folder / "config.json").write_text("{")
    refused(folder, FileError, r"config.json is not the config of a tuned lens")
    refused(write_published(tmp_path / "b", lens, drop=("d_model",)), FileError, "is not the config of a tuned lens.*d_model")
    refused(write_published(tmp_path / "c", lens, config={"lens_type": "mlp"}), InputError, "a lens of type 'mlp'")
    refused(write_published(tmp_path / "d", lens, config={"d_model": 31}), FileError, "3 translators of width 31.*see 0.weight")
    refused(write_published(tmp_path / "e", lens, config={"num_hidden_layers": 4}), FileError, "see 3.bias, 3.weight")
    refused(write_published(tmp_path / "f", lens, config={"num_hidden_layers": 2}), FileError, "see 2.bias, 2.weight")
    refused(write_published(tmp_path / "g", lens, config={"bias": False}), FileError, "see 0.bias")
    refused(write_published(tmp_path / "h", lens, state=[1, 2]), FileError, "does not hold 3 translators")
    broken = torch.nn.ModuleList([torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)]).state_dict()
    broken["1.bias"][3] = math.inf
    refused(write_published(tmp_path / "i", lens, state=broken), FileError, "must be finite")
    (folder / "config.json").write_text("[1]")
    refused(folder, FileError, "is not the config of a tuned lens")


class Runs:
    """Leaves a trace if it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_folder_is_run(tmp_path):
    trace = tmp_path / "trace"
    refused(write_published(tmp_path / "bad", random_lens(), state={"0.weight": Runs(trace)}), FileError, "cannot be read")
    assert not trace.exists()


def test_files_that_are_refused(tmp_path):
    path = random_lens().save(tmp_path / "lens.safetensors")
    path.write_bytes(path.read_bytes()[:-20])
    refused(path, FileError, "damaged")
    (tmp_path / "text").write_text("hello")
    refused(tmp_path / "text", FileError, "damaged or of another kind")


@pytest.mark.model
def test_other_results_are_refused(tmp_path, gpt2):
    path = tle.lens_entropy(gpt2, "the cat", progress=False).save(tmp_path / "result.safetensors")
    refused(path, FileError, "holds a LensEntropy, not a TunedLens")
