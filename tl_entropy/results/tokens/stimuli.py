"""Stimuli of a reading experiment: texts whose words are given, each with a context that is read and not counted.

From a file of one sentence a line, or of one word a row (CSV or TSV), as experiments have them; every other column is kept, and
stands beside what is measured.

Refused: files without a word, rows without one, an item that comes again after another, a context that changes inside an item.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tl_entropy.errors import FileError, InputError
from tl_entropy.functional.tokens.words import Span, space_words
from tl_entropy.results.files import to_read
from tl_entropy.torch_state import Steady, steady

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True, eq=False, repr=False)
class Stimuli(Steady):
    r"""Texts, and which characters of each are a word; ``read_stimuli`` makes one.

    Attributes:
        texts: each with its context in front: what the model is to read.
        spans: (start, end) of every word of each text; none of its context.
        items: what each text is called.
        table: one row a word, with the columns of the file; None of a file of sentences.

    >>> import tl_entropy as tle
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "items.csv"
    >>> written = path.write_text("item,word\n1,import\n1,os\n")
    >>> tle.read_stimuli(path)
    Stimuli: 2 words of 1 item
    """

    texts: tuple[str, ...]
    spans: tuple[tuple[Span, ...], ...]
    items: tuple[str, ...]
    table: pd.DataFrame | None = None

    def __repr__(self) -> str:
        words, items = sum(map(len, self.spans)), len(self.texts)
        return f"Stimuli: {words} word{'s' * (words != 1)} of {items} item{'s' * (items != 1)}"

    def behind(self, context: str) -> Stimuli:
        """The same with a text in front of each, which is read and not counted."""
        spans = tuple(tuple((a + len(context), b + len(context)) for a, b in words) for words in self.spans)
        return dataclasses.replace(self, texts=tuple(context + text for text in self.texts), spans=spans)

    def beside(self, words: Any) -> pd.DataFrame:
        """The rows of the file, each with what was measured of its word: the columns of ``WordSurprisal.to_pandas``.

        Of words that share a token the first has the value of all, and says how many they are (``words``); others have none.
        Columns of the file keep their names, and their values where a name is in both.
        """
        found = words.to_pandas()
        if self.table is None:
            return found
        firsts = pd.Series([0, *(len(spans) for spans in self.spans)]).cumsum()
        found.index = firsts.to_numpy()[found["document"].to_numpy()] + found["index"].to_numpy()
        return self.table.join(found[[name for name in found if name not in self.table]])


@steady
def read_stimuli(
    path: str | Path,
    *,
    word: str = "word",
    item: str | Sequence[str] = "item",
    context: str = "context",
    between: str = " ",
) -> Stimuli:
    r"""Stimuli from a file: ``.csv`` or ``.tsv`` with one word a row, or any other text with one sentence a line.

    Args:
        path: the file, in UTF-8.
        word: column of the words, which are put together in the order of the rows.
        item: column that says which words are one text, or several, such as ("item", "condition").
        context: column of what stands before an item; it need not be there.
        between: what stands between words, and between a context and the first word; "" for scripts without spaces.

    Returns:
        ``Stimuli``: ``token_surprisal(model, stimuli.texts, words=True).word_surprisal(by=stimuli)``.

    Raises:
        FileError: there is no such file, or it is no table.
        InputError: a column that is not there, and what the module says.

    >>> import tl_entropy as tle
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "items.csv"
    >>> written = path.write_text("item,word,context\n1,the,Look:\n1,cat,Look:\n2,sat,\n")
    >>> found = tle.read_stimuli(path)
    >>> found.texts, found.spans
    (('Look: the cat', 'sat'), (((6, 9), (10, 13)), ((0, 3),)))
    """
    source = to_read("path", path)
    if not source.is_file():
        raise FileError(f"path: there is no file {source}")
    try:
        if source.suffix.lower() not in _SEPARATORS:
            lines = [line.strip() for line in source.read_text(encoding="utf-8-sig").splitlines()]
            texts = {str(number): line for number, line in enumerate(lines, 1) if line}
            if not texts:
                raise InputError(f"path: {source} holds no sentence")
            return Stimuli(tuple(texts.values()), tuple(tuple(space_words(text)) for text in texts.values()), tuple(texts))
        table = pd.read_csv(
            source, sep=_SEPARATORS[source.suffix.lower()], dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except (UnicodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise FileError(f"path: {source} cannot be read as a table or text in UTF-8: {error}") from error
    named = [item] if isinstance(item, str) else list(item)
    missing = [name for name in (word, *named) if name not in table]
    if missing:
        raise InputError(f"path: {source} has no column {', '.join(missing)}; it has {', '.join(table.columns)}")
    if not len(table):
        raise InputError(f"path: {source} holds no word")
    return _joined(table, word, named, context, between)


def _joined(table: pd.DataFrame, word: str, item: list[str], context: str, between: str) -> Stimuli:
    words = table[word].str.strip()
    if bool((words == "").any()):
        raise InputError(f"row {int(words.eq('').argmax()) + 2} must have a word in the column {word!r}; it is empty")
    keys = table[item].agg(" ".join, axis=1)
    runs = (keys != keys.shift()).cumsum()
    texts, spans, items = [], [], []
    for _, rows in table.groupby(runs, sort=True):
        name = keys[rows.index[0]]
        if name in items:
            raise InputError(
                f"row {rows.index[0] + 2}: the item {name!r} comes again after others; sort rows, or name the columns that "
                "tell texts apart, such as item=('item', 'condition')"
            )
        before = set(rows[context]) if context in table else {""}
        if len(before) > 1:
            raise InputError(f"item {name!r} must have one context; got {len(before)}")
        [text] = before
        here: list[Span] = []
        for one in words[rows.index]:
            text += between if text else ""
            here.append((len(text), len(text) + len(one)))
            text += one
        texts.append(text)
        spans.append(tuple(here))
        items.append(name)
    return Stimuli(tuple(texts), tuple(spans), tuple(items), table)
