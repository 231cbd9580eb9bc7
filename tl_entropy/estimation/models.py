r"""Entropy-estimation models as TransformerLens models: what every analysis of this package reads as it reads any other.

Logits are W_U(LN(x)) + b_U of the decoder's last stream x, at every token's position. Of kinds "causal" and "memory" those at a
position are about the next token, of "autoencoder" about its own. Hooks are those of any decoder, and of the encoder under
``encoder.``; then ``hook_state`` [batch, d_encoder] and ``hook_memory`` [batch, n], with a chunk's axis behind the batch's
where memories are of past chunks. All of the encoder comes before the decoder's first hook.

Losses are means over tokens, never over rows: of "autoencoder" over t of CE(logits_t, token_t), of the others over t >= 1 of
CE(logits_(t-1), token_t), so that a token in front of a text lets its first one be charged, too.

Refused: rows longer than the context; text from a model that has read what it would write.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens import ActivationCache, HookedRootModule
from transformer_lens.hook_points import HookPoint

from tl_entropy.errors import InputError, InputTypeError, ModelError, check_choice, check_int
from tl_entropy.estimation.blocks import EPS, Block
from tl_entropy.estimation.config import EstimationConfig
from tl_entropy.estimation.files import write_folder
from tl_entropy.estimation.memory import Encoder, Entry, Memory, Spread, before
from tl_entropy.estimation.mixing import without_padding
from tl_entropy.estimation.showing import Showing
from tl_entropy.estimation.steps import own_tensors
from tl_entropy.estimation.tokenizers import byte_tokenizer
from tl_entropy.functional.tokens.losses import token_losses as next_token_losses
from tl_entropy.torch_state import steady


class Unembedding(nn.Module):
    """Logits of normed states: x @ W_U + b_U."""

    def __init__(self, d_model: int, d_vocab: int) -> None:
        super().__init__()
        self.W_U = nn.Parameter(torch.randn(d_model, d_vocab) * 0.02)
        self.b_U = nn.Parameter(torch.zeros(d_vocab))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] to [..., d_vocab]."""
        return x @ self.W_U + self.b_U


