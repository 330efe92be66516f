"""A request's hash ignores the order of keys and everything that cannot change a result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from sft_exp.config.schema import OptimizerConfig
from sft_exp.store.requests import plain
from sft_exp.store.store import Stage


@dataclass
class Data:
    unhashed: ClassVar[tuple[str, ...]] = ("root",)
    root: str = "here"
    test: int = 500


def name(request):
    return Stage("s", lambda folders, requests: None, plain).folder_name(request)


REQUEST = {
    "dataset": Data(),
    "options": {"lr": 0.1, "betas": (0.9, 0.99)},
    "start": Path("store/pretrain-1234"),
    "seed": 0,
}


@pytest.mark.parametrize(
    "same",
    [
        dict(reversed(REQUEST.items())),
        REQUEST | {"options": {"betas": [0.9, 0.99], "lr": 0.1}},
        REQUEST | {"dataset": Data(root="there")},
        REQUEST | {"start": Path("/elsewhere/pretrain-1234")},
        REQUEST | {"_after": Path("store/finetune-99")},
    ],
)
def test_what_cannot_change_a_result_does_not_change_its_name(same):
    """Order of keys, where files lie, what a request merely starts from faster."""
    assert name(same) == name(REQUEST)


@pytest.mark.parametrize(
    "other",
    [
        REQUEST | {"seed": 1},
        REQUEST | {"dataset": Data(test=400)},
        REQUEST | {"options": {"lr": 0.2, "betas": (0.9, 0.99)}},
        REQUEST | {"options": {"lr": 0.1, "betas": (0.99, 0.9)}},
        REQUEST | {"start": Path("store/pretrain-5678")},
        REQUEST | {"start": None},
        REQUEST | {"more": 1},
        REQUEST | {"dataset": OptimizerConfig("a", {})},
    ],
)
def test_what_can_change_a_result_changes_its_name(other):
    assert name(other) != name(REQUEST)


def test_parts_of_equal_fields_are_told_apart():
    from sft_exp.strategies.full import Full
    from sft_exp.strategies.linear import Linear

    assert name({"strategy": Full()}) != name({"strategy": Linear()})


def test_where_data_lies_and_who_decodes_it_is_not_hashed():
    from sft_exp.datasets.torchvision_set import TorchvisionSet

    assert name({"dataset": TorchvisionSet(root="a", download=False)}) == name(
        {"dataset": TorchvisionSet()}
    )
    assert name({"dataset": TorchvisionSet(name="KMNIST")}) != name({"dataset": TorchvisionSet()})


@dataclass
class Sized:
    sizes: list[int]
    rate: Any = 1.0
    inner: Any = None


def test_what_is_remembered_of_a_part_follows_its_content():
    """Parts may be changed in place, and equal numbers of other types are other JSON."""
    part = Sized([1], inner=Sized([2]))
    seen = [name({"part": part}), name({"part": Sized([1], inner=Sized([2]))})]
    assert seen[0] == seen[1]
    part.sizes.append(3)
    seen.append(name({"part": part}))
    part.inner.sizes.append(4)
    seen.append(name({"part": part}))
    part.rate = 1
    seen.append(name({"part": part}))
    part.inner.inner = np.ones(3)  # no literal: its text would not show all of a long one
    assert plain(part)["inner"]["inner"] is part.inner.inner
    assert len(set(seen)) == len(seen) - 1


def test_a_jobs_names_are_those_of_its_stages():
    from sft_exp.config import build
    from sft_exp.config.compose import compose
    from sft_exp.jobs import prepare
    from sft_exp.jobs.stage_requests import stage

    words = ["tracker=none", "draws=2", "optim.lr=search", "finetune.steps=4", "val=cv"]
    job = prepare.prepare(build.experiment(*compose(words)))
    for stage_name, requests in job.requests.items():
        names = {stage(stage_name).folder_name(request): request for request in requests}
        assert job.named(stage_name) == names
    assert job.named("search")
