"""Mistakes in the form of a command line, and the right form. Imports nothing slow."""

import os
import re
import shlex
from collections.abc import Iterator, Sequence

FLAGS = (  # Hydra's
    "--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
    "--shell-completion", "-sc",
)  # fmt: skip
VALUED = (  # those that take a value
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun", "--info", "-i",
)  # fmt: skip
OPTIONAL = ("--info", "-i")  # whose value may be left out
BRACKETS = (("[", "]"), ("(", ")"), ("{", "}"))
QUIET = "write hydra/job_logging=quiet for results and errors alone"
VERBOSE = "write hydra.verbose=true, or hydra.verbose=LOGGER for one logger"
LOUDNESS = {  # what many programs call these settings of Hydra's
    "quiet": QUIET, "--quiet": QUIET, "-q": QUIET, "verbose": VERBOSE, "--verbose": VERBOSE, "-v": VERBOSE,
}  # fmt: skip


def mistake(words: Sequence[str]) -> str | None:
    """What is wrong with the first word that is neither `key=value` nor a flag, and the right form;
    None if there is no such word, or if Hydra's parser has to say it."""
    return next(mistakes(words), None)


def mistakes(words: Sequence[str]) -> Iterator[str]:
    for n, word in enumerate(words):
        before = words[n - 1] if n else ""
        if before in VALUED and not (before in OPTIONAL and "=" in word):
            continue
        if right := LOUDNESS.get(word.partition("=")[0]):
            yield f"{word}: {right}"
        elif word.startswith("-") and not is_flag(word):
            yield flag(word, words[n + 1] if n + 1 < len(words) else "")
        elif "=" not in word and word[:1] not in ("-", "~"):
            yield bare(word, before, words[n + 1 :])
        elif word[:1] == "=" or (
            word[-1:] == "=" and words[n + 1 : n + 2] and follows(words[n + 1])
        ):
            after = words[n + 1] if n + 1 < len(words) else ""
            key, value = (before, word[1:] or after) if word[:1] == "=" else (word[:-1], after)
            yield f"{key} {word} {value}: write {key}={value}, without blanks around ="


def is_flag(word: str) -> bool:
    """Whether Hydra knows the flag, in full or cut short (`--multi`), alone or with `=value`."""
    name = word.partition("=")[0]
    known = (*FLAGS, *VALUED)
    return name in known or (len(name) > 2 and any(flag.startswith(name) for flag in known))


def follows(word: str) -> bool:
    """Whether the word may be the value of a `key=` before it."""
    return "=" not in word and not word.startswith("-")


def flag(word: str, after: str) -> str:
    """`--pretrainer=vae`, `--optim.lr 0.1`: settings have no dashes."""
    key, equals, value = word.lstrip("-").partition("=")
    value = value if equals else (after if follows(after) else "") or "VALUE"
    right = f"{key}={value}"
    return f"{word}: no such flag; settings are written without dashes: {right}"


def bare(word: str, before: str, after: Sequence[str]) -> str:
    """`pretrainer`, `vae`, `optim.lr 0.1`: a setting is one word with `=` in it."""
    from sft_exp.config.help_text import GROUPS, options  # late: reads YAML files

    if any(before.count(opening) > before.count(closing) for opening, closing in BRACKETS):
        whole = [before, word]
        for part in after:  # up to the bracket that closes
            if all(" ".join(whole).count(a) <= " ".join(whole).count(b) for a, b in BRACKETS):
                break
            whole.append(part)
        typed = " ".join(whole)
        return f"{typed}: a value with blanks is quoted: {shlex.quote(typed)}"
    if after and after[0].startswith("="):
        value = after[0][1:] or "".join(after[1:2])
        return f"{word} {after[0]}: write {word}={value}, without blanks around ="
    if word in GROUPS:
        chosen = after[0] if after and after[0] in options(word) else "OPTION"
        return f"{word}: write {word}={chosen}; sft_exp help {word} lists the options"
    if groups := [group for group in GROUPS if word in options(group)]:
        right = " or ".join(f"{group}={word}" for group in groups[:2])
        return f"{word}: write {right}"
    if re.fullmatch(r"[a-z]\w*(\.\w+)+", word) and not os.path.exists(word):
        value = after[0] if after and follows(after[0]) else "VALUE"
        return f"{word}: write {word}={value}"
    return f"{word}: a setting is written key=value" if before else ""
