"""Expectations that rows of a kind share."""

from __future__ import annotations

from architectures.row import OK, Expected, outside, refused

Cells = dict[str, Expected]

POST_NORM: Cells = {"readout": refused("not contributions to the residual stream: .* since a norm")}
NO_MASK: Cells = {"mask": refused("attention cannot be masked on this model: .* no hook can change its attention scores")}
OTHER_MEANS: Cells = {"mask": refused("attention cannot be masked on this model: .* by other means than attention")}
SINGLE_LAYERS = refused("no resid_mid at layer 0 .its blocks are single layers, or TransformerLens shows no state within")
FAILS_ITSELF: Cells = {
    "all": refused("TransformerLens's own forward pass fails on this model"),
    "cache": outside("TransformerLens makes no cache"),
}
NO_BFLOAT16: Cells = {"bf16": FAILS_ITSELF["all"]}
NO_PART = refused("is no part, by any factor, of what the block adds to the residual stream")
NO_PARTS: Cells = {**POST_NORM, "attn mlp": NO_PART}
AHEAD = refused("this model looks ahead")
DENSE_BETWEEN = refused("logits can't be reproduced from its last residual stream")

PADS = refused("padding on the left changes what this model computes")
BEHIND_MLP: Cells = {"mid": refused("is passed behind the MLP, so it is not the state between attention and MLP")}

ENCODER_DECODER: Cells = {"all": AHEAD, "soft cka": OK}
NO_ATTENTION: Cells = {
    **OTHER_MEANS,
    "pattern": refused("no pattern at layer 0"),
    "readout soft": refused("no z at layer 0"),
    "attn": refused("no attn_out at layer 0"),
    "mlp": refused("no mlp_out at layer 0"),
    "ablate": refused("layer 0 of this model has no attention heads"),
    "mid": SINGLE_LAYERS,
}
