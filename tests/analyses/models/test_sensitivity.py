"""Sensitivity of sites to edits: against passes by hand, weights against models that were changed for good, and put back."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import drawn, small_model
from tiny_models import cached_model, kinds, make_model

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError, ModelError, NonFiniteError

pytestmark = pytest.mark.model

TEXTS = ["the cat sat on the mat", "def f(x):\n    return x + 1", "the dog"]
QUIET = {"progress": False}


def losses(model, **options):
    frame = tle.token_surprisal(model, TEXTS, top_k=0, **QUIET, **options).per_document()
    return torch.tensor((frame["loss"] * frame["tokens"]).to_numpy())


@pytest.mark.parametrize("kind", kinds())
def test_changes_are_those_of_passes_by_hand(kind):
    model = cached_model("gpt2", kind)
    edits = {"int4": "int4", "noise": lambda site: tle.add_noise(site, 2.0, seed=1)}
    found = tle.sensitivity(model, TEXTS, edits, sites=["resid_post", "blocks.1.attn.hook_v"], layers=[0, -1], **QUIET)
    assert found.sites == ("resid_post.0", "resid_post.2", "blocks.1.attn.hook_v")
    assert found.edits == ("int4", "noise")
    plain, n = losses(model), found.tokens.double()
    assert found.loss.tolist() == pytest.approx(plain.tolist(), rel=1e-6)
    for j, site in enumerate(found.sites):
        for i, edit in enumerate((tle.quantize(site, "int4"), tle.add_noise(site, 2.0, seed=1))):
            change = losses(model, interventions=edit) - plain
            assert found.changes[i, j].tolist() == pytest.approx(change.tolist(), abs=1e-5)
            m = change.sum() / n.sum()
            assert found.value()[i, j] == pytest.approx(m.item(), abs=1e-6)
            se = (3 / 2 * ((change - m * n) ** 2).sum()).sqrt() / n.sum()
            assert found.error()[i, j].item() == pytest.approx(se.item(), rel=1e-3)


def written_by(model, site):
    """The parameter that writes to a site, and whether its outputs are its first axis."""
    part, layer = site.split(".")
    block = model.blocks[int(layer)]
    owner = block.attn if part == "attn_out" else block.mlp
    name = "W_O" if part == "attn_out" else "W_out"
    if isinstance(owner._parameters.get(name), torch.nn.Parameter):
        return owner._parameters[name], False
    weight = (owner.o if part == "attn_out" else owner.out).weight
    return weight, type((owner.o if part == "attn_out" else owner.out).original_component).__name__ == "Linear"


@pytest.mark.thinned
@pytest.mark.parametrize(("name", "kind"), [*(("gpt2", kind) for kind in kinds()), ("llama", "bridge")])
def test_matrices_are_those_of_a_model_that_was_changed_for_good(name, kind):
    model = make_model(name, kind)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = tle.sensitivity(model, TEXTS, ["int4"], layers=[1], weights=True, **QUIET)
    assert found.sites == ("attn_out.1", "mlp_out.1")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "put back"
    plain = losses(model)
    for j, site in enumerate(found.sites):
        weight, outputs_first = written_by(model, site)
        kept = weight.detach().clone()
        matrix = kept if outputs_first else kept.flatten(0, -2).T
        rounded = tle.functional.quantize(matrix, "int4")
        with torch.no_grad():
            weight.copy_(rounded if outputs_first else rounded.T.reshape(kept.shape))
        change = losses(model) - plain
        with torch.no_grad():
            weight.copy_(kept)
        assert change.abs().max() > 1e-4
        assert found.changes[0, j].tolist() == pytest.approx(change.tolist(), abs=2e-5)


def test_matrices_of_an_encoder_are_its_own():
    model = drawn({"kind": "memory", "mixer": "heads", "numbers": 4, "encoder_width": 8})
    sites = ("mlp_out.1", "encoder.attn_out", "encoder.mlp_out.0")
    found = tle.sensitivity(model, TEXTS, ["int2"], sites=sites, layers=[1], weights=True, **QUIET)
    assert found.sites == ("mlp_out.1", "encoder.mlp_out.0", "encoder.attn_out.1")
    plain = losses(model)
    written = (model.blocks[1].mlp.out, model.encoder.blocks[0].mlp.out, model.encoder.blocks[1].attn.out)
    for j, layer in enumerate(written):
        kept = layer.weight.detach().clone()
        with torch.no_grad():
            layer.weight.copy_(tle.functional.quantize(kept, "int2"))
        change = losses(model) - plain
        with torch.no_grad():
            layer.weight.copy_(kept)
        assert change.abs().max() > 1e-5
        assert found.changes[0, j].tolist() == pytest.approx(change.tolist(), abs=2e-5)
    with pytest.raises(InputError, match=r"no matrix is known to write memory.*'memory.down.weight'"):
        tle.sensitivity(model, TEXTS, ["int8"], sites="memory", weights=True, **QUIET)


def test_weights_are_put_back_after_an_exception():
    model = make_model("gpt2", kinds()[-1])
    before = {key: value.clone() for key, value in model.state_dict().items()}

    def raising(matrix):
        raise RuntimeError("no")

    def spoiling(matrix):
        return matrix.fill_(0.0) + 1e38  # finite, and no longer so once it has been multiplied

    for edits, error in (({"a": raising}, RuntimeError), ({"int8": "int8", "b": spoiling}, NonFiniteError)):
        with pytest.raises(error) as caught:
            tle.sensitivity(model, TEXTS, edits, layers=[1], sites="mlp_out", weights=True, **QUIET)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    partial = caught.value.partial
    assert partial.changes[0].isfinite().all(), "what was measured before is kept"
    assert partial.changes[1].isnan().all()
    with pytest.raises(InputError, match=r"'c' must give finite numbers \[32, 128\]"):
        tle.sensitivity(model, TEXTS, {"c": lambda w: w[:1]}, layers=[1], sites="mlp_out", weights=True, **QUIET)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_parameters_by_name():
    model = make_model("gpt2", kinds()[-1])
    name = next(key for key, value in model.named_parameters() if 128 in value.shape and value.ndim == 2)
    found = tle.sensitivity(model, TEXTS, {"zero": torch.zeros_like}, weights={"one": name}, **QUIET)
    assert found.sites == ("one",)
    with torch.no_grad():
        model.get_parameter(name).zero_()
    assert found.changes[0, 0].tolist() == pytest.approx((losses(model) - found.loss).tolist(), abs=1e-5)
    with pytest.raises(InputError, match="no parameter 'none'"):
        tle.sensitivity(model, TEXTS, ["int8"], weights={"a": "none"}, **QUIET)


def test_a_matrix_that_is_not_what_the_model_computes_with_is_refused(monkeypatch):
    model = make_model("gpt2", kinds()[-1])
    monkeypatch.setattr(
        "tl_entropy.capture.weights.attribute",
        lambda owner, name: torch.ones(128, 32) if name == "W_out" else getattr(owner, name),
    )
    with pytest.raises(ModelError, match="not what it computes with"):
        tle.sensitivity(model, TEXTS, ["int8"], sites="mlp_out.1", weights=True, **QUIET)


def test_a_convolution_is_changed_by_the_name_of_its_weights():
    model = small_model("memory flat")
    with pytest.raises(ModelError, match=r"attn_out.0 of this model is written by no one matrix .*or name"):
        tle.sensitivity(model, TEXTS, ["int8"], weights=True, **QUIET)
    names = {"mixer": "blocks.0.attn.weight", "encoder's": "encoder.blocks.1.attn.weight"}
    found = tle.sensitivity(model, TEXTS, {"zero": torch.zeros_like}, weights=names, **QUIET)
    assert found.sites == tuple(names)
    assert (found.changes.abs().amax((0, 2)) > 0).all()


def test_batch_sizes_and_further_interventions():
    model = cached_model("gpt2", kinds()[-1])
    one, all_ = (tle.sensitivity(model, TEXTS, ["int4"], sites="mlp_out.0", batch_size=size, **QUIET) for size in (1, 3))
    assert (one.changes - all_.changes).abs().max() < 1e-4
    inside = tle.sensitivity(model, TEXTS, ["int4"], sites="mlp_out.0", interventions=tle.ablate("mlp_out.0"), **QUIET)
    assert inside.changes.abs().max() < 1e-5, "zeros stay zeros"
    assert inside.provenance.settings["interventions"] == ("ablate mlp_out.0",)
    bits = inside.to("bits")
    assert bits.loss.tolist() == pytest.approx((inside.loss / 0.6931471805599453).tolist())


def test_what_the_result_says(tmp_path):
    model = cached_model("gpt2", kinds()[-1])
    found = tle.sensitivity(model, TEXTS, {"e4m3": "float8_e4m3fn", "int8": "int8"}, sites="mlp_out", layers=[0, 1], **QUIET)
    frame = found.to_pandas()
    assert frame.columns.tolist() == ["edit", "site", "change", "se", "loss", "documents", "tokens", "unit"]
    assert frame["edit"].tolist() == ["e4m3", "e4m3", "int8", "int8"]
    assert (frame["loss"] - frame["change"]).tolist() == pytest.approx([found.mean_loss()[0]] * 4)
    assert found.provenance.settings["edits"] == ("e4m3: float8_e4m3fn", "int8: int8")
    assert found.value("int8").tolist() == found.value()[1].tolist()
    with pytest.raises(InputError, match="edit: int4 not in this result"):
        found.value("int4")
    again = tle.load(found.save(tmp_path / "s.safetensors"))
    assert torch.equal(again.changes, found.changes)
    assert "mlp_out.1" in repr(found)
    assert "by edits of activations" in found._repr_html_()
    alone = tle.sensitivity(model, TEXTS[:1], ["int8"], sites="mlp_out.0", **QUIET)
    assert alone.error().isnan().all()


@pytest.mark.parametrize(
    ("edits", "options", "error", "match"),
    [
        ({}, {}, InputError, "edits is empty"),
        ("int8", {}, InputTypeError, "edits must map names"),
        ({"a": 3}, {}, InputTypeError, "'a' must be a text for quantize, or a function"),
        (["fp4"], {}, InputError, "to must be one of"),
        (["int8"], {"sites": "resid_post.0", "weights": True}, InputError, "not written by one matrix"),
        (["int8"], {"sites": "hook_embed", "weights": True}, InputError, "no matrix is known to write hook_embed"),
        (["int8"], {"sites": "result.0"}, InputError, "computed from z"),
        (["int8"], {"layers": 9}, InputError, "layer 9 does not exist"),
    ],
)
def test_refusals(edits, options, error, match):
    model = cached_model("gpt2", kinds()[-1])
    with pytest.raises(error, match=match):
        tle.sensitivity(model, TEXTS, edits, **options, **QUIET)


def test_an_iterator_is_refused():
    with pytest.raises(InputError, match="an iterator can be read once"):
        tle.sensitivity(cached_model("gpt2", kinds()[-1]), iter(TEXTS), ["int8"], **QUIET)


def test_the_model_is_not_copied():
    model = cached_model("gpt2", kinds()[-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy, "deepcopy", None)
        tle.sensitivity(model, TEXTS[:1], ["int8"], sites="mlp_out.0", weights=True, **QUIET)
