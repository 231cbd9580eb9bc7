"""``tl-entropy features``: entropies of modules at spans of a table, and whether they tell its labels apart."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, cast

import pandas as pd
import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.cli.checks import choices_in, layers_in, sites_in
from tl_entropy.cli.edits import TunedLens, lens_of
from tl_entropy.cli.options import OVER, PRECISIONS, Layers, Precision, Sites, Source, Vocabulary, reads
from tl_entropy.cli.report import report
from tl_entropy.errors import FileError, InputError, check_choice
from tl_entropy.results.files import write_table
from tl_entropy.sites import INNER_SITES

HOW = ("mean", "max", "min", "first", "last")
TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@app.command(
    epilog=examples(
        "tl-entropy features --file answers.csv --label wrong --out answers",
        "tl-entropy features --model gpt2 --file answers.csv --column answer --prompt question --label grade --true wrong",
        "tl-entropy features --file spans.csv --sites resid_post --layers ::2 --how mean,max --folds 10",
    )
)
@reads(
    "tl-entropy-features", bundled=True,
    without=("text", "lines", "dataset", "config", "split", "column", "limit", "documents", "on_error"),
)  # fmt: skip
def features(
    source: Source,
    column: Annotated[
        str, typer.Option(help="column of the texts; they are the spans where no start and end are given")
    ] = "text",
    prompt: Annotated[
        str | None, typer.Option(help="column of what stands before a text, and is read only; prompt, if the file has it")
    ] = None,
    between: Annotated[str, typer.Option(help="what stands between a prompt and its text")] = " ",
    start: Annotated[
        str | None, typer.Option(help="column of a span's first character in its text, from 0; start, if the file has it")
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="column of one behind a span's last character; end, if the file has it")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="column of what is to be told apart; label, if the file has it; features alone without")
    ] = None,
    true: Annotated[
        str | None,
        typer.Option(help="value of the label that counts as True, all others as False; true, yes or 1, if not given"),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="column of what is held out together, such as questions; group, if the file has it, else prompts, else texts"
        ),
    ] = None,
    sites: Sites = "attn_out,mlp_out,resid_post",
    layers: Layers = None,
    how: Annotated[
        str, typer.Option(help="how values of a span's tokens become one: mean, max, min, first, last; commas between")
    ] = "mean",
    predicting: Annotated[
        bool, typer.Option("--predicting", help="take the positions before a span's tokens, which predicted them")
    ] = False,
    tuned_lens: TunedLens = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="fit a linear classifier of all features, too, by scikit-learn")
    ] = True,
    folds: Annotated[int, typer.Option(min=2, help="of groups, each of which is held out once")] = 5,
    shuffles: Annotated[int, typer.Option(min=1, help="of the labels, for the null")] = 1000,
    refits: Annotated[int, typer.Option(min=0, help="of the probe with shuffled labels")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="of shuffles and folds")] = 0,
    precision: Precision = "float32",
    vocabulary: Vocabulary = "model",
) -> None:
    """Do entropies of modules tell right answers from wrong ones? A CSV with text, spans and labels: AUROC, risk, a null."""
    import tl_entropy as tle

    ways = choices_in("--how", how, HOW)
    check_choice("--precision", precision, PRECISIONS)
    check_choice("--vocabulary", vocabulary, OVER)
    places, wanted = sites_in(sites, refused=INNER_SITES), layers_in(layers)
    [file, *others] = source.inputs
    if others or not isinstance(file, Path) or file.suffix.lower() not in (".csv", ".tsv"):
        raise InputError("--file must be one table, .csv or .tsv, with a row for each span")
    spans = _Spans.read(
        file, {"text": column, "prompt": prompt, "start": start, "end": end, "label": label, "group": group}, between, true
    )
    if spans.labels is not None and probe and find_spec("sklearn") is None:
        raise InputError("a probe needs scikit-learn: pip install 'tl-entropy[clusters]', or use --no-probe")
    model = tle.Adapter(source.model)
    result = tle.lens_entropy(
        model, list(spans.texts), sites=places, layers=wanted, lens=lens_of(tuned_lens), precision=cast("Any", precision),
        vocabulary=cast("Any", vocabulary), **source.windows,
    )  # fmt: skip
    positions = spans.positions(model, result)
    found = tle.span_features(result, positions, how=cast("Any", ways), predicting=predicting).to(source.unit)
    found, rows = spans.beside(found)
    if spans.labels is None:
        typer.echo("no --label: features alone", err=True)
        report(found, source, rows=rows)
        return
    written = [found.save(source.out / "features.safetensors"), write_table(source.out / "features.csv", rows)]
    tested = tle.discriminate(
        found, spans.labels, groups=spans.groups, probe=probe, folds=folds, shuffles=shuffles, refits=refits, seed=seed
    )
    report(tested, source, beside=written, more=[(partial(tle.plots.features, found, spans.labels), "features")])


@dataclass(frozen=True)
class _Spans:
    """A table with one span a row: texts that differ, and of each row its text's number, its characters, label and group."""

    table: pd.DataFrame
    texts: tuple[str, ...]
    document: list[int]
    characters: list[tuple[int, int]]
    labels: list[bool] | None
    groups: list[str] | None

    @classmethod
    def read(cls, path: Path, asked: dict[str, str | None], between: str, true: str | None) -> _Spans:
        """The spans of a file; ``asked`` are columns by what they mean, None for those that need not be there."""
        separator = "," if path.suffix.lower() == ".csv" else "\t"
        try:
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (UnicodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise FileError(f"--file: {path} cannot be read as a table in UTF-8: {error}") from error
        columns = {of: name if name is not None else of if of in table else None for of, name in asked.items()}
        missing = [name for name in columns.values() if name is not None and name not in table]
        if missing:
            raise InputError(f"--file: {path} has no column {', '.join(missing)}; it has {', '.join(table.columns)}")
        if not len(table):
            raise InputError(f"--file: {path} holds no span")
        if (columns["start"] is None) != (columns["end"] is None):
            raise InputError(f"--file: {path} needs both ends of a span, --start and --end, or neither")
        if true is not None and columns["label"] is None:
            raise InputError("--true means nothing without --label; give that, too, or leave it out")
        several = {name: list(table[column]) for name, column in columns.items() if column is not None}
        read, characters = [], []
        for i, text in enumerate(several["text"]):
            front = several["prompt"][i] + between if several.get("prompt", [""] * len(table))[i] else ""
            ends = (several["start"][i], several["end"][i]) if "start" in several else (0, len(text))
            characters.append(_ends(f"row {i + 2}", text, ends, len(front)))
            read.append(front + text)
        numbers = {text: number for number, text in enumerate(dict.fromkeys(read))}
        groups = several.get("group", several.get("prompt"))
        labels = None
        if (column := columns["label"]) is not None:
            labels = _truths(column, several["label"], true)
            _check_classes(column, labels, groups or read)
        return cls(table, tuple(numbers), [numbers[text] for text in read], characters, labels, groups)

    def positions(self, model: Any, result: Any) -> list[list[tuple[int, int]]]:
        """Spans of tokens of each text, in the order of the rows."""
        from tl_entropy.analyses.placing import placed, token_positions
        from tl_entropy.results.positions import by_document

        lengths = {document: int(result.position[rows][-1]) + 1 for document, rows in by_document(result.document).items()}
        places = {document: placed(model, self.texts[document], length) for document, length in lengths.items()}
        found: list[list[tuple[int, int]]] = [[] for _ in self.texts]
        for i, (document, ends) in enumerate(zip(self.document, self.characters, strict=True)):
            here = places.get(document)
            if here is None:
                raise InputError(f"row {i + 2}: it is not known which tokens are which characters of its text")
            tokens = token_positions(here, self.texts[document], *ends)
            if tokens is None:
                raise InputError(f"row {i + 2}: its span has no token")
            found[document].append(tokens)
        return found

    def beside(self, found: Any) -> tuple[Any, pd.DataFrame]:
        """Features in the order of the rows, and the rows with them."""
        import torch

        order = sorted(range(len(self.document)), key=self.document.__getitem__)  # as span_features has them
        place = torch.tensor(order).argsort()
        parts = {name: getattr(found, name)[place] for name in ("values", "document", "start", "end", "tokens")}
        found = dataclasses.replace(found, **parts)
        values = found.to_pandas()[["tokens", *found.features]]
        return found, self.table.join(values[[name for name in values if name not in self.table]])


def _ends(where: str, text: str, ends: tuple[Any, Any], front: int) -> tuple[int, int]:
    """A span of a text that stands behind ``front`` characters."""
    try:
        start, end = (int(end) for end in ends)
    except ValueError as error:
        raise InputError(
            f"{where}: start and end must be characters of its text, from 0; got {ends[0]!r}, {ends[1]!r}"
        ) from error
    if not 0 <= start < end <= len(text) or not text[start:end].strip():
        raise InputError(
            f"{where}: a span must have 0 <= start < end <= {len(text)}, characters of its text, and hold more than white "
            f"space; got {start}, {end}"
        )
    return front + start, front + end


def _truths(column: str, given: list[str], true: str | None) -> list[bool]:
    """What labels say, by the value that counts as True, or by what truth values are called."""
    if true is not None:
        if true not in given:
            shown = ", ".join(map(repr, list(dict.fromkeys(given))[:5]))
            raise InputError(f"--true: the column {column!r} has no {true!r}; it has {shown}")
        return [value == true for value in given]
    for i, value in enumerate(given):
        if value.strip().lower() not in TRUTHS:
            raise InputError(
                f"row {i + 2}: the column {column!r} must be one of {', '.join(TRUTHS)}; got {value!r}; --true says which "
                "value of another label counts as True"
            )
    return [TRUTHS[value.strip().lower()] for value in given]


def _check_classes(column: str, labels: list[bool], groups: list[str]) -> None:
    """Refuse before a model is loaded what ``discriminate`` would refuse after it."""
    for truth in (True, False):
        n = len({group for group, label in zip(groups, labels, strict=True) if label is truth})
        if n < 2:
            raise InputError(f"--label: {column!r} must be {truth} in at least two groups of spans; it is in {n}")
