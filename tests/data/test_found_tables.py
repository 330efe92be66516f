"""Tables as spreadsheets and programs write them: read as they are meant, refused with the way out, or
warned of."""

import shutil
from pathlib import Path

import pytest
from found_inputs import folder, hot, noise, numbers, sets, table, values, warnings, write
from pictures import save

from sft_exp.datasets.image_folder import ImageFolder
from sft_exp.datasets.number_table import NumberTable
from sft_exp.errors import DataError

each = pytest.mark.parametrize


# Tables


@each(
    ("header", "rows", "words"),
    [
        ("file,target", lambda n: f"{n}.png,{n},5", "line 2: has more cells than the first line"),
        ("file,target", lambda n: f"{n}.png,{n}{',5' if n == 3 else ''}", "line 5: has more cells"),
        ("file,target,target", lambda n: f"{n}.png,{n},1", "has several columns target"),
        ("file,Target,TARGET", lambda n: f"{n}.png,{n},1", "has several columns target"),
        ("file,target,note", lambda n: f"{n}.png,{n}," + '"' * (n == 2), "quotation mark not closed"),
        (
            "file;target",
            lambda n: f"{n}.png;{n}{',' if n % 2 else '.'}125",
            "numbers with a comma .1,125 in line 3. and with a point .0.125 in line 2.",
        ),
        ("file,target", lambda n: f"{n}.png,{1_700_000_000 + n}", "subtract a constant"),
        ("file,target", lambda n: f"{n}.png,{'1e39' if n == 3 else n}", "too large for 32-bit"),
        ("file,target", lambda n: f"{n}.png,{'nan' if n == 3 else n}", "line 5: target is 'nan'"),
        ("file,target", lambda n: f"{n}.png,{'-inf' if n == 3 else n}", "target is '-inf'"),
        ("file,target,split", lambda n: f"{n}.png,{'' if n > 5 else n},{'test' if n > 5 else ''}",
         "6.png is a test image and has no number"),
        ("file,target,group", lambda n: f"{n}.png,{n},{'' if n == 3 else 'g'}", "the group is missing"),
        ("file,target,split,group", lambda n: f"{n}.png,{n},{'test' if n > 5 else ''},{n % 2}",
         "group 0 is in train and in test"),
    ],
)  # fmt: skip
def test_tables_of_numbers_that_mean_something_else_are_refused(header, rows, words):
    table(rows, header)
    with pytest.raises(DataError, match=words):
        numbers()


@each(
    ("header", "rows", "encoding", "wanted"),
    [
        ("file;target;;", lambda n: f"{n}.png;{n},5;;", "utf-8-sig", [n + 0.5 for n in range(8)]),
        ("\ufeff\ufefffile,target", lambda n: f"{n}.png,{n}", "utf-8", [*range(8)]),
        ("file\ttarget", lambda n: f"{n}.png\t{n}", "utf-16-le", [*range(8)]),
        ("file,target", lambda n: f"{n}.png,\u2212{n}", "utf-8", [-n for n in range(8)]),
        ("file,target", lambda n: f"C:\\Users\\me\\{n}.png,{n}", "utf-8", [*range(8)]),
        ("file,target", lambda n: f"/home/me/{n}.PNG,{n}", "utf-8", [*range(8)]),
        ("file,target", lambda n: f"https://x.org/im/{n}.png,{n}", "utf-8", [*range(8)]),
    ],
)
def test_tables_of_numbers_are_read_as_meant(header, rows, encoding, wanted):
    table(rows, header, encoding=encoding)
    assert values(numbers()) == wanted


def test_images_without_a_number_are_pretrained_on():
    table(lambda n: f"{n}.png,{'' if n > 5 else n}")
    corpus = numbers()
    assert (len(corpus.train), corpus.extra.ids) == (6, ["6.png", "7.png"])


