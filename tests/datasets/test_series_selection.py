"""Selecting one series per study by rules."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dicom_files import write_ct

from ichx.datasets.add import AddReport, AddRequest, add_dataset
from ichx.datasets.dataset import load_catalog
from ichx.datasets.series_rules import default_rules_text, parse_series_rules, read_series_rules
from ichx.datasets.series_selection import series_folder
from ichx.errors import InvalidInputError, NotFoundError
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    workspace = init_workspace(tmp_path / "workspace")
    with open_store(workspace) as store:
        yield Project(workspace, store)


def write_series(
    root: Path, study: str, folder: str, slices: int = 10, thickness: float = 5, **elements: object
) -> None:
    """Write a series of `study` to `folder` of the study's folder."""
    for index in range(slices):
        name = f"ID_{study}{folder}{index:02d}".replace(" ", "")
        values = {
            "SOPInstanceUID": name,
            "PatientID": study,
            "StudyInstanceUID": f"study {study}",
            "SeriesInstanceUID": f"series {study} {folder}",
            "InstanceNumber": index,
            "ImagePositionPatient": [-120, -120, index * thickness],
            "SliceThickness": thickness,
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        }
        write_ct(root / study / folder / f"{name}.dcm", **(values | elements))


def add(project: Project, source: Path, **options: object) -> AddReport:
    return add_dataset(project, AddRequest("ours", source, series="auto", **options))  # type: ignore[arg-type]


def reasons(project: Project, report: AddReport) -> dict[str, str]:
    """Return the reason by the folder of the series; empty for a selected one."""
    catalog = load_catalog(project.workspace, report.version)
    assert set(catalog["defect"].dropna()) <= {"series_left_out"}
    return {
        f"{Path(file).parent.parent.name}/{Path(file).parent.name}": str(detail)
        for file, detail in zip(catalog["file"], catalog["detail"], strict=True)
    }


