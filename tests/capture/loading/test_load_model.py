"""Models from folders against Hugging Face's own, and what is refused before or instead."""

from __future__ import annotations

import builtins
import json
import re

import pytest
import torch
from model_folders import IDS, losses, true_losses, write_folder
from tiny_models import hf_model, kinds

import tl_entropy as tle
from tl_entropy.capture.proofs.reference import reference_of
from tl_entropy.errors import InputError, InputTypeError, ModelError

pytestmark = pytest.mark.model
needs_bridge = pytest.mark.skipif("bridge" not in kinds(), reason="this TransformerLens has no TransformerBridge")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.mark.thinned
@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 2e-5), (torch.float64, 2e-5), (torch.bfloat16, 0.25), (torch.float16, 0.03)]
)
def test_a_folder_gives_hugging_faces_losses(folder, kind, dtype, atol):
    model = tle.load_model(folder, kind=kind, device="cpu", dtype=dtype)
    torch.testing.assert_close(losses(model), true_losses(hf_model("gpt2").to(dtype)), atol=atol, rtol=0)
    assert model.cfg.model_name == "tiny-gpt2"
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} == {dtype}
    assert model.tokenizer is not None


@needs_bridge
def test_a_model_without_a_final_norm(tmp_path):
    model = tle.load_model(write_folder(tmp_path / "opt", "opt projecting"), device="cpu")
    torch.testing.assert_close(losses(model), true_losses(hf_model("opt projecting")), atol=2e-5, rtol=0)
    assert tle.lens_entropy(model, IDS, progress=False).entropy.isfinite().all()


@pytest.mark.thinned
@needs_bridge
@pytest.mark.parametrize("name", ["bert", "t5"], ids=["masked", "encoder-decoder"])
def test_what_looks_both_ways_is_loaded_by_its_class_and_says_nothing_of_next_tokens(tmp_path, name):
    source = hf_model(name)
    model = tle.load_model(write_folder(tmp_path / name, source), device="cpu")
    assert type(model.original_model) is type(source)
    try:
        assert tle.layer_similarity(model, IDS, progress=False).values.isfinite().any()
    except ModelError as error:
        assert "TransformerLens's own forward pass fails" in str(error)  # noqa: PT017 (some versions do not run T5)
        return
    assert tle.head_entropy(model, IDS, progress=False).entropy.isfinite().any()
    for ask in (tle.lens_entropy, tle.token_surprisal):
        with pytest.raises(ModelError, match="this model looks ahead"):
            ask(model, IDS, progress=False)


@needs_bridge
def test_a_folder_without_a_tokenizer_reads_ids(tmp_path):
    model = tle.load_model(write_folder(tmp_path / "music", "llama", tokenizer=False), device="cpu")
    assert model.tokenizer is None
    assert model.cfg.model_name == "music"
    ids = torch.tensor([[0, 5, 17, 80, 120]])
    torch.testing.assert_close(losses(model, ids), true_losses(hf_model("llama"), ids), atol=2e-5, rtol=0)
    assert tle.lens_entropy(model, ids, progress=False).entropy.shape[1] == 4  # the configuration says that 0 is the BOS


def test_what_is_not_there_is_refused_before_any_loading(folder, monkeypatch):
    monkeypatch.setattr("tl_entropy.capture.loading.Source.read", lambda *_: pytest.fail("nothing is to be loaded"))
    for options, error, said in (
        ({"device": "cuda:77"}, InputError, "device must be one that PyTorch finds on this machine .*cpu.*'cuda:77'"),
        ({"device": "gpu"}, InputError, "device must be one that PyTorch finds"),
        ({"device": "meta"}, InputError, "device must be one that PyTorch finds"),
        ({"device": 0}, InputTypeError, "device must be a name"),
        ({"dtype": torch.int8}, InputError, r"dtype must be one of torch\.float32.*got torch\.int8"),
        ({"dtype": "float32"}, InputTypeError, r"dtype must be a torch\.dtype"),
        ({"kind": "haiku"}, InputError, "kind must be one of"),
        ({"trust_remote_code": "yes"}, InputTypeError, "trust_remote_code must be True or False"),
        ({"check": 1}, InputTypeError, "check must be True or False"),
    ):
        with pytest.raises(error, match=said):
            tle.load_model(folder, **options)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"device must be one that PyTorch finds on this machine .*'cuda'"):
            tle.load_model(folder, device="cuda")


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(InputError, match=r"has no config\.json"):
        tle.load_model(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        tle.load_model(tmp_path / "nowhere")
    for no_name in ("path/to/nowhere", "nowhere/", "./nowhere"):
        with pytest.raises(InputError, match=f"there is no folder {no_name}"):
            tle.load_model(no_name)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(ModelError, match=r"cannot be loaded as a .*OSError"):
        tle.load_model(tmp_path)


@pytest.mark.parametrize("known", [False, True], ids=["a model of its own", "a model that transformers has, too"])
def test_code_of_a_folder_runs_only_where_it_may(tmp_path, monkeypatch, known):
    """The code of the folder is harmless: it writes a file."""
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("nothing is asked"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "cache"))
    place, ran = write_folder(tmp_path / "brings-code"), tmp_path / "ran"
    config = json.loads((place / "config.json").read_text())
    config |= {} if known else {"model_type": "of-its-own"}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (place / "config.json").write_text(json.dumps(config))
    (place / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import GPT2Config, GPT2LMHeadModel\n"
        f"class OwnConfig(GPT2Config):\n    model_type = {config['model_type']!r}\n"
        "class OwnModel(GPT2LMHeadModel):\n    config_class = OwnConfig\n"
    )
    if known:  # transformers' own class reads it
        torch.testing.assert_close(
            losses(tle.load_model(place, device="cpu")), true_losses(hf_model("gpt2")), atol=2e-5, rtol=0
        )
    else:
        with pytest.raises(ModelError, match=r"brings code of its own.*trust_remote_code=True"):
            tle.load_model(place, device="cpu")
    assert not ran.exists()
    if "bridge" in kinds() and not known:
        model = tle.load_model(place, device="cpu", kind="bridge", trust_remote_code=True)
        assert ran.exists()
        torch.testing.assert_close(losses(model), true_losses(hf_model("gpt2")), atol=2e-5, rtol=0)


