"""Train the bundled model again from nothing: ``python -m tl_entropy.demo.train --out FOLDER``.

A causal model in GPT-2's layout reads the source code that ships with Python: the standard library, its tests, and the two
wheels bundled for ``ensurepip``. Thirty modules, drawn once at random, are held out together with their tests; ten more
serve to watch the training. Everything random follows from ``--seed``; the state is saved as the training goes, and the
same command takes it up again after an interruption.
"""

from __future__ import annotations

import json
import random
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from tl_entropy.capture.progress import Bar
from tl_entropy.estimation.steps import load_state, rate_at, save_state

# Drawn by random.Random(0).sample from the public single-file modules of Python 3.11 with 6 to 60 kB of source.
HELD_OUT = frozenset(
    """bdb cgi code copy copyreg getopt hashlib heapq imp mailcap mimetypes nntplib opcode pipes platform poplib pyclbr queue
    quopri rlcompleter runpy shelve site sndhdr ssl statistics string telnetlib threading warnings""".split()
)
VALIDATION = frozenset("bisect calendar csv fnmatch glob imaplib netrc shlex tempfile textwrap".split())

CONTEXT = 256
VOCABULARY = 4096
BEGIN = "<|endoftext|>"
SAVE_EVERY = 500


def source_files() -> Iterator[tuple[str, str]]:
    """Every Python source file of this interpreter's standard library as (path inside the library, text), sorted by path."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library).as_posix()
        if "site-packages" in name or "__pycache__" in name:
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # some tests are written in other encodings on purpose
            continue
    for wheel in sorted(library.glob("ensurepip/_bundled/*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(n for n in archive.namelist() if n.endswith(".py")):
                yield f"{wheel.name}/{name}", archive.read(name).decode("utf-8", errors="strict")


def split_sources() -> dict[str, dict[str, str]]:
    """The texts as ``{"library", "tests", "validation", "held_out"} -> {name: text}``.

    A test file of a held-out or validation module (``test/test_NAME.py``, ``test/NAMEtest*.py``) belongs to no part.
    """
    parts: dict[str, dict[str, str]] = {"library": {}, "tests": {}, "validation": {}, "held_out": {}}
    for name, text in source_files():
        top = name.removesuffix(".py")
        if top in HELD_OUT:
            parts["held_out"][top] = text
        elif top in VALIDATION:
            parts["validation"][top] = text
        elif "test/" in name or "tests/" in name:
            stem = Path(name).stem.lower()
            if not any(stem in (f"test_{m}", f"test{m}") or stem.startswith(f"test_{m}_") for m in (*HELD_OUT, *VALIDATION)):
                parts["tests"][name] = text
        else:
            parts["library"][name] = text
    return parts


def train_tokenizer(texts: list[str], folder: Path) -> Any:
    """Byte-level BPE in GPT-2's manner, saved to and loaded from ``folder``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BEGIN], initial_alphabet=alphabet)
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BEGIN, eos_token=BEGIN, unk_token=BEGIN, model_max_length=CONTEXT
    )
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}  # a name that all transformers know
    path.write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer


def encode(tokenizer: Any, texts: dict[str, str]) -> torch.Tensor:
    """All texts in one row of ids, each begun by the special token."""
    encoded = tokenizer(list(texts.values()), add_special_tokens=False, verbose=False)["input_ids"]
    begin = tokenizer.bos_token_id
    return torch.tensor([i for ids in encoded for i in (begin, *ids)], dtype=torch.int32)


def build_model(seed: int) -> Any:
    """The untrained model: 6 layers, 6 heads, d_model 192, context 256, tied embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=192, n_layer=6, n_head=6, bos_token_id=0, eos_token_id=0,
        embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def logits_loss(model: Any, rows: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss (nats) of ``rows`` [batch, context + 1]."""
    with torch.autocast("cpu" if rows.device.type == "cpu" else "cuda", dtype=torch.bfloat16):
        hidden = model.transformer(rows[:, :-1], use_cache=False).last_hidden_state
        logits = hidden @ model.lm_head.weight.T
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten().long())


@torch.no_grad()
def evaluate(model: Any, tokenizer: Any, texts: dict[str, str]) -> dict[str, float]:
    """Loss over whole texts, each cut into neighbouring windows of 255 tokens begun by the special token, in float32.

    Every token of every text is predicted once. Returns nats a token, bits per byte, and the counts of tokens and bytes.
    """
    model.eval()
    device = model.lm_head.weight.device
    nats, tokens = 0.0, 0
    for text in texts.values():
        ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        for part in ids.split(CONTEXT - 1):
            row = torch.cat((torch.tensor([tokenizer.bos_token_id]), part)).to(device)[None]
            logits = model(row).logits[0, :-1].double()
            nats += torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
            tokens += len(part)
    model.train()
    size = sum(len(t.encode()) for t in texts.values())
    return {"nats_per_token": nats / tokens, "bits_per_byte": nats / size / 0.6931471805599453, "tokens": tokens, "bytes": size}


