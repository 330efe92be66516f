"""The table of earlier results: numbers of committed pages, and consistent recommendations."""

from pathlib import Path

import pytest

from sft_exp.config.help_text import options
from sft_exp.guidance import knowledge
from sft_exp.guidance.image_defaults import Facts, settings
from sft_exp.guidance.knowledge import Case

ROOT = Path(__file__).parents[2]


def rows(page):
    """Cells of every table row of a page, without bold marks."""
    lines = (ROOT / page).read_text().splitlines()
    return [[c.strip(" *") for c in x.strip("|").split("|")] for x in lines if x.startswith("|")]


def test_the_table_of_pretrainers_is_the_published_one():
    table = rows(knowledge.PRETRAINERS_SOURCE)
    column = table[0].index("10: full")
    published = {row[0]: float(row[column]) for row in table[2:]}
    assert published == knowledge.PRETRAINERS


@pytest.mark.parametrize("step", knowledge.STEPS, ids=lambda step: step.name)
def test_the_number_of_a_step_is_in_its_source(step):
    assert any(row[0] == step.row and step.number in row for row in rows(step.source))


@pytest.mark.parametrize("pretrainer", knowledge.PRETRAINERS)
@pytest.mark.parametrize("encoder", ["mlp", "conv", "resnet18"])
@pytest.mark.parametrize("grey", [True, False])
def test_recommendations_lead_upwards_and_end(pretrainer, encoder, grey):
    """Following the advice never takes a method that the table puts behind, never comes back, and stops."""
    choices = {"pretrainer": pretrainer, "encoder": encoder, "task": "classify", "strategy": "full"}
    case, seen = Case(choices, augmented=False, grey=grey, unlabelled=True), []
    while step := knowledge.next_step(case):
        assert step.name not in seen
        seen.append(step.name)
        before = case.choices["pretrainer"]
        groups = {k: v for k, v in step.changes.items() if "." not in k}
        assert all(option in options(group) for group, option in groups.items())
        augmented = case.augmented or step.changes.get("task.augment") == "true"
        case = case._replace(choices={**case.choices, **groups}, augmented=augmented)
        after = case.choices["pretrainer"]
        assert knowledge.PRETRAINERS[after] >= knowledge.PRETRAINERS[before]
    assert knowledge.lead_over(case.choices["pretrainer"]) <= knowledge.MARGIN


def test_fixmatch_is_not_recommended_for_colour_photographs():
    """Its effect was not distinguishable from zero on CIFAR-10, and it may collapse on others."""
    best = {"pretrainer": "vicreg", "encoder": "conv", "task": "classify", "strategy": "full"}
    assert knowledge.next_step(Case(best, augmented=True, grey=False, unlabelled=True)) is None
    step = knowledge.next_step(Case(best, augmented=True, grey=True, unlabelled=True))
    assert step.changes["task"] == "fixmatch"


def test_weights_from_a_file_are_not_replaced():
    assert knowledge.lead_over("imagenet") == 0


def test_the_defaults_for_photographs_take_the_best_method():
    facts = Facts(100, False, 1000, 100, 10, gpu=False, bf16=False)
    chosen = {s.key: s.value for s in settings(facts)}
    assert chosen["pretrainer"] == knowledge.best_pretrainer()
