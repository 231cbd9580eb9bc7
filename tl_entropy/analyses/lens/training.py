"""A tuned lens from texts (``lenses/training.py``), trained once where several processes work together.

Steps follow each other, each on all that the one before has changed, so there is nothing to deal out: the first process trains,
and the others get its lens.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Unpack

from tl_entropy.analyses.sharing import once
from tl_entropy.capture.given import adapter_of
from tl_entropy.capture.options import WindowOptions, check_options
from tl_entropy.lenses.training import trained_lens
from tl_entropy.lenses.tuned import TunedLens
from tl_entropy.torch_state import steady


@steady
def train_tuned_lens(
    model: Any,
    inputs: Any,
    *,
    steps: int = 250,
    tokens_per_step: int = 2**12,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.0,
    seed: int = 0,
    validation: Any = None,
    batch_size: int | None = None,
    progress: bool = True,
    **options: Unpack[WindowOptions],
) -> TunedLens:
    r"""Train a tuned lens: for each layer the affine translation after which the model's readout comes nearest its own output.

    Minimises the mean over tokens of KL(p ‖ q), with p the model's output and q what is read from x + A x + b, separately for
    the residual stream at every layer boundary. Ctrl-C ends the training and gives what was trained until then, marked as
    interrupted.

    Args:
        model: a HookedTransformer or TransformerBridge; it is not changed.
        inputs: texts or tokens to train on, as for ``stream``; they are read from the beginning, and no further than
            ``steps`` times ``tokens_per_step`` positions, which are kept (as tokens) and used in random order, several times
            over where they are too few. Give texts that nothing will be measured on.
        steps: number of steps.
        tokens_per_step: positions that a step takes the mean over, at least: a step has whole windows.
        learning_rate: Adam's highest rate; A has no unit, and b counts in root mean squares of the residual stream.
        weight_decay: what each step takes off A and b, as a multiple of the rate (decoupled): shrinks them to the identity.
        seed: of the order of windows. The same seed gives the same lens on the same machine.
        validation: texts or tokens, as ``inputs``, on which the KL of the logit lens and of the trained lens is measured.
        batch_size: windows in a forward pass; None takes as many as fit in 4096 tokens. It doesn't change the lens.
        progress: show a progress bar with the step's mean KL over layers.
        options: those of ``tle.WindowOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents.

    Returns:
        ``TunedLens``, whose ``losses`` are the KL in nats on ``validation``, and whose provenance has the recipe and the mean
        KL of each layer over the last tenth of the steps (``settings["training_losses"]``).

    Raises:
        InputError, InputTypeError: an argument out of range, or inputs that hold nothing to train on.
        ModelError: a model whose output can't be reproduced from its residual stream.
        NonFiniteError: a NaN or an infinity in the model, or a training that diverged. What else ends the training has the lens
            as it was by then as its ``partial``; while texts are still being read, those read by then, as a list of tokens.

    Source: N. Belrose et al., Eliciting latent predictions from transformers with the tuned lens, 2023.

    >>> import tl_entropy as tle
    >>> text = tle.demo_texts(1)[0][:500]
    >>> lens = train_tuned_lens(tle.demo_model(), text, steps=2, tokens_per_step=100, validation=text, progress=False)
    >>> bool((lens.losses[1] < lens.losses[0]).all())
    True
    """
    check_options(train_tuned_lens, options, WindowOptions)
    adapter = adapter_of(model)

    def made() -> dict[str, Any]:
        lens = trained_lens(
            adapter, inputs, steps=steps, tokens_per_step=tokens_per_step, learning_rate=learning_rate,
            weight_decay=weight_decay, seed=seed, validation=validation, batch_size=batch_size, progress=progress,
            options=options,
        )  # fmt: skip
        return {field.name: getattr(lens, field.name) for field in fields(lens)}

    return TunedLens(**once("tuned lens", made))
