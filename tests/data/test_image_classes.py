"""Choices and tags of whole images, as Label Studio, CVAT and FiftyOne write them."""

import pytest
from tool_exports import noise, said, write

from sft_exp.datasets.image_folder import ImageFolder
from sft_exp.errors import DataError

each = pytest.mark.parametrize


def choice(n, *labels, **more):
    value = {"choices": list(labels)}
    result = {"from_name": "kind", "to_name": "image", "type": "choices", "value": value}
    annotations = [{"result": [result] if labels else [], **more}]
    return {
        "id": n,
        "data": {"image": f"/data/upload/1/1a2b3c4d-{n}.jpg"},
        "annotations": annotations,
    }


def studio_choices(root):
    """labelstud.io/guide/export: a task for each image, its choices in the result."""
    tasks = [choice(n, "cat" if n % 2 else "dog") for n in range(6)]
    tasks += [choice(6), choice(7, "cat", was_cancelled=True)]
    write(root / "project.json", tasks)
    return root / "project.json", [root / f"{n}.jpg" for n in range(8)]


def studio_min_choices(root):
    """JSON-MIN: the choice under the name of its control."""
    tasks = [
        {
            "image": f"/data/upload/1/{n}.jpg",
            "id": n,
            "choice": "cat" if n % 2 else "dog",
            "annotator": 1,
        }
        for n in range(6)
    ]
    tasks += [{"image": f"{n}.jpg", "id": n, "annotator": 1} for n in (6, 7)]
    write(root / "min.json", tasks)
    return root / "min.json", [root / f"{n}.jpg" for n in range(8)]


def cvat_tags(root):
    """docs.cvat.ai/docs/other/xml_format: a tag is of the whole image."""
    tag = '<tag label="{}" source="manual"></tag>'
    images = "".join(
        f'<image id="{n}" name="{n}.jpg" width="60" height="40">'
        f"{tag.format('cat' if n % 2 else 'dog') if n < 6 else ''}</image>"
        for n in range(8)
    )
    write(root / "annotations.xml", f"<annotations><version>1.1</version>{images}</annotations>")
    return root / "annotations.xml", [root / f"images/{n}.jpg" for n in range(8)]


def fiftyone_labels(root):
    """docs.voxel51.com/user_guide/export_datasets.html: numbers of the listed classes, null where
    an image is unlabelled; images are named without their suffixes."""
    labels = {f"{n % 2}/{n}": n % 2 for n in range(6)} | {"0/6": None, "1/7": None}
    write(root / "labels.json", {"classes": ["dog", "cat"], "labels": labels})
    return root / "labels.json", [root / f"data/{n % 2}/{n}.jpg" for n in range(8)]


def fiftyone_manifest(root):
    """Without copies of the images: data.json has their paths. Here with confidences, and with
    classes as texts."""
    labels = {f"{n}": {"label": "cat" if n % 2 else "dog", "confidence": 0.9} for n in range(6)}
    write(root / "labels.json", {"labels": labels | {"6": None, "7": {"label": None}}})
    paths = [root / f"elsewhere/{n}.jpg" for n in range(8)]
    write(root / "data.json", {path.name: str(path) for path in paths})
    return root / "labels.json", paths


@each(
    "export",
    [studio_choices, studio_min_choices, cvat_tags, fiftyone_labels, fiftyone_manifest],
)
def test_choices_and_tags_are_classes_of_images(tmp_path, export):
    file, paths = export(tmp_path)
    for n, path in enumerate(paths):
        noise(path, n)
    corpus = ImageFolder(labels=str(file), size=16, workers=0).load()
    assert corpus.classes == ("cat", "dog")
    labels = dict(zip(corpus.train.ids, corpus.train.y.tolist(), strict=True))
    assert labels == {
        p.relative_to(tmp_path).as_posix(): 1 - n % 2 for n, p in enumerate(paths[:6])
    }
    assert len(corpus.extra) == 2, "images without a class are pretrained on"
    assert not said(corpus)


@each(
    ("tasks", "words"),
    [
        ([choice(0, "cat", "dog")], "0.jpg has the classes cat, dog; an image has one class"),
        (
            [choice(0), choice(1)],
            "no image with a class; Label Studio's JSON with choices, FiftyOne's",
        ),
        ([choice(0, "cat"), choice(0, "cat")], "is annotated twice"),
        ({"shapes": []}, "no export of Label Studio or FiftyOne"),
        ({"classes": ["cat"], "labels": {"0": 1}}, "0 has the class 1; 1 are listed"),
        ({"labels": {"0": ["cat", "dog"]}}, "0.jpg has the classes cat, dog"),
        ([choice(0, "cat"), choice(1, "dog"), choice(9, "cat")], None),
    ],
)
def test_doubtful_choices_are_refused_or_said(tmp_path, tasks, words):
    write(tmp_path / "project.json", tasks)
    noise(tmp_path / "0.jpg", 0)
    noise(tmp_path / "1.jpg", 1)
    dataset = ImageFolder(labels=str(tmp_path / "project.json"), size=16, workers=0)
    if words is None:
        assert "1 images are named but missing: /data/upload/1/1a2b3c4d-9.jpg" in said(
            dataset.load()
        )
        return
    with pytest.raises(DataError, match=words):
        dataset.load()


