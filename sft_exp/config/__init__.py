"""Composition of YAML files and overrides into an experiment of typed parts."""
