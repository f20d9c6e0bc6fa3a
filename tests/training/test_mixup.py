"""Mixup and CutMix: what is mixed, by how much, and that it is a pure function of the address."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data import Mixup

from ichx.labels import LABELS
from ichx.recipe import AugmentationRecipe
from ichx.training.losses import weighted_loss
from ichx.training.mixup import Mix, draw_mix

BOTH = AugmentationRecipe(mixup=0.4, cutmix=1.0)


def batch(count: int, edge: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(count)
    images = torch.rand((count, 3, edge, edge), generator=rng).contiguous(memory_format=torch.channels_last)
    return images, (torch.rand((count, len(LABELS)), generator=rng) < 0.4).float()


def test_mixup_is_the_weighted_mean_of_neighbours() -> None:
    images, labels = batch(5)
    mix = Mix(0.75)
    for mixed, given_ in ((mix.images(images), images), (mix.labels(labels), labels)):
        for one, other in enumerate((1, 0, 3, 2, 3)):
            torch.testing.assert_close(mixed[one], 0.75 * given_[one] + 0.25 * given_[other])
    assert mix.images(images).is_contiguous(memory_format=torch.channels_last)


def test_cutmix_fills_the_box_from_the_neighbour_and_counts_its_area() -> None:
    images, labels = batch(4)
    mix = Mix(1 - 6 / 64, (1, 3, 5, 8))
    mixed = mix.images(images)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[1:3, 5:8] = True
    for one, other in enumerate((1, 0, 3, 2)):
        assert torch.equal(mixed[one], torch.where(inside, images[other], images[one]))
        torch.testing.assert_close(mix.labels(labels)[one], labels[one] * 58 / 64 + labels[other] * 6 / 64)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, batch(4)[0]), "what is given stays as it is"


def test_the_loss_of_mixed_labels_is_the_mixed_loss() -> None:
    _, labels = batch(6)
    logits = torch.randn(labels.shape, generator=torch.Generator().manual_seed(1))
    partner = labels[[1, 0, 3, 2, 5, 4]]
    expected = 0.3 * weighted_loss(logits, labels) + 0.7 * weighted_loss(logits, partner)
    torch.testing.assert_close(weighted_loss(logits, Mix(0.3).labels(labels)), expected)


@given(st.integers(1, 9).map(lambda half: 2 * half), st.data())
def test_a_batch_split_at_an_even_position_is_mixed_like_the_complete_one(count: int, data: st.DataObject) -> None:
    place = 2 * data.draw(st.integers(0, count // 2))
    mix = data.draw(st.sampled_from([Mix(0.6), Mix(1 - 8 / 64, (0, 4, 6, 8))]))
    images, labels = batch(count)
    for whole, mixed in ((images, mix.images), (labels, mix.labels)):
        assert torch.equal(torch.cat([mixed(whole[:place]), mixed(whole[place:])]), mixed(whole))


def test_one_slice_alone_stays_itself() -> None:
    images, labels = batch(1)
    torch.testing.assert_close(Mix(0.3).images(images), images)
    torch.testing.assert_close(Mix(0.3).labels(labels), labels)


@given(st.integers(0, 2**32 - 1), st.integers(1, 64))
def test_a_box_is_inside_the_image_and_the_share_is_the_rest(seed: int, edge: int) -> None:
    mix = draw_mix(AugmentationRecipe(cutmix=1.0), edge, seed, 0)
    assert mix is not None
    assert mix.box is not None
    top, bottom, left, right = mix.box
    assert 0 <= top <= bottom <= edge
    assert 0 <= left <= right <= edge
    assert mix.share == pytest.approx(1 - (bottom - top) * (right - left) / edge**2)


def test_draws_depend_on_their_address_only() -> None:
    draws = [draw_mix(BOTH, 64, 7, 0, 1, 2, step) for step in range(20)]
    assert draws == [draw_mix(BOTH, 64, 7, 0, 1, 2, step) for step in range(20)]
    assert len(set(draws)) == 20
    assert draw_mix(BOTH, 64, 7, 1, 1, 2, 0) != draws[0]


def test_draws_have_the_frequency_and_strength_of_the_recipe() -> None:
    count = 4000
    recipe = AugmentationRecipe(mixup=0.4, cutmix=1.0, mix_probability=0.6)
    draws = [draw_mix(recipe, 256, 0, step) for step in range(count)]
    blended = [mix.share for mix in draws if mix is not None and mix.box is None]
    cut = [mix.share for mix in draws if mix is not None and mix.box is not None]
    spread = 4 * math.sqrt(0.3 * 0.7 / count)
    assert len(blended) / count == pytest.approx(0.3, abs=spread)
    assert len(cut) / count == pytest.approx(0.3, abs=spread)
    beta = np.random.default_rng(0).beta(0.4, 0.4, 100_000)
    np.testing.assert_allclose(np.quantile(blended, (0.2, 0.5, 0.8)), np.quantile(beta, (0.2, 0.5, 0.8)), atol=0.08)
    # timm draws its boxes as the paper does: the mean share that a slice keeps must be the same.
    timms = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, num_classes=6)
    np.random.seed(0)
    kept = []
    for _ in range(count):
        lam, use_cutmix = timms._params_per_batch()
        _, lam = timm_box(lam)
        kept.append(lam)
        assert use_cutmix
    assert np.mean(cut) == pytest.approx(np.mean(kept), abs=0.03)


def timm_box(lam: float) -> tuple[tuple[int, ...], float]:
    from timm.data.mixup import cutmix_bbox_and_lam

    box, corrected = cutmix_bbox_and_lam((1, 1, 256, 256), lam)
    return box, float(corrected)


def test_nothing_is_drawn_without_mixing() -> None:
    assert draw_mix(AugmentationRecipe(), 64, 0) is None
    assert draw_mix(AugmentationRecipe(mixup=1.0, mix_probability=0.0), 64, 0) is None
    assert all(draw_mix(AugmentationRecipe(mixup=1.0), 64, n).box is None for n in range(9))  # type: ignore[union-attr]


def test_masks_are_mixed_as_their_images_are() -> None:
    masks = torch.arange(4, dtype=torch.uint8).view(4, 1, 1).expand(4, 6, 6).contiguous()
    (first, own), (second, other) = Mix(0.7).masks(masks)
    assert (first, second) == pytest.approx((0.7, 0.3))
    assert torch.equal(own, masks)
    assert other[:, 0, 0].tolist() == [1, 0, 3, 2]
    ((weight, cut),) = Mix(0.5, (1, 3, 2, 6)).masks(masks)
    assert weight == 1.0
    images = Mix(0.5, (1, 3, 2, 6)).images(masks.unsqueeze(1).float())
    assert torch.equal(cut.float(), images[:, 0])
