"""Options that several commands share, and how their texts become values.

A command that reads texts is decorated with ``reads``: its first argument is then a ``Source``, and the options for the model
(or, of a command that compares them, several), the texts and the output folder are those of ``Source.of``, declared once. Other
groups of options work alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer

from tl_entropy.capture.named import Lines, check_files, data_set
from tl_entropy.cli.checks import documents_in
from tl_entropy.cli.plan import announce
from tl_entropy.cli.report import ENDED, FORMATS, Leaves, report, reportable
from tl_entropy.errors import InputError, check_choice, partial_of
from tl_entropy.results.files import check_folder
from tl_entropy.results.holding import held

Out = Annotated[Path | None, typer.Option(help="folder for the figures, the table and the result file")]
Unit = Annotated[str, typer.Option(help="nats or bits", autocompletion=lambda: ["nats", "bits"])]
Kind = Annotated[str | None, typer.Option(help="bridge or hooked; what is installed, if not given")]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        help="of the figures: png, or pdf or svg, which are sharp at any size",
        autocompletion=lambda: list(FORMATS),
    ),
]
Page = Annotated[
    bool,
    typer.Option("--report", help="write report.html, too: figures, tables and settings on one page, which needs nothing else"),
]
SitesOrLens = Annotated[
    str | None,
    typer.Option(
        "--sites",
        help="sites of every layer, such as mlp_out, or of one, such as mlp_out.3; commas between; embed and every resid_post, "
        "or what a Jacobian lens has, if not given",
    ),
]
Sites = Annotated[str, typer.Option(help="sites of every layer, such as mlp_out, or of one, such as mlp_out.3; commas between")]
Layers = Annotated[
    str | None, typer.Option(help="numbers, such as 0,5,-1 (the last), or a slice, such as 3:8 or ::2; all, if not given")
]
Orders = Annotated[str, typer.Option(help="Rényi orders, separated by commas; 1 is Shannon, inf is allowed")]
Surprisal = Annotated[bool, typer.Option("--surprisal", help="surprisal and rank of the next token at every site, too")]
Summary = Annotated[bool, typer.Option("--summary", help="keep sums only, in constant memory, not every position")]
Vocabulary = Annotated[
    str, typer.Option(help="model, all rows of the unembedding, or tokenizer, without those that are no token of it")
]
OVER = ("model", "tokenizer")
PRECISIONS = ("float32", "bfloat16")
Precision = Annotated[str, typer.Option(help="float32 or bfloat16, of the product with the unembedding")]


@dataclass(frozen=True)
class Source(Leaves):
    """What a command reads, and where its results go."""

    names: tuple[str, ...]
    kind: str | None
    device: str | None
    dtype: str
    trust_remote_code: bool
    inputs: Iterable[Any]
    windows: dict[str, Any]
    unit: Any
    readouts: bool
    new_tokens: int

    @cached_property
    def model(self) -> Any:
        """The only model, loaded when it is first needed: after all other options were found right."""
        [model] = self.models().values()
        return model

    def models(self) -> dict[str, Any]:
        """All models, loaded now, by their names: those of folders and files for local ones, numbered where two are alike."""
        import torch

        import tl_entropy as tle

        options = {"kind": known_kind(self.kind), "device": self.device, "dtype": getattr(torch, self.dtype)}
        options["trust_remote_code"] = self.trust_remote_code
        found: dict[str, Any] = {}
        for given in self.names:
            name = Path(given).resolve().name if Path(given).exists() else given
            numbered = (name, *(f"{name} ({i})" for i in range(2, len(self.names) + 1)))
            found[next(free for free in numbered if free not in found)] = model = tle.load_model(given, **options)
            announce(model, self.inputs, new_tokens=self.new_tokens, readouts=self.readouts)
        return found

    @classmethod
    def of(
        cls,
        model: Annotated[
            list[str],
            typer.Option(
                help="name on the Hugging Face hub, folder (config, weights, tokenizer) or GGUF file; the bundled model, if "
                "not given, but to compare, which takes several, and to train-lens"
            ),
        ],
        text: Annotated[list[str] | None, typer.Option(help="a text; may be given several times")] = None,
        file: Annotated[
            list[Path] | None, typer.Option(help="a text file, or a folder of them; may be given several times")
        ] = None,
        lines: Annotated[
            bool, typer.Option("--lines", help="of --file: every line is a text of its own; empty ones are left out")
        ] = False,
        dataset: Annotated[str | None, typer.Option(help="name or folder of a Hugging Face data set")] = None,
        config: Annotated[str | None, typer.Option(help="configuration of the data set, where it has several")] = None,
        split: Annotated[str | None, typer.Option(help="split of the data set; train, if not given")] = None,
        column: Annotated[
            str | None, typer.Option(help="column of the data set that holds the text; text, if not given")
        ] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="texts of the data set to read at most")] = None,
        documents: Annotated[
            str | None, typer.Option(help="read some texts alone, by their numbers from 0, such as 0:100 or 100:200,300:")
        ] = None,
        on_error: Annotated[
            str, typer.Option(help="raise, or skip to leave out texts that cannot be used; they are counted and listed")
        ] = "raise",
        window: Annotated[int | None, typer.Option(min=2, help="tokens of a window; the model's context, if not given")] = None,
        stride: Annotated[int | None, typer.Option(min=1, help="new tokens from one window of a long text to the next")] = None,
        batch_size: Annotated[int | None, typer.Option(min=1, help="windows a batch; as many as fit, if not given")] = None,
        unit: Unit = "nats",
        kind: Kind = None,
        device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU where there is one, if not given")] = None,
        dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16, of the model")] = "float32",
        trust_remote_code: Annotated[
            bool, typer.Option("--trust-remote-code", help="run the code that a model brings")
        ] = False,
        out: Out = None,
        figures: Format = "png",
        page: Page = False,
        *,
        folder: str,
        several: bool,
        readouts: bool,
        new_tokens: int,
        offered: tuple[str, ...],
        has_out: bool,
    ) -> Source:
        """The source that these options describe; results go to ``folder`` where ``out`` is not given.

        ``offered`` are the options for texts that the command has; without ``has_out`` it checks itself where it writes to.
        """
        if not model:  # of a command that has the bundled model as its default
            from tl_entropy.demo import FOLDER

            typer.echo("no --model given: the bundled model reads", err=True)
            model = [str(FOLDER)]
        if len(model) > 1 and not several:
            raise InputError(f"--model: this command measures one model; got {len(model)}; tl-entropy compare takes several")
        check_choice("--unit", unit, ("nats", "bits"))
        check_choice("--dtype", dtype, ("float32", "bfloat16", "float16"))
        check_choice("--on-error", on_error, ("raise", "skip"))
        check_choice("--format", figures, FORMATS)
        known_kind(kind)
        there = out or Path(folder)
        if has_out:
            check_folder("--out", there)
        check_models(model)
        given = [name for name, value in (("--text", text), ("--file", file), ("--dataset", dataset)) if value]
        if len(given) != 1:
            one = f"exactly one of {', '.join(offered[:-1])} and {offered[-1]}" if len(offered) > 1 else offered[0]
            raise InputError(f"give {one}; got {' and '.join(given) or 'none'}")
        of_data_sets = {"--config": config, "--split": split, "--column": column, "--limit": limit}
        refuse_without("--dataset", dataset, {name: value for name, value in of_data_sets.items() if value is not None})
        refuse_without("--file", file, {"--lines": lines} if lines else {})
        inputs: Iterable[Any] = text or ()
        if file:
            check_files("--file", file, skip=on_error == "skip")
            inputs = Lines(file) if lines else file
        elif dataset is not None:
            inputs = data_set(dataset, config, split or "train", column or "text", limit)
        windows: dict[str, Any] = {"window": window, "stride": stride, "batch_size": batch_size}
        windows |= {"text_column": column or "text"} if dataset is not None else {}
        windows |= {"on_error": on_error} if on_error != "raise" else {}
        windows |= {"documents": documents_in(documents)} if documents is not None else {}
        machine = (kind, device, dtype, trust_remote_code)
        return cls(there, figures, page, tuple(model), *machine, inputs, windows, unit, readouts, new_tokens)


@contextmanager
def reporting(source: Source) -> Iterator[None]:
    """What was measured before an error, or Ctrl-C, that ends a command inside is reported, and the error goes on."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        found: Any = partial_of(error)
        if reportable(found):
            typer.echo("tl-entropy: it ends with an error; until then it measured", err=True)
            report(found.to(source.unit), source)
        raise


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Hold what a command writes; of processes that share it, as under ``torchrun``, one writes in any case."""
    import tl_entropy.analyses.distributed  # noqa: F401 (what finds such processes makes itself known)
    from tl_entropy.analyses.sharing import sharing_here

    with nullcontext() if sharing_here() is not None else held("--out", target, wait=False):
        yield


def reads(
    folder: str,
    *groups: Callable[..., Any],
    several: bool = False,
    bundled: bool = False,
    readouts: bool = False,
    without: Iterable[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of ``Source.of`` but those ``without``, and those of other groups; results go to ``folder``.

    A group is a function whose parameters are options. The command's first arguments are then a ``Source`` and what the groups
    make of theirs; its other parameters are options of its own. ``several`` says that it may be given several models,
    ``bundled`` that it takes the bundled one where it is given none, ``readouts`` that it reads every layer through the
    unembedding.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        offered = tuple(f"--{name}" for name in ("text", "file", "dataset") if name not in without)
        told: dict[str, Any] = {"folder": folder, "several": several, "readouts": readouts, "offered": offered}
        told["has_out"] = "out" not in without
        source = [p for p in _parameters(Source.of) if p.name not in (*told, "new_tokens", *without)]
        if bundled:
            source[0] = source[0].replace(default=[])
        grouped = [_parameters(group) for group in groups]
        own = _parameters(command)[1 + len(groups) :]

        def run(**given: Any) -> None:
            new_tokens = given.get("max_new_tokens", 0)
            parts = [Source.of(**{p.name: given.pop(p.name) for p in source}, **told, new_tokens=new_tokens)]
            for group, parameters in zip(groups, grouped, strict=True):
                parts.append(group(**{p.name: given.pop(p.name) for p in parameters}))
            target = given["out"] if "out" in without else parts[0].out / command.__name__
            ENDED[0] = False
            with writing(target), reporting(parts[0]):
                command(*parts, **given)
            if ENDED[0]:
                raise typer.Abort

        # The texts first, what is measured next, the windows and the machine last.
        texts = next(i for i, p in enumerate(source) if p.name == "window") - ("on_error" not in without)
        parameters = [*source[:texts], *own, *(p for group in grouped for p in group), *source[texts:]]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in parameters])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorated


def generation(
    max_new_tokens: Annotated[int, typer.Option(min=0, help="tokens to generate after each text")] = 0,
    temperature: Annotated[float, typer.Option(min=0, help="of the generation; 0 is greedy")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="of the generation, where it samples")] = 0,
) -> dict[str, Any]:
    """How to generate, as options of the measuring functions."""
    refuse_without("--max-new-tokens", max_new_tokens, {"--temperature": temperature} if temperature else {})
    refuse_without("--temperature", temperature, {"--seed": seed} if seed else {})
    return {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def known_kind(kind: str | None) -> Any:
    """``kind``, where it is installed."""
    from tl_entropy.capture.loading import available_kinds

    if kind is not None:
        check_choice("--kind", kind, available_kinds())
    return kind


def refuse_without(option: str, given: Any, needing: dict[str, Any]) -> None:
    """Refuse options, by their names, that mean something only together with ``option``, where that is not given."""
    if needing and not given:
        raise InputError(f"{' and '.join(needing)} means nothing without {option}; give that, too, or leave it out")


def check_models(names: Iterable[str]) -> None:
    """Refuse folders and files in which no model lies, of all models before the first is loaded; names are asked of the hub."""
    import torch

    from tl_entropy.capture.loading.source import Source as ModelSource

    for name in names:
        if Path(name).expanduser().exists() or name.startswith((".", "/", "~")):
            ModelSource.of(name, device=torch.device("cpu"), dtype=torch.float32, trust_remote_code=False, check=False)
