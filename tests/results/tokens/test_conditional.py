"""What a conditional entropy of tokens says of itself."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tl_entropy.errors import InputError
from tl_entropy.results.loading import load
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.conditional import ConditionalEntropy

ORIGIN = Provenance("m", "0", "LN", "float32", "cpu", settings={"loss": "own"})


def conditional(values=(0.5, 1.0, -0.25, 3.0, 0.75), documents=(0, 0, 0, 2, 2), **changes):
    n = len(values)
    document = torch.tensor(documents, dtype=torch.long)
    position = torch.tensor([int((document[:i] == document[i]).sum()) for i in range(n)], dtype=torch.long)
    given = {
        "entropy": torch.tensor(values, dtype=torch.float64), "document": document, "position": position,
        "token": position + 4, "span": torch.stack([position, position + 1], 1), "strings": {4: "a", 5: "b", 6: "\n"},
        "texts": {0: "ab\n", 2: "ab"}, "names": {2: "two.txt"}, "provenance": ORIGIN,
    }  # fmt: skip
    return ConditionalEntropy(**{**given, **changes})


def test_mean_and_totals_by_hand():
    result = conditional()
    mean, error = result.mean()
    assert mean == pytest.approx(1.0)
    # Documents of 3 and 2 tokens are off by 1.25 - 3 and 3.75 - 2; a ratio's error over D = 2 documents.
    assert error == pytest.approx(math.sqrt(2 * (1.75**2 + 1.75**2)) / 5)
    frame = result.totals()
    assert list(frame.columns) == ["document", "name", "tokens", "total", "mean"]
    assert frame.to_numpy().tolist() == [[0, "", 3, 1.25, pytest.approx(1.25 / 3)], [2, "two.txt", 2, 3.75, 1.875]]
    assert math.isnan(result.select(documents=0).mean()[1])


def test_units():
    bits = conditional().to("bits")
    assert bits.unit == "bits"
    torch.testing.assert_close(bits.entropy, conditional().entropy / math.log(2))
    assert bits.columns()["conditional_entropy"].unit == "bits"
    assert bits.totals()["total"][0] == pytest.approx(1.25 / math.log(2))
    assert bits.mean()[0] == pytest.approx(1 / math.log(2))
    torch.testing.assert_close(bits.to("nats").entropy, conditional().entropy)
    with pytest.raises(InputError, match="unit must be one of 'nats', 'bits'"):
        bits.to("hartleys")


def test_the_column_is_the_entropy():
    [(name, column)] = conditional().columns().items()
    assert name == "conditional_entropy"
    assert column.unit == "nats"
    assert torch.equal(column.values, conditional().entropy)
    frame = conditional().to_pandas()
    assert list(frame.columns) == ["document", "position", "start", "end", "token", "conditional_entropy"]
    assert frame.iloc[2].tolist() == [0, 2, 2, 3, "\n", -0.25]


def test_parts():
    part = conditional().select(documents=2, positions=-1 % 2)
    assert part.entropy.tolist() == [0.75]
    assert part.texts == {2: "ab"}
    assert conditional().select(positions=slice(-1, None)).entropy.tolist() == [-0.25, 0.75]
    with pytest.raises(InputError, match="documents: 1 not in this result; it has 0, 2"):
        conditional().select(documents=1)


def test_saved_and_loaded(tmp_path):
    result = conditional(method="pad_shift").to("bits")
    back = load(result.save(tmp_path / "result.safetensors"))
    assert isinstance(back, ConditionalEntropy)
    for field in dataclasses.fields(result):
        ours, theirs = getattr(result, field.name), getattr(back, field.name)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


def test_printed():
    text = repr(conditional())
    assert text.splitlines()[0] == "ConditionalEntropy: 5 tokens of 2 documents by truncation, nats; m"
    assert "1.000 ± 0.700" in text
    assert "-0.250" in text
    assert "20.0%" in text
    assert "over documents" in text
    assert "<table" in conditional(method="pad_shift")._repr_html_()
    assert "bits" in repr(conditional().to("bits"))
    assert "±" not in repr(conditional().select(documents=0)).splitlines()[2]


def test_without_rows():
    empty = conditional((), ())
    assert repr(empty) == "ConditionalEntropy: 0 tokens of 0 documents by truncation, nats; m"
    assert not len(empty.totals())
    with pytest.raises(InputError, match="no position"):
        empty.mean()
