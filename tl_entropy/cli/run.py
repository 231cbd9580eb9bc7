"""``tl-entropy run``, ``status`` and ``merge``: many models, analyses and documents in a folder, by any number of processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from tl_entropy.cli.app import app, examples
from tl_entropy.errors import InputError, check_positive, counted
from tl_entropy.results.files import write_table

Folder = Annotated[Path, typer.Argument(help="folder of a run")]


@app.command(
    epilog=examples(
        "tl-entropy run study.yaml --out study",
        "tl-entropy run study.yaml --plan",
        "tl-entropy run study.yaml --out study --slurm > study.sbatch",
    )
)
def run(
    config: Annotated[Path, typer.Argument(help="YAML file: models, inputs, analyses, unit_documents, save_every, ...")],
    out: Annotated[Path | None, typer.Option(help="folder of the run; the same command again goes on")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="say what the run will take, and run nothing")] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="print the script of a Slurm array, and run nothing")] = False,
    preempt: Annotated[
        float | None,
        typer.Option(help="pretend that a batch system ends this process at a random moment within so many seconds"),
    ] = None,
) -> None:
    """Every analysis of every model that a file names, in a folder, by any number of processes, ended and begun at any time."""
    from tl_entropy.runs.ask import Ask
    from tl_entropy.runs.ends import preempt as pretend
    from tl_entropy.runs.plan import planned
    from tl_entropy.runs.running import run as whole_run
    from tl_entropy.runs.slurm import script

    if plan and slurm:
        raise InputError("give one of --plan and --slurm; got both")
    if plan:
        typer.echo(planned(config))
        return
    if out is None:
        raise InputError("--out is missing; give the folder of the run, such as --out study")
    if slurm:
        Ask.of(config)
        typer.echo(script(str(config), str(out)), nl=False)
        return
    if preempt is not None:
        pretend(check_positive("--preempt", preempt))
    try:
        results = whole_run(out, config)
    except KeyboardInterrupt as asked:
        typer.echo(f"tl-entropy: {asked}" if str(asked) else "tl-entropy: what was saved stays", err=True)
        raise
    typer.echo(str(results))
    if results.failed:
        raise typer.Exit(1)


@app.command(epilog=examples("tl-entropy status study"))
def status(
    folder: Folder,
    estimates: Annotated[
        bool | None,
        typer.Option(
            "--estimates/--no-estimates",
            help="what has been found so far, with errors; where neither is given, of states up to 256 MB",
        ),
    ] = None,
) -> None:
    """How a run is getting on, from its folder alone: what is done, failed and claimed, how fast, how long still."""
    from tl_entropy.cli.plan import lasting, rounded
    from tl_entropy.runs.status import estimates as found_so_far, status_of

    now = status_of(folder)
    told = [f"{now.count(state)} {state}" for state in ("done", "begun", "open", "failed")]
    typer.echo(f"{counted(len(now.jobs), 'result')} of {counted(now.documents, 'document', ',')} each: {', '.join(told)}")
    for job in now.jobs:
        total, done, claimed = job.units
        if job.state in ("begun", "failed"):
            typer.echo(f"  {job.analysis} of {job.model}: {done} of {counted(total, 'unit')}, {claimed} claimed{_why(job)}")
    for one in now.workers:
        typer.echo(
            f"  worker {one['worker']} ({one['host']}, process {one['process']}): {one['analysis'] or 'loads'} of "
            f"{one['model']}, {rounded(round(one.get('tokens_a_second', 0)))} tokens a second, "
            f"{one['memory'] / 2**30:.1f} GB at most"
        )
    if now.seconds_left:
        typer.echo(f"about {lasting(now.seconds_left)} left")
    elif now.seconds_left is None:
        typer.echo("nobody is at work; the run's command goes on with it")
    if estimates is not False:
        most = math.inf if estimates else 2**28
        for (model, _), result in found_so_far(folder, lambda line: typer.echo(line, err=True), most=most).items():
            typer.echo(f"\nso far, of {model}:\n{result}")


@app.command(epilog=examples("tl-entropy merge study", "tl-entropy merge study --out so_far"))
def merge(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="folder for table and results; FOLDER/merged, if not given")] = None,
) -> None:
    """Results of what a run has so far: those that are done, and what has been read of those under way; it goes on as it is."""
    from tl_entropy.results.models.run import load_run
    from tl_entropy.runs.folder import file_name
    from tl_entropy.runs.models import Checkpoint
    from tl_entropy.runs.status import estimates, table

    results = load_run(folder)
    there: dict[tuple[str, str], Any] = {
        (model, name): results.result(model, name)
        for model in results.models
        for name in results.analyses
        if (model, name) not in results.missing
    }
    partly = estimates(folder, lambda line: typer.echo(line, err=True))
    target = out or folder / "merged"
    for (model, name), result in partly.items():
        result.save(target / Checkpoint(model, None, {}).stem / f"{file_name(name)}.safetensors")
    written = write_table(target / "results.csv", table({**there, **partly}))
    typer.echo(f"{len(there)} results done, {len(partly)} under way; wrote {written}")


def _why(job: Any) -> str:
    return f"; failed: {job.why}" if job.state == "failed" else ""