def test_one_axial_plain_soft_series_is_selected(project: Project, tmp_path: Path) -> None:
    source = tmp_path / "export"
    write_series(source, "a", "CT Plain 3mm", 12, 3, ConvolutionKernel="H31s")
    write_series(source, "a", "CT PLAIN THIN", 20, 0.625, ConvolutionKernel="H31s")
    write_series(source, "a", "CT POST CONTRAST", 12, 3, ConvolutionKernel="H31s")
    write_series(source, "a", "CT BONE", 12, 3, ConvolutionKernel="H60s")
    write_series(source, "a", "s5", 12, 3, ConvolutionKernel="H70h")
    write_series(source, "a", "s6", 12, 3, ContrastBolusAgent="Omnipaque")
    write_series(source, "a", "s7", 12, 3, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    write_series(source, "a", "s8", 12, 3, ImageType=["DERIVED", "SECONDARY", "MIP"])
    write_series(source, "a", "s9", 3, 5)
    write_series(source, "b", "CT_NON_CONTRAST_5mm", 9, 5)
    write_series(source, "b", "CT 5mm", 11, 5)
    write_series(source, "c", "s1", 9, 7.5)
    write_series(source, "c", "s2", 40, 0.6)
    report = add(project, source)
    found = reasons(project, report)
    assert {name for name, reason in found.items() if not reason} == {
        "a/CT Plain 3mm",
        "b/CT_NON_CONTRAST_5mm",
        "c/s1",
    }
    assert found["c/s2"] == "another series is preferred: thickness of 2.5 to 10 mm"
    assert found["a/CT PLAIN THIN"] == "another series is preferred: thickness of 2.5 to 6 mm"
    assert found["a/CT POST CONTRAST"] == "contrast, by its folder"
    assert found["a/CT BONE"] == found["a/s5"] == "bone or lung kernel"
    assert found["a/s6"] == "contrast agent in the header"
    assert found["a/s7"] == "not axial"
    assert found["a/s8"] == "projection, by its ImageType"
    assert found["a/s9"] == "fewer than 8 slices"
    assert found["b/CT 5mm"] == "another series is preferred: a folder that names a plain scan"
    assert (report.version.slices, report.version.summary["series"]) == (21, 2)
    selection = report.version.summary["series_selection"]
    assert (selection["series"], selection["selected"], selection["left_out"]["not axial"]) == (11, 2, 1)
    assert any("Selected 2 of 11 series in 2 studies" in message for message in report.messages)
    assert any("not axial" in message and "s7 (12 slices)" in message for message in report.messages)


def test_a_study_without_a_suitable_series_is_one_warning(project: Project, tmp_path: Path) -> None:
    source = tmp_path / "export"
    write_series(source, "a", "CT Plain")
    write_series(source, "b", "CT BONE")
    write_series(source, "b", "CT SAG")
    report = add(project, source)
    warning = [text for text in report.warnings if "without a suitable series" in text]
    assert len(warning) == 1
    assert "1 study" in warning[0]
    assert "bone or lung kernel, by its folder" in warning[0]
    assert report.version.patients == 1


def test_no_suitable_series_at_all_adds_nothing(project: Project, tmp_path: Path) -> None:
    write_series(tmp_path / "export", "b", "CT BONE")
    with pytest.raises(InvalidInputError, match="bone or lung kernel"):
        add(project, tmp_path / "export")
    assert not project.store.datasets()


def test_users_replace_the_rules(project: Project, tmp_path: Path) -> None:
    source, rules = tmp_path / "export", tmp_path / "rules.toml"
    write_series(source, "a", "CT Plain 3mm", 12, 3)
    write_series(source, "a", "CT BONE", 12, 3)
    rules.write_text("[[prefer]]\nname = 'bone'\nfolder = 'BONE'\n")
    report = add(project, source, series_rules=rules)
    assert reasons(project, report) == {"a/CT BONE": "", "a/CT Plain 3mm": "another series is preferred: bone"}
    again = add(project, source)
    assert again.created
    assert reasons(project, again)["a/CT BONE"] == "bone or lung kernel, by its folder"
    assert not add(project, source).created


def test_all_problems_of_rules_are_reported() -> None:
    text = """
[[leave_out]]
name = "x"
foldr = 'BONE'
[[prefer]]
thickness = [5, 2]
kernel = '('
[[prefers]]
name = "y"
"""
    with pytest.raises(InvalidInputError) as caught:
        parse_series_rules(text, "rules.toml")
    problem = caught.value.problem
    assert all(part in problem for part in ("foldr", "[5, 2]", "regular expression", "`name`", "prefers"))


@pytest.mark.parametrize("text", ["", "prefer = 3", "[[prefer]]\nname = 'x'", "x = ["])
def test_empty_and_malformed_rules_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_series_rules(text, "rules.toml")


def test_missing_file_of_rules(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_series_rules(tmp_path / "none.toml")


def test_rules_need_auto(project: Project, tmp_path: Path) -> None:
    write_series(tmp_path / "export", "a", "CT Plain")
    with pytest.raises(InvalidInputError, match="--series auto"):
        add_dataset(project, AddRequest("ours", tmp_path / "export", series_rules=tmp_path / "rules.toml"))


def test_every_default_rule_can_be_met_and_documented_names_are_unique() -> None:
    rules = parse_series_rules(default_rules_text(), "default")
    names = [rule.name for rule in (*rules.leave_out, *rules.prefer)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("kernel", "bone"),
    [
        ("H31s", False),
        ("H60s", True),
        ("Hr38", False),
        ("Hr59", True),
        ("J30s", False),
        ("FC26", False),
        ("FC30", True),
        ("STANDARD", False),
        ("BONEPLUS", True),
        ("UB", False),
        ("YD", True),
        ("B", False),
        ("B70f", True),
        ("FC64", False),
        ("SOFT", False),
        ("EDGE", True),
        ("LUNG", True),
        ("H40s", False),
        ("FC81", True),
    ],
)
def test_kernels_of_the_manufacturers(kernel: str, bone: bool) -> None:
    rule = next(r for r in read_series_rules().leave_out if r.name == "bone or lung kernel")
    assert (rule.texts["kernel"].search(kernel) is not None) == bone


def test_the_folder_of_a_volume_is_its_file() -> None:
    assert series_folder("scans/049.nii#017") == "049.nii"
    assert series_folder("CQ500CT0 CQ500CT0/Unknown Study/CT 5mm/CT000012.dcm") == "CT 5mm"
    assert series_folder("a.dcm") == ""
