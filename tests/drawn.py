"""What a figure shows, read off its axes."""

from __future__ import annotations


def of_kind(axes, kind):
    return [artist for artist in axes.get_children() if isinstance(artist, kind)]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def flat(text):
    """A title or label without its breaks of lines."""
    return " ".join(text.split())
