"""Loads ``shared_fixtures.py``, and torch and TransformerLens with it, into each process that runs tests.

The one that only deals them out to others, and which they wait for, does without.
"""


def pytest_configure(config):
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("shared_fixtures")