def test_a_number_that_stands_for_a_missing_one_is_warned_of():
    table(lambda n: f"{n}.png,{-999 if n == 2 else n / 4}")
    assert "has the value -999 in 1 of 8 rows, and the others are 0 to 1.75" in warnings(numbers())
    for value in (0, -1, 99, 999):
        table(lambda n, value=value: f"{n}.png,{value if n == 2 else 50 + n / 4}")
        assert f"has the value {value} in 1 of 8 rows" in warnings(numbers())
    for number in (lambda n: 2**n, lambda n: n - 1, lambda n: 10 * n, lambda n: 92 + n):
        table(lambda n, number=number: f"{n}.png,{number(n)}")
        assert not warnings(numbers())


def test_copies_of_images_with_numbers():
    table(lambda n: f"{n}.png,{n}")
    shutil.copy("im/0.png", "im/1.png")
    with pytest.raises(DataError, match=r"0\.png and 1\.png"):
        numbers()
    write(Path("t.csv"), Path("t.csv").read_text().replace("1.png,1", "1.png,0"))
    assert "1 images are copies of others" in warnings(numbers())


@each(
    ("named", "there", "hint"),
    [
        ("{}.jpg", "{}.png", "0.png is there: write names without suffix"),
        ("{}", "00{}.png", "000.png is there: did a spreadsheet change the numbers"),
        ("{}.0", "{}.png", "0.png is there: did a spreadsheet change the numbers"),
        ("{}.png", "sub/{}.png", "im/sub/0.png is there: write the folder, too"),
    ],
)
@each("reader", [NumberTable, ImageFolder])
def test_a_name_that_nearly_fits_shows_the_file(named, there, hint, reader):
    for n in range(8):
        save(Path("im", there.format(n)), noise(n))
    rows = [f"{named.format(n)},{n % 2}" for n in range(8)]
    key = {NumberTable: "table", ImageFolder: "labels"}[reader]
    column = {NumberTable: "target", ImageFolder: "label"}[reader]
    write(Path("t.csv"), "\n".join([f"file,{column}", *rows]))
    with pytest.raises(DataError, match=hint):
        reader(root="im", **{key: "t.csv"}).load()


@each(
    ("content", "words"),
    [
        (b"PK\x03\x04xl/workbook.xml", "is an Excel workbook or another zip file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an old Excel workbook"),
        (b"PAR1....", "is a Parquet file"),
    ],
)
def test_tables_that_are_no_text_are_named(content, words):
    write(Path("t.csv"), content)
    with pytest.raises(DataError, match=f"{words}.*save it as CSV"):
        numbers()


@each("header", ["FILE,Label,Split,GROUP", "file,label,split,group"])
def test_columns_in_any_case_are_used(header):
    table(lambda n: f"{n}.png,{'ab'[n % 2]},{'Test' if n > 5 else 'TRAIN'},g{n // 2}", header)
    corpus = folder(Path("im"), labels="t.csv")
    assert (len(corpus.train), len(corpus.test)) == (6, 2)
    assert corpus.test.groups == ["g3", "g3"]
    assert len(folder(Path("im"), labels="t.csv", group="Group").train.groups) == 6


@each("kind", ["classes", "numbers", "columns of 0 and 1"])
@each(
    ("column", "words"),
    [
        ("subset", ("train", "test")),
        ("Usage", ("Training", "PublicTest", "PrivateTest")),
        ("partition", ("dev", "TEST", "holdout")),
        ("is_test", ("0", "1")),
        ("isTest", ("False", "True")),
        ("is_training_image", ("1", "0")),
        ("is_train", ("WAHR", "FALSCH")),
    ],
)
def test_a_column_that_names_splits_is_read_as_the_split(column, words, kind):
    """Of images without a label the cell is empty."""

    def split(n):
        return "" if n == 8 else words[max(0, min(n - 5, len(words) - 1))]

    if kind == "classes":
        table(lambda n: f"{n}.png,{'ab'[n % 2] * (n < 8)},{split(n)}", f"file,label,{column}", 9)
        corpus = folder(Path("im"), labels="t.csv")
        assert corpus.classes == ("a", "b")
    elif kind == "numbers":
        table(lambda n: f"{n}.png,{n if n < 8 else ''},{split(n)}", f"file,target,{column}", 9)
        corpus = numbers()
    else:
        table(
            lambda n: f"{n}.png,{hot(n) if n < 8 else ','},{split(n)}", f"file,cat,dog,{column}", 9
        )
        corpus = sets()
        assert corpus.classes == ("cat", "dog")
    assert corpus.test.ids == ["6.png", "7.png"]
    assert (len(corpus.train), len(corpus.extra)) == (6, 1)
    assert not warnings(corpus)


