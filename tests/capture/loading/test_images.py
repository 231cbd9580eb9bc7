"""Models that see are loaded to read, and nothing is installed for that."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from model_folders import losses, write_folder
from tiny_models import CONTEXT, VOCAB, kinds

import tl_entropy as tle
from tl_entropy.capture.loading import images
from tl_entropy.capture.loading.bridges import bridge_by_name
from tl_entropy.capture.loading.images import reading_only, without_processor

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore:Hook alias"),  # TransformerLens 3's, of its own towers
    pytest.mark.skipif("bridge" not in kinds(), reason="this TransformerLens has no TransformerBridge"),
]


@pytest.fixture
def commands(monkeypatch):
    """Every command that would have been run; none is."""
    ran = []

    def start(process, command, *args, **options):
        ran.append(command)
        raise FileNotFoundError("no command is run by this test")

    monkeypatch.setattr(subprocess.Popen, "__init__", start)
    return ran


@pytest.fixture
def no_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    found = images.find_spec
    monkeypatch.setattr(images, "find_spec", lambda name: None if name == "torchvision" else found(name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a tiny model that sees, without a processor that could be loaded."""
    import transformers as tr

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = tr.LlamaConfig(
        **sizes, vocab_size=VOCAB, max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=0, initializer_range=0.2
    )
    vision = tr.CLIPVisionConfig(**sizes, image_size=8, patch_size=4, projection_dim=16)
    source = tr.LlavaForConditionalGeneration(tr.LlavaConfig(text_config=text, vision_config=vision, image_token_index=299))
    place = write_folder(tmp_path_factory.mktemp("models") / "sees", source.eval())
    return place, source


def test_a_model_that_sees_is_loaded_to_read(folder, commands, no_torchvision):
    place, source = folder
    with pytest.warns(UserWarning, match=r"loaded without its image processor.*pip install torchvision.*torch==") as caught:
        model = tle.load_model(place, device="cpu")
    assert [warning.filename for warning in caught if "image processor" in str(warning.message)] == [__file__]
    assert commands == []
    assert getattr(model, "processor", None) is None
    ids = torch.tensor([[5, 17, 80, 120, 33]])
    with torch.no_grad():
        own = source(input_ids=ids).logits.double().log_softmax(-1)[:, :-1]
    torch.testing.assert_close(losses(model, ids), -own.gather(-1, ids[:, 1:, None])[..., 0], atol=2e-5, rtol=0)


def test_libraries_for_images_are_not_asked_for(folder, commands, no_torchvision, monkeypatch):
    from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter

    monkeypatch.setattr(ArchitectureAdapter, "required_libraries", ["torchvision"])
    with pytest.warns(UserWarning, match="loaded without its image processor"):
        assert tle.load_model(folder[0], device="cpu").cfg.n_layers == 2


def test_by_name_nothing_is_installed_either(folder, commands, no_torchvision, monkeypatch):
    def here(source):
        return bridge_by_name(dataclasses.replace(source, place=str(folder[0])))

    monkeypatch.setattr("tl_entropy.capture.loading.bridge_by_name", here)
    with pytest.warns(UserWarning, match="loaded without its image processor"):
        tle.load_model("some/name", device="cpu")
    assert commands == []


def test_nothing_is_warned_of_where_nothing_is_missing(monkeypatch):
    class Seeing:
        class cfg:
            is_multimodal, model_name = True, "sees"

        processor = object()

    monkeypatch.setattr(images, "find_spec", lambda name: None)
    assert without_processor(Seeing()) is None
    assert without_processor(object()) is None
    Seeing.processor = None
    assert "torchvision is not installed" in without_processor(Seeing())
    monkeypatch.setattr(images, "find_spec", lambda name: "found")
    assert without_processor(Seeing()) is None


@pytest.mark.parametrize(
    "command",
    [
        ["uv", "pip", "install", "torchvision", "-q"],
        [sys.executable, "-m", "pip", "install", "torchvision", "-q"],
        "/usr/bin/pip3.11 install torchvision",
        ["conda", "install", "-y", "torchvision"],
    ],
)
@pytest.mark.parametrize("way", ["run", "check_call", "check_output", "call", "Popen"])
def test_no_way_to_install(commands, command, way):
    with reading_only(), pytest.raises(OSError, match="nothing is installed while a model is loaded"):
        getattr(subprocess, way)(command)
    with reading_only(), pytest.raises(OSError, match="nothing is installed while a model is loaded"):
        getattr(subprocess, way)(args=command)
    assert commands == []


def test_other_commands_run_inside_and_all_of_them_afterwards():
    said = subprocess.run([sys.executable, "-c", "print('install')"], capture_output=True, text=True, check=True).stdout
    with reading_only():
        inside = subprocess.run([sys.executable, "-c", "print('install')"], capture_output=True, text=True, check=True).stdout
    assert said == inside == "install\n"
    with pytest.raises(FileNotFoundError):
        subprocess.run(["/nowhere/pip", "install", "nothing"], check=True)
