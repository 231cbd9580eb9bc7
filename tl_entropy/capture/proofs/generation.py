"""That a model writes what it finds probable: text is measured as the model's own, so it has to be that.

Two things are proved. Once a model: that its cache of keys and values gives the states which a whole pass over the same tokens
gives, without which sampled text comes from other distributions than those measured. And of every greedy text: that each token
written is the most probable one where it will be measured, up to the rounding of the logits. Where the cache fails, the text is
written without it, which reads the whole text again for every token, and the result says so. Refused: a greedy text that is
not the model's own without a cache either, and a sampled one whose positions were stretched while it was written.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tl_entropy.capture.attention import chooses_keys
from tl_entropy.capture.feeding import out_of_memory
from tl_entropy.capture.hooks import hook_name, hooked, modules_of
from tl_entropy.capture.rotation import stretched_beyond, turned_alike
from tl_entropy.capture.runner import Runner
from tl_entropy.errors import ModelError, TLEntropyError

_TOKENS = 4
"""Tokens of the prompt, and of the text, on which the cache is proved."""

# Largest difference allowed between states with and without a cache, relative to their size.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
# Logits that far below the highest are masks, by -inf or by -1e9, whose size says nothing of the others' rounding.
_MASKED = 1e5


class Generated(NamedTuple):
    """Token rows [batch, pos], and whether the model's cache was used to write them."""

    tokens: Tensor
    cached: bool


def cache_is_sound(runner: Runner) -> bool:
    """Whether the states at the last site are the same with the model's cache and in one pass over the text.

    A cache with which it cannot write at all is none.
    """
    site, new = runner.last_site, min(_TOKENS, runner.context // 2)
    prompt = runner.short_row()[:, :new]
    point = runner.model.hook_dict.get(hook_name(site))
    if point is None:
        return False
    seen: list[Tensor] = []
    with runner.proving():
        try:
            with hooked([(point, lambda activation, hook: seen.append(activation.detach()))]):
                tokens = runner.write(prompt, new, temperature=0.0, seed=0, cached=True)
        except Exception as error:  # of a cache that does not fit the model (grouped heads that are ungrouped)
            if isinstance(error, TLEntropyError) or out_of_memory(error):
                raise
            return False
        whole = runner.activations(tokens, torch.ones_like(tokens), [site])[site]
    states = torch.cat(seen, dim=1) if seen else whole[:, :0]  # the last token written is never read
    n = states.shape[1]
    if not tokens.shape[1] - 1 <= n <= tokens.shape[1]:
        return False
    own = whole[:, :n].double()
    off = float((states.double() - own).abs().max() / own.square().mean().sqrt().clamp_min(1e-30))
    return off <= _TOLERANCE.get(whole.dtype, 0.1)


def proved_text(
    runner: Runner, tokens: Tensor, max_new_tokens: int, *, temperature: float, seed: int, cached: bool
) -> Generated:
    """Prompts of one length [batch, pos] with up to ``max_new_tokens`` more; greedy, and proved, where ``temperature`` is 0.

    Rows that end early are filled up with an end token. ``cached`` says whether the model's cache can be used.

    Raises:
        ModelError: a greedy text is not the model's own, with its cache or without; or a sampled one has outgrown the length
            beyond which positions are stretched.
    """
    short = 0.0
    for with_cache in (True, False) if cached else (False,):
        whole = runner.write(tokens, max_new_tokens, temperature=temperature, seed=seed, cached=with_cache)
        stretched = _is_stretched(runner, whole, tokens.shape[1])
        if not stretched if temperature > 0 else (short := _shortfall(runner, whole, tokens.shape[1])) <= 0:
            return Generated(whole, with_cache)
        if stretched:
            longest = stretched_beyond(modules_of(runner.model))
            raise ModelError(
                f"generation: this model stretches the positions of a whole text that is longer than {longest:.0f} tokens, so "
                "what it wrote up to there is not what it would write where it is measured; prompt and max_new_tokens together "
                "must not be longer"
            )
    by_length = "; or the index that chooses its keys chooses others in a longer text" if chooses_keys(runner.model) else ""
    raise ModelError(
        "generation: what this model writes at temperature=0 is not its own most probable text: where it is measured, the "
        f"logit of a token is {short:.3g} below the highest. Its generate, or an intervention, does something else while it "
        f"writes{by_length}"
    )


def _is_stretched(runner: Runner, rows: Tensor, prompt: int) -> bool:
    """Whether a row's positions are others in the whole row than behind its prompt."""
    modules = modules_of(runner.model)
    return not all(turned_alike(modules, prompt, prompt + len(runner.until_end(row[prompt:]))) for row in rows)


def _shortfall(runner: Runner, rows: Tensor, prompt: int) -> float:
    """By how much more than their rounding the logits of the tokens written stay below the highest; 0 or less for none."""
    worst = 0.0
    for row in rows[:, None]:  # one by one: a batch's logits over the whole vocabulary may be large
        new = runner.until_end(row[0, prompt:])
        logits = runner.logits(row, torch.ones_like(row))[0, prompt - 1 : prompt - 1 + len(new)]
        best = logits.amax(-1, keepdim=True)
        size = logits.masked_fill(logits < best - _MASKED, 0).abs().amax(-1)
        rounding = 8 * torch.finfo(logits.dtype).eps * size
        below = best[:, 0] - logits.gather(-1, new[:, None].to(logits.device))[:, 0]
        worst = max(worst, float((below - rounding).max())) if len(new) else worst
    return worst
