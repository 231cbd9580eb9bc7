"""Prompts of the recipes: translations, facts and grammar in English, and their like in Python."""

from __future__ import annotations

import tl_entropy as tle

WORDS = {
    "fleur": "flor", "pain": "pan", "eau": "agua", "maison": "casa", "livre": "libro", "chien": "perro", "chat": "gato",
    "main": "mano", "nuit": "noche", "jour": "día", "soleil": "sol", "lune": "luna", "roi": "rey", "ville": "ciudad",
    "mer": "mar", "feu": "fuego",
}  # fmt: skip

TRANSLATIONS = [
    'Français: "vin" - Español: "vino"\nFrançais: "nom" - Español: "nombre"\nFrançais: "arbre" - Español: "árbol"\n'
    f'Français: "{word}" - Español: "'
    for word in WORDS
]
"""From French to Spanish, with three examples, up to where the Spanish word begins."""

ENGLISH = {
    "facts": [
        "The capital of France is", "The capital of Italy is", "The capital of Japan is", "The capital of Spain is",
        "The capital of Egypt is", "The capital of Germany is", "The capital of Russia is", "The capital of Greece is",
        "The largest planet of the solar system is", "The author of Romeo and Juliet is William",
        "The theory of evolution was proposed by Charles", "The first man on the moon was Neil",
        "The chemical symbol of gold is", "The currency of Japan is the", "The Eiffel Tower stands in the city of",
        "The painter of the Mona Lisa was Leonardo da",
    ],
    "function words": [
        "The cat sat on the edge", "She was born at the end", "He is looking forward", "They went to the shop in order",
        "One of the most important parts", "He could not decide whether or", "The house is next", "She got rid",
        "According", "The train was late because", "It was as large", "In the middle", "We had to wait for a couple",
        "He walked out", "The river runs along the side", "In spite",
    ],
}  # fmt: skip
"""Prompts that a name or a fact goes on, and prompts that a function word does."""


def unfinished() -> list[str]:
    """Beginnings of held-out Python modules, each cut after 600 characters."""
    return [text[:600] for text in tle.demo_texts(16)]


def code() -> dict[str, list[str]]:
    """Pieces of held-out Python modules, up to where a name comes that they choose, or a sign that the grammar asks for."""
    return {"names": _cut("import", "raise", "class"), "grammar": _cut("else", "try", "def __init__")}


def _cut(*words: str) -> list[str]:
    """For each module and word, the 400 characters up to the word's first use as the first of its line."""
    found = []
    for text in tle.demo_texts(16):
        for word in words:
            at = next((i for line in _lines(text) for i in [line[0]] if line[1].lstrip().startswith(word)), None)
            if at is not None:
                line = text[at:].split("\n")[0]
                end = at + len(line) - len(line.lstrip()) + len(word)
                found.append(text[max(0, end - 400) : end])
    return found


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines of a text, with where each begins."""
    starts, found = 0, []
    for line in text.split("\n"):
        found.append((starts, line))
        starts += len(line) + 1
    return found
