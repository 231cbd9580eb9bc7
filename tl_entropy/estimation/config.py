r"""What an entropy-estimation model is made of, and what follows from it: what it predicts, reads and has to be charged for.

There are three kinds. A *causal* model predicts the next token from those before it. An *autoencoder* writes a text into one
vector and reads it back: what it gives at a position is about the token there. A model with a *memory* is a causal decoder that
is given n numbers, which an encoder has made of the very text that is predicted (``memory_of="same"``) or of the chunks before
it ("past"). What was made of the text itself has read the answer: such a model *reads ahead*, and its losses are no code length
before its memory is charged, with n · b bits a window, which takes numbers that are on a grid of 2^b steps.

Refused: parts that do not fit together; settings of an encoder for a model without one; bits without a limit, since numbers
that may be of any size lie on no grid; a decoder that predicts the next token and sees it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tl_entropy.errors import InputError, check_choice, check_flag, check_int, check_number

Kind = Literal["causal", "memory", "autoencoder"]
Mixer = Literal["conv", "heads", "attention"]


@dataclass(frozen=True, kw_only=True)
class EstimationConfig:
    """The shape of an entropy-estimation model; see ``estimation_model``.

    Attributes:
        kind: "causal", "autoencoder", or "memory" for a causal decoder that is given what an encoder has made of a text.
        mixer: what moves information between tokens: "conv" for one convolution over positions whose channels are positions,
            "heads" for several of them, one a part of the width, "attention" for attention with rotary positions.
        n_ctx: tokens of a window; a convolution has a row of weights for each of its positions.
        d_model: width of the residual stream.
        n_layers: blocks.
        n_heads: parts of the width, for "heads" and "attention".
        kernel: neighbouring components of the width that a convolution ("conv") mixes; 1 is a flat one.
        causal: whether the decoder's mixers see earlier positions only.
        d_vocab: tokens; None takes the tokenizer's.
        bos_token_id: the token that begins a row, where there is no tokenizer to say it; None for none.
        positions: "learned" adds a vector of its own to each position of the decoder; None leaves positions to the mixers.
        encoder_mixer, encoder_width, encoder_layers, encoder_heads, encoder_kernel: of the encoder; None is as the decoder.
        encoder_causal: whether the encoder's mixers see earlier positions only.
        tied: whether encoder and decoder share their embedding (kind "memory", same width).
        numbers: n, the numbers that the encoder's last state is projected to; None keeps the state as it is.
        limit: A, which bounds each number by A · tanh(number / A); None for none.
        noise: q of the noise U(-q, q) that is added while training; None for none.
        noise_at: where: the "memory", or the "state" before its projection.
        bits: b, of the grid of 2^b steps over [-A, A] on which numbers are in evaluation; None leaves them as they are.
        straight_through: whether they are on it while training, too, in place of noise, and gradients pass as if they were not.
        spread: how an autoencoder's memory enters the decoder: the same at every position ("repeat"), or through a window that
            moves on by one component a position ("unroll").
        spread_width: components to unroll; None is d_model.
        allow_repeats: whether windows may come back to where they began, where there are more positions than components.
        into: how a memory enters a decoder of tokens: appended to their "embedding", "add"ed to it, or as a "token" of its own.
        memory_of: whether it is of the "same" window, or of the chunks before it ("past").
        memories: how many chunks back, for "past".

    >>> config = EstimationConfig(kind="memory", numbers=8, limit=1.0, bits=4)
    >>> config.reads_ahead, config.memory_bits, config.predicts
    (True, 32, 'next')
    """

    kind: Kind = "causal"
    mixer: Mixer = "conv"
    n_ctx: int = 128
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    kernel: int = 1
    causal: bool = True
    d_vocab: int | None = None
    bos_token_id: int | None = None
    positions: Literal["learned"] | None = None
    encoder_mixer: Mixer | None = None
    encoder_width: int | None = None
    encoder_layers: int | None = None
    encoder_heads: int | None = None
    encoder_kernel: int | None = None
    encoder_causal: bool = True
    tied: bool = False
    numbers: int | None = None
    limit: float | None = None
    noise: float | None = None
    noise_at: Literal["memory", "state"] = "memory"
    bits: int | None = None
    straight_through: bool = False
    spread: Literal["repeat", "unroll"] = "repeat"
    spread_width: int | None = None
    allow_repeats: bool = False
    into: Literal["embedding", "add", "token"] = "embedding"
    memory_of: Literal["same", "past"] = "same"
    memories: int = 1

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, get_args(Kind))
        for name in ("mixer", "encoder_mixer"):
            if getattr(self, name) is not None or name == "mixer":
                check_choice(name, getattr(self, name), get_args(Mixer))
        check_choice("noise_at", self.noise_at, ("memory", "state"))
        check_choice("spread", self.spread, ("repeat", "unroll"))
        check_choice("into", self.into, ("embedding", "add", "token"))
        check_choice("memory_of", self.memory_of, ("same", "past"))
        if self.positions is not None:
            check_choice("positions", self.positions, ("learned",))
        for name in ("causal", "encoder_causal", "tied", "allow_repeats", "straight_through"):
            check_flag(name, getattr(self, name))
        for name in ("n_ctx", "d_model", "n_layers", "n_heads", "kernel", "memories"):
            check_int(name, getattr(self, name), 1)
        optional = ("d_vocab", "encoder_width", "encoder_layers", "encoder_heads", "encoder_kernel", "numbers", "bits")
        for name in (*optional, "spread_width"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)
        if self.bos_token_id is not None:
            check_int("bos_token_id", self.bos_token_id, 0, None if self.d_vocab is None else self.d_vocab - 1)
        for name in ("limit", "noise"):
            if getattr(self, name) is not None and not check_number(name, getattr(self, name), 0) > 0:
                raise InputError(f"{name} must be above 0, or None for none; got {getattr(self, name)!r}")
        self._check_whole()

    def _check_whole(self) -> None:
        """Refuse what does not fit together."""
        self._check_unused()
        if self.kind != "autoencoder" and not self.causal:
            raise InputError(f"causal must be True for kind {self.kind!r}: its decoder would read the token that it predicts")
        for mixer in (self.decoder, self.encoder) if self.kind != "causal" else (self.decoder,):
            width, heads = mixer.d_model, mixer.n_heads
            if mixer.mixer != "conv" and (width % heads or (mixer.mixer == "attention" and (width // heads) % 2)):
                even = " of an even width each" if mixer.mixer == "attention" else ""
                raise InputError(f"n_heads must cut a width of {width} into equal parts{even}; got {heads}")
        if self.bits is not None and self.limit is None:
            raise InputError("bits need a limit: numbers of any size lie on no grid of 2^bits steps; pass limit=1.0, say")
        if self.straight_through and (self.bits is None or self.noise is not None):
            raise InputError(
                "straight_through puts numbers on a grid while training, in place of noise: pass bits, and no noise"
            )
        if self.kind == "autoencoder" and self.spread == "unroll":
            width = self.spread_width or self.d_model
            if width < 2:
                raise InputError(f"spread='unroll' needs at least 2 components to unroll; got {width}")
            if width < self.n_ctx and not self.allow_repeats:
                raise InputError(
                    f"spread='unroll': windows over {width} components come back to where they began within n_ctx={self.n_ctx} "
                    f"positions; pass spread_width={self.n_ctx} or more, or allow_repeats=True"
                )
        if self.kind == "memory":
            told = self.memories * self.n_numbers
            if self.into == "embedding" and told >= self.d_model:
                raise InputError(
                    f"into='embedding' takes {told} of {self.d_model} components for memories and leaves none for tokens; "
                    "pass fewer numbers, a larger d_model, or another into"
                )
            if self.memory_of == "same" and self.memories != 1:
                raise InputError(f"memories are chunks back, for memory_of='past'; got {self.memories} of the same text")

    def _check_unused(self) -> None:
        """Refuse settings of parts that a model of this kind does not have."""
        of_encoder = (
            "encoder_mixer", "encoder_width", "encoder_layers", "encoder_heads", "encoder_kernel", "encoder_causal", "numbers",
            "limit", "noise", "noise_at", "bits", "straight_through",
        )  # fmt: skip
        of_memory = ("tied", "into", "memory_of", "memories")
        of_autoencoder = ("spread", "spread_width", "allow_repeats")
        unused = {
            "causal": (*of_encoder, *of_memory, *of_autoencoder), "memory": of_autoencoder, "autoencoder": of_memory,
        }[self.kind]  # fmt: skip
        standing = {field.name: field.default for field in dataclasses.fields(self)}
        for name in unused:
            if getattr(self, name) != standing[name]:
                raise InputError(f"{name} means nothing for kind {self.kind!r}; got {getattr(self, name)!r}; leave it out")
        if self.kernel > 1 and self.mixer != "conv":
            raise InputError(f"kernel is of mixer 'conv'; got kernel={self.kernel} with mixer={self.mixer!r}")
        if (self.encoder_kernel or 1) > 1 and self.encoder.mixer != "conv":
            raise InputError(f"encoder_kernel is of encoder_mixer 'conv'; got it with {self.encoder.mixer!r}")
        if self.spread == "repeat" and self.spread_width is not None:
            raise InputError(f"spread_width is of spread='unroll'; got {self.spread_width} with spread='repeat'")
        if self.tied and self.encoder.d_model != self.embedding_width:
            raise InputError(
                f"tied needs embeddings of one width: the encoder's have {self.encoder.d_model} components, the decoder's "
                f"{self.embedding_width}; pass encoder_width={self.embedding_width}, or tied=False"
            )

    @property
    def decoder(self) -> Stack:
        """The decoder's blocks."""
        return Stack(
            self.mixer, self.n_ctx + self.cells, self.d_model, self.n_layers, self.n_heads, self.kernel, self.causal, self.cells
        )

    @property
    def encoder(self) -> Stack:
        """The encoder's blocks, of models that have one."""
        mixer = self.encoder_mixer or self.mixer
        kernel = self.encoder_kernel or (self.kernel if mixer == "conv" else 1)
        return Stack(
            mixer, self.n_ctx, self.encoder_width or self.d_model, self.encoder_layers or self.n_layers,
            self.encoder_heads or self.n_heads, kernel, self.encoder_causal, 0,
        )  # fmt: skip

    @property
    def n_numbers(self) -> int:
        """Numbers of one memory."""
        return self.numbers or self.encoder.d_model

    @property
    def cells(self) -> int:
        """Positions in front of the tokens that the memory takes."""
        return self.memories if self.kind == "memory" and self.into == "token" else 0

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings of a decoder's tokens."""
        beside = self.memories * self.n_numbers if self.kind == "memory" and self.into == "embedding" else 0
        return self.d_model - beside

    @property
    def predicts(self) -> Literal["next", "own"]:
        """Whether logits at a position are about the "next" token, or about its "own"."""
        return "own" if self.kind == "autoencoder" else "next"

    @property
    def reads_ahead(self) -> bool:
        """Whether the model has read the token that it predicts."""
        return self.kind == "autoencoder" or (self.kind == "memory" and self.memory_of == "same")

    @property
    def memory_bits(self) -> int | None:
        """Bits of what the decoder of one window is told, n · b; None where it is told nothing, or what has no bits."""
        return self.n_numbers * self.bits if self.reads_ahead and self.bits is not None else None

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> EstimationConfig:
        """The configuration of such settings.

        Raises:
            InputError: a setting that is none.

        >>> EstimationConfig.from_dict(EstimationConfig(n_ctx=16).as_dict()).n_ctx
        16
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(settings) - known):
            raise InputError(f"config: {', '.join(unknown)} is no setting of an EstimationConfig")
        return cls(**settings)


@dataclass(frozen=True)
class Stack:
    """The shape of a stack of blocks, of encoder or decoder.

    Attributes:
        mixer: what its mixers are.
        positions: that they mix, cells of a memory among them.
        d_model: width.
        n_layers: blocks.
        n_heads: of mixers that have heads.
        kernel: of convolutions.
        causal: whether they see earlier positions only.
        cells: positions in front that are a memory's.
    """

    mixer: Mixer
    positions: int
    d_model: int
    n_layers: int
    n_heads: int
    kernel: int
    causal: bool
    cells: int