def annotations(*labels, **first):
    """Label Studio's task with an annotation for each label."""
    results = [{"result": [{"type": "choices", "value": {"choices": [c]}}]} for c in labels]
    return [results[0] | first, *results[1:]]


@each(
    ("given", "words"),
    [
        (annotations("cat", "dog"), "1 tasks have annotations that disagree, of which the first"),
        (annotations("cat", "dog", "dog"), "is taken: /data/upload/1/1a2b3c4d-0.jpg"),
        ([*annotations("cat"), {"result": []}], "annotations that disagree"),
        (annotations("cat", "dog", ground_truth=True), ""),
        (annotations("cat", "cat"), ""),
        ([*annotations("cat"), *annotations("dog", was_cancelled=True)], ""),
    ],
)
def test_annotators_who_disagree_are_said(tmp_path, given, words):
    tasks = [choice(n, "cat" if n % 2 else "dog") for n in range(4)]
    tasks[0]["annotations"] = given
    write(tmp_path / "project.json", tasks)
    for n in range(4):
        noise(tmp_path / f"{n}.jpg", n)
    corpus = ImageFolder(labels=str(tmp_path / "project.json"), size=16, workers=0).load()
    assert corpus.classes[corpus.train.y[0]] == "cat"
    assert [words in note for note in said(corpus)] == [True] * bool(words)


@each(
    "asked",
    [
        lambda n: [("kind", "ab"[n % 2]), ("quality", "good")],
        lambda n: [("kind", "ab"[n % 2])] if n % 2 else [("quality", "good")],
        lambda n: [("kind", "ab"[n % 2]), *[("quality", "bad")] * (n == 1)],
    ],
)
def test_answers_to_several_questions_are_refused(tmp_path, asked):
    """labelstud.io/guide/task_format: from_name is the control of a result."""
    tasks = []
    for n in range(4):
        noise(tmp_path / f"{n}.jpg", n)
        results = [
            {"type": "choices", "from_name": control, "value": {"choices": [choice]}}
            for control, choice in asked(n)
        ]
        tasks.append({"data": {"image": f"{n}.jpg"}, "annotations": [{"result": results}]})
    write(tmp_path / "a.json", tasks)
    with pytest.raises(DataError, match="answers to several questions about an image"):
        ImageFolder(root=str(tmp_path), labels=str(tmp_path / "a.json"), size=16).load()


@each(
    "region",
    [
        {"x": 1, "y": 1, "width": 5, "height": 5},
        {"points": [[1, 1], [2, 2], [3, 1]]},
        {"format": "rle", "rle": [1, 2]},
    ],
)
def test_choices_of_regions_are_said(tmp_path, region):
    """labelstud.io/tags/choices, perRegion: the result repeats the region's position."""
    tasks = []
    for n in range(4):
        noise(tmp_path / f"{n}.jpg", n)
        value = {**region, "choices": ["ab"[n % 2]]}
        results = [{"type": "choices", "from_name": "kind", "value": value}]
        tasks.append({"data": {"image": f"{n}.jpg"}, "annotations": [{"result": results}]})
    write(tmp_path / "a.json", tasks)
    corpus = ImageFolder(root=str(tmp_path), labels=str(tmp_path / "a.json"), size=16).load()
    (note,) = said(corpus)
    assert note.startswith("4 tasks have choices of a region, which are taken for the image's")


@each("control", ["animal", "label", "Species"])
def test_the_control_of_a_choice_has_any_name(tmp_path, control):
    tasks = [
        {"image": f"{n}.jpg", "id": n, control: "cat" if n % 2 else "dog", "annotator": "me",
         "created_at": "2024", "lead_time": 1.5}
        for n in range(4)
    ]  # fmt: skip
    write(tmp_path / "min.json", tasks)
    for n in range(4):
        noise(tmp_path / f"{n}.jpg", n)
    dataset = ImageFolder(labels=str(tmp_path / "min.json"), size=16, workers=0)
    assert dataset.load().classes == ("cat", "dog")
    chosen = [task | {control: {"choices": [task[control]]}} for task in tasks]
    write(tmp_path / "min.json", chosen)
    assert dataset.load().classes == ("cat", "dog")
    write(tmp_path / "min.json", [task | {"quality": "good"} for task in tasks])
    with pytest.raises(DataError, match=rf"{control} and quality may be the class of an image"):
        dataset.load()