@needs_bridge
def test_a_name_is_given_on_with_all_that_was_asked_for(monkeypatch):
    from transformer_lens.model_bridge import TransformerBridge

    given = {}

    def boot(name, **options):
        given.update(options, name=name)
        raise ValueError("no such model")

    monkeypatch.setattr(TransformerBridge, "boot_transformers", staticmethod(boot))
    with pytest.raises(ModelError, match="model: some/name cannot be loaded as a TransformerBridge: ValueError: no such model"):
        tle.load_model("some/name", kind="bridge", device="cpu", dtype=torch.bfloat16)
    assert (given["name"], given["dtype"], given["trust_remote_code"]) == ("some/name", torch.bfloat16, False)
    assert torch.device(given["device"]) == torch.device("cpu")


@pytest.mark.skipif("hooked" not in kinds(), reason="this TransformerLens has no HookedTransformer")
def test_transformer_lens_trusts_no_code_on_its_own():
    with pytest.raises(ModelError, match=r"only with the code of its repository.*trust_remote_code=True"):
        tle.load_model("microsoft/phi-2", kind="hooked")


def test_memory_that_runs_out_is_reported_as_such(folder, monkeypatch):
    def full(*_, **__):
        raise MemoryError("no memory left")

    monkeypatch.setattr("tl_entropy.capture.loading.Source.read", full)
    with pytest.raises(MemoryError):
        tle.load_model(folder)


@needs_bridge
def test_weights_that_are_not_there_are_said_to_be_random(tmp_path):
    from safetensors.torch import load_file, save_file

    place = write_folder(tmp_path / "partly", "llama")
    weights = load_file(place / "model.safetensors")
    save_file({name: weight for name, weight in weights.items() if name != "lm_head.weight"}, place / "model.safetensors")
    with pytest.warns(UserWarning, match=r"has no weights for lm_head\.weight: they were drawn at random") as caught:
        tle.load_model(place, device="cpu")
    assert [warning.filename for warning in caught if "at random" in str(warning.message)] == [__file__]


@needs_bridge
def test_weights_that_the_model_has_no_place_for_are_said(tmp_path):
    config = json.loads((write_folder(tmp_path / "deeper", "llama") / "config.json").read_text())
    (tmp_path / "deeper" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    model = tle.load_model(tmp_path / "deeper", device="cpu")
    line = "weights that the model has no place for were not read: model.layers.2.input_layernorm.weight, "
    (said,) = [text for text in tle.token_surprisal(model, IDS, progress=False).provenance.state if "no place" in text]
    assert said.startswith(line)
    assert said.endswith(" and 6 more")


@needs_bridge
def test_logits_that_are_not_hugging_faces_are_refused(tmp_path):
    """TransformerLens cuts Falcon's joint projection as if it did not lie group by group."""
    place = write_folder(tmp_path / "falcon", "falcon of groups")
    with pytest.raises(
        ModelError, match=r"does not give the logits .* FalconForCausalLM \(off by [\d.]+ nats.*check=False\) loads it"
    ):
        tle.load_model(place, device="cpu")
    model = tle.load_model(place, device="cpu", check=False)
    assert (losses(model) - true_losses(hf_model("falcon of groups"))).abs().max() > 0.1, "this test sees the fault"


@needs_bridge
def test_what_was_processed_is_compared_with_what_was_read(folder):
    model = tle.load_model(folder, device="cpu")
    model.enable_compatibility_mode()
    [line] = [line for line in tle.token_surprisal(model, IDS, progress=False).provenance.state if "logits" in line]
    assert re.match(r"logits of the processed weights are off by \de-0\d nats from what its Hugging Face model gave", line)


@pytest.mark.skipif("hooked" not in kinds(), reason="this TransformerLens has no HookedTransformer")
@pytest.mark.parametrize("sound", [True, False])
def test_a_hooked_transformer_by_name_is_compared_with_hugging_faces(folder, monkeypatch, sound):
    from transformer_lens import HookedTransformer

    model = tle.load_model(folder, kind="hooked", device="cpu")
    if not sound:
        model.W_U.data.mul_(1.5)
    read = []

    def from_pretrained(source, made):
        read.append(source.place)
        source.reference = reference_of(hf_model("gpt2"))

    monkeypatch.setattr("tl_entropy.capture.loading.Source.read", from_pretrained)
    monkeypatch.setattr(HookedTransformer, "from_pretrained", classmethod(lambda cls, name, **options: model))
    if sound:
        assert tle.load_model("gpt2-small", kind="hooked", device="cpu") is model
    else:
        with pytest.raises(ModelError, match=r"this HookedTransformer does not give the logits .* GPT2LMHeadModel"):
            tle.load_model("gpt2-small", kind="hooked", device="cpu")
    assert read == ["gpt2"] or read == ["openai-community/gpt2"]
