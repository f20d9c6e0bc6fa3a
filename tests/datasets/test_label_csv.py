"""Reading the label CSV and the sample submission."""

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.datasets.label_csv import read_labels, read_sample
from ichx.errors import CorruptFileError, IchxError, InvalidInputError, NotFoundError
from ichx.labels import LABELS


def long_rows(values: dict[str, list[float]]) -> list[str]:
    return [f"{image}_{label},{v:g}" for image, row in values.items() for label, v in zip(LABELS, row, strict=True)]


def write(path: Path, rows: list[str], header: str = "ID,Label") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def problem(path: Path, read=read_labels, error: type[IchxError] = InvalidInputError) -> str:
    with pytest.raises(error) as caught:
        read(path)
    return caught.value.problem


VALUES = {"ID_b": [0, 0, 0, 1, 0, 1], "NA": [0, 0, 0, 0, 0, 0], "0012": [0.5, 0, 0, 0, 0, 0.5]}


def test_long_and_wide_files_have_equal_labels(tmp_path: Path) -> None:
    long = read_labels(write(tmp_path / "long.csv", long_rows(VALUES)))
    order = [5, 2, 0, 4, 1, 3]
    rows = []
    for image, row in VALUES.items():
        cells = [f"{row[i]:g}" for i in order]
        rows.append(",".join([*cells[:3], image, *cells[3:]]))
    names = [LABELS[i].upper() for i in order]
    wide = read_labels(write(tmp_path / "wide.csv", rows, ",".join([*names[:3], "Image", *names[3:]])))
    assert long.ids.tolist() == wide.ids.tolist() == list(VALUES)
    assert long.values.tolist() == wide.values.tolist() == list(VALUES.values())
    assert long.values.dtype == np.float32


