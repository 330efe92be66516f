"""Every part still computes the same numbers. A new option needs a digest.

tests/fingerprints holds the digests; `python -m tests.fingerprints --bless vae` rewrites one, in a
commit that gives the reason.
"""

from itertools import islice

import pytest
from fingerprints import adapter, cases

MUTANTS = 24  # changes of one constant that are tried on a part
QUICK = {
    "pretrainer/vae", "encoder/conv", "task/classify", "strategy/layerwise", "optim/adam",
    "schedule/cosine", "augment/digits",
}  # fmt: skip
OF_LIBRARIES = {"encoder/timm", "optim/lamb", "optim/lion", "optim/muon", "optim/schedule_free"}
FIXED = {  # parts without a number of their own
    "pretrainer/none", "pretrainer/checkpoint", "pretrainer/imagenet", "pretrainer/ae", "pretrainer/supervised",
    "strategy/full", "strategy/linear",
    "pretrainer/pca", "encoder/colours",  # bounds, and dimensions in whose place no others can be computed
}  # fmt: skip


def named(found):
    return [pytest.param(group, option, id=f"{group}/{option}") for group, option in found]


@pytest.mark.parametrize(("group", "option"), named(cases.names()))
def test_the_numbers_are_those_that_were_blessed(group, option):
    found, kept = cases.fingerprint(group, option), cases.stored(group)
    if f"{group}/{option}" in OF_LIBRARIES and not found:
        pytest.skip("its library is not installed")
    assert option in kept, (
        f"{group}/{option} has no digest: python -m tests.fingerprints --bless {group}/{option}"
    )
    fault = cases.difference(kept[option], found, cases.tolerance(group, option))
    assert fault is None, (
        f"{group}/{option}, {fault}\nintended? python -m tests.fingerprints --bless {group}/{option}"
    )


def test_no_digest_is_of_a_part_that_is_gone():
    kept = {
        (group, option) for group in (*cases.KINDS, *cases.SPINE) for option in cases.stored(group)
    }
    assert kept <= {*cases.names()}


@pytest.mark.parametrize(
    ("group", "option"),
    [
        pytest.param(g, o, id=f"{g}/{o}", marks=[] if f"{g}/{o}" in QUICK else [pytest.mark.slow])
        for g, o in cases.names()
        if g in cases.KINDS and f"{g}/{o}" not in FIXED
    ],
)
def test_another_constant_gives_other_numbers(group, option):
    part, kept = cases.part_of(group, option), cases.stored(group).get(option)
    if kept is None:
        pytest.skip("its library is not installed")
    for _, mutant in islice(adapter.mutants(part), MUTANTS):
        try:
            found = cases.fingerprint(group, option, mutant)
        except (ArithmeticError, RuntimeError, ValueError, TypeError, LookupError):
            continue  # what cannot be computed is seen without a digest
        if fault := cases.difference(kept, found, cases.tolerance(group, option)):
            assert "differs first" in fault or "is new" in fault or "refused" in fault
            return
    pytest.fail(f"{MUTANTS} changes of one constant left the digest of {group}/{option} as it is")


def test_a_difference_names_the_case_and_the_first_moment():
    kept = {"1x8x8, seed 0": {"init": [1.0], "step 1": [0.5, 2], "step 2": [0.25, 3]}}
    now = {"1x8x8, seed 0": {"init": [1.0 + 1e-9], "step 1": [0.5, 2], "step 2": [0.2501, 3]}}
    assert cases.difference(kept, kept) is None
    assert cases.difference(kept, now).startswith(
        "1x8x8, seed 0: step 2 differs first: [0.25, 3] before"
    )
    assert cases.difference(kept, {}) == "1x8x8, seed 0: is refused now"
    now["1x8x8, seed 0"]["step 1"] = [0.5, 3]
    assert "step 1 differs first" in cases.difference(kept, now), (
        "whole numbers are compared exactly"
    )
