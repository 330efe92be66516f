"""Labelled splits and test splits: properties that hold for every data set, on random ones."""

from itertools import pairwise

import pytest
import torch

from sft_exp.core.rng import stream
from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images
from sft_exp.data.splits import (
    FOLDS,
    Labels,
    choose,
    fold,
    join,
    make,
    outside,
    pool,
    pretrainings,
    unlabelled,
)
from sft_exp.errors import DataError

CPU = torch.device("cpu")
SEEDS = range(6)
seeds = pytest.mark.parametrize("seed", SEEDS)


def corpus(seed, test=True, extra=False, groups=False):
    """150 to 300 images of 2 to 6 classes, unbalanced; a pixel says which image it is."""
    rng = stream("corpus", seed)
    n, classes = (int(torch.randint(a, b, (1,), generator=rng)) for a, b in ((150, 300), (2, 7)))
    share = torch.rand(classes, generator=rng) + 0.3
    y = torch.cat(
        [torch.arange(classes).repeat(12), torch.multinomial(share, n, True, generator=rng)]
    )
    y = y[torch.randperm(len(y), generator=rng)]

    def images(name, y, first):
        numbers = first + torch.arange(len(y))
        x = torch.stack([numbers // 256, numbers % 256], 1).to(torch.uint8).reshape(-1, 1, 1, 2)
        known = (
            [f"{name}-g{k}" for k in torch.randint(40, (len(y),), generator=rng).tolist()]
            if groups
            else None
        )
        return Images(x, y, [f"{name}{i}" for i in range(len(y))], known)

    names = tuple(f"c{k}" for k in range(classes))
    held = images("test", y[:50], 10_000) if test else None
    return Corpus(
        f"set {seed}",
        names,
        images("train", y, 0),
        held,
        images("extra", y[:70], 20_000) if extra else None,
    )


def counts(images, data):
    return torch.bincount(images.y, minlength=len(data.classes))


def labels(count):
    return Labels.parse(count, None)


# Label draws


@seeds
def test_smaller_budgets_are_inside_larger_ones(seed):
    """Per class, in total and by share alike, so that learning curves add labels and never swap them."""
    data = corpus(seed)
    for budgets in ([1, 2, 5, 10, 12, "all"], ["10%", "25%", "60%", "100%"]):
        chosen = [set(make(data, labels(b), 3).labelled.ids) for b in budgets]
        assert all(a < b or a == b for a, b in pairwise(chosen))
    totals = [set(make(data, Labels.parse(10, t), 3).labelled.ids) for t in (6, 7, 20, 50, 140)]
    assert all(a < b for a, b in pairwise(totals))


@seeds
@pytest.mark.parametrize("draw", [0, 7])
def test_labels_a_class_are_so_many_of_each(seed, draw):
    data = corpus(seed)
    for each in (1, 3, 12):
        assert counts(make(data, labels(each), draw).labelled, data).tolist() == [each] * len(
            data.classes
        )


@seeds
def test_shares_and_totals_are_stratified(seed):
    """Within one image of the class's share, once each class has its first."""
    data = corpus(seed)
    whole = counts(data.train, data)
    for total in (20, 60, 140):
        found = counts(make(data, Labels.parse(10, total), 0).labelled, data)
        assert found.sum() == total
        assert (found - whole * total / whole.sum()).abs().max() <= 1
    half = make(data, labels("50%"), 0).labelled
    assert len(half) == round(len(data.train) / 2)
    assert counts(make(data, Labels.parse(10, len(data.classes)), 0).labelled, data).tolist() == [
        1
    ] * len(data.classes)


def test_a_rare_class_is_never_left_out():
    """However small the budget, and however little its share of it would be."""
    y = torch.tensor([0] * 300 + [1] * 3 + [2])
    data = Corpus(
        "rare",
        ("a", "b", "c"),
        Images(torch.zeros(304, 1, 1, 1), y, [str(n) for n in range(304)]),
        corpus(0).test,
    )
    for total in (3, 10, 100):
        assert counts(make(data, Labels.parse(10, total), 0).labelled, data)[1:].tolist() == [1, 1]


@seeds
def test_all_is_everything_and_the_same_in_every_draw(seed):
    data = corpus(seed)
    assert (
        make(data, labels("all"), 0).labelled.ids
        == make(data, labels("all"), 4).labelled.ids
        == data.train.ids
    )
    assert set(make(data, labels("100%"), 0).labelled.ids) == set(data.train.ids)


@seeds
def test_a_draw_is_named_by_its_number(seed):
    """The same for every process, method and seed of an experiment; another draw is another set, and no global seed matters."""
    data = corpus(seed)
    torch.manual_seed(seed)
    first = make(data, labels(5), 0).labelled
    make.cache_clear()
    torch.manual_seed(99)
    assert make(corpus(seed), labels(5), 0).labelled.ids == first.ids
    assert len({tuple(make(data, labels(5), d).labelled.ids) for d in range(10)}) == 10


def test_draws_of_a_class_cover_it_evenly():
    """No image is preferred: over 400 draws of 3 of 12, each is chosen about 100 times."""
    data = Corpus(
        "even",
        ("a",),
        Images(torch.zeros(12, 1, 1, 1), torch.zeros(12, dtype=torch.long), list("abcdefghijkl")),
    )
    chosen = torch.cat([choose(data, torch.arange(12), labels(3), d) for d in range(400)])
    assert torch.bincount(chosen, minlength=12).sub(100).abs().max() < 35


def test_images_without_annotation_are_never_drawn():
    y = torch.tensor([0, -1, 1, 0, -1, 1])
    data = Corpus(
        "part", ("a", "b"), Images(torch.zeros(6, 1, 1, 1), y, list("abcdef")), corpus(0).test
    )
    for count in (1, 2):
        assert (make(data, labels(count), 0).labelled.y >= 0).all()


@pytest.mark.parametrize(
    ("count", "total", "words"),
    [
        (13, None, ["labels=13", "'b'", "toy", "12", "1 to 12", "5%", "all"]),
        (10, 1, ["labels_total=1 ", "42", "2"]),
        (10, 43, ["labels_total=43 ", "42"]),
        ("1%", None, ["labels=1% asks for 0", "2", "42"]),
    ],
)
def test_a_budget_that_cannot_be_met_says_what_can(count, total, words):
    y = torch.cat([torch.zeros(30, dtype=torch.long), torch.ones(12, dtype=torch.long)])
    data = Corpus(
        "toy",
        ("a", "b"),
        Images(torch.zeros(42, 1, 1, 1), y, [str(n) for n in range(42)]),
        corpus(0).test,
    )
    with pytest.raises(DataError) as error:
        make(data, Labels.parse(count, total), 0)
    assert all(word in str(error.value) for word in words), error.value


# Folds, where there is no test split


@seeds
def test_every_image_is_tested_once_in_each_repeat(seed):
    data = corpus(seed, test=False)
    for repeat in range(3):
        draws = [make(data, labels(2), repeat * FOLDS + k) for k in range(FOLDS)]
        tested = [i for d in draws for i in d.test.ids]
        assert sorted(tested) == sorted(data.train.ids)
    first = [make(data, labels(2), d).test.ids for d in (0, FOLDS)]
    assert first[0] != first[1], "each repeat shuffles anew"


@seeds
@pytest.mark.parametrize("groups", [False, True])
def test_nobody_is_trained_on_and_tested(seed, groups):
    data = corpus(seed, test=False, groups=groups)
    for d in range(7):
        draw = make(data, labels(2), d)
        assert not {*draw.test.ids} & {*draw.labelled.ids, *draw.pool.ids}
        assert {*draw.labelled.ids} <= {*draw.pool.ids} <= {*data.train.ids}
        assert draw.ratio == pytest.approx(len(draw.test) / len(draw.labelled))


@seeds
def test_groups_stay_whole(seed):
    """A patient's, a writer's or a video's images are all on one side, and each is tested once in a repeat."""
    images = corpus(seed, groups=True).train
    tested = []
    for k in range(FOLDS):
        known, held = fold(images, ("",) * 10, k)
        sides = [{images.groups[r] for r in rows.tolist()} for rows in (known, held)]
        assert not sides[0] & sides[1]
        assert sorted([*known.tolist(), *held.tolist()]) == list(range(len(images)))
        tested += sorted(sides[1])
    assert sorted(tested) == sorted(set(images.groups))


@seeds
def test_folds_are_stratified(seed):
    data = corpus(seed)
    whole = counts(data.train, data)
    for k in range(FOLDS):
        _, held = fold(data.train, data.classes, k)
        assert (counts(data.train.at(held), data) - whole / FOLDS).abs().max() <= 1


@pytest.mark.parametrize("least", [2, 3, 5, 9])
def test_few_images_of_a_class_make_few_folds(least):
    y = torch.cat([torch.zeros(20, dtype=torch.long), torch.ones(least, dtype=torch.long)])
    images = Images(torch.zeros(len(y), 1, 1, 1), y, [str(n) for n in range(len(y))])
    tested = [int(r) for k in range(min(FOLDS, least)) for r in fold(images, ("a", "b"), k)[1]]
    assert sorted(tested) == list(range(len(y)))


def test_a_class_or_group_alone_cannot_be_held_out():
    images = Images(torch.zeros(4, 1, 1, 1), torch.tensor([0, 0, 0, 1]), list("abcd"))
    with pytest.raises(DataError, match=r"class 'rare' has 1 labelled image, and 2 are"):
        fold(images, ("common", "rare"), 0)
    images.groups = ["one", "two", "three", "one"]  # the rare class is known from a single patient
    with pytest.raises(DataError, match=r"class 'rare' has 1 labelled group, and 2 are"):
        fold(images, ("common", "rare"), 0)


# The pool


@seeds
def test_the_pool_is_everything_but_what_is_tested(seed):
    with_test = corpus(seed, extra=True)
    assert make(with_test, labels(2), 0).pool.ids == with_test.train.ids + with_test.extra.ids
    folds = corpus(seed, test=False)
    draw = make(folds, labels(2), 0)
    assert {*draw.pool.ids, *draw.test.ids} == {*folds.train.ids}


@seeds
def test_where_train_is_also_tested_the_unlabelled_images_alone_are_the_pool(seed):
    """So that one pretraining serves all folds."""
    data = corpus(seed, test=False, extra=True)
    assert make(data, labels(2), 0).pool is make(data, labels(2), 1).pool is data.extra
    assert pretrainings(data, 3) == [None] * 3
    assert pretrainings(corpus(seed), 3) == [None] * 3
    assert pretrainings(corpus(seed, test=False), 3) == [0, 1, 2]


def test_the_pool_has_no_labels_of_the_unlabelled():
    data = corpus(0, extra=True)
    both = make(data, labels(2), 0).pool
    assert both.y.tolist() == data.train.y.tolist() + [-1] * len(data.extra)
    assert pool(data, None) is both, "joined once"


@seeds
@pytest.mark.parametrize("streamed", [(False, False), (True, False), (True, True)])
def test_joined_sets_are_both_in_order(seed, streamed):
    """In memory or decoded as asked for, as wholes or as views."""
    data = corpus(seed, extra=True)
    for view in (False, True):
        a, b = (
            Images(i.x.__getitem__ if s else i.x, i.y, i.ids)
            for i, s in zip((data.train, data.extra), streamed, strict=True)
        )
        if view:
            a, b = a.at(torch.arange(9, 2, -1)), b.at(torch.tensor([4, 4, 0]))
        both = join(a, b)
        rows = torch.arange(len(both))
        expected = torch.cat([i.floats(torch.arange(len(i)), CPU) for i in (a, b)])
        assert torch.equal(both.floats(rows, CPU), expected)
        assert both.ids == a.ids + b.ids
        assert torch.equal(both.raw(len(a)), b.raw(0))


def test_joined_parts_of_one_set_are_not_copied():
    whole = corpus(0).train
    both = join(whole.at(torch.tensor([5, 2])), whole.at(torch.tensor([7])))
    assert both.x is whole.x
    assert torch.equal(
        both.floats(torch.arange(3), CPU), whole.floats(torch.tensor([5, 2, 7]), CPU)
    )


# Labels outside the budget


@seeds
@pytest.mark.parametrize("test", [False, True])
def test_outside_the_budget_is_neither_labelled_nor_tested(seed, test):
    data = corpus(seed, test=test)
    for d in range(3):
        draw = make(data, labels(3), d)
        others = outside(data, draw)
        assert not {*others.ids} & {*draw.labelled.ids, *draw.test.ids}
        assert {*others.ids, *draw.labelled.ids, *draw.test.ids} >= {*data.train.ids}
        few = outside(data, draw, most=20)
        assert len(few) == 20
        assert few.ids == outside(data, draw, most=20).ids


def test_outside_of_everything_is_nothing():
    data = corpus(0)
    with pytest.raises(DataError, match=r"val=full .*labels=all leaves none; take val="):
        outside(data, make(data, labels("all"), 0))


# Semi-supervised pools


@seeds
@pytest.mark.parametrize(
    ("test", "extra"), [(True, False), (True, True), (False, False), (False, True)]
)
def test_the_unlabelled_pool_shares_nothing_with_labels_and_tests_and_knows_no_label(
    seed, test, extra
):
    data = corpus(seed, test=test, extra=extra)
    for number in range(3):
        draw, rest = make(data, labels(5), number), unlabelled(data, labels(5), number)
        assert not {*rest.ids} & {*draw.labelled.ids, *draw.test.ids}
        assert rest.y.unique().tolist() == [-1]
        known = {*data.train.ids} if test else {*data.train.ids} - {*draw.test.ids}
        assert {*rest.ids} == (known - {*draw.labelled.ids}) | (
            {*data.extra.ids} if extra else set()
        )
        for row in (0, len(rest) - 1):
            source = data.extra if rest.ids[row].startswith("extra") else data.train
            assert torch.equal(rest.raw(row), source.raw(source.ids.index(rest.ids[row])))


def test_all_labels_leave_nothing_to_learn_from_without_them():
    with pytest.raises(DataError, match=r"labels=all leaves no unlabelled images"):
        unlabelled(corpus(0), labels("all"), 0)
    assert len(unlabelled(corpus(0, extra=True), labels("all"), 0)) == 70