def test_compressed_file_with_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv.gz"
    text = "\ufeffid,LABEL\r\n" + "\r\n".join(long_rows(VALUES)) + "\r\n"
    path.write_bytes(gzip.compress(text.encode()))
    assert read_labels(path).ids.tolist() == list(VALUES)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_order_of_rows_is_irrelevant(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    images = data.draw(st.lists(st.text("abc_019", min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
    values = {image: data.draw(st.lists(st.integers(0, 1), min_size=6, max_size=6)) for image in images}
    rows = data.draw(st.permutations(long_rows(values)))
    table = read_labels(write(tmp_path_factory.mktemp("csv") / "a.csv", rows))
    assert dict(zip(table.ids, table.values.tolist(), strict=True)) == values
    assert table.any_differs == sum(max(row[:5]) != row[5] for row in values.values())


def test_equal_duplicates_are_merged(tmp_path: Path) -> None:
    rows = long_rows(VALUES)
    table = read_labels(write(tmp_path / "a.csv", rows + rows[:2] + rows[:1]))
    assert table.duplicates == 3
    assert table.values.tolist() == list(VALUES.values())
    wide = ["a,0,0,0,0,0,0", "a,0,0,0,0,0,0"]
    assert read_labels(write(tmp_path / "b.csv", wide, f"image,{','.join(LABELS)}")).duplicates == 1


def test_duplicates_that_disagree_are_listed(tmp_path: Path) -> None:
    rows = [*long_rows(VALUES), "NA_any,1"]
    assert re.search(r"1 id .* NA_any\.$", problem(write(tmp_path / "a.csv", rows)))
    wide = ["a,0,0,0,0,0,0", "a,0,0,0,0,0,1", "b,0,0,0,0,0,0"]
    assert re.search(r"1 image .* a\.$", problem(write(tmp_path / "b.csv", wide, f"image,{','.join(LABELS)}")))


def test_any_that_differs_from_the_maximum_is_counted(tmp_path: Path) -> None:
    table = read_labels(write(tmp_path / "a.csv", long_rows(VALUES | {"x": [1, 0, 0, 0, 0, 0]})))
    assert (table.any_differs, table.any_examples) == (1, ("x",))


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    rows = [
        "a_epidural,2",
        "a_any,",
        "a_subdural,nan",
        "a_shoulder,1",
        "_any,0",
        "a_intraventricular,maybe",
        "b_any,-0.1",
    ]
    ids, blank, labels, images = problem(write(tmp_path / "a.csv", rows)).splitlines()
    assert re.search(r"2 ids .*line 5: 'a_shoulder', line 6: '_any'", ids)
    assert re.search(r"1 row .*line 3 \(a_any\)\.$", blank)
    assert re.search(r"4 rows .*line 2 \(a_epidural '2'\), line 4 \(a_subdural 'nan'\)", labels)
    assert re.search(r"2 images .*a lacks intraparenchymal, subarachnoid; b lacks", images)


def test_problems_of_a_wide_file_name_the_column(tmp_path: Path) -> None:
    rows = ["a,0,0,x,7,0,0", ",0,0,0,0,0,0", "b,,,,,,", "c,0,,0,0,0,2"]
    empty, blank, label = problem(write(tmp_path / "a.csv", rows, f"image,{','.join(LABELS)}")).splitlines()
    assert re.search(r"1 row .*line 3", empty)
    assert re.search(rf"2 rows .*line 4 \({', '.join(LABELS)}\); line 5 \(intraparenchymal\)\.$", blank)
    assert re.search(r"2 rows .*line 2 \(intraventricular 'x', subarachnoid '7'\); line 5 \(any '2'\)", label)


@pytest.mark.parametrize(
    ("before", "rows", "number"),
    [
        ("", ["a,0,0,0,0,0,0,x", "b,2,0,0,0,0,0,"], 3),
        ("", ["", "a,0,0,0,0,0,0,x", "", "b,2,0,0,0,0,0,", ""], 5),
        ("", [",,,,,,,", " , ,,,,,,", "b,2,0,0,0,0,0,"], 4),
        ("", ['a,0,0,0,0,0,0,"two\nlines"', 'b,2,0,0,0,0,0,"two\nlines"'], 4),
        ("sep=,\n", ["a,0,0,0,0,0,0,x", "b,2,0,0,0,0,0,"], 4),
        ("\n\n", ["b,2,0,0,0,0,0,"], 4),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_problem_names_the_line_of_the_file(
    before: str, rows: list[str], number: int, end: str, tmp_path: Path
) -> None:
    text = before + "\n".join([f"image,{','.join(LABELS)},note", *rows])
    (tmp_path / "a.csv").write_bytes(text.replace("\n", end).encode())
    assert f"line {number} (epidural '2')" in problem(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("content", "error", "value"),
    [
        ("a,b\n1,2\n", InvalidInputError, "a, b"),
        ("image,epidural,any\nx,0,0\n", InvalidInputError, "image, epidural, any"),
        (f"{','.join(LABELS)}\n0,0,0,0,0,0\n", InvalidInputError, "subdural, any"),
        (f"image,any,{','.join(LABELS)}\nx,0,0,0,0,0,0,0\n", InvalidInputError, "image, any, epidural"),
        ("ID,Label\0\n1,2\n", CorruptFileError, "a.csv"),
        ("ID,Label\n", InvalidInputError, "a.csv"),
        ("", CorruptFileError, "a.csv"),
        ("ID,Label\n1,2,3\n", CorruptFileError, "a.csv"),
    ],
)
def test_files_that_are_not_label_csv(tmp_path: Path, content: str, error: type[IchxError], value: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    for read in (read_labels, read_sample):
        assert value in problem(path, read, error)


LONG = ["ID,Label", *long_rows(VALUES)]


@pytest.mark.parametrize(
    ("encoding", "text"),
    {
        "bom": ("utf-8-sig", "\n".join(LONG)),
        "utf-16": ("utf-16", "\r\n".join(LONG).replace(",", "\t")),
        "semicolons": ("utf-8", "\r\n".join(LONG).replace(",", ";")),
        "decimal commas": ("utf-8", "\r\n".join(LONG).replace(",", ";").replace(".", ",")),
        "separator of excel": ("utf-8", "sep=;\r\n" + "\r\n".join(LONG).replace(",", ";")),
        "bars": ("utf-8", "\n".join(LONG).replace(",", "|")),
        "old macs": ("utf-8", "\r".join(LONG)),
        "blank lines": ("utf-8", "\n" + "\n\n".join(LONG) + "\n\n\n"),
        "blank rows": ("utf-8", "\n".join([*LONG, ",", " ,"])),
        "blanks": ("utf-8", "\n".join(f" {line.replace(',', ' , ')}\t" for line in LONG)),
        "quotes": ("utf-8", "\n".join('"' + line.replace(",", '","') + '"' for line in LONG)),
        "index": ("utf-8", "," + "\n".join([LONG[0], *(f"{n},{row}" for n, row in enumerate(LONG[1:]))])),
        "notes": (
            "cp1252",
            "\n".join(f"{row},{note}" for row, note in zip(LONG, ["n", *["Schädel"] * 18], strict=True)),
        ),
        "booleans": ("utf-8", "\n".join(LONG).replace(",0\n", ",FALSE\n").replace(",1\n", ",True\n")),
        "words": ("utf-8", "\n".join(LONG).replace(",0\n", ",No\n").replace(",1\n", ",YES\n")),
        "case of labels": ("utf-8", "\n".join(LONG).replace("_any", "_Any").replace("_epidural", "_EPIDURAL")),
        "without any": ("utf-8", "\n".join(line for line in LONG if "_any" not in line)),
    }.values(),
)
def test_files_of_other_programs(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    table = read_labels(tmp_path / "a.csv")
    assert table.ids.tolist() == list(VALUES)
    assert table.values.tolist() == list(VALUES.values())
    assert table.any_computed == ("any" not in text.lower())


@pytest.mark.parametrize("name", ["SOPInstanceUID", "SOP Instance UID", "image_id", "Filename", "file name", "slice"])
@pytest.mark.parametrize("any_column", [True, False])
def test_columns_of_a_wide_file(tmp_path: Path, name: str, any_column: bool) -> None:
    labels = LABELS if any_column else LABELS[:-1]
    header = ",".join(["", name, "PatientID", *(label.title() for label in labels), "notes"])
    rows = [
        ",".join([str(n), image, "P", *(f"{v:g}" for v in row[: len(labels)]), ""])
        for n, (image, row) in enumerate(VALUES.items())
    ]
    table = read_labels(write(tmp_path / "a.csv", rows, header))
    assert table.ids.tolist() == list(VALUES)
    assert table.values.tolist() == list(VALUES.values())
    assert table.any_computed != any_column


def test_a_subset_of_the_labels_is_refused_with_the_missing_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["x,0,0,0"], "image,epidural,subdural,any")
    assert "intraparenchymal, intraventricular, subarachnoid" in problem(path)


def test_a_pipe(tmp_path: Path) -> None:
    """As `<(zcat labels.csv.gz)` in a shell; a pipe without a writer is not waited for."""
    reader, writer = os.pipe()
    os.write(writer, "\n".join(LONG).encode())
    os.close(writer)
    assert read_labels(Path(f"/dev/fd/{reader}")).ids.tolist() == list(VALUES)
    os.close(reader)
    os.mkfifo(tmp_path / "pipe")
    assert "pipe" in problem(tmp_path / "pipe", error=CorruptFileError)
    assert "/dev/zero" in problem(Path("/dev/zero"), error=CorruptFileError)


def test_unreadable_files(tmp_path: Path) -> None:
    assert "absent.csv" in problem(tmp_path / "absent.csv", error=NotFoundError)
    assert str(tmp_path) in problem(tmp_path, error=CorruptFileError)
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"\x80\x81\xff" * 50)
    assert "b.csv" in problem(binary, error=CorruptFileError)
    truncated = tmp_path / "c.csv.gz"
    truncated.write_bytes(gzip.compress(b"ID,Label\n" + b"a_any,0\n" * 5000)[:-20])
    assert "c.csv.gz" in problem(truncated, error=CorruptFileError)


def test_sample_has_the_ids_in_their_order(tmp_path: Path) -> None:
    ids = [f"{image}_{label}" for label in reversed(LABELS) for image in ("z", "ID_a")]
    sample = read_sample(write(tmp_path / "a.csv", [f"{i},0.5" for i in ids]))
    assert sample.ids.tolist() == ids
    assert sample.images.tolist() == ["z", "ID_a"]


def test_invalid_sample(tmp_path: Path) -> None:
    rows = [f"a_{label},0.5" for label in LABELS]
    repeated = problem(write(tmp_path / "a.csv", [*rows, "a_any,0.5"]), read_sample)
    assert re.search(r"1 id .*a_any", repeated)
    assert "a lacks any" in problem(write(tmp_path / "b.csv", rows[:-1]), read_sample)
    assert "line 8: 'a_other'" in problem(write(tmp_path / "c.csv", [*rows, "a_other,0.5"]), read_sample)


def test_real_label_file(shared_data: Path) -> None:
    table = read_labels(shared_data / "labels/stage_2_train.csv.gz")
    assert table.values.shape == (752803, 6)
    assert table.values.sum(axis=0).tolist() == [3145, 36118, 26205, 35675, 47166, 107933]
    assert (table.duplicates, table.any_differs) == (24, 0)


@pytest.mark.parametrize("header", ["ID,Label,Label", "id,ID,label", "ID,Label,LABEL "])
def test_columns_that_are_there_twice_are_refused(tmp_path: Path, header: str) -> None:
    rows = [f"{row},0" for row in long_rows(VALUES)]
    message = problem(write(tmp_path / "labels.csv", rows, header))
    assert "several columns" in message
    assert header.strip().replace(",", ", ") in message


def test_a_sample_with_two_columns_of_ids_is_refused(tmp_path: Path) -> None:
    rows = [f"{row},x" for row in long_rows(VALUES)]
    assert "several columns id" in problem(write(tmp_path / "sample.csv", rows, "ID,Label,id"), read_sample)


def test_messages_about_long_files_are_short(tmp_path: Path) -> None:
    columns = ",".join(f"c{i}" for i in range(5000))
    message = problem(write(tmp_path / "columns.csv", ["0" + ",0" * 4999], columns))
    assert "c19 and 4,980 others" in message
    assert "\n" not in problem(write(tmp_path / "lines.csv", ["0"], '"two\nlines"'))
    rows = long_rows(VALUES)
    for at, long in ((0, "9" * 100_000), (0, "x" * 100_000)):
        message = problem(write(tmp_path / "value.csv", [rows[at].rsplit(",", 1)[0] + "," + long, *rows[1:]]))
        assert "line 2" in message
        assert len(message) < 1000
    message = problem(write(tmp_path / "id.csv", ["x" * 100_000 + ",0", *rows]))
    assert "line 2" in message
    assert len(message) < 1000


@pytest.mark.parametrize("text", ['"' + "ID,Label\nx_any,0\n" * 100_000, "ID,Label\n" + "x" * (3 << 20)])
def test_unclosed_quotes_and_endless_lines(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    assert "1 MiB" in problem(path, error=CorruptFileError)
