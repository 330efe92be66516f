"""The console program: `sft_exp pretrainer=vae optim=adam` is a run, `sft_exp predict ...` is a command.

`python -m sft_exp` is the same program, and `python -m sft_exp.predict` the same command. A command is a package with a
`__main__` whose `main(arguments)` returns the exit code; it is imported when it is asked for.
"""

import os
import shutil
import sys
import textwrap
from importlib import import_module

from sft_exp import __version__
from sft_exp.config import args
from sft_exp.config.grammar import mistake
from sft_exp.errors import ConfigError
from sft_exp.execution import watchdog

COMMANDS = {
    "Begin": ("start", "help"),
    "Use a trained model": ("predict", "evaluate", "serve"),
    "Judge results": ("compare", "check"),
    "Decide what to label": ("label", "forecast", "suspicious"),
    "Look after the store and W&B, report a bug": ("ls", "gc", "sync", "dashboard", "doctor"),
}
NAMES = [name for names in COMMANDS.values() for name in names]
RERUN = "rerun"  # a run, whose settings are those of another one
HELP = {"-h", "--help"}
QUIET = "hydra/job_logging=quiet"


def main(words: list[str] | None = None) -> None:
    """Do what the command line says, and leave with the exit code."""
    words = sys.argv[1:] if words is None else words
    first = words[0] if words else ""
    try:
        if first in NAMES and words != ["help"]:
            sys.exit(import_module(f"sft_exp.{first}.__main__").main(words[1:]))
        if first == "--version":
            print(f"sft_exp {__version__}")
        elif words == ["help"] or HELP & set(words):
            print(help_text(), flush=True)
        elif first != RERUN and (problem := mistake(words)) is not None:
            sys.exit(
                refused(
                    problem
                    or f"{first}: no such command{args.did_you_mean(first, [*NAMES, RERUN])}"
                )
            )
        else:
            watchdog.exit_on_signals()
            announce(words)
            from sft_exp import cli  # late: imports Hydra

            cli.command(words)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has left: `sft_exp --help | head`
        args.silence()


def announce(words: list[str]) -> None:
    """Say at once what is being prepared: the imports that follow take seconds."""
    if QUIET in words or "RANK" in os.environ:
        return
    study = any(word.startswith("study=") and word != "study=null" for word in words)
    if study or {"-m", "--multirun"} & set(words):
        over = [word for word in words if "," in word or word.startswith("study=")]
        line = f"preparing a sweep over {' '.join(over) or 'one setting'}"
    elif all("=" in word and word[0] != "-" for word in words):  # else it asks Hydra something
        line = f"preparing a run of {' '.join(words) or 'the defaults'}"
    else:
        return
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
    print(line, file=sys.stderr, flush=True)


def refused(problem: str) -> int:
    """Say what is wrong with the command line; the exit code."""
    print(f"sft_exp: {problem}", file=sys.stderr)
    return ConfigError.code


def help_text() -> str:
    """The text of --help: the commands by what they are for, then the options and keys of a run."""
    from sft_exp.config.help_text import options_help

    text = [
        "usage: sft_exp [key=value ...]            run an experiment",
        "       sft_exp -m key=value,value ...     run a sweep",
        "       sft_exp rerun RUN [key=value ...]  repeat a run, with some keys changed",
        "       sft_exp COMMAND [key=value ...]    COMMAND --help shows its arguments",
        "",
        "Pretrain without labels, fine-tune with few, and say whether it helped.",
        "",
        "    sft_exp pretrainer=vae optim=adam",
        "    sft_exp -m pretrainer=none,ae,vae optim=sgd,adam optim.lr=1e-2,1e-3",
    ]
    for title, names in COMMANDS.items():
        text += ["", title]
        for name in names:
            about = (import_module(f"sft_exp.{name}").__doc__ or "").strip().rstrip(".")
            text.append(f"    {name:12} {about}")
    return "\n".join([*text, "", options_help().replace("$$", "$")])


if __name__ == "__main__":
    main()