class EstimationModel(HookedRootModule):  # type: ignore[misc]
    """An entropy-estimation model, untrained; see ``estimation_model``.

    Args:
        config: with its ``d_vocab``.
        tokenizer: Hugging Face's, or None.
        seed: of its weights, and of its noise.

    Attributes:
        config: how it was made.
        cfg: the same and more, in TransformerLens's names, as measurements read it: ``predicts``, ``reads_ahead`` and
            ``memory_bits`` among them.

    >>> import tl_entropy as tle
    >>> model = tle.estimation_model(tle.EstimationConfig(n_ctx=16, d_model=8, n_layers=1), "bytes")
    >>> model(torch.tensor([[256, 72, 105]])).shape
    torch.Size([1, 3, 257])
    """

    def __init__(self, config: EstimationConfig, tokenizer: Any = None, *, seed: int = 0) -> None:
        super().__init__()
        if config.d_vocab is None:
            raise InputError("config.d_vocab must say how many tokens there are, where no tokenizer does")
        self.config, self.tokenizer, self.seed = config, tokenizer, check_int("seed", seed, 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._make(config, config.d_vocab)
        self.cfg = _in_transformer_lens_names(config, tokenizer)
        self._say_where()
        self.setup()

    def _make(self, config: EstimationConfig, d_vocab: int) -> None:
        own = config.kind == "autoencoder"
        self.entry: Any = None if own else Entry(config)
        self.encoder = self.memory = self.spread = None
        if config.kind != "causal":
            self.encoder = Encoder(config, self.entry.embed if config.tied and self.entry is not None else None)
            self.memory = Memory(config, self.seed)
            self.hook_state, self.hook_memory = HookPoint(), HookPoint()
        if own:
            self.spread = Spread(config)
        learned = config.positions == "learned"
        self.W_pos = nn.Parameter(torch.randn(config.n_ctx, config.d_model) * 0.02) if learned else None
        self.hook_embed = HookPoint()
        self.blocks = nn.ModuleList([Block(config.decoder) for _ in range(config.n_layers)])
        self.ln_final = nn.LayerNorm(config.d_model, EPS)
        self.unembed = Unembedding(config.d_model, d_vocab)

    W_U = property(lambda self: self.unembed.W_U)
    b_U = property(lambda self: self.unembed.b_U)

    def _apply(self, *args: Any, **options: Any) -> Any:
        moved = super()._apply(*args, **options)
        self._say_where()
        return moved

    def _say_where(self) -> None:
        self.cfg.device, self.cfg.dtype = self.W_U.device, self.W_U.dtype

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        return_type: Literal["logits", "loss"] | None = "logits",
    ) -> Tensor | None:
        """Logits [batch, pos, d_vocab] of tokens [batch, pos], the mean loss in nats ("loss"), or nothing (None).

        Args:
            tokens: ids; padding may hold any.
            attention_mask: [batch, pos], 0 at padding; None for none.
            return_type: what to return.

        Raises:
            InputError: more positions than the model has, or a mask of another shape.
            InputTypeError: no token ids.
        """
        if return_type is not None:
            check_choice("return_type", return_type, ("logits", "loss"))
        rows, mask, showing = self._rows(tokens, attention_mask)
        x = self._entered(rows, mask, showing)
        if showing.cells and mask is not None:
            mask = torch.cat([mask.new_ones(len(mask), showing.cells), mask], 1)
        if self.W_pos is not None:
            cells, n = showing.cells, rows.shape[1]
            x = x + torch.cat([x.new_zeros(cells, x.shape[2]), self.W_pos[:n]])
        x = showing.past(self.hook_embed, without_padding(x, mask))
        for block in self.blocks:
            x = block(x, mask, showing)
        logits: Tensor = self.unembed(self.ln_final(showing.tokens(x)))
        if return_type != "loss":
            return logits if return_type else None
        losses, real = losses_of(logits, tokens, attention_mask, predicts=self.config.predicts)
        return (losses * real).sum() / real.sum()

    def _rows(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, Showing]:
        """Rows of at most ``n_ctx`` tokens, their mask, and how hooks are to see their streams."""
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
            raise InputTypeError(f"tokens must be ids [batch, pos]; got {getattr(tokens, 'shape', type(tokens).__name__)}")
        if tokens.shape[1] > self.cfg.n_ctx:
            raise InputError(f"tokens must be of at most n_ctx={self.cfg.n_ctx} positions; got {tokens.shape[1]}")
        if mask is not None and mask.shape != tokens.shape:
            raise InputError(f"attention_mask must have the shape of tokens, {list(tokens.shape)}; got {list(mask.shape)}")
        tokens = tokens.to(self.W_U.device)
        mask = None if mask is None else mask.to(tokens.device).bool()
        length, n = tokens.shape[1], self.config.n_ctx
        chunks = -(-length // n) if length > n else 1
        if chunks > 1:
            behind = (0, chunks * n - length)
            mask = F.pad(torch.ones_like(tokens).bool() if mask is None else mask, behind)
            tokens, mask = (rearrange(x, "b (c t) -> (b c) t", c=chunks) for x in (F.pad(tokens, behind), mask))
        return tokens, mask, Showing(self.config.cells, chunks, length)

    def _entered(self, rows: Tensor, mask: Tensor | None, showing: Showing) -> Tensor:
        """The decoder's stream before its first hook; the encoder has read the rows then."""
        if self.encoder is None or self.memory is None:
            return self.entry(rows, None)
        past = self.config.memory_of == "past" and self.config.kind == "memory"

        def passed(point: HookPoint, x: Tensor) -> Tensor:
            return point(x.unflatten(0, (-1, showing.chunks))).flatten(0, 1) if past else point(x)

        state = self.encoder(rows, mask, dataclasses.replace(showing, cells=0))
        numbers = passed(self.hook_memory, self.memory(passed(self.hook_state, state)))
        if self.spread is not None:
            return self.spread(numbers, rows.shape[1])
        if not past:
            return self.entry(rows, numbers[:, None])
        told = before(numbers.unflatten(0, (-1, showing.chunks)), self.config.memories).flatten(0, 1)
        return self.entry(rows, told)

    def run_with_cache(
        self, *args: Any, return_cache_object: bool = True, remove_batch_dim: bool = False, **options: Any
    ) -> tuple[Any, Any]:
        """What ``forward`` gives, and all that passed the hooks, as of any TransformerLens model: an ``ActivationCache``.

        Args:
            args: of ``forward``.
            return_cache_object: False for a plain dict.
            remove_batch_dim: drop the batch's axis, of one row.
            options: further ones of ``forward`` and of TransformerLens, such as ``names_filter``.
        """
        out, cache = super().run_with_cache(*args, remove_batch_dim=remove_batch_dim, **options)
        return out, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim) if return_cache_object else cache

    def generate(
        self,
        tokens: Tensor,
        max_new_tokens: int = 10,
        *,
        stop_at_eos: bool = True,
        eos_token_id: int | list[int] | None = None,
        do_sample: bool = True,
        temperature: float = 1.0,
        return_type: Literal["tokens"] = "tokens",
        verbose: bool = False,
        use_past_kv_cache: bool = False,
    ) -> Tensor:
        """Token rows [batch, pos] of one length with up to ``max_new_tokens`` more; each from a whole pass over what is there.

        Args:
            tokens: ids [batch, pos].
            max_new_tokens: at most.
            stop_at_eos: whether rows end with an end token, and are filled up with it.
            eos_token_id: the end tokens; None takes the tokenizer's.
            do_sample: whether tokens are drawn, with torch's own generator; False takes the most probable.
            temperature: by which logits are divided before a draw.
            return_type: "tokens".
            verbose: as other models take it; nothing is shown.
            use_past_kv_cache: likewise; there is no cache.

        Raises:
            InputError: the row would be longer than the context.
            ModelError: the model has read what it would write.
        """
        if self.config.reads_ahead:
            raise ModelError(
                "generation: this model reads ahead: its memory is of the text itself, so it has no text of its own; use "
                "kind='causal', or memory_of='past'"
            )
        check_choice("return_type", return_type, ("tokens",))
        if tokens.shape[1] + max_new_tokens > self.cfg.n_ctx:
            raise InputError(
                f"max_new_tokens: {tokens.shape[1]} tokens and {max_new_tokens} more are longer than n_ctx={self.cfg.n_ctx}"
            )
        own = getattr(self.tokenizer, "eos_token_id", None)
        given = own if eos_token_id is None else eos_token_id
        ends = [] if not stop_at_eos or given is None else [given] if isinstance(given, int) else list(given)
        rows, ended = tokens.to(self.W_U.device), torch.zeros(len(tokens), dtype=torch.bool, device=self.W_U.device)
        for _ in range(max_new_tokens):
            logits = self(rows)[:, -1].float()
            new = (logits / temperature).softmax(-1).multinomial(1)[:, 0] if do_sample else logits.argmax(-1)
            if ends:
                new = new.masked_fill(ended, ends[0])
                ended = ended | torch.isin(new, new.new_tensor(ends))
            rows = torch.cat([rows, new[:, None]], 1)
            if ends and bool(ended.all()):
                break
        return rows

    def save(self, folder: str | Path) -> Path:
        """Write the model into a folder that ``load_model`` reads: settings, weights and tokenizer.

        >>> import tempfile
        >>> import tl_entropy as tle
        >>> model = tle.estimation_model(tle.EstimationConfig(n_ctx=8, d_model=8, n_layers=1), "bytes")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tle.load_model(model.save(folder), device="cpu").config == model.config
        True

        Raises:
            SaveError: the folder cannot be written to, there is no room, or it holds another kind of model.
        """
        return write_folder(self, folder)

    def named_twice(self) -> set[str]:
        """Weights that are others', too: of tied embeddings."""
        return set(self.state_dict()) - set(own_tensors(self))

    def at_bits(self, bits: int | None) -> EstimationModel:
        """The same model, its weights copied, with its memory on a grid of 2^bits steps in evaluation; None for no grid.

        A memory may be charged for bits only where it had no more when losses were measured.

        >>> import tl_entropy as tle
        >>> config = tle.EstimationConfig(kind="memory", n_ctx=8, d_model=8, n_layers=1, numbers=2, limit=1.0)
        >>> tle.estimation_model(config, "bytes").at_bits(4).cfg.memory_bits
        8
        """
        straight = self.config.straight_through and bits is not None
        config = dataclasses.replace(self.config, bits=bits, straight_through=straight)
        other = EstimationModel(config, self.tokenizer, seed=self.seed)
        other.load_state_dict(self.state_dict())
        other.tl_entropy_notes = getattr(self, "tl_entropy_notes", ())
        return other.to(self.W_U.device, self.W_U.dtype).train(self.training)


