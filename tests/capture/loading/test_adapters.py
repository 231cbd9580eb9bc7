"""Adapters in folders against PEFT's own model with the adapter."""

from __future__ import annotations

import json
import re
import warnings
from importlib.util import find_spec

import pytest
import torch
from model_folders import IDS, losses, true_losses, write_folder
from tiny_models import hf_model, kinds

import tl_entropy as tle
from tl_entropy.errors import InputError, ModelError

pytestmark = pytest.mark.libraries
needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
needs_bridge = pytest.mark.skipif("bridge" not in kinds(), reason="this TransformerLens has no TransformerBridge")


def adapted(name, place, **options):
    """A model with an adapter that says something, saved: its losses with the adapter, and the adapter's folder."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    options = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options}
    tuned = get_peft_model(hf_model(name), LoraConfig(**options)).eval()
    for parameter, weight in tuned.named_parameters():
        if any(part in parameter for part in ("lora_B", "lora_embedding_A", "modules_to_save", "trainable_tokens_delta")):
            torch.nn.init.normal_(weight, std=0.1)
    tuned.save_pretrained(place)
    with_adapter = true_losses(tuned)
    assert (with_adapter - true_losses(hf_model(name))).abs().max() > 0.05, "this test sees the adapter"
    return with_adapter


@needs_peft
@needs_bridge
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gpt2", {}),  # joint projections, which TransformerBridge splits
        ("neox", {}),
        ("llama", {}),
        ("llama", {"target_modules": ["lm_head", "o_proj"]}),
        ("gpt2", {"target_modules": ["lm_head"]}),  # tied to the embedding
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        ("llama", {"target_modules": ["q_proj"], "use_dora": True}),
        ("gpt2", {"target_modules": ["wte", "c_attn"]}),
        ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [5, 17, 80]}),
    ],
    ids=str,
)
@pytest.mark.parametrize("beside", [True, False], ids=["beside the weights", "alone"])
def test_adapters_are_merged(tmp_path, name, options, beside):
    model, adapter = write_folder(tmp_path / "model", name), tmp_path / ("model" if beside else "adapter")
    true = adapted(name, adapter, **options)
    if not beside:
        point_to(adapter, str(model))
    with warnings.catch_warnings(record=True, action="always") as said:
        loaded = tle.load_model(adapter, device="cpu", kind="bridge")
    assert not [warning for warning in said if "at random" in str(warning.message)], "transformers has not read it as well"
    torch.testing.assert_close(losses(loaded), true, atol=2e-5, rtol=0)
    assert loaded.cfg.model_name == adapter.name
    measured = tle.lens_entropy(loaded, IDS, progress=False)
    assert measured.entropy.isfinite().all()
    assert re.fullmatch(rf"adapter {adapter.name} \(LORA, rank 4; [0-9a-f]{{16}}\), merged", measured.provenance.state[0])


@needs_peft
@pytest.mark.parametrize("kind", kinds())
def test_adapters_of_either_kind_of_model(tmp_path, kind):
    true = adapted("gpt2", write_folder(tmp_path / "model"))
    torch.testing.assert_close(losses(tle.load_model(tmp_path / "model", kind=kind, device="cpu")), true, atol=2e-5, rtol=0)


def point_to(adapter, name):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": name}))


@needs_peft
@needs_bridge
def test_an_adapter_names_its_model_from_where_it_lies(tmp_path):
    write_folder(tmp_path / "model")
    true = adapted("gpt2", tmp_path / "adapter")
    point_to(tmp_path / "adapter", "../model")
    torch.testing.assert_close(losses(tle.load_model(tmp_path / "adapter", device="cpu")), true, atol=2e-5, rtol=0)


@needs_peft
def test_adapters_that_do_not_fit(tmp_path):
    write_folder(tmp_path / "model", "llama")
    adapted("gpt2", tmp_path / "adapter")
    point_to(tmp_path / "adapter", str(tmp_path / "model"))
    with pytest.raises(ModelError, match="adapter"):
        tle.load_model(tmp_path / "adapter", device="cpu")
    point_to(tmp_path / "adapter", None)
    with pytest.raises(InputError, match="does not say to which model the adapter belongs"):
        tle.load_model(tmp_path / "adapter", device="cpu")


@needs_peft
@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda place: (place / "adapter_model.safetensors").unlink(), "has adapter_config.json and no weights of an adapter"),
        (lambda place: (place / "adapter_config.json").write_text("{"), "adapter_config.json does not describe an adapter: "),
        (lambda place: (place / "adapter_config.json").write_text("[1]"), "adapter_config.json does not describe an adapter: "),
        (lambda place: point_to(place, "/nowhere/at all"), "belongs to /nowhere/at all .*, and there is no such folder"),
    ],
)
def test_what_is_missing_or_broken_is_named(tmp_path, damage, error):
    adapted("gpt2", tmp_path / "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises(InputError, match=error):
        tle.load_model(tmp_path / "adapter", device="cpu")


@needs_peft
@needs_bridge
@pytest.mark.parametrize("how", ["modules_to_save", "target_modules"])
def test_an_adapter_brings_rows_for_tokens_of_its_own(tmp_path, how):
    from peft import LoraConfig, get_peft_model

    write_folder(tmp_path / "model", "llama")
    source = hf_model("llama")
    source.resize_token_embeddings(320, mean_resizing=False)
    parts = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    if how == "target_modules":
        parts = {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}
    tuned = get_peft_model(source, LoraConfig(r=4, task_type="CAUSAL_LM", **parts)).eval()
    for name, weight in tuned.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    point_to(tmp_path / "adapter", str(tmp_path / "model"))
    loaded = tle.load_model(tmp_path / "adapter", device="cpu", kind="bridge")
    assert loaded.cfg.d_vocab == 320
    torch.testing.assert_close(losses(loaded), true_losses(tuned), atol=2e-5, rtol=0)


@needs_peft
@needs_bridge
def test_weights_of_an_adapter_that_nothing_takes_are_no_adapter(tmp_path):
    """Names that changed between versions of a library: transformers leaves them out with a line in a log."""
    from safetensors.torch import load_file, save_file

    place = write_folder(tmp_path / "model", "llama")
    adapted("llama", place)
    weights = load_file(place / "adapter_model.safetensors")
    save_file(
        {name.replace("self_attn", "attention"): weight for name, weight in weights.items()},
        place / "adapter_model.safetensors",
    )
    with pytest.raises(ModelError, match=r"is none of this model.*missing adapter keys"):
        tle.load_model(place, device="cpu")


@needs_peft
@needs_bridge
def test_prompts_are_no_weights(tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    place = write_folder(tmp_path / "model")
    get_peft_model(hf_model("gpt2"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).save_pretrained(place)
    with pytest.raises(ModelError, match=r"of the kind PROMPT_TUNING cannot be merged .*\(it adds to the text\)"):
        tle.load_model(place, device="cpu")


@needs_bridge
@pytest.mark.parametrize("whole", [True, False], ids=["a model", "adapters alone"])
def test_adapters_in_folders_below_are_named(tmp_path, whole):
    """So PEFT saves several adapters of one model: each under its own name."""
    place = write_folder(tmp_path / "model") if whole else tmp_path / "model"
    for name in ("a", "b"):
        (place / name).mkdir(parents=True)
        (place / name / "adapter_config.json").write_text("{}")
    named = re.escape(f"{place / 'a'}, {place / 'b'}")
    if whole:
        with pytest.warns(UserWarning, match=rf"adapters that lie below .* were not read; .*: {named}$"):
            tle.load_model(place, device="cpu")
    else:
        with pytest.raises(InputError, match=rf"has no config.json, .*; adapters lie below it; give one of them: {named}$"):
            tle.load_model(place, device="cpu")


def test_without_peft(tmp_path, monkeypatch):
    monkeypatch.setattr("tl_entropy.capture.loading.adapters.find_spec", lambda name: None)
    place = write_folder(tmp_path / "model")
    (place / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds an adapter .*which takes the package peft to read: pip install peft"):
        tle.load_model(place, device="cpu")
