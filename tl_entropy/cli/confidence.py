"""``tl-entropy confidence``, ``unigram`` and ``calibration``: how sure predictions are, and whether rightly so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.checks import layers_in, sites_in
from tl_entropy.cli.edits import Changes, TunedLens, lens_of
from tl_entropy.cli.options import (
    OVER,
    PRECISIONS,
    Layers,
    Precision,
    Sites,
    SitesOrLens,
    Source,
    Summary,
    Vocabulary,
    generation,
    reads,
)
from tl_entropy.cli.report import report
from tl_entropy.errors import check_choice
from tl_entropy.results.files import write_table
from tl_entropy.sites import INNER_SITES


@app.command(
    epilog=examples(
        "tl-entropy confidence --text 'for i in range(10):'",
        "tl-entropy confidence --model gpt2 --file notes.txt --sites embed,resid_post --top-k 10",
    )
)
@reads("tl-entropy-confidence", generation, Changes.of, bundled=True)
def confidence(
    source: Source,
    generated: dict[str, Any],
    changes: Changes,
    sites: Sites = "resid_post",
    layers: Layers = None,
    top_k: Annotated[
        int | None, typer.Option(min=2, help="most probable tokens that two of the measures look at; 20, if not given")
    ] = None,
    summary: Summary = False,
    precision: Precision = "float32",
    vocabulary: Vocabulary = "model",
    tuned_lens: TunedLens = None,
) -> None:
    """Self-certainty, margin, mass and confidence of the top tokens, and z of every token, at every layer."""
    import tl_entropy as tle

    _measure(tle.confidence, source, generated, changes, sites, layers, summary, precision, vocabulary, tuned_lens, top_k=top_k)


@app.command(
    epilog=examples("tl-entropy unigram --file notes.txt", "tl-entropy unigram --model gpt2 --file notes.txt --summary")
)
@reads("tl-entropy-unigram", generation, Changes.of, bundled=True)
def unigram(
    source: Source,
    generated: dict[str, Any],
    changes: Changes,
    sites: SitesOrLens = None,
    layers: Layers = None,
    smoothing: Annotated[float, typer.Option(min=0.0, help="what is added to the count of every token")] = 0.5,
    summary: Summary = False,
    precision: Precision = "float32",
    vocabulary: Vocabulary = "model",
    tuned_lens: TunedLens = None,
) -> None:
    """Divergence of every layer's prediction from the texts' own token frequencies, and how frequent its top token is."""
    import tl_entropy as tle

    _measure(
        tle.unigram_distance, source, generated, changes, sites, layers, summary, precision, vocabulary, tuned_lens,
        smoothing=smoothing,
    )  # fmt: skip


@app.command(
    epilog=examples(
        "tl-entropy calibration --file notes.txt --prompt-tokens 32 --steps 64",
        "tl-entropy calibration --model gpt2 --file notes/ --temperature 0.8",
    )
)
@reads("tl-entropy-calibration", Changes.of, bundled=True)
def calibration(
    source: Source,
    changes: Changes,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="tokens of each document that are its prompt")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="tokens to write behind each prompt")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="of the generation; 0 is greedy")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="of the generation")] = 0,
) -> None:
    """What a model's own text costs it beside the documents' own continuations, step by step behind the same prompts."""
    import tl_entropy as tle

    result = tle.entropy_calibration(
        source.model, source.inputs, prompt_tokens=prompt_tokens, steps=steps, temperature=temperature, seed=seed,
        interventions=changes.interventions(source), **source.windows,
    )  # fmt: skip
    report(result.to(source.unit), source)
    typer.echo(f"wrote {write_table(source.out / 'means.csv', result.to(source.unit).means())}")


def _measure(
    function: Callable[..., Any], source: Source, generated: dict[str, Any], changes: Changes, sites: str | None, layers: Any,
    summary: bool, precision: str, vocabulary: str, tuned_lens: Any, **options: Any,
) -> None:  # fmt: skip
    check_choice("--precision", precision, PRECISIONS)
    check_choice("--vocabulary", vocabulary, OVER)
    result = function(
        source.model, source.inputs, sites=sites_in(sites, refused=INNER_SITES), layers=layers_in(layers),
        lens=lens_of(tuned_lens), keep="summary" if summary else "positions", precision=precision, vocabulary=vocabulary,
        interventions=changes.interventions(source), **options, **generated, **source.windows,
    )  # fmt: skip
    report(result.to(source.unit), source)
