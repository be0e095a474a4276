"""Judges the results that lie beside the drivers, or those named by --run and --results."""

pytest_plugins = ["evenkeel.pytest_plugin"]
