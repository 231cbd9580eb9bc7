"""What configurations say of their models, and what they refuse."""

from __future__ import annotations

import dataclasses

import pytest

import tl_entropy as tle

MEMORY = {"kind": "memory", "numbers": 4}


@pytest.mark.parametrize(
    ("options", "predicts", "ahead", "bits"),
    [
        ({}, "next", False, None),
        ({"kind": "autoencoder"}, "own", True, None),
        ({"kind": "autoencoder", "limit": 1.0, "bits": 2}, "own", True, 128),
        ({**MEMORY}, "next", True, None),
        ({**MEMORY, "limit": 2.0, "bits": 3}, "next", True, 12),
        ({**MEMORY, "memory_of": "past", "memories": 3, "limit": 2.0, "bits": 3}, "next", False, None),
        ({"kind": "memory", "into": "add", "encoder_width": 16, "limit": 1.0, "bits": 1}, "next", True, 16),
    ],
)
def test_what_follows_from_a_configuration(options, predicts, ahead, bits):
    config = tle.EstimationConfig(**options)
    assert (config.predicts, config.reads_ahead, config.memory_bits) == (predicts, ahead, bits)
    assert tle.EstimationConfig.from_dict(config.as_dict()) == config


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "oracle"}, "kind must be one of"),
        ({"mixer": "mlp"}, "mixer must be one of"),
        ({"n_ctx": 0}, "n_ctx must be an int of at least 1"),
        ({"causal": 1}, "causal must be True or False"),
        ({"causal": False}, "its decoder would read the token that it predicts"),
        ({**MEMORY, "causal": False}, "its decoder would read the token that it predicts"),
        ({"numbers": 4}, "numbers means nothing for kind 'causal'"),
        ({**MEMORY, "spread": "unroll"}, "spread means nothing for kind 'memory'"),
        ({"kind": "autoencoder", "into": "token"}, "into means nothing for kind 'autoencoder'"),
        ({**MEMORY, "bits": 4}, "bits need a limit"),
        ({**MEMORY, "straight_through": True}, "straight_through puts numbers on a grid while training"),
        ({**MEMORY, "straight_through": True, "limit": 1.0, "bits": 2, "noise": 0.1}, "in place of noise"),
        ({"straight_through": True}, "straight_through means nothing for kind 'causal'"),
        ({**MEMORY, "limit": 0.0}, "limit must be above 0"),
        ({**MEMORY, "numbers": 64}, "leaves none for tokens"),
        ({**MEMORY, "memory_of": "past", "memories": 16}, "leaves none for tokens"),
        ({**MEMORY, "memories": 2}, "memories are chunks back"),
        ({"kind": "autoencoder", "spread": "unroll"}, "come back to where they began within n_ctx=128"),
        ({"kind": "autoencoder", "spread_width": 9}, "spread_width is of spread='unroll'"),
        ({"mixer": "heads", "n_heads": 3}, "n_heads must cut a width of 64 into equal parts"),
        ({"mixer": "attention", "d_model": 12, "n_heads": 4}, "of an even width each"),
        ({"mixer": "heads", "kernel": 4}, "kernel is of mixer 'conv'"),
        ({**MEMORY, "encoder_mixer": "attention", "encoder_kernel": 2}, "encoder_kernel is of encoder_mixer 'conv'"),
        ({**MEMORY, "tied": True}, "tied needs embeddings of one width"),
        ({"d_vocab": 3, "bos_token_id": 3}, "bos_token_id"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options, said):
    with pytest.raises(tle.TLEntropyError, match=said):
        tle.EstimationConfig(**options)


def test_unknown_settings_are_refused():
    with pytest.raises(tle.InputError, match="depth is no setting"):
        tle.EstimationConfig.from_dict({"depth": 3})


def test_a_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tle.EstimationConfig().n_ctx = 3


def test_an_encoder_is_as_the_decoder_where_nothing_is_said():
    config = tle.EstimationConfig(kind="memory", mixer="conv", kernel=4, n_layers=3, numbers=8, into="token", encoder_width=32)
    assert (config.encoder.kernel, config.encoder.n_layers, config.encoder.d_model, config.encoder.positions) == (4, 3, 32, 128)
    assert (config.decoder.positions, config.decoder.cells) == (129, 1)
    assert dataclasses.replace(config, encoder_mixer="heads").encoder.kernel == 1
