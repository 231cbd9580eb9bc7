"""Layer dynamics as a result: which quantity is meant, units, tables, what is printed, files."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tl_entropy.errors import InputError
from tl_entropy.results import Provenance, load
from tl_entropy.results.profiles.dynamics import LayerDynamics
from tl_entropy.sites import expand_sites

NAN = math.nan
ROWS = {  # (quantity, family): unit, values, errors, chance
    ("entropy", "curve"): ("nats", (3.0, 2.0, 1.0), (0.5, 0.25, 0.125), (NAN, NAN, NAN)),
    ("velocity", "curve"): ("nats", (NAN, 3.0, 1.0), (NAN, 0.1, 0.1), (NAN, 1.4, 0.6)),
    ("fisher_rao_velocity", "curve"): ("rad", (NAN, 0.2, 0.3), (NAN, 0.1, 0.1), (NAN, NAN, NAN)),
    ("distance_to_output", "curve"): ("rad", (0.5, 0.4, 0.0), (0.1, 0.1, 0.0), (NAN, NAN, NAN)),
    ("jsd_to_output", "curve"): ("nats", (0.6, 0.1, 0.0), (0.1, 0.1, 0.0), (0.2, 0.09, 0.0)),
    ("kl_velocity", "vocabulary"): ("nats", (NAN, 8.0, 4.0), (NAN, 0.1, 0.1), (NAN, NAN, NAN)),
    ("fisher_rao_velocity", "vocabulary"): ("rad", (NAN, 1.5, 0.5), (NAN, 0.1, 0.1), (NAN, NAN, NAN)),
    ("jsd_to_output", "vocabulary"): ("nats", (0.5, 0.25, 0.0), (0.1, 0.1, 0.0), (NAN, NAN, NAN)),
    ("total_variation_to_output", "vocabulary"): ("", (0.9, 0.5, 0.0), (0.1, 0.1, 0.0), (NAN, NAN, NAN)),
}
LOG_2 = math.log(2)


def made(keep=tuple(ROWS), **changes):
    units, *numbers = zip(*(ROWS[key] for key in keep), strict=True)
    values, errors, chance = (torch.tensor(number, dtype=torch.float64) for number in numbers)
    parts = {
        "sites": expand_sites(("embed", "resid_post"), 2),
        "quantities": tuple(quantity for quantity, _ in keep),
        "families": tuple(family for _, family in keep),
        "units": units,
        "values": values,
        "errors": errors,
        "chance": chance,
        "tokens": 120,
        "documents": 4,
        "order": 1.0,
        "n_bins": 50,
        "provenance": Provenance("tiny", "0", "raw", "float32", "cpu", settings={"folds": 20}),
    }
    return LayerDynamics(**{**parts, **changes})


def only(family):
    return made([key for key in ROWS if key[1] == family], order=1.0 if family == "curve" else None)


def test_a_name_in_both_families_is_that_of_the_vocabulary():
    both = made()
    assert both.value("jsd_to_output").tolist() == [0.5, 0.25, 0.0]
    assert both.value("jsd_to_output", "curve").tolist() == [0.6, 0.1, 0.0]
    assert both.value("fisher_rao_velocity")[1:].tolist() == [1.5, 0.5]
    assert both.error("fisher_rao_velocity", "curve")[1:].tolist() == [0.1, 0.1]
    assert both.value("distance_to_output").tolist() == [0.5, 0.4, 0.0]
    assert only("curve").value("jsd_to_output").tolist() == [0.6, 0.1, 0.0]
    assert [both.unit_of(name) for name in ("kl_velocity", "fisher_rao_velocity", "total_variation_to_output")] == [
        "nats", "rad", "",
    ]  # fmt: skip


def test_what_is_not_there_is_refused():
    with pytest.raises(InputError, match="quantity: speed not in this result; it has entropy, velocity, fisher_rao_velocity"):
        made().value("speed")
    with pytest.raises(InputError, match="quantity: velocity not in this result; it has kl_velocity"):
        made().error("velocity", "vocabulary")
    with pytest.raises(InputError, match="family must be one of 'curve'; got 'vocabulary'"):
        only("curve").value("entropy", "vocabulary")
    with pytest.raises(InputError, match="family must be one of 'curve', 'vocabulary'; got 'words'"):
        made().importance("words")
    with pytest.raises(InputError, match="unit must be one of"):
        made().to("hartleys")


def test_bits_are_nats_by_log_2_and_radians_stay():
    nats, bits = made(), made().to("bits")
    assert bits.unit == "bits"
    assert bits.units == tuple("bits" if unit == "nats" else unit for unit in nats.units)
    for i, unit in enumerate(nats.units):
        factor = 1 / LOG_2 if unit == "nats" else 1.0
        for name in ("values", "errors", "chance"):
            np.testing.assert_allclose(getattr(bits, name)[i], getattr(nats, name)[i] * factor, rtol=1e-14)
    torch.testing.assert_close(bits.to("nats").values, nats.values, equal_nan=True)


def test_the_main_velocity():
    assert made().main_velocity() == ("fisher_rao_velocity", "vocabulary")
    assert made().main_velocity("curve") == ("velocity", "curve")
    without = made([key for key in ROWS if key != ("fisher_rao_velocity", "vocabulary")])
    assert without.main_velocity() == ("kl_velocity", "vocabulary")
    ends = made([key for key in ROWS if key[1] == "curve" or key[0].endswith("output")])
    assert ends.main_velocity() == ("velocity", "curve")
    with pytest.raises(InputError, match="there is no velocity in it; measure layer_divergence"):
        ends.main_velocity("vocabulary")


def test_importance_is_one_line_for_each_site():
    curve = made().importance("curve")
    assert list(curve.columns) == [
        "site", "layer", "entropy", "velocity", "fisher_rao_velocity", "distance_to_output", "jsd_to_output", "share",
    ]  # fmt: skip
    assert curve["site"].tolist() == ["embed", "resid_post", "resid_post"]
    assert curve["layer"].tolist() == [-1, 0, 1]
    assert curve["share"].tolist()[1:] == [0.75, 0.25]
    assert math.isnan(curve["share"][0])
    assert curve["jsd_to_output"].tolist() == [0.6, 0.1, 0.0]
    vocabulary = made().importance()
    assert list(vocabulary.columns) == [
        "site", "layer", "entropy", "kl_velocity", "fisher_rao_velocity", "jsd_to_output", "total_variation_to_output", "share",
    ]  # fmt: skip
    assert vocabulary["jsd_to_output"].tolist() == [0.5, 0.25, 0.0]
    assert vocabulary["share"].tolist()[1:] == [0.75, 0.25], "of Fisher-Rao, not of KL"
    assert "entropy" not in only("vocabulary").importance()
    assert only("curve").importance()["share"].tolist()[1:] == [0.75, 0.25]
    ends = made([("entropy", "curve"), ("velocity", "curve"), ("jsd_to_output", "vocabulary")])
    assert list(ends.importance().columns) == ["site", "layer", "entropy", "jsd_to_output"]


def test_the_long_table_has_every_number():
    frame = made().to_pandas()
    assert list(frame.columns) == ["site", "layer", "family", "quantity", "unit", "value", "se", "chance"]
    assert len(frame) == 27
    for (quantity, family), (unit, *numbers) in ROWS.items():
        lines = frame[(frame["quantity"] == quantity) & (frame["family"] == family)]
        assert lines["unit"].eq(unit).all()
        for column, expected in zip(("value", "se", "chance"), numbers, strict=True):
            np.testing.assert_array_equal(lines[column], expected)


def test_it_prints_its_families_errors_and_what_is_chance():
    text = repr(made())
    lines = text.splitlines()
    assert lines[0] == "LayerDynamics: 120 tokens of 4 documents x 3 sites, nats; tiny"
    assert lines[1].split() == ["curve", "vocabulary"]
    assert lines[2].split()[:5] == [quantity for quantity, family in ROWS if family == "curve"]
    assert "2.000 ± 0.250" in text
    assert "nan" not in text
    assert lines[-5:] == [
        "± standard error over documents",
        "curve: of the tokens' entropies; the output is resid_post.1, the last site",
        "vocabulary: of the distributions over the vocabulary, mean over tokens",
        "velocity (curve): at resid_post.1 more than half is what 120 tokens show by chance",
        "jsd_to_output (curve): at resid_post.0 more than half is what 120 tokens show by chance",
    ]
    assert "of the tokens' entropies of order 2;" in repr(made(order=2.0))
    one = repr(made(documents=1, errors=torch.full((9, 3), NAN, dtype=torch.float64)))
    assert "±" not in one
    assert "one document, so no standard errors" in one
    assert "curve" not in repr(only("vocabulary"))
    assert "of the distributions over the vocabulary" not in repr(only("curve"))
    assert "<th>embed</th>" in made()._repr_html_()


def test_many_sites_by_chance_are_not_all_named():
    sites, nothing = expand_sites("resid_post", 9), torch.full((1, 9), NAN, dtype=torch.float64)
    ones = torch.ones(1, 9, dtype=torch.float64)
    result = made([("velocity", "curve")], sites=sites, values=ones, errors=nothing, chance=ones)
    assert "at resid_post.0, resid_post.1, resid_post.2, resid_post.3, resid_post.4, resid_post.5, ... more" in repr(result)


@pytest.mark.parametrize("result", [made(), made().to("bits"), only("vocabulary")])
def test_a_file_holds_all_of_it(result, tmp_path):
    back = load(result.save(tmp_path / "dynamics.safetensors"))
    assert type(back) is LayerDynamics
    for name in ("values", "errors", "chance"):
        torch.testing.assert_close(getattr(back, name), getattr(result, name), equal_nan=True, rtol=0, atol=0)
    for name in ("sites", "quantities", "families", "units", "tokens", "documents", "order", "n_bins", "unit", "provenance"):
        assert getattr(back, name) == getattr(result, name), name
    assert repr(back) == repr(result)
