"""Models by their names on the Hugging Face hub, out of a cache as it lies on the disk after a download."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec

import pytest
import torch
from model_folders import IDS, losses, true_losses, write_folder
from tiny_models import hf_model, kinds

import tl_entropy as tle
from tl_entropy.errors import ModelError


@pytest.fixture
def hub(tmp_path):
    """Puts a folder into the cache under a name."""

    def put(name, folder):
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs/main").write_text("abc123")
        shutil.copytree(folder, place / "snapshots/abc123")

    return put


@pytest.mark.model
@pytest.mark.filterwarnings("ignore:HookedTransformer.from_pretrained is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("kind", "name"), [("bridge", "me/tiny"), ("hooked", "gpt2")])
def test_a_name_gives_hugging_faces_losses(hub, tmp_path, kind, name):
    if kind not in kinds():
        pytest.skip(f"this TransformerLens has no {kind} model")
    folder = write_folder(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_ctx": 64}))  # which HookedTransformer asks for
    hub(name, folder)
    model = tle.load_model(name, kind=kind, device="cpu")
    torch.testing.assert_close(losses(model), true_losses(hf_model("gpt2")), atol=2e-5, rtol=0)
    assert model.cfg.model_name == name
    [said] = [line for line in tle.token_surprisal(model, IDS, progress=False).provenance.state if "GPT2LMHeadModel" in line]
    assert re.match(r"logits are those of GPT2LMHeadModel in transformers \(off by \de-0\d nats\)", said)


@pytest.mark.model
@pytest.mark.parametrize("kind", kinds())
def test_names_that_are_not_there(hub, kind):
    with pytest.raises(ModelError, match=r"me/nothing cannot be loaded as a \w+: \w+Error: "):
        tle.load_model("me/nothing", kind=kind, device="cpu")


@pytest.mark.libraries
@pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
def test_the_name_of_an_adapter(hub, tmp_path):
    from peft import LoraConfig, get_peft_model

    hub("me/tiny", write_folder(tmp_path / "tiny"))
    torch.manual_seed(3)
    tuned = get_peft_model(hf_model("gpt2"), LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM")).eval()
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    tuned.peft_config["default"].base_model_name_or_path = "me/tiny"
    tuned.save_pretrained(tmp_path / "adapter")
    hub("me/adapter", tmp_path / "adapter")
    for given in ("me/adapter", tmp_path / "adapter"):
        model = tle.load_model(given, kind="bridge", device="cpu")
        torch.testing.assert_close(losses(model), true_losses(tuned), atol=2e-5, rtol=0)
        assert model.cfg.model_name == str(given if isinstance(given, str) else given.name)
