"""What an untouched Hugging Face model says: its logits, states, attention, and what becomes of them after an edit.

Everything is caught and edited with PyTorch's own hooks on the model's own modules, one text at a time, without padding.
Logits are the model's, to float64. A state is read by putting it in the place of what the last block gives. Of an
encoder-decoder the blocks are the decoder's; the encoder reads the text, the decoder the same behind a start token.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import torch
from architectures.row import Row
from torch import Tensor, nn

PARTS = {  # where each part is looked for, in this order; blocks and norm below the model, the others below a block
    "blocks": (
        "model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers", "transformer.blocks", "backbone.layers",
        "rwkv.blocks", "model.language_model.layers", "model.text_model.layers", "decoder.block",
        "model.language_model.decoder.layers", "led.decoder.layers",
    ),
    "norm": (
        "model.norm", "model.final_layernorm", "transformer.ln_f", "gpt_neox.final_layer_norm",
        "model.decoder.final_layer_norm", "transformer.norm_f", "backbone.norm_f", "rwkv.ln_out",
        "model.language_model.norm", "model.text_model.norm", "model.layer_norm", "model.embedding_norm", "model.final_norm",
        "decoder.final_layer_norm", "model.decoder.layer_norm", "model.decoder.norm",
    ),
    "attn": ("self_attn", "attn", "attention", "self_attention", "layer.0.SelfAttention"),
    "out": ("o_proj", "out_proj", "dense", "c_proj", "wo", "Wo", "o"),
    "mid": (
        "pre_feedforward_layernorm", "pre_ff_layernorm", "pre_mlp_layernorm", "post_attention_layernorm", "ln_2",
        "final_layer_norm", "ffn_norm", "feedforward_layernorm", "norm_2", "mlp_norm",
    ),
    "attn_out": ("self_attn", "attn", "attention", "self_attention"),
    "mlp_out": ("mlp", "feed_forward", "block_sparse_moe"),
}  # fmt: skip


def part(root: nn.Module, row: Row, name: str, layer: int = 0) -> nn.Module | None:
    """A part of the model or of a block, where the row or ``PARTS`` says; None where it has none.

    An attention that is a shell around another (GPT-Neo) is followed to the inner one.
    """
    given = row.parts.get(name)
    for path in PARTS[name] if given is None else (given if isinstance(given, str) else given[layer],):
        try:
            found = root.get_submodule(path)
        except AttributeError:
            continue
        return found.get_submodule("attention") if name == "attn" and hasattr(found, "attention") else found
    return None


def entropies(logits: Tensor, orders: Sequence[float]) -> Tensor:
    """Rényi entropies [..., order] of softmax(logits) [..., token], by the definition, in float64."""
    log_p = logits.double().log_softmax(-1)
    found = [
        -(log_p.exp() * log_p).nan_to_num(nan=0.0).sum(-1) if order == 1 else (order * log_p).logsumexp(-1) / (1 - order)
        for order in orders
    ]  # 0 · log 0 is 0
    return torch.stack(found, -1)


class Truth:
    """A Hugging Face model and what it says of some texts.

    Args:
        model: the model, which nothing else edits.
        row: its row.
        texts: token ids, [pos] each.
    """

    def __init__(self, model: nn.Module, row: Row, texts: Sequence[Tensor]) -> None:
        self.model, self.row, self.texts = model, row, texts
        self.blocks: list[nn.Module] = list(part(model, row, "blocks") or [])
        self.layers = [i for i in range(len(self.blocks)) if self.attn(i) is not None]
        self.layers = self.layers if row.layers is None else list(row.layers)

    def attn(self, layer: int) -> nn.Module | None:
        return part(self.blocks[layer], self.row, "attn")

    def out(self, layer: int) -> nn.Module | None:
        attention = self.attn(layer)
        return None if attention is None else part(attention, self.row, "out")

    # --- running the model -----------------------------------------------------------------------------------------------

    def run(self, ids: Tensor, hooks: Sequence[tuple[str, nn.Module, Any]] = ()) -> Tensor:
        """Logits [batch, pos, token] in float64 of ids [batch, pos], with hooks ("in" or "out", module, function) in place."""
        with ExitStack() as stack, torch.no_grad():
            for side, module, function in hooks:
                if side == "in":
                    handle = module.register_forward_pre_hook(function, with_kwargs=True)
                else:
                    handle = module.register_forward_hook(function, with_kwargs=True)
                stack.callback(handle.remove)
            accepted = inspect.signature(self.model.forward).parameters
            options: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted else {}
            if "attention_mask" in accepted:
                options["attention_mask"] = torch.ones_like(ids)
            if self.model.config.is_encoder_decoder:
                options["decoder_input_ids"] = self.decoder_ids(ids)
            if self.layers:
                options["output_attentions"] = True
            return self.model(input_ids=ids, **options).logits.double()

    def decoder_ids(self, ids: Tensor) -> Tensor:
        """What TransformerBridge gives a decoder: the text behind a start token, or as it is where there is none."""
        start = getattr(self.model.config, "decoder_start_token_id", None)
        return ids if start is None else torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], 1)

    @cached_property
    def seen(self) -> list[dict[tuple[str, int], Tensor]]:
        """For each text what is seen in its pass: (what, layer) to tensor without the batch axis; ("logits", -1), too."""
        return [self._see(ids) for ids in self.texts]

    def _see(self, ids: Tensor) -> dict[tuple[str, int], Tensor]:
        found: dict[tuple[str, int], Tensor] = {}

        def keep(name: str, layer: int, inputs: bool) -> Any:
            def before(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
                found[name, layer] = rows(first(args, kwargs))

            def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
                if name == "pattern":
                    weights = [x for x in output if isinstance(x, Tensor) and x.ndim == 4 and x.shape[-2:] == (len(ids),) * 2]
                    weights = [x for x in weights if x.min() >= 0]  # T5 gives its bias of positions, too
                    if weights:
                        found[name, layer] = weights[0][0].clone()
                else:
                    found[name, layer] = rows(output if isinstance(output, Tensor) else output[0])

            return before if inputs else after

        hooks = []
        for i, block in enumerate(self.blocks):
            hooks += [("in", block, keep("pre", i, True)), ("out", block, keep("post", i, False))]
            for name, inputs in (("mid", True), ("attn_out", False), ("mlp_out", False)):
                module = part(block, self.row, name, i)
                if module is not None:
                    hooks.append(("in" if inputs else "out", module, keep(name, i, inputs)))
            if i in self.layers:
                hooks.append(("out", self.attn(i), keep("pattern", i, False)))
                if self.out(i) is not None:
                    hooks.append(("in", self.out(i), keep("z", i, True)))
        found["logits", -1] = self.run(ids[None], hooks)[0]
        return found

    def all(self, name: str, layer: int = -1) -> Tensor:
        """What was seen at all tokens of all texts, [row, ...]."""
        return torch.cat([seen[name, layer] for seen in self.seen])

    # --- what follows ----------------------------------------------------------------------------------------------------

    def state(self, site: str, layer: int) -> Tensor:
        """[row, d_model] of a site: embed, resid_post, resid_mid, attn_out or mlp_out."""
        if site == "embed":
            return self.all("pre", 0)
        if site == "resid_post":
            return self.all("post", layer)
        if site == "resid_mid":
            return self.all("mid", layer)
        if self.row.parallel or site in self.row.parts:
            return self.all(site, layer) * (self.row.written if site == "attn_out" else 1)
        before, after = ("pre", "mid") if site == "attn_out" else ("mid", "post")
        added = self.all(after, layer) - self.all(before, layer)
        if (site, layer) in self.seen[0]:  # the same without the rounding of the difference, where nothing follows the module
            whole = self.all(site, layer)
            return whole if torch.allclose(whole, added, rtol=1e-3, atol=1e-4) else added
        return added

    def read(self, states: Tensor) -> Tensor:
        """Logits [site, row, token] that the model gives where its last block gave ``states`` [site, row, d_model]."""
        return self._replaced("out", self.blocks[-1], states)

    def unembed(self, hidden: Tensor, behind: nn.Module | None = None) -> Tensor:
        """Logits [site, row, token] of what the final norm gave, [site, row, d_model], without a bias of the unembedding.

        Of a model without a final norm, ``behind`` is the last block.
        """
        head = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        kept = None if bias is None else bias.detach().clone()
        try:
            if bias is not None:
                bias.data.zero_()
            return self._replaced("in", head, hidden) if behind is None else self._replaced("out", behind, hidden)
        finally:
            if bias is not None:
                bias.data.copy_(kept)

    def _replaced(self, side: str, module: nn.Module, states: Tensor) -> Tensor:
        parts, first_row = [], 0
        for ids in self.texts:
            here = states[:, first_row : first_row + len(ids)]
            first_row += len(ids)

            def put_in(module: Any, args: Any, kwargs: Any, output: Any = None, here: Tensor = here) -> Any:
                if side == "in":
                    return (here.float(), *args[1:]), kwargs
                return here.float() if isinstance(output, Tensor) else (here.float(), *output[1:])

            parts.append(self.run(ids.expand(len(states), -1), [(side, module, put_in)]))
        return torch.cat(parts, 1)

    def edited(self, modules: Sequence[nn.Module], edit: Any) -> Tensor:
        """Logits [row, token] with what enters some modules edited."""
        hooks = [("in", module, edit) for module in modules]
        return torch.cat([self.run(ids[None], hooks)[0] for ids in self.texts])

    def heads(self, layer: int) -> int:
        """How many heads a layer has: as many as its attention weights say."""
        return self.seen[0]["pattern", layer].shape[0]

    def z(self, layer: int) -> Tensor:
        """[row, head, d_head], what each head hands to the output projection."""
        flat = self.all("z", layer)
        return flat.reshape(len(flat), self.heads(layer), -1)

    def without_head(self, layer: int, head: int) -> Tensor:
        """Logits [row, token] with a head's part of what enters the output projection at 0."""
        n = self.heads(layer)

        def cut(module: nn.Module, args: Any, kwargs: Any) -> Any:
            z = args[0].clone()
            z.view(*z.shape[:-1], n, -1)[..., head, :] = 0
            return (z, *args[1:]), kwargs

        return self.edited([self.out(layer)], cut)

    def hidden_key(self, key: int) -> Tensor:
        """Logits [row, token] with one key hidden from all other tokens in all layers, in the mask that attention adds."""

        def hide(module: nn.Module, args: Any, kwargs: Any) -> Any:
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
            mask = bound.arguments.get("attention_mask")
            if mask is None or mask.ndim != 4:
                raise LookupError(f"{type(module).__name__} is not given a mask with four axes")
            n = mask.shape[-1]
            mask = mask.expand(*mask.shape[:-2], n, n).clone() if mask.shape[-2] == 1 else mask.clone()  # one for all queries
            others = torch.arange(mask.shape[-2]) != key
            # A token sees itself, whatever True means here.
            mask[..., others, key] = ~mask[..., :1, 0] if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            bound.arguments["attention_mask"] = mask
            return bound.args, bound.kwargs

        return self.edited([self.attn(layer) for layer in self.layers], hide)

    def head_readouts(self, layer: int) -> Tensor:
        """Logits [head, row, token] of what each head writes, through the final norm at the scale of the whole stream.

        At one row the norm is x ↦ g ∘ (x - mean x) + b, or without the mean; g is (norm(x) - b) / (x - mean x), entry by entry.
        """
        out, norm = self.out(layer), part(self.model, self.row, "norm")
        z, last = self.z(layer), self.all("post", len(self.blocks) - 1).double()
        with torch.no_grad():
            nothing = out(torch.zeros_like(z[:1].flatten(1)))
            written = []
            for head in range(z.shape[1]):
                alone = torch.zeros_like(z)
                alone[:, head] = z[:, head]
                written.append((out(alone.flatten(1)) - nothing).double() * self.row.written)
            parts = torch.stack(written)
            if norm is None:
                return self.unembed(parts, self.blocks[-1])
            exact = copy.deepcopy(norm).double()
            centred = torch.allclose(exact(last + 1), exact(last), atol=1e-6)
            bias = getattr(exact, "bias", None)
            middle = last - last.mean(-1, keepdim=True) if centred else last
            gain = (exact(last) - (0 if bias is None else bias)) / middle
            return self.unembed((parts - parts.mean(-1, keepdim=True) if centred else parts) * gain)


def first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The first tensor that a module is called with."""
    return args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values())))


def rows(activation: Tensor) -> Tensor:
    """A copy, since some are added to in place, [pos, width] of the one text; of several streams (Gemma 3n) the first."""
    one = activation[0] if activation.ndim == 4 else activation
    return one.reshape(-1, one.shape[-1]).clone()
