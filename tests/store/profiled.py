"""Records the functions of this project that run in a stage, with sys.setprofile in all threads."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sft_exp.config.sources import HERE
from sft_exp.jobs import stage_requests
from sft_exp.jobs.stage_requests import function_of, functions_of
from sft_exp.stages import finetune
from sft_exp.store import code_hash
from sft_exp.store.code_hash.classes import classes
from sft_exp.store.code_hash.modules import read
from sft_exp.store.code_hash.names import Key
from sft_exp.store.code_hash.rules import neutral
from sft_exp.store.store import Request, Stage, Store
from sft_exp.training import context

# flag of code objects that are functions: bodies of modules and classes have it not
OPTIMIZED = 0x1


@contextmanager
def watching(seen: set[Key], roots: tuple[Path, ...] = (HERE,)) -> Iterator[None]:
    """Adds the functions that run inside: top-level ones, and methods as "Class.method"."""

    def note(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_flags & OPTIMIZED:
            seen.add((code.co_filename, code.co_qualname))

    calls: set = seen
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        found = {
            key
            for file, name in {c for c in calls if not isinstance(c, Key)}
            for key in key_of(file, name, roots)
        }
        seen.clear()
        seen |= found


def key_of(file: str, name: str, roots: tuple[Path, ...]) -> Iterator[Key]:
    for root in roots:
        if Path(file).is_relative_to(root):
            module = ".".join(
                [root.name, *Path(file).relative_to(root).with_suffix("").parts]
            ).removesuffix(".__init__")
            name = name.partition(".<locals>")[0]
            if not name.startswith("<"):
                yield Key(module, ".".join(name.split(".")[:2]))


def run(job: stage_requests.Job, ctx, check: Callable[[str, Request, set[Key]], None]) -> None:
    """Runs all stages of a job, and hands each stage's requests and what ran to `check`."""
    store = Store(Path(job.experiment.store))
    for name, requests in job.requests.items():
        made: Stage = stage_requests.stage(name, ctx)

        def watched(folders, group, name=name):
            seen: set = set()
            function = function_of(name, group[0])
            context._corpora.clear()  # so that the reading of data is seen, too
            with watching(seen):
                if len(group) > 1:
                    finetune.run_batched(folders, group, replace(ctx, group=None))
                else:
                    function(folders[0], group[0], replace(ctx, group=None))
            for request in group:
                check(name, request, seen)

        store.run(replace(made, run=watched), requests)


def missed(name: str, request: Request, seen: set[Key]) -> set[Key]:
    """Functions that ran, are not in the closure of the request's code and are not neutral."""
    found = code_hash.reached(request, *functions_of(name, request))
    return {key for key in seen if not neutral(*key) and not {key, *owner(key)} & found}


def owner(key: Key) -> set[Key]:
    """The definition that holds a function which is none of its own: one inside another function, or in a class of one."""
    return set() if is_member(key) else {Key(key.module, key.name.partition(".")[0])}


def is_member(key: Key) -> bool:
    owner, _, member = key.name.partition(".")
    module = read(key.module)
    return bool(member) and any(member in kind.members for kind in classes(module, owner))