@each(
    ("header", "row", "words"),
    [
        ("is_valid", lambda n: n > 5, "column is_valid names images of train and val alone"),
        ("subset", lambda n: "val" if n > 5 else "train", "of train and val alone"),
        ("fold", lambda n: n % 4, "column fold numbers folds and is not used"),
        ("kfold", lambda n: n % 2, "column kfold numbers folds and is not used"),
        ("cv_fold", lambda n: n % 4, "column cv_fold numbers folds and is not used"),
        ("test", lambda n: int(n > 5), "call it is_test if it marks images of test"),
        ("valid", lambda n: int(n > 5), "call it is_valid if it marks images of val"),
        ("train", lambda n: int(n < 6), "call it is_train if it marks images of train"),
        (
            "is_test,subset",
            lambda n: f"{int(n > 5)},{'test' if n > 4 else 'train'}",
            "columns is_test and subset name different splits, and none is used",
        ),
    ],
)
@each("kind", ["classes", "numbers", "columns of 0 and 1"])
def test_a_column_that_may_name_splits_is_warned_of(header, row, words, kind):
    if kind == "classes":
        table(lambda n: f"{n}.png,{'ab'[n % 2]},{row(n)}", f"file,label,{header}")
        corpus = folder(Path("im"), labels="t.csv")
    elif kind == "numbers":
        table(lambda n: f"{n}.png,{n},{row(n)}", f"file,target,{header}")
        corpus = numbers()
    else:
        table(lambda n: f"{n}.png,{hot(n)},{row(n)}", f"file,cat,dog,{header}")
        corpus = sets()
        if header == "train":  # which may be a class
            assert corpus.classes == ("cat", "dog", "train")
            return
        assert corpus.classes == ("cat", "dog", *[c for c in (header,) if c in ("test", "valid")])
    assert (len(corpus.train), corpus.test) == (8, None)
    (said,) = corpus.report["warnings"]
    assert words in said


@each(
    ("header", "row"),
    [
        ("split,is_test", lambda n: f"{'test' if n > 5 else 'train'},{n % 2}"),
        ("split,fold", lambda n: f"{'test' if n > 5 else 'train'},{n % 4}"),
        ("is_test,is_valid", lambda n: f"{int(n > 5)},{int(n == 5)}"),
        ("is_test,subset", lambda n: f"{int(n > 5)},{'test' if n > 5 else 'train'}"),
        ("subset,patient,age", lambda n: f"{'test' if n > 5 else 'train'},p{n},{30 + n}"),
    ],
)
def test_columns_beside_the_split_are_no_matter(header, row):
    table(lambda n: f"{n}.png,{'ab'[n % 2]},{row(n)}", f"file,label,{header}")
    corpus = folder(Path("im"), labels="t.csv")
    assert (len(corpus.train), len(corpus.test)) == (6, 2)
    assert not warnings(corpus)


# Numbers whose thousands are separated


@each(
    ("cells", "separator"),
    [
        (["950", "1,234", "12,500", "870"], "\t"),
        (["950", "1.234", "12.500", "870"], ";"),
        (["950", "1.234", "12.500", "870"], ","),
        (["\u2212950", "-1,234", "12,500", "870"], ";"),
        (["950", '"1,234"', '"12,500"', "870"], ","),
        (["950", "1.234.567", "12.500", "870"], "\t"),
    ],
)
def test_thousands_beside_whole_numbers_are_refused(cells, separator):
    table(lambda n: f"{n}.png{separator}{cells[n]}", f"file{separator}target", 4)
    words = r"before exactly three digits \(-?1[,.]234.* in line 3\), beside whole numbers \(.*950 "
    with pytest.raises(DataError, match=words + r"in line 2\).*\(1234\).*950[,.]0 for "):
        numbers()


