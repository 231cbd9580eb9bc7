"""The command ``tl-entropy``: measurements from a shell, on the bundled model or on any other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tl_entropy.errors import InputError, TLEntropyError, check_choice

if TYPE_CHECKING:
    from tl_entropy.analyses.lens import Precision
    from tl_entropy.results import SoftInformation

# Typer brings its own copy of click in some versions and imports it in others; this is the base of its errors in both.
_CommandError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    help="Information measures on the insides of TransformerLens models.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="folder for the figures, the table and the result file")]
Model = Annotated[str, typer.Option(help="name on the Hugging Face hub, or a local folder with config, weights, tokenizer")]
Text = Annotated[list[str] | None, typer.Option(help="a text; may be given several times")]
File = Annotated[list[Path] | None, typer.Option(help="a text file, or a folder of them; may be given several times")]
DataSet = Annotated[str | None, typer.Option(help="name or folder of a Hugging Face data set")]
Config = Annotated[str | None, typer.Option(help="configuration of the data set, where it has several")]
Split = Annotated[str, typer.Option(help="split of the data set")]
Column = Annotated[str, typer.Option(help="column of the data set that holds the text")]
Limit = Annotated[int | None, typer.Option(min=1, help="texts of the data set to read at most")]
Sites = Annotated[str, typer.Option(help="sites, separated by commas")]
Window = Annotated[int | None, typer.Option(min=2, help="tokens of a window; the model's context, if not given")]
Stride = Annotated[int | None, typer.Option(min=1, help="new tokens from one window of a long text to the next")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="windows a batch; as many as fit, if not given")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU where there is one, if not given")]
DType = Annotated[str, typer.Option(help="float32, bfloat16 or float16, of the model")]
Kind = Annotated[str | None, typer.Option(help="bridge or hooked; what is installed, if not given")]
Unit = Annotated[str, typer.Option(help="nats or bits")]
Orders = Annotated[str, typer.Option(help="Rényi orders, separated by commas; 1 is Shannon, inf is allowed")]


@app.callback()
def _root() -> None:
    """Information measures on the insides of TransformerLens models."""


@app.command()
def demo(
    out: Out = Path("tl-entropy-demo"),
    documents: Annotated[int, typer.Option(min=1, max=30, help="how many of the thirty held-out texts to read")] = 10,
    orders: Orders = "0.5,1,2",
    unit: Unit = "nats",
    kind: Kind = None,
) -> None:
    """Lens entropy of every layer of the bundled model on texts that it has never seen."""
    import tl_entropy as tle

    check_choice("--unit", unit, ("nats", "bits"))
    texts = tle.demo_texts(documents)
    result = tle.lens_entropy(tle.demo_model(kind=_kind(kind)), texts, orders=_numbers(orders), surprisal=True, top_k=1).to(
        unit
    )
    _report(result, out)


@app.command()
def lens(
    model: Model,
    text: Text = None,
    file: File = None,
    dataset: DataSet = None,
    config: Config = None,
    split: Split = "train",
    column: Column = "text",
    limit: Limit = None,
    orders: Orders = "1",
    sites: Sites = "embed,resid_post",
    top_k: Annotated[int, typer.Option(min=0, help="most probable tokens to keep at every site")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=0, help="tokens to generate after each text")] = 0,
    summary: Annotated[bool, typer.Option("--summary", help="keep sums only, in constant memory, not every position")] = False,
    window: Window = None,
    stride: Stride = None,
    batch_size: BatchSize = None,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, of the product with the unembedding")] = "float32",
    unit: Unit = "nats",
    kind: Kind = None,
    device: Device = None,
    dtype: DType = "float32",
    out: Out = Path("tl-entropy-lens"),
) -> None:
    """Lens entropy of every layer of a model on texts, files or a data set."""
    import tl_entropy as tle

    check_choice("--unit", unit, ("nats", "bits"))
    check_choice("--precision", precision, ("float32", "bfloat16"))
    numbers = _numbers(orders)
    inputs = _inputs(text or [], file or [], dataset, config, split, limit)
    result = tle.lens_entropy(
        _load(model, kind, device, dtype), inputs, orders=numbers, sites=_names(sites), top_k=top_k,
        keep="summary" if summary else "positions", max_new_tokens=max_new_tokens, batch_size=batch_size,
        precision=cast("Precision", precision), window=window, stride=stride, text_column=column,
    )  # fmt: skip
    _report(result.to(unit), out)


@app.command()
def information(
    model: Model,
    text: Text = None,
    file: File = None,
    dataset: DataSet = None,
    config: Config = None,
    split: Split = "train",
    column: Column = "text",
    limit: Limit = None,
    labels: Annotated[
        str,
        typer.Option(help="label sets, separated by commas: token, bigram, trigram, 4-gram, ..., next_token, ..., position"),
    ] = "token,next_token",
    sites: Sites = "embed,resid_post",
    heads: Annotated[bool, typer.Option("--heads", help="measure every attention head (z), too")] = False,
    n_bins: Annotated[str, typer.Option(help="numbers of anchors, separated by commas")] = "100",
    seed: Annotated[str, typer.Option(help="seeds of the anchors, separated by commas")] = "0",
    center: Annotated[bool, typer.Option("--center", help="subtract the mean state of each site; takes a second pass")] = False,
    folds: Annotated[
        int, typer.Option(min=1, help="groups of documents left out in turn for standard errors; 1 for none")
    ] = 20,
    window: Window = None,
    stride: Stride = None,
    batch_size: BatchSize = None,
    unit: Unit = "nats",
    kind: Kind = None,
    device: Device = None,
    dtype: DType = "float32",
    out: Out = Path("tl-entropy-information"),
) -> None:
    """Soft entropy of every layer, and its mutual information with tokens before and after each position."""
    import tl_entropy as tle

    check_choice("--unit", unit, ("nats", "bits"))
    bins, seeds = _whole_numbers("--n-bins", n_bins), _whole_numbers("--seed", seed)
    inputs = _inputs(text or [], file or [], dataset, config, split, limit)
    result = tle.soft_information(
        _load(model, kind, device, dtype), inputs, labels=_labels(labels), sites=_names(sites), heads="z" if heads else False,
        n_bins=bins, seed=seeds, center=center, folds=folds, batch_size=batch_size, window=window, stride=stride,
        text_column=column,
    )  # fmt: skip
    _report(result.to(cast("Any", unit)), out)


def main() -> None:
    """Run the command; what goes wrong is told in one line, with exit status 2."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        status = app(standalone_mode=False)
    except typer.Abort:
        sys.exit("tl-entropy: interrupted")
    except _CommandError as error:
        _fail(error.format_message(), 2)  # type: ignore[attr-defined]
    except (TLEntropyError, OSError) as error:
        _fail(str(error), 2)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> None:
    typer.echo("tl-entropy: " + " ".join(message.split()), err=True)
    sys.exit(status)


