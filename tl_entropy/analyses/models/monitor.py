r"""Entropy in the course of training: the lens entropy of every site and the loss on held-out texts, every few steps.

An ``EntropyMonitor`` is called in the training loop with the number of the step, measures at every so many of them in one pass
over its texts, and keeps the history. What it gives is what ``lens_entropy`` gives for the same weights and texts: means over
tokens with standard errors over documents; its loss is the mean surprisal of the documents' next tokens under the last site.

Each measurement looks at the model anew, since its weights have changed: the readout is read and proved again. The model is
left as it was found, training mode, gradients and hooks included, and no random number is drawn, so that a training runs the
same with and without a monitor.

Refused: texts that can be read only once, or of which there is more or less at a later step; a cache of activations; steps
that do not rise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Unpack, cast

import torch

from tl_entropy.analyses.lens.entropy import LensAccumulator
from tl_entropy.analyses.lens.reading import Over, Precision
from tl_entropy.analyses.measuring import measure_all
from tl_entropy.analyses.sharing import alone
from tl_entropy.analyses.tokens.surprisal import SurprisalAccumulator
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.caches import split_cache
from tl_entropy.capture.corpus import read_corpus
from tl_entropy.capture.given import adapter_of
from tl_entropy.capture.inputs import repeatable
from tl_entropy.capture.options import CorpusOptions, WindowOptions, check_options
from tl_entropy.errors import InputError, check_int, keeping
from tl_entropy.results.models.monitor import EntropyHistory
from tl_entropy.sites import Layers, Site
from tl_entropy.torch_state import Steady


class EntropyMonitor(Steady):
    r"""Measures, while a model is trained, how uncertain every site is and how well the model predicts.

    In a loop of one's own::

        monitor = EntropyMonitor(model, held_out_texts, every=100)
        for step, batch in enumerate(batches):
            monitor(step)
            ...                            # forward, backward, optimizer.step()
        monitor.history                    # an EntropyHistory: prints, saves, goes into plots.monitor

    A training without a loop of one's own, as ``transformer_lens.train``, takes it as a hook on the steps of all optimizers,
    ``register_optimizer_step_post_hook(lambda *_: monitor(next(counter)))`` of ``torch.optim.optimizer``; remove its handle
    afterwards.

    Args:
        model: a HookedTransformer, TransformerBridge or ``Adapter``, the one that is trained.
        texts: texts or tokens to measure on, as for ``stream``, read anew at every measurement: no generator. Give texts that
            are not trained on.
        sites: as for ``lens_entropy``. The last resid_post is always measured as well: it gives the model's own output.
        layers: blocks to measure: numbers, from 0 or negative from the last, or a slice; None is all.
        every: measure at steps that are multiples of this.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        precision: of the product with the unembedding, as for ``lens_entropy``.
        vocabulary: what distributions are over, "model" or "tokenizer", as for ``lens_entropy``; of the losses, too.
        options: those of ``tle.WindowOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents.

    Raises:
        InputError: an argument out of range, a site without a lens, a cache, or texts that can be read only once.
        InputTypeError: no TransformerLens model, or an option that is not known.
        ModelError: a model whose logits can't be reproduced from its residual stream.

    >>> import tl_entropy as tle
    >>> monitor = EntropyMonitor(tle.demo_model(), ["import os\n", "def f(x):\n    return x\n"], every=10)
    >>> for step in range(15):
    ...     found = monitor(step)
    >>> monitor.history.steps.tolist(), str(monitor.history.sites[-1]), found
    ([0, 10], 'resid_post.5', None)
    """

    def __init__(
        self,
        model: Any,
        texts: Any,
        *,
        sites: str | Sequence[str | Site] = ("embed", "resid_post"),
        layers: Layers | None = None,
        every: int = 1,
        batch_size: int | None = None,
        precision: Precision = "float32",
        vocabulary: Over = "model",
        **options: Unpack[WindowOptions],
    ) -> None:
        check_options(EntropyMonitor, options, WindowOptions)
        self.every = check_int("every", every, 1)
        if batch_size is not None:
            batch_size = check_int("batch_size", batch_size, 1)
        if split_cache(texts)[0] is not None:
            raise InputError("texts: a cache holds the activations of old weights; pass the texts or tokens themselves")
        if not repeatable(texts):
            raise InputError(
                "texts must be readable again at every measurement; a generator can be read once: pass a list of its texts"
            )
        adapter = adapter_of(model)
        last = adapter.last_site
        self.model, self.texts, self._adapter = adapter.given, texts, adapter.fresh()
        self.sites = adapter.sites((*adapter.sites(sites, layers), last))
        self._batch_size, self._options = batch_size, cast("CorpusOptions", options)
        self._reading: dict[str, Any] = {"precision": precision, "vocabulary": vocabulary}
        self._entropies(adapter)  # refuses now what could not be measured later, as does the next line
        read_corpus(adapter, texts, **options)
        self._parts: list[EntropyHistory] = []
        self._step = -1

    def __call__(self, step: int) -> EntropyHistory | None:
        """Measure, if ``step`` is a multiple of ``every``.

        Args:
            step: number of the step, from 0, higher than at the call before.

        Returns:
            What was found, a history of this step alone; None where nothing was measured.

        Raises:
            InputError: a step that does not rise, more or less text than at the step before, or nothing in it to measure.
            ModelError: the model's own logits can't be reproduced from its residual stream.
            NonFiniteError: a NaN or infinity inside the model; ``history`` holds what came before.
            KeyboardInterrupt: Ctrl-C; the step is not in the history.

            Whatever ends it has the history of the steps before as its ``partial``.
        """
        step = check_int("step", step, 0)
        if step <= self._step:
            raise InputError(f"step must be higher than {self._step}, that of the last call; got {step}")
        found = None
        if step % self.every == 0:
            found = self._measure(step)
            EntropyHistory.joined([*self._parts[-1:], found])  # raises where the texts have changed
            self._parts.append(found)
        self._step = step
        return found

    @property
    def history(self) -> EntropyHistory:
        """All that was measured so far.

        Raises:
            InputError: nothing was.
        """
        if not self._parts:
            raise InputError("nothing was measured yet; call the monitor with the number of a step")
        return EntropyHistory.joined(self._parts)

    def _entropies(self, adapter: Adapter) -> LensAccumulator:
        return LensAccumulator(adapter, sites=self.sites, keep="summary", **self._reading)

    def _measure(self, step: int) -> EntropyHistory:
        adapter = self._adapter.fresh()
        losses = SurprisalAccumulator(adapter, keep="summary", **self._reading)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "interrupted after", UserWarning)  # nothing of this pass is kept
            # A training may have its first process measure alone, which the others do not wait for.
            with alone(), keeping(lambda _: self.history if self._parts else None):
                summary, costs = measure_all(
                    [self._entropies(adapter), losses], self.texts, positions=None, max_new_tokens=0,
                    batch_size=self._batch_size, progress=False, options=self._options,
                )  # fmt: skip
                if summary.provenance.interrupted:
                    raise KeyboardInterrupt  # which is to end the training, not just this pass
        profile = summary.mean_profile()
        # Documents of single tokens, without a BOS, have no loss.
        none = {"value": math.nan, "se": math.nan, "tokens": 0}
        loss = costs.rates(memory_bits=0).iloc[0] if costs.sums.any() else none
        return EntropyHistory(
            steps=torch.tensor([step]),
            entropy=torch.tensor(profile["mean"].to_numpy())[None],
            entropy_se=torch.tensor(profile["se"].to_numpy())[None],
            loss=torch.tensor([loss["value"]], dtype=torch.float64),
            loss_se=torch.tensor([loss["se"]], dtype=torch.float64),
            sites=summary.sites,
            tokens=summary.tokens,
            loss_tokens=int(loss["tokens"]),
            documents=summary.documents,
            provenance=summary.provenance,
        )
