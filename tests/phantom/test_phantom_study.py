import numpy as np
import pytest
from scipy import ndimage

from ichx.errors import IchxError, InvalidInputError
from ichx.labels import ANY, LABELS, SUBTYPES
from ichx.phantom.prevalence import COMBINATIONS, EXPECTED_SHARES, combination_chances, slice_shares
from ichx.phantom.study import CHALLENGE_PREVALENCE, PhantomStudy, make_study

SIZE = 64


PREVALENCE = {ANY: 0.45, "epidural": 0.1}


@pytest.fixture(scope="module")
def studies() -> list[PhantomStudy]:
    """Return 100 studies with all subtypes."""
    return [make_study(10, patient, size=SIZE, prevalence=PREVALENCE) for patient in range(100)]


def studies_with(name: str, count: int, size: int) -> list[PhantomStudy]:
    """Return studies that show a subtype on some slice."""
    found: list[PhantomStudy] = []
    patient = 0
    while len(found) < count:
        study = make_study(21, patient, size=size, prevalence={name: EXPECTED_SHARES[name] * 0.8})
        patient += 1
        if study.labels[:, LABELS.index(name)].any():
            found.append(study)
    return found


def test_a_study_has_the_documented_shape() -> None:
    study = make_study(1, 2, size=SIZE, prevalence={ANY: 0.4})
    slices = len(study.hu)
    assert 20 <= slices <= 40
    assert (study.hu.shape, study.hu.dtype) == ((slices, SIZE, SIZE), np.int16)
    assert (study.mask.shape, study.mask.dtype) == ((slices, SIZE, SIZE), np.uint8)
    assert (study.labels.shape, study.labels.dtype) == ((slices, 6), np.uint8)
    assert study.hu.min() >= -1024
    assert study.hu.max() <= 3071
    assert 0.4 < study.spacing * SIZE / 512 < 0.6
    assert 4 < study.thickness < 8


def test_a_study_follows_from_seed_and_patient() -> None:
    first, again = make_study(3, 4, size=SIZE), make_study(3, 4, size=SIZE)
    assert np.array_equal(first.hu, again.hu)
    assert np.array_equal(first.labels, again.labels)
    for other in (make_study(3, 5, size=SIZE), make_study(4, 4, size=SIZE)):
        assert other.hu.shape != first.hu.shape or not np.array_equal(other.hu, first.hu)


def test_labels_match_the_mask(studies: list[PhantomStudy]) -> None:
    seen = np.zeros(6, int)
    for study in studies:
        assert np.array_equal(study.labels[:, -1], study.labels[:, :-1].max(axis=1))
        for index in range(len(SUBTYPES)):
            area = (study.mask == index + 1).sum(axis=(1, 2)) * study.spacing**2
            labelled = study.labels[:, index] == 1
            assert (area[labelled] > 0).all()
            assert (area[~labelled] < 75).all()
        seen += study.labels.sum(axis=0, dtype=int)
    assert (seen > 0).all()


def test_labels_hardly_depend_on_the_size() -> None:
    differing = total = 0
    for patient in range(8):
        small = make_study(6, patient, size=SIZE, prevalence={ANY: 0.5})
        large = make_study(6, patient, size=2 * SIZE, prevalence={ANY: 0.5})
        assert small.spacing == pytest.approx(2 * large.spacing, rel=1e-4)
        differing += int((small.labels != large.labels).sum())
        total += int(large.labels.sum())
    assert total > 100
    assert differing < 0.1 * total


@pytest.mark.parametrize("name", SUBTYPES)
def test_bleeds_have_the_density_of_blood_and_span_slices(name: str) -> None:
    index = SUBTYPES.index(name)
    longest, blood = 0, []
    for study in studies_with(name, 3, 128):
        # Blood at the skull shares its outer pixels with bone: the inner ones tell what it is.
        away = np.stack([ndimage.distance_transform_edt(layer < 300) for layer in study.hu]) * study.spacing
        blood.extend(study.hu[(study.mask == index + 1) & (away > 4)])
        runs = "".join(map(str, study.labels[:, index])).split("0")
        longest = max(longest, max(map(len, runs)))
    assert longest >= 3
    assert len(blood) > 50
    assert 35 < np.median(blood) < 85


