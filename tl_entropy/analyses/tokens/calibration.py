"""Entropy calibration: whether a model's own text costs it what given text does, step by step of the generation.

Behind each prompt, the beginning of a document, the model writes text of its own, which is measured beside the document's own
continuation. With p the model, y what it wrote at step t and x what the document has there,

    own(t) - given(t) = E[-log p(y_t | y_<t)] - E[-log p(x_t | x_<t)]

is 0 for a model that is calibrated in entropy (S. Cao, G. Valiant and P. Liang, On the entropy calibration of language models,
arXiv 2511.11966; M. Braverman et al., Calibration, entropy rates, and memory in language models, 2020). The entropies along own
text have the same mean at temperature 1, with less spread.

A text that ends early (an end of text is written) stops counting there, and so does a document's own.

Deviation: their prompts and texts are of their own tasks; here a document is both.

Refused: documents of which none is longer than the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, Unpack

import torch
from torch import Tensor

from tl_entropy.analyses.sharing import sharing_here
from tl_entropy.analyses.tokens.surprisal import token_surprisal
from tl_entropy.capture.caches import split_cache
from tl_entropy.capture.corpus import Corpus, read_corpus
from tl_entropy.capture.generate import check_sampling
from tl_entropy.capture.given import adapter_of
from tl_entropy.capture.options import EditOptions, WindowOptions, check_options
from tl_entropy.errors import InputError, check_int, counted, warn
from tl_entropy.results.tokens.calibration import EntropyCalibration
from tl_entropy.results.tokens.surprisal import TokenSurprisal
from tl_entropy.torch_state import steady


@steady
def entropy_calibration(
    model: Any,
    inputs: Any,
    *,
    prompt_tokens: int = 32,
    steps: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
    **options: Unpack[EditOptions],
) -> EntropyCalibration:
    r"""What a model's own text costs it beside what given text does, at every step behind the same prompts.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files or data sets; see ``stream``. Documents that are no longer than the prompt are left out.
        prompt_tokens: how many tokens of each document are the prompt, a BOS not counted.
        steps: how many tokens to write, and to compare with.
        temperature: of the sampling; costs are always those at temperature 1.
        seed: of the sampling.
        batch_size: documents a batch; texts depend on it.
        progress: show a progress bar.
        options: those of ``tle.EditOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions. Of each document only the beginning is measured.

    Returns:
        ``EntropyCalibration``, in nats; its memory grows with the documents, by three numbers a step.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured, prompts without room for the
            steps, documents of which none is longer than the prompt, a cache.
        ModelError: the model's own logits can't be reproduced from its residual stream.
        NonFiniteError: a NaN or infinity inside the model. Whatever ends it has, as its ``partial``, the ``TokenSurprisal`` of
            what was measured then: of given text, or of own.

    >>> import tl_entropy as tle
    >>> result = tle.entropy_calibration(tle.demo_model(), tle.demo_texts(3), prompt_tokens=16, steps=8, progress=False)
    >>> result.means()["quantity"].tolist()
    ['own', 'entropy', 'given', 'calibration', 'calibration_by_entropy']
    """
    check_options(entropy_calibration, options, EditOptions)
    prompt_tokens = check_int("prompt_tokens", prompt_tokens, 1)
    steps = check_int("steps", steps, 1)
    if batch_size is not None:
        batch_size = check_int("batch_size", batch_size, 1)
    adapter = adapter_of(model)
    if split_cache(inputs)[0] is not None:
        raise InputError("inputs: a cache holds no text that the model goes on to write; pass the texts or tokens themselves")
    sampling = check_sampling(temperature, seed)
    reads: Any = {name: value for name, value in options.items() if name in WindowOptions.__annotations__}
    corpus = read_corpus(adapter, inputs, **reads)
    begun: dict[int, tuple[Tensor, int]] = {}
    short: set[int] = set()
    same: dict[str, Any] = {
        "top_k": 0, "batch_size": batch_size, "progress": progress,
        **{name: value for name, value in options.items() if name in ("interventions", "include_special", "special_ids")},
    }  # fmt: skip
    texts = _beginnings(corpus, prompt_tokens, steps, begun, short)
    first = next(texts, None)  # which raises what is wrong with the inputs by their own numbers
    if first is None:
        raise InputError(
            f"inputs hold no document of more than {counted(prompt_tokens, 'token')}, those of a prompt; give longer texts, or "
            "less prompt_tokens"
        )
    beginnings: Iterable[Tensor] = chain([first], texts)
    if sharing_here() is not None:  # which deals documents out by their number
        beginnings = list(beginnings)
    given = token_surprisal(adapter, beginnings, positions=slice(prompt_tokens, None), **same)
    if short:
        warn(f"{counted(len(short), 'document')} of up to {prompt_tokens} tokens left out")
    prompts = [tokens[: prompt_tokens + bos] for tokens, bos in begun.values()]
    own = token_surprisal(adapter, prompts, max_new_tokens=steps, temperature=sampling[0], seed=sampling[1], **same)

    def laid_out(found: TokenSurprisal, name: str) -> Tensor:
        values = torch.full((len(begun), steps), torch.nan, dtype=torch.float64)
        step = found.position - prompt_tokens
        shown = (step >= 0) & (step < steps)
        values[found.document[shown], step[shown]] = getattr(found, name)[shown]
        return values

    told = corpus.report.skipped.told()
    provenance = replace(
        own.provenance,
        corpus={**own.provenance.corpus, **({"skipped": told} if told else {})},
        interrupted=given.provenance.interrupted or own.provenance.interrupted,
    )
    return EntropyCalibration(
        own=laid_out(own, "surprisal"), entropy=laid_out(own, "entropy"), given=laid_out(given, "surprisal"),
        document=torch.tensor(list(begun)), prompt_tokens=prompt_tokens, provenance=provenance,
    )  # fmt: skip


def _beginnings(
    corpus: Corpus, prompt_tokens: int, steps: int, begun: dict[int, tuple[Tensor, int]], short: set[int]
) -> Iterator[Tensor]:
    """The beginning of each document that is longer than the prompt, kept in ``begun`` with how many BOS it has, too."""
    for window in corpus:
        if len(window.body) <= prompt_tokens:
            short.add(window.document)
        elif window.document not in begun:
            bos = window.tokens[: int(window.position[0] < 0)]
            begun[window.document] = (torch.cat([bos, window.body[: prompt_tokens + steps]]), len(bos))
            yield begun[window.document][0]
