"""What a name, a folder or a file stands for: marks of quantised models, adapters and the models that they belong to."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig

from tl_entropy.capture.loading import adapters
from tl_entropy.capture.loading.adapters import base_of, merged
from tl_entropy.capture.loading.source import _unmark
from tl_entropy.errors import InputError, ModelError


def test_a_model_that_was_unpacked_is_no_longer_marked_as_quantised():
    config = LlamaConfig(num_hidden_layers=1)
    config.quantization_config = {"quant_method": "gguf"}
    model = SimpleNamespace(config=config, is_quantized=True, quantization_method="gguf", weights=3)
    _unmark(model)
    assert not hasattr(config, "quantization_config")
    assert vars(model) == {"config": config, "weights": 3}
    _unmark(model)  # where there is no mark


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An adapter's folder, with PEFT as if it were there."""
    monkeypatch.setattr(adapters, "find_spec", lambda name: object())

    def made(**config):
        (tmp_path / "adapter").mkdir(exist_ok=True)
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
        (tmp_path / "adapter" / "adapter_model.safetensors").touch()
        return tmp_path / "adapter"

    return made


def test_the_model_of_an_adapter_is_named_in_its_folder(folder, tmp_path):
    assert base_of(str(tmp_path)) is None
    place = folder(base_model_name_or_path="gpt2")
    assert base_of(str(place)) == "gpt2"
    (place / "beside").mkdir()
    assert base_of(str(folder(base_model_name_or_path="beside"))) == str(place / "beside")
    (place / "config.json").write_text("{}")
    assert base_of(str(place)) == str(place), "it holds its model"


def test_an_adapter_that_names_no_model_is_refused(folder):
    with pytest.raises(InputError, match="does not say to which model the adapter belongs"):
        base_of(str(folder()))


def test_without_peft_an_adapter_says_what_it_takes(folder, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="takes the package peft to read"):
        base_of(str(folder(base_model_name_or_path="gpt2")))


class Tuned(torch.nn.Module):
    """As much of PEFT's model as is read: an adapter on an unembedding that is tied to the embedding."""

    def __init__(self, fails=""):
        super().__init__()
        self.embedding, self.layer = torch.nn.Embedding(5, 3), torch.nn.Module()
        self.layer.base_layer = torch.nn.Linear(3, 5)
        self.layer.base_layer.weight = self.embedding.weight
        self.active_peft_config, self.fails = SimpleNamespace(is_prompt_learning=fails == "prompt", peft_type="LORA"), fails

    def merge_and_unload(self, safe_merge):
        assert safe_merge
        if self.fails:
            raise ValueError("there is a NaN in it")
        self.layer.base_layer.weight.data += 1
        return self


def test_merging_leaves_what_was_tied_as_it_was():
    tuned = Tuned()
    before = tuned.embedding.weight.clone()
    assert torch.equal(merged(tuned).embedding.weight, before)
    assert torch.equal(tuned.layer.base_layer.weight, before + 1)


@pytest.mark.parametrize(("fails", "why"), [("prompt", "it adds to the text"), ("yes", "there is a NaN in it")])
def test_an_adapter_that_cannot_be_merged_says_why(fails, why):
    with pytest.raises(ModelError, match=rf"cannot be merged into the weights of its model \({why}\)"):
        merged(Tuned(fails))