def _in_transformer_lens_names(config: EstimationConfig, tokenizer: Any) -> SimpleNamespace:
    past = config.kind == "memory" and config.memory_of == "past"
    heads = 1 if config.mixer == "conv" else config.n_heads
    return SimpleNamespace(
        model_name=f"{config.kind} {config.mixer}",
        n_layers=config.n_layers,
        d_model=config.d_model,
        n_ctx=config.n_ctx * (1 + config.memories if past else 1),
        chunk=config.n_ctx if past else None,
        d_vocab=config.d_vocab,
        d_vocab_out=config.d_vocab,
        n_heads=heads,
        d_head=config.d_model // heads,
        d_mlp=4 * config.d_model,
        normalization_type="LN",
        eps=EPS,
        attention_dir="causal" if config.causal else "bidirectional",
        default_prepend_bos=config.predicts == "next",
        bos_token_id=getattr(tokenizer, "bos_token_id", config.bos_token_id),
        predicts=config.predicts,
        reads_ahead=config.reads_ahead,
        memory_bits=config.memory_bits,
        device=None,
        dtype=None,
    )


def losses_of(
    logits: Tensor, tokens: Tensor, mask: Tensor | None = None, *, predicts: Literal["next", "own"]
) -> tuple[Tensor, Tensor]:
    """What each token costs in nats, [batch, token], and whether it counts: not where it is padding.

    Of a model that predicts the "next" token, of those at positions 1 and behind; of one that predicts its "own", of all. See
    ``functional.token_losses``.

    >>> logits = torch.zeros(1, 3, 4)
    >>> [losses_of(logits, torch.tensor([[0, 1, 2]]), predicts=of)[0].shape[1] for of in ("next", "own")]
    [2, 3]
    """
    if predicts == "own":  # one place later, which leaves logits at a position beside the token there
        tokens, logits = torch.cat([tokens[:, :1], tokens], 1), torch.cat([logits, logits[:, -1:]], 1)
        mask = None if mask is None else torch.cat([mask[:, :1], mask], 1)
    return next_token_losses(logits, tokens, mask)


