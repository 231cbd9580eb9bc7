"""What a sweep says: losses, prices and their sum, the least of them, and the smallest memory that reaches 0."""

from __future__ import annotations

import math

import pytest
import torch

import tl_entropy as tle
from tl_entropy.results import MemorySweep, Provenance

ORIGIN = Provenance("tiny", "abc", "raw", "float32", "cpu")


def sweep(**changes):
    fields = {
        "nats": torch.tensor([[8.0, 4.0], [2.0, 2.0], [0.1, 0.2]], dtype=torch.float64), "numbers": torch.tensor([0, 2, 8]),
        "bits": torch.tensor([0, 1, 4]), "tokens": torch.tensor([16, 8]), "windows": torch.tensor([2, 1]),
        "n_bytes": torch.tensor([32.0, 16.0], dtype=torch.float64), "tokens_seen": torch.tensor([9, 9, 9]),
        "seconds": torch.zeros(3, dtype=torch.float64), "provenance": ORIGIN,
    }  # fmt: skip
    return MemorySweep(**fields | changes)


def test_losses_prices_and_errors():
    found = sweep()
    assert found.loss.tolist() == [12 / 24, 4 / 24, pytest.approx(0.3 / 24)]
    assert found.price.tolist() == pytest.approx([0, 2 * math.log(2) * 3 / 24, 32 * math.log(2) * 3 / 24])
    assert torch.equal(found.charged, found.loss + found.price)
    rest = found.nats[1] - found.loss[1] * found.tokens
    assert float(found.se[1]) == pytest.approx(math.sqrt(2 * float(rest.square().sum())) / 24)
    assert (
        sweep(nats=found.nats[:, :1], tokens=found.tokens[:1], windows=found.windows[:1], n_bytes=found.n_bytes[:1])
        .se.isnan()
        .all()
    )
    bits = found.to("bits")
    assert torch.allclose(bits.charged, found.charged / math.log(2))
    frame = found.to_pandas()
    assert frame["bits_per_byte"].tolist() == pytest.approx((bits.charged / 2).tolist())
    assert bits.to_pandas()["bits_per_byte"].tolist() == pytest.approx(frame["bits_per_byte"].tolist())


def test_the_estimate_and_the_memory_that_reaches_zero():
    found = sweep()
    assert found.estimate()[2:] == (2, 1)
    assert found.estimate().value == pytest.approx(float(found.charged[1]))
    assert found.at_zero().numbers == 8
    assert found.at_zero(tolerance=0.2).numbers == 2
    assert found.at_zero(tolerance=0.001) is None
    assert "not reached" in str(sweep(nats=found.nats + 5))
    assert "8 of 4 bits" in str(found)
    with pytest.raises(tle.InputError, match="tolerance"):
        found.at_zero(-1)


def test_it_is_saved_whole(tmp_path):
    found = sweep()
    again = tle.load(found.save(tmp_path / "sweep.safetensors"))
    assert torch.equal(again.nats, found.nats)
    assert again.estimate() == found.estimate()
