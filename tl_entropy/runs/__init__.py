"""Runs in a folder: many models, analyses and documents, by any number of processes, which may end and go on at any time."""