@steady
def estimation_model(config: EstimationConfig, tokenizer: Any = None, *, seed: int = 0) -> EstimationModel:
    """An untrained model for entropy estimation that every analysis of this package reads like any other.

    Args:
        config: what it is made of.
        tokenizer: Hugging Face's; "bytes" for one whose tokens are bytes; or None, for a model that reads token ids, of which
            the configuration then says how many there are.
        seed: of its weights, and of the noise in its memory.

    Returns:
        The model, in float32 on the CPU, in evaluation mode; train it with ``train_estimation``.

    Raises:
        InputError: neither configuration nor tokenizer says how many tokens there are, or the tokenizer has more.
        InputTypeError: an argument of another kind.

    >>> import tl_entropy as tle
    >>> config = tle.EstimationConfig(kind="autoencoder", mixer="heads", n_ctx=16, d_model=16, n_layers=1)
    >>> model = tle.estimation_model(config, "bytes")
    >>> model.cfg.predicts, model.cfg.reads_ahead, sorted(model.hook_dict)[-2:]
    ('own', True, ['hook_memory', 'hook_state'])
    """
    if not isinstance(config, EstimationConfig):
        raise InputTypeError(f"config must be an EstimationConfig; got {type(config).__name__}")
    if isinstance(tokenizer, str):
        check_choice("tokenizer", tokenizer, ("bytes",))
        tokenizer = byte_tokenizer()
    if tokenizer is not None and not callable(tokenizer):
        raise InputTypeError(f"tokenizer must be Hugging Face's, 'bytes' or None; got {type(tokenizer).__name__}")
    if tokenizer is not None:
        needed = 1 + max(tokenizer.get_vocab().values())
        if config.d_vocab is not None and config.d_vocab < needed:
            raise InputError(f"config.d_vocab must be at least {needed}, for the ids of the tokenizer; got {config.d_vocab}")
        config = dataclasses.replace(config, d_vocab=config.d_vocab or needed)
    return EstimationModel(config, tokenizer, seed=seed).eval()
