"""A TransformerLens that cannot be imported is reported as what it is."""

from __future__ import annotations

import sys
import types

import pytest
from tiny_models import kinds

import tl_entropy as tle
from tl_entropy.capture.loading import available_kinds
from tl_entropy.demo import FOLDER
from tl_entropy.errors import ModelError


def load():
    tle.load_model(FOLDER)


@pytest.fixture
def transformer_lens(monkeypatch):
    """A stand-in for TransformerLens, with as much of it as a test puts in."""
    module = types.ModuleType("transformer_lens")
    module.__path__ = []
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformer_lens"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformer_lens", module)
    return module


def test_what_is_installed_is_found():
    assert set(kinds()) <= {"bridge", "hooked"}
    assert kinds()


def test_only_hooked_transformers(transformer_lens):
    transformer_lens.HookedTransformer = object
    assert available_kinds() == ("hooked",)


def test_what_4_0_says_of_what_it_removed(transformer_lens, monkeypatch):
    def removed(name):
        raise ImportError(f"{name!r} was removed in TransformerLens 4.0", name=name)

    transformer_lens.__getattr__ = removed
    monkeypatch.setitem(sys.modules, "transformer_lens.model_bridge", types.SimpleNamespace(TransformerBridge=object))
    assert available_kinds() == ("bridge",)


def test_neither_kind(transformer_lens):
    with pytest.raises(ModelError, match="neither TransformerBridge nor HookedTransformer"):
        available_kinds()


@pytest.mark.parametrize("module", ["transformer_lens", "transformer_lens.model_bridge"])
def test_it_cannot_be_imported(transformer_lens, monkeypatch, module):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == module:
                raise OSError("libtorch_cuda.so: cannot open shared object file")

    if module == "transformer_lens":
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    for call in (available_kinds, load):
        with pytest.raises(ModelError, match=r"TransformerLens cannot be imported: OSError: libtorch_cuda\.so: cannot open"):
            call()


def test_it_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_lens", None)
    with pytest.raises(ModelError, match="TransformerLens cannot be imported: ModuleNotFoundError"):
        load()


def test_a_library_below_it_is_missing(transformer_lens, monkeypatch):
    def lacks(name):
        raise ModuleNotFoundError("No module named 'typeguard'", name="typeguard")

    transformer_lens.__getattr__ = lacks
    with pytest.raises(
        ModelError, match="TransformerLens cannot be imported: ModuleNotFoundError: No module named 'typeguard'"
    ):
        available_kinds()
