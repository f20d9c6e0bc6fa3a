"""Names of views, their pixels, and which ones a recipe may have."""

import dataclasses

import numpy as np
import pytest
import torch

from ichx.errors import InvalidInputError
from ichx.plugins import load_registry
from ichx.recipe import digest
from ichx.recipe_text import apply_settings, from_toml, to_toml
from ichx.training.view_images import view_of
from ichx.views import DEFAULT_VIEWS, View, is_view, parse_view, views_in, with_views

NAMES = (
    "identity",
    "hflip",
    "left4",
    "right64",
    "up1",
    "down12",
    "scale95",
    "hflip-right4-up2-scale105",
    "left2-down3",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_view_has_one_name(name: str) -> None:
    assert parse_view(name).name == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "vflip", "left0", "left65", "right04", "scale100", "scale49", "scale201", "up2-left2", "hflip-"),
        *("-hflip", "hflip-hflip", "identity-hflip", "left4right4", "hflipleft4", "Hflip", "../x", "left4\n"),
    ],
)
def test_invalid_names_are_no_views(name: str) -> None:
    assert not is_view(name)


def image() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(-1000, 2000, (2, 3, 32, 32)).astype(np.int16))


def test_flips_and_shifts_keep_values_and_fill_with_air() -> None:
    hu = image()
    assert view_of(hu, "identity") is hu
    assert torch.equal(view_of(hu, "hflip"), hu.flip(-1))
    moved = view_of(hu, "right4-up2")
    assert moved.dtype == torch.int16
    assert torch.equal(moved[..., :30, 4:], hu[..., 2:, :28])
    assert (moved[..., 30:, :] == -1024).all()
    assert (moved[..., :4] == -1024).all()
    assert torch.equal(view_of(view_of(hu, "hflip"), "left3"), view_of(hu, "hflip-left3"))
    assert (view_of(hu, "left40") == -1024).all(), "moved out of a smaller image"


def test_scales_are_about_the_centre() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    hu = (10 * x + 100 * y)[None]
    larger = view_of(hu, "scale125")[0]
    expected = 10 * ((x - 15.5) / 1.25 + 15.5) + 100 * ((y - 15.5) / 1.25 + 15.5)
    torch.testing.assert_close(larger, expected, rtol=1e-5, atol=0.01)
    smaller = view_of(hu.to(torch.int16), "scale50")[0]
    assert (smaller[:7] == -1024).all()
    assert (smaller[:, 25:] == -1024).all()
    torch.testing.assert_close(smaller[16, 16], torch.tensor(10 * 16.5 + 100 * 16.5))
    stack = view_of(image(), "scale105")
    torch.testing.assert_close(stack[1, 2], view_of(image()[1:2, 2], "scale105")[0])


@pytest.mark.parametrize(
    "views", ['["hflip"]', '["hflip", "identity"]', '["identity", "hflip", "hflip"]', '["identity", "vflip"]', "[]"]
)
def test_invalid_lists_are_refused(views: str) -> None:
    recipe = load_registry().get("tiny_resnet").recipe
    with pytest.raises(InvalidInputError, match=r"prediction\.views"):
        apply_settings(recipe, [f"prediction.views={views}"])


def test_a_recipe_without_views_has_the_two_of_old_experiments() -> None:
    recipe = load_registry().get("tiny_resnet").recipe
    text = to_toml(recipe)
    old = "\n".join(part for part in text.split("\n\n") if not part.startswith(("[prediction]", "[swa]")))
    assert views_in(old) == DEFAULT_VIEWS == from_toml(old).prediction.views
    assert digest(from_toml(old)) == digest(recipe)
    more = apply_settings(recipe, ['prediction.views=["identity", "left4"]'])
    assert digest(more) != digest(recipe)
    assert views_in(to_toml(more)) == ("identity", "left4")
    assert dataclasses.replace(more, prediction=recipe.prediction) == recipe


def test_a_score_is_named_by_its_views() -> None:
    assert with_views(DEFAULT_VIEWS) == "with hflip"
    assert with_views(("identity",)) == "with 1 view"
    assert with_views((*DEFAULT_VIEWS, View(right=3).name)) == "with 3 views"