def _kind(kind: str | None) -> Any:
    from tl_entropy.capture.loading import available_kinds

    if kind is not None:
        check_choice("--kind", kind, available_kinds())
    return kind


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--orders must be numbers separated by commas, such as 0.5,1,2; got {text!r}") from error


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} must be whole numbers separated by commas, such as 0,1,2; got {text!r}") from error


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _labels(text: str) -> list[Any]:
    """Names of label sets; 4-gram, next_5-gram and so on are n-grams of any length."""
    from tl_entropy.labels import ngram

    found: list[Any] = []
    for name in _names(text):
        side, number = ("output", name.removeprefix("next_")) if name.startswith("next_") else ("input", name)
        n = number.removesuffix("-gram")
        found.append(ngram(int(n), cast("Any", side)) if number.endswith("-gram") and n.isdecimal() else name)
    return found


def _load(name: str, kind: str | None, device: str | None, dtype: str) -> Any:
    import torch

    import tl_entropy as tle

    check_choice("--dtype", dtype, ("float32", "bfloat16", "float16"))
    return tle.load_model(name, kind=_kind(kind), device=device, dtype=getattr(torch, dtype))


def _inputs(
    texts: list[str], files: list[Path], dataset: str | None, config: str | None, split: str, limit: int | None
) -> Iterable[Any]:
    given = [name for name, value in (("--text", texts), ("--file", files), ("--dataset", dataset)) if value]
    if len(given) != 1:
        raise InputError(f"give exactly one of --text, --file and --dataset; got {' and '.join(given) or 'none'}")
    if texts:
        return texts
    if files:
        return files
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InputError("--dataset needs the package datasets: pip install datasets") from error
    try:
        rows = load_dataset(dataset, config, split=split, streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--dataset {dataset} cannot be opened: {error}") from error
    chosen: Iterable[Any] = rows if limit is None else rows.take(limit)
    return chosen


def _report(result: Any, out: Path) -> None:
    """Print the table; write result, table and figures into ``out``."""
    import matplotlib

    matplotlib.use("Agg")
    from tl_entropy.results import SoftInformation

    typer.echo(str(result))
    out.mkdir(parents=True, exist_ok=True)
    files = _information_files if isinstance(result, SoftInformation) else _lens_files
    written = files(result, out)
    typer.echo("wrote " + ", ".join(str(path) for path in written))


def _lens_files(result: Any, out: Path) -> list[Path]:
    from tl_entropy import plots
    from tl_entropy.results import LensEntropy

    written = [result.save(out / "lens.safetensors"), out / "profile.csv"]
    result.mean_profile().to_csv(written[-1], index=False)
    written.append(_draw(plots.profile, out / "profile.png", result))
    if isinstance(result, LensEntropy):
        first = result.documents[0]
        wanted = {"document": first, "order": result.orders[0] if 1.0 not in result.orders else 1.0}
        written.append(_draw(plots.heatmap, out / "heatmap.png", result, top_tokens=result.top_tokens is not None, **wanted))
    return written


def _information_files(result: SoftInformation, out: Path) -> list[Path]:
    from tl_entropy import plots

    written = [result.save(out / "information.safetensors"), out / "information.csv"]
    result.to_pandas().to_csv(written[-1], index=False)
    figures: list[tuple[Callable[..., Any], str, dict[str, Any]]] = [
        (plots.information, "information", {}),
        (plots.information, "entropy", {"of": "entropy"}),
    ]
    if all(result.sides.count(side) == 1 for side in ("input", "output")):
        figures.append((plots.information_plane, "information_plane", {}))
    for site in sorted({s.name for s, head in zip(result.sites, result.heads, strict=True) if head >= 0}):
        figures += [(plots.heads, f"heads_{site}_{label}", {"label": label, "site": site}) for label in result.labels]
    for plot, name, options in figures:
        try:
            written.append(_draw(plot, out / f"{name}.png", result, **options))
        except InputError as error:  # such as labels too rare for any value
            typer.echo(f"tl-entropy: no {name}.png: {error}", err=True)
    return written


def _draw(plot: Callable[..., Any], path: Path, result: Any, **options: Any) -> Path:
    import matplotlib.pyplot as plt

    figure = plot(result, **options).figure
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
    return path
