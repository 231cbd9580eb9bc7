"""The sweep's table: every row, and every architecture that TransformerLens registers and that has none, with the reason.

To add one: a ``Row`` in the file of ``rows/`` that it belongs to, with nothing in ``cells``. The sweep then says of each cell
that is not "ok" what was seen; where that is a true refusal, it becomes an expectation.
"""

from __future__ import annotations

from architectures.rows import dense, encoders, experts, hybrid, senses

ROWS = (*dense.ROWS, *experts.ROWS, *hybrid.ROWS, *senses.ROWS, *encoders.ROWS)

REMOTE = "its code is in a checkpoint's own repository, not in transformers"
OWN = "a model of TransformerLens's own, without a Hugging Face class"

WITHOUT_A_CLASS = {
    "BD3LM": REMOTE,
    "BaichuanForCausalLM": REMOTE,
    "DreamModel": REMOTE,
    "ExaoneForCausalLM": REMOTE,
    "GPT2LMHeadCustomModel": REMOTE,
    "GiddForDiffusionLM": REMOTE,
    "HyenaDNAForCausalLM": REMOTE,
    "InternLM2ForCausalLM": REMOTE,
    "LLaDA2MoeModelLM": REMOTE,
    "LLaDAModelLM": REMOTE,
    "MinGPTForCausalLM": OWN,
    "NanoGPTForCausalLM": OWN,
    "NeelSoluOldForCausalLM": OWN,
    "OpenELMForCausalLM": REMOTE,
    "OuroForCausalLM": REMOTE,
    "QwenForCausalLM": REMOTE,
    "RWKV7ForCausalLM": REMOTE,
    "RavenForCausalLM": REMOTE,
    "TransformerLensNative": OWN,
    "TransformerLensPretrain": OWN,
}
"""Architectures that the installed transformers has no class for; one that it gets has to become a row."""

WITHOUT_TEXT = {
    "ASTForAudioClassification": "sound to classes",
    "HubertForCTC": "sound to characters",
    "ViTModel": "images to vectors",
    "Wav2Vec2ForCTC": "sound to characters",
}
"""Architectures that read no text, one for each of TransformerLens's adapters."""
