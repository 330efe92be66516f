"""The entry point of child processes: `python -m sft_exp.execution.child PARENT_PID MODULE
[ARGUMENT ...]`.

It watches its parent and handles signals before it imports the module, which may take seconds, and
runs its `main`.
"""

import sys
from importlib import import_module

from sft_exp.execution import watchdog


def main() -> None:
    parent, module, *arguments = sys.argv[1:]
    watchdog.exit_on_signals()
    watchdog.end_with_parent(int(parent))
    sys.argv[1:] = arguments
    import_module(module).main()


if __name__ == "__main__":
    main()
