"""From YAML files and overrides to an experiment of typed parts."""
