"""What counts in the hash of code, and what cannot change a result."""

from collections.abc import Iterable

PACKAGE = __name__.partition(".")[0]

# Modules that are reached but cannot change a number, with the reason. All other code that runs in
# a stage is hashed: tests/store/test_code_hash.py profiles the stages and fails for a function that ran
# and is neither in the closure nor in one of these modules.
NEUTRAL = {
    f"{PACKAGE}.{name}": reason
    for name, reason in {
        "store.atomic_io": "writes bytes to files",
        "config.moved": "earlier names of classes; requests contain the present names",
        "errors": "a run that raises leaves no result",
        "progress": "messages to the console",
        "core.tracker": "mirrors what is on disk",
        "trackers": "mirror what is on disk",
        "store.results": "results of a finished run; only paths of store folders are read from it",
        "store.requests": "turns a request into JSON, which is hashed itself",
        "data.decoded": "gives the pixels that decoding gave",
        "training.context": "device, threads, tracker and signals, which change no result",
        "training.checkpoints": "a resumed training gives identical results",
        "stages.monitor": "evaluates features and changes nothing",
        "distributed.select": "all engines give the numbers of the local one, which is hashed",
        "distributed.group": "as distributed.select",
        "distributed.sharing": "as distributed.select",
        "distributed.ddp": "as distributed.select",
        "distributed.fsdp": "as distributed.select",
    }.items()
}
# functions whose arguments are messages to the user
SPEECH = ("print", "warnings.warn", "logging", f"{PACKAGE}.progress")
REFUSALS = f"{PACKAGE}.errors"  # functions and classes whose string arguments are such messages
ENTRIES = ("load",)  # methods of parts that are called by neutral code: the context loads data sets

IMPORTERS = {"importlib.import_module", "__import__"}
# functions and attributes that give access to members by names that the source does not show
ANY_NAME = {"vars", "dir", "globals", "locals", "eval", "exec", "sys.modules", "inspect.getmembers"}
ANY_NAME_ATTRIBUTES = {"__dict__", "__subclasses__"}
READ_ANNOTATIONS = {  # names that indicate that type annotations are evaluated at run time
    "singledispatch", "singledispatchmethod", "get_type_hints", "__annotations__", "script",
    "validate_call",
}  # fmt: skip
PLAIN_DECORATORS = {"staticmethod", "classmethod"}  # decorated methods run only when called
QUIET_DECORATORS = (  # decorators of libraries that do not register what they decorate
    "dataclasses", "functools", "contextlib", "typing", "abc",
    "torch.no_grad", "torch.inference_mode", "torch.enable_grad",
)  # fmt: skip
# library classes that call no methods of subclasses
EMPTY_BASES = {"object", "abc.ABC", "typing.Protocol", "typing.Generic"}
TORCH_MODULE = "torch.nn.Module"  # calls those methods of subclasses that it also has itself
# fields of syntax nodes that do not change what code does
SILENT = {"ctx", "kind", "type_comment", "type_ignores", "type_params", "returns", "annotation"}


def neutral(module: str, name: str = "") -> bool:
    """Whether a definition cannot change a number."""
    return is_below(f"{module}.{name}", NEUTRAL)


def is_below(path: str, tops: Iterable[str]) -> bool:
    """Whether a dotted path is one of `tops` or inside of one."""
    return any(f"{path}.".startswith(f"{top}.") for top in tops)