def test_bleeds_are_where_anatomy_puts_them(studies: list[PhantomStudy]) -> None:
    """Epidural and subdural blood touches bone; ventricular blood lies deep, behind a good deal of brain."""
    depth: dict[str, list[float]] = {"epidural": [], "subdural": [], "intraventricular": []}
    for name, depths in depth.items():
        for study in [study for study in studies if study.labels[:, LABELS.index(name)].any()][:4]:
            bone = study.hu > 300
            away = np.stack([ndimage.distance_transform_edt(~layer) for layer in bone]) * study.spacing
            upper = slice(len(bone) // 3, None)
            depths.extend(away[upper][study.mask[upper] == SUBTYPES.index(name) + 1])
    assert np.median(depth["epidural"]) < 14
    assert np.median(depth["subdural"]) < 14
    assert np.median(depth["intraventricular"]) > 28


def test_healthy_heads_have_no_mask_and_still_bright_spots() -> None:
    bright = 0
    for patient in range(8):
        study = make_study(8, patient, size=SIZE, prevalence={ANY: 0})
        assert not study.mask.any()
        assert not study.labels.any()
        middle = study.hu[len(study.hu) // 2]
        inside = ndimage.binary_erosion(ndimage.binary_fill_holes(middle > 300) & (middle < 300), iterations=3)
        assert 20 < np.median(middle[inside]) < 45
        bright += int((middle[inside] > 60).sum())
    assert bright > 0


def test_a_head_is_made_of_air_fat_brain_and_bone() -> None:
    study = make_study(9, 1, size=128, prevalence={ANY: 0})
    low, middle = study.hu[len(study.hu) // 4], study.hu[len(study.hu) // 2]
    for image in (low, middle):
        assert (image < -900).mean() > 0.2
        assert (image > 400).mean() > 0.02
    assert ((middle > 20) & (middle < 50)).mean() > 0.1
    head = ndimage.binary_fill_holes(low > -300)
    assert (low[head] < -500).mean() > 0.01


def test_probabilities_give_the_requested_shares() -> None:
    wanted = {"epidural": 0.03, "subdural": 0.1, ANY: 0.25}
    chances = combination_chances(tuple(wanted.items()))
    assert chances.sum() == pytest.approx(1)
    shares = dict(zip(LABELS, chances @ slice_shares(), strict=True))
    for name, share in wanted.items():
        assert shares[name] == pytest.approx(share, rel=0.01)
    several = sum(chance for chance, there in zip(chances, COMBINATIONS, strict=True) if sum(there) > 1)
    assert several > 0.05


def test_expected_shares_are_those_of_the_pictures(studies: list[PhantomStudy]) -> None:
    """The share of slices that show a subtype in studies that have it, from which the chances are computed."""
    shares = np.array([study.labels.mean(axis=0) for study in studies])
    for index, name in enumerate(SUBTYPES):
        having = shares[:, index] > 0
        assert having.sum() > 15
        assert shares[having, index].mean() == pytest.approx(EXPECTED_SHARES[name], rel=0.25), name
    assert np.concatenate([study.labels for study in studies])[:, -1].mean() == pytest.approx(0.45, rel=0.15)


def test_challenge_prevalence_is_the_default() -> None:
    assert pytest.approx(107933 / 752803) == CHALLENGE_PREVALENCE[ANY]
    chances = combination_chances(tuple(CHALLENGE_PREVALENCE.items()))
    shares = dict(zip(LABELS, chances @ slice_shares(), strict=True))
    assert shares == pytest.approx(dict(CHALLENGE_PREVALENCE), rel=0.01)
    assert np.array_equal(
        make_study(0, 7, size=32).hu, make_study(0, 7, size=32, prevalence=dict(CHALLENGE_PREVALENCE)).hu
    )


def test_impossible_prevalences_are_refused() -> None:
    with pytest.raises(IchxError, match="'epidual'") as caught:
        make_study(0, 0, size=32, prevalence={"epidual": 0.1, ANY: 1.5})
    assert "'epidural'" in caught.value.problem
    assert "1.5" in caught.value.problem
    with pytest.raises(InvalidInputError, match="subdural|any|epidural|sub"):
        make_study(0, 0, size=32, prevalence={ANY: 0.95})
    with pytest.raises(InvalidInputError, match="subdural|any|epidural|sub"):
        make_study(0, 0, size=32, prevalence={ANY: 0.05, "subdural": 0.2})