def optimizers(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, biases and norms."""
    inner = [p for n, p in model.named_parameters() if ".h." in n and p.ndim == 2]
    chosen = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(inner, lr=rate, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def draw_rows(streams: dict[str, torch.Tensor], share: float, batch: int, step: int, seed: int) -> torch.Tensor:
    """``batch`` random windows of the two streams, each begun by the special token: a function of step and seed alone."""
    draw = random.Random(f"{seed}/{step}")
    rows = []
    for _ in range(batch):
        stream = streams["library" if draw.random() < share else "tests"]
        start = draw.randrange(len(stream) - CONTEXT)
        rows.append(torch.cat((torch.zeros(1, dtype=torch.int32), stream[start : start + CONTEXT])))
    return torch.stack(rows)


def main(
    out: Annotated[Path, typer.Option(help="folder for model, tokenizer, texts and training state")],
    steps: Annotated[int, typer.Option(help="optimiser steps of the whole training")] = 6000,
    batch: Annotated[int, typer.Option(help="windows of 256 tokens a step")] = 16,
    rate: Annotated[float, typer.Option(help="peak learning rate")] = 3e-3,
    share: Annotated[float, typer.Option(help="share of windows from the library, the rest from its tests")] = 0.6,
    seed: Annotated[int, typer.Option(help="seed of weights and batches")] = 0,
    compiled: Annotated[bool, typer.Option(help="compile the training step (needs a C++ compiler)")] = False,
    keep: Annotated[
        str, typer.Option(help="steps after which to keep the model in a folder of its own: 0,1,2,4 (0: untrained)")
    ] = "",
) -> None:
    """Train the bundled model from nothing, or take up an interrupted training in the same folder."""
    if keep and not all(step.strip().isdecimal() for step in keep.split(",")):
        raise typer.BadParameter(f"--keep must be steps separated by commas, such as 0,1,2,4; got {keep!r}")
    kept = {int(step) for step in keep.split(",") if keep}
    out.mkdir(parents=True, exist_ok=True)
    texts = split_sources()
    tokenizer = train_tokenizer([*texts["library"].values(), *texts["tests"].values()], out)
    streams = {part: encode(tokenizer, texts[part]) for part in ("library", "tests")}
    typer.echo({k: f"{len(v):,} tokens" for k, v in streams.items()})

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(seed).to(device)
    parts = optimizers(model, rate)
    first = load_state(out, model, parts)
    loss_of = torch.compile(logits_loss) if compiled else logits_loss
    started = f"{device}, torch {torch.__version__}"
    log = out / "training.jsonl"
    model.train()
    bar = Bar(range(first, steps), initial=first, total=steps, desc="training", unit="step", show=True)
    smooth = None
    if 0 in kept and first == 0:
        keep_model(out, 0, model, tokenizer)
    for step in bar:
        torch.manual_seed(seed * 1_000_003 + step)  # dropout, too, follows from seed and step
        for optimizer in parts:
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_at(step, steps)
        loss = loss_of(model, draw_rows(streams, share, batch, step, seed).to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in parts:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.3f}", refresh=False)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            save_state(out, step + 1, model, parts)
            watched = evaluate(model, tokenizer, texts["validation"])["nats_per_token"]
            with log.open("a") as file:
                file.write(json.dumps({"step": step + 1, "training": smooth, "validation": watched}) + "\n")
        if step + 1 in kept:
            keep_model(out, step + 1, model, tokenizer)

    finish(out, model, tokenizer, texts, {"steps": steps, "batch": batch, "rate": rate, "share": share, "seed": seed,
                                          "tokens_seen": steps * batch * CONTEXT, "trained_on": started})  # fmt: skip


def keep_model(out: Path, step: int, model: Any, tokenizer: Any) -> None:
    """The model as it is after ``step``, in half precision, in a folder that ``load_model`` reads."""
    folder = out / f"step-{step}"
    weights = {name: value.to(torch.float16) for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def finish(out: Path, model: Any, tokenizer: Any, texts: dict[str, dict[str, str]], settings: dict[str, Any]) -> None:
    """Write the half-precision model, its measured losses and the held-out texts."""
    model = model.to("cpu", torch.float16)
    model.save_pretrained(out)
    model = model.float()  # what is measured are the weights that ship, rounded to half precision
    sizes = {part: {"files": len(t), "characters": sum(map(len, t.values()))} for part, t in texts.items()}
    report = {
        **{part: evaluate(model, tokenizer, texts[part]) for part in ("held_out", "validation")},
        "modules": {name: evaluate(model, tokenizer, {name: text}) for name, text in texts["held_out"].items()},
        "text": sizes,
        **settings,
    }
    (out / "report.json").write_text(json.dumps(report, indent=1))
    with zipfile.ZipFile(out / "held_out.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(texts["held_out"].items()):
            archive.writestr(zipfile.ZipInfo(f"{name}.py"), text, zipfile.ZIP_DEFLATED)
    typer.echo(json.dumps(report, indent=1))


if __name__ == "__main__":
    typer.run(main)
