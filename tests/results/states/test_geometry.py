"""Layer geometry as a result: units, parts, tables, notes and files, on numbers that can be checked by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tl_entropy.errors import InputError
from tl_entropy.results import Provenance, load
from tl_entropy.results.states.geometry import MEASURES, OF_DOCUMENTS, LayerGeometry, unit_of
from tl_entropy.sites import Site

ORIGIN = Provenance("tiny", "abc", "raw", "float32", "cpu", settings={"measures": tuple(MEASURES), "normalise": None})
SITES = (Site("embed", -1), Site("attn_out", 0), Site("resid_post", 0))
IN_UNIT = ("prompt_entropy", "dataset_entropy", "info_nce")
LOG2 = math.log(2)


def geometry_result(measures=tuple(MEASURES), **changes):
    draw = torch.Generator().manual_seed(0)
    parts = [name for name in measures if name in OF_DOCUMENTS]
    values = torch.rand(len(measures), len(SITES), generator=draw, dtype=torch.float64) + 1
    errors = torch.rand(len(measures), len(SITES), generator=draw, dtype=torch.float64) / 10
    for i, name in enumerate(measures):
        if name in ("two_nn", "lidar"):
            errors[i] = math.nan
    fields = {
        "sites": SITES,
        "measures": measures,
        "values": values,
        "errors": errors,
        "by_document": torch.rand(2, len(parts), len(SITES), generator=draw, dtype=torch.float64),
        "document": torch.tensor([0, 3]),
        "tokens": 31,
        "documents": 2,
        "order": 1.0,
        "provenance": ORIGIN,
        "notes": ("two_nn: 3 of 31 sampled states repeat others and are left out (at embed)",),
    }
    return LayerGeometry(**{**fields, **changes})


def same(a, b):
    for field in dataclasses.fields(a):
        mine, theirs = getattr(a, field.name), getattr(b, field.name)
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
        else:
            assert mine == theirs


def test_every_measure_has_its_unit():
    result = geometry_result()
    assert dict(zip(result.measures, result.units, strict=True)) == {
        "prompt_entropy": "nats", "normalized_prompt_entropy": "", "dataset_entropy": "nats", "effective_rank": "",
        "curvature": "rad", "anisotropy": "", "two_nn": "", "lidar": "", "info_nce": "nats",
    }  # fmt: skip
    assert unit_of("info_nce", "bits") == "bits"


def test_only_entropies_and_the_bound_change_with_the_unit():
    nats = geometry_result()
    bits = nats.to("bits")
    assert (bits.unit, bits.units[0], bits.units[4]) == ("bits", "bits", "rad")
    for i, name in enumerate(nats.measures):
        factor = 1 / LOG2 if name in IN_UNIT else 1
        torch.testing.assert_close(bits.value(name), nats.values[i] * factor)
        torch.testing.assert_close(bits.error(name), nats.errors[i] * factor, equal_nan=True)
    for name, factor in (("prompt_entropy", 1 / LOG2), ("normalized_prompt_entropy", 1), ("curvature", 1)):
        torch.testing.assert_close(bits.document_values(name), nats.document_values(name) * factor)
    torch.testing.assert_close(bits.to("nats").values, nats.values)
    assert bits.to("bits").values.equal(bits.values)
    with pytest.raises(InputError, match="unit must be one of"):
        nats.to("bans")


def test_measures_are_found_by_name():
    result = geometry_result(("curvature", "anisotropy", "prompt_entropy"))
    assert result.value("anisotropy").equal(result.values[1])
    assert result.error("anisotropy").equal(result.errors[1])
    assert result.document_values("curvature").equal(result.by_document[:, 0])
    assert result.document_values("prompt_entropy").equal(result.by_document[:, 1])
    for method in (result.value, result.error, result.document_values, result.mean_profile):
        with pytest.raises(InputError, match=r"measures?: lidar not in this result"):
            method("lidar")
    with pytest.raises(InputError, match="measure: anisotropy not in this result; it has curvature, prompt_entropy"):
        result.document_values("anisotropy")


def test_the_profile_has_a_line_for_each_measure_and_site():
    result = geometry_result().to("bits")
    frame = result.mean_profile()
    assert list(frame.columns) == ["site", "layer", "measure", "unit", "mean", "se"]
    assert len(frame) == len(MEASURES) * len(SITES)
    line = frame[(frame["measure"] == "dataset_entropy") & (frame["site"] == "attn_out")].iloc[0]
    assert (line["layer"], line["unit"]) == (0, "bits")
    assert (line["mean"], line["se"]) == (result.values[2, 1].item(), result.errors[2, 1].item())
    assert set(result.mean_profile("curvature")["measure"]) == {"curvature"}
    assert list(result.mean_profile(["lidar", "curvature"])["measure"]) == ["lidar"] * 3 + ["curvature"] * 3
    assert result.to_pandas().equals(frame)


def test_it_prints_its_numbers_and_its_notes():
    result = geometry_result(values=torch.full((9, 3), 1.25, dtype=torch.float64), errors=torch.full((9, 3), 0.5).double())
    text = repr(result.to("bits"))
    title, header = text.splitlines()[:2]
    assert title == "LayerGeometry: 31 tokens of 2 documents x 3 sites, order 1, rows as they are, bits; tiny"
    assert "prompt_entropy (bits)" in text
    assert "curvature (rad)" in text
    assert "1.803 ± 0.721" in text  # 1.25 nats
    assert "1.250 ± 0.500" in text
    assert "resid_post.0" in text
    assert "prompt_entropy, normalized_prompt_entropy, curvature: mean over documents, each counting the same" in text
    assert text.endswith("two_nn: 3 of 31 sampled states repeat others and are left out (at embed)")
    assert header.split()[0].startswith(("prompt_entropy", "..."))
    page = result._repr_html_()
    assert page.count("<tr") == 4 + 10, "the table, and a row a measure"
    assert "sampled states" in page


def test_without_entropies_there_is_no_order_and_without_documents_no_mean():
    text = repr(geometry_result(("two_nn", "info_nce")))
    assert "order" not in text
    assert "rows" not in text
    for normalise, rows in (("centred", "centred rows"), ("length", "rows of length 1")):
        origin = dataclasses.replace(ORIGIN, settings={"normalise": normalise})
        assert f", order 1, {rows}, nats; tiny" in repr(geometry_result(("prompt_entropy",), provenance=origin))
    assert "mean over documents" not in text
    assert "nan" in repr(geometry_result(("lidar",), values=torch.full((1, 3), math.nan, dtype=torch.float64)))
    nothing = geometry_result(tokens=0, documents=0)
    assert repr(nothing) == "LayerGeometry: 0 tokens of 0 documents x 3 sites, order 1, rows as they are, nats; tiny"


@pytest.mark.parametrize("measures", [tuple(MEASURES), ("two_nn",)])
def test_a_file_gives_it_back(tmp_path, measures):
    result = geometry_result(measures, order=math.inf).to("bits")
    same(load(result.save(tmp_path / "geometry.safetensors")), result)


def test_differences_of_sites_have_errors_of_their_own(tmp_path):
    covariance = torch.tensor([[4.0, 3.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]).double().repeat(2, 1, 1)
    result = geometry_result(("dataset_entropy", "anisotropy"), covariance=covariance)
    expected = torch.tensor([[0, 2, 5], [2, 0, 5], [5, 5, 0]], dtype=torch.float64).sqrt()
    bits = result.to("bits")
    torch.testing.assert_close(result.difference_error("dataset_entropy"), expected)
    torch.testing.assert_close(bits.difference_error("dataset_entropy"), expected / LOG2)
    torch.testing.assert_close(bits.difference_error("anisotropy"), expected)
    torch.testing.assert_close(load(result.save(tmp_path / "geometry.safetensors")).covariance, covariance)
    with pytest.raises(InputError, match="earlier version, which kept no covariance of sites; measure again"):
        geometry_result().difference_error("anisotropy")
    with pytest.raises(InputError, match="curvature"):
        result.difference_error("curvature")
