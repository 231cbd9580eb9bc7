"""Text that a model writes: by its own ``generate`` with its cache of keys and values, or without either.

Without, the next token is drawn from the logits of a whole pass, again and again, and these are the logits that are measured:
nothing comes between what a model says and what it writes, neither a cache nor the settings for generation that it brings
(``generation_config``: penalties, the best k alone), which Hugging Face's own ``generate`` heeds. It is slow, since every token
reads the whole text, and is for models whose cache has failed (``capture/proofs/generation.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_entropy.errors import ModelError


def written_with_cache(model: Any, tokens: Tensor, max_new_tokens: int, *, temperature: float, ends: Sequence[int]) -> Tensor:
    """Prompts of one length [batch, pos] with up to ``max_new_tokens`` more, on the CPU; greedy where ``temperature`` is 0.

    Raises:
        ModelError: TransformerLens does not write text with this model.
    """
    options: dict[str, Any] = {"do_sample": False} if temperature == 0 else {"do_sample": True, "temperature": temperature}
    with warnings.catch_warnings():
        # How TransformerLens calls Hugging Face's models is nothing that the user of either could mend.
        warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)
        try:
            out: Tensor = model.generate(
                tokens,
                max_new_tokens=max_new_tokens,
                stop_at_eos=bool(ends),
                eos_token_id=list(ends) or None,
                use_past_kv_cache=True,
                return_type="tokens",
                verbose=False,
                **options,
            )
        except NotImplementedError as error:
            raise ModelError(f"generation: TransformerLens does not write text with this model: {error}") from error
    return out.cpu().clone()  # not an inference tensor, on which users could not build


def written_whole(
    logits: Callable[[Tensor], Tensor], tokens: Tensor, max_new_tokens: int, *, temperature: float, ends: Sequence[int]
) -> Tensor:
    """The same out of the ``logits`` [batch, pos, d_vocab] of tokens [batch, pos].

    Rows that have ended are filled up with the token that ended them, until all have.

    >>> def counting(tokens):
    ...     return torch.eye(6)[(tokens + 1) % 6]
    >>> written_whole(counting, torch.tensor([[1, 2], [2, 3]]), 8, temperature=0.0, ends=[5])
    tensor([[1, 2, 3, 4, 5],
            [2, 3, 4, 5, 5]])
    """
    last = torch.tensor(ends, dtype=tokens.dtype, device=tokens.device)
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    for _ in range(max_new_tokens):
        final = logits(tokens)[:, -1].to(tokens.device)
        if temperature > 0:
            final = final.float() / temperature  # in half precision a quotient would be rounded, or overflow
            new = torch.distributions.Categorical(logits=final, validate_args=False).sample()
        else:
            new = final.argmax(-1)
        new = torch.where(ended, tokens[:, -1], new)
        tokens = torch.cat([tokens, new[:, None]], dim=1)
        ended |= torch.isin(new, last)
        if bool(ended.all()):
            break
    return tokens.cpu().clone()