@each(
    "cell", ["1 234", "1\u00a0234", "1\u202f234", "1'234", "1\u2019234", "-1 234 567", "1,234,567"]
)
def test_other_signs_between_thousands_are_no_number(cell):
    table(lambda n: f'{n}.png,"{cell if n == 3 else n}"')
    with pytest.raises(DataError, match=r"before exactly three|line 5.*no number; write thousands"):
        numbers()


@each(
    ("cells", "separator"),
    [
        (["9,500", "1,234", "12,500", "8,700"], "\t"),
        (["9.500", "1.234", "12.500", "8.700"], ";"),
        (["9,500", "1,234", "12,500", "0"], ";"),
    ],
)
def test_numbers_of_three_decimals_or_of_thousands_are_warned_of(cells, separator):
    table(lambda n: f"{n}.png{separator}{cells[n]}", f"file{separator}target", 4)
    corpus = numbers()
    assert values(corpus)[1] == pytest.approx(1.234)
    (said,) = corpus.report["warnings"]
    assert "stands before exactly three digits (9" in said
    assert "write thousands without a separator" in said


@each(
    ("cells", "separator"),
    [
        (["0.125", "1.234", "2.500", "3.125"], "\t"),
        (["0,125", "1,234", "2,500", "3,125"], ";"),
        (["1.234", "1.2", "2.375", "3"], ";"),
        (["1,234", "0,5", "2,375", "3"], ";"),
        (["9.500", "1.234", "12.500", "8.700"], ","),
        (["950", "1234", "2500", "870"], ";"),
        (["1.234e+02", "2.345e+02", "3", "4"], "\t"),
    ],
)
def test_decimals_are_no_thousands(cells, separator):
    table(lambda n: f"{n}.png{separator}{cells[n]}", f"file{separator}target", 4)
    corpus = numbers()
    assert values(corpus) == pytest.approx([float(c.replace(",", ".")) for c in cells])
    assert not warnings(corpus)


# Encodings


@each(
    ("names", "encoding", "shown"),
    [
        (("кошка", "собака"), "cp1251", "'êîøêà' in line 2"),
        (("猫", "狗"), "gbk", "'Ã¨' in line 2"),
        (("ネコ", "イヌ"), "shift_jis", "in line 2"),
        (("pes", "kočka"), "cp1250", "'koèka' in line 3"),
        (("thé", "café"), "mac_roman", "'thŽ' in line 2"),
        (("grün", "rot"), "cp1252", "'grün' in line 2"),
        (("a", "b\u00a0c"), "cp1252", r"'b\xa0c' in line 3"),
    ],
)
@each("kind", ["labels", "table"])
def test_a_table_whose_encoding_is_guessed_is_said(names, encoding, shown, kind):
    header = f"file,{kind if kind == 'labels' else 'label'}"
    table(lambda n: f"{n}.png,{names[n % 2]}", header, encoding=encoding)
    corpus = sets() if kind == "labels" else folder(Path("im"), labels="t.csv")
    (said,) = corpus.report["warnings"]
    assert "neither UTF-8 nor UTF-16 and is read as Windows-1252" in said
    assert shown in said
    assert "save it as UTF-8" in said


@each("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_other_encodings_are_known(encoding):
    table(lambda n: f"{n}.png,{('кошка', '猫')[n % 2]}", "file,label", encoding=encoding)
    corpus = folder(Path("im"), labels="t.csv")
    assert corpus.classes == ("кошка", "猫")
    assert not warnings(corpus)


def test_a_table_in_no_known_encoding_names_the_remedy():
    table(lambda n: f"{n}.png,{n}", images="im")
    write(Path("t.csv"), b"file,target\n0.png,\x81\n")
    with pytest.raises(DataError, match=r"codec can't decode.*; save it as UTF-8"):
        numbers()
