"""The command ``tl-entropy``: lens entropy from a shell, on the bundled model or on any other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tl_entropy.errors import InputError, TLEntropyError, check_choice

if TYPE_CHECKING:
    from tl_entropy.analyses.lens import Precision

# Typer brings its own copy of click in some versions and imports it in others; this is the base of its errors in both.
_CommandError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    help="Information measures on the insides of TransformerLens models.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="folder for the figures, the table and the result file")]
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
    model: Annotated[str, typer.Option(help="name on the Hugging Face hub, or a local folder with config, weights, tokenizer")],
    text: Annotated[list[str] | None, typer.Option(help="a text; may be given several times")] = None,
    file: Annotated[
        list[Path] | None, typer.Option(help="a text file, or a folder of them; may be given several times")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="name or folder of a Hugging Face data set")] = None,
    config: Annotated[str | None, typer.Option(help="configuration of the data set, where it has several")] = None,
    split: Annotated[str, typer.Option(help="split of the data set")] = "train",
    column: Annotated[str, typer.Option(help="column of the data set that holds the text")] = "text",
    limit: Annotated[int | None, typer.Option(min=1, help="texts of the data set to read at most")] = None,
    orders: Orders = "1",
    sites: Annotated[str, typer.Option(help="sites, separated by commas")] = "embed,resid_post",
    top_k: Annotated[int, typer.Option(min=0, help="most probable tokens to keep at every site")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=0, help="tokens to generate after each text")] = 0,
    summary: Annotated[bool, typer.Option("--summary", help="keep sums only, in constant memory, not every position")] = False,
    window: Annotated[int | None, typer.Option(min=2, help="tokens of a window; the model's context, if not given")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="new tokens from one window of a long text to the next")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="windows a batch; as many as fit, if not given")] = None,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, of the product with the unembedding")] = "float32",
    unit: Unit = "nats",
    kind: Kind = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU where there is one, if not given")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16, of the model")] = "float32",
    out: Out = Path("tl-entropy-lens"),
) -> None:
    """Lens entropy of every layer of a model on texts, files or a data set."""
    import torch

    import tl_entropy as tle

    for name, value, choices in (
        ("--unit", unit, ("nats", "bits")),
        ("--precision", precision, ("float32", "bfloat16")),
        ("--dtype", dtype, ("float32", "bfloat16", "float16")),
    ):
        check_choice(name, value, choices)
    numbers = _numbers(orders)
    inputs = _inputs(text or [], file or [], dataset, config, split, limit)
    loaded = tle.load_model(model, kind=_kind(kind), device=device, dtype=getattr(torch, dtype))
    result = tle.lens_entropy(
        loaded, inputs, orders=numbers, sites=[name.strip() for name in sites.split(",")], top_k=top_k,
        keep="summary" if summary else "positions", max_new_tokens=max_new_tokens, batch_size=batch_size,
        precision=cast("Precision", precision), window=window, stride=stride, text_column=column,
    )  # fmt: skip
    _report(result.to(unit), out)


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
    from tl_entropy import plots
    from tl_entropy.results import LensEntropy

    typer.echo(str(result))
    out.mkdir(parents=True, exist_ok=True)
    written = [result.save(out / "lens.safetensors"), out / "profile.csv"]
    result.mean_profile().to_csv(written[-1], index=False)
    written.append(_draw(plots.profile, out / "profile.png", result))
    if isinstance(result, LensEntropy):
        first = result.documents[0]
        wanted = {"document": first, "order": result.orders[0] if 1.0 not in result.orders else 1.0}
        written.append(_draw(plots.heatmap, out / "heatmap.png", result, top_tokens=result.top_tokens is not None, **wanted))
    typer.echo("wrote " + ", ".join(str(path) for path in written))


def _draw(plot: Callable[..., Any], path: Path, result: Any, **options: Any) -> Path:
    axes = plot(result, **options)
    axes.figure.savefig(path, dpi=150, bbox_inches="tight")
    return path
