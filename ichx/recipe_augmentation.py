"""The augmentation of a recipe. Its transforms are in `ichx.loading.augmentation` and `ichx.loading.policy`."""

from dataclasses import dataclass, fields

from ichx.recipe_fields import added


@dataclass(frozen=True)
class AugmentationRecipe:
    """Augmentation of samples and batches; 0 turns a transform off.

    With the policy `one`, a sample gets with `probability` exactly one of the geometric transforms that are on, all
    equally likely. With `each`, a sample gets with `probability` every transform that is on, each with a probability
    of its own. The windows of each sample vary independently of that. A batch is mixed with `mix_probability`; if both
    `mixup` and `cutmix` are on, they are equally likely.
    """

    probability: float = 0.75
    hflip: bool = True
    shift: float = 0.05
    """Share of the image, like `scale`."""
    scale: float = 0.075
    rotate: float = 25.0
    """Degrees."""
    grid_steps: int = 20
    grid_limit: float = 0.25
    anchors: float = 5.0
    """Pixels by which the three anchor points of an affine transform move, like `elastic_*`."""
    elastic_alpha: float = 0.0
    elastic_sigma: float = 15.0
    window_shift: float = 0.0
    """Maximum change of a window's centre in HU."""
    window_scale: float = 0.0
    """Maximum change of a window's width as a share of it."""
    crop_first: bool = added(False)
    """Crop, then transform what is left, instead of the reverse."""
    mixup: float = added(0.0)
    """Alpha of the Beta distribution of the mixing share, like `cutmix`."""
    cutmix: float = added(0.0)
    mix_probability: float = added(1.0)
    policy: str = added("one")
    hflip_probability: float = added(0.5)
    """Like all that follow, of the policy `each`."""
    vflip: bool = added(False)
    vflip_probability: float = added(0.5)
    affine_probability: float = added(0.5)
    """Of shift, scale and rotation together."""
    grid_probability: float = added(0.5)
    anchors_probability: float = added(0.5)
    elastic_probability: float = added(0.5)
    crop_area: float = added(0.0)
    """Largest share of the image's area that a random crop leaves out."""
    crop_probability: float = added(0.5)
    reverse: bool = added(False)
    """Reverse the order of neighbouring slices."""
    reverse_probability: float = added(0.5)
    erase: float = added(0.0)
    """Largest share of the image's area that a rectangle of air covers."""
    erase_probability: float = added(0.5)
    noise: float = added(0.0)
    """Largest standard deviation of noise in HU."""
    noise_probability: float = added(0.5)
    gamma: float = added(0.0)
    """Largest binary logarithm of an exponent of windowed values."""
    gamma_probability: float = added(0.5)
    window_probability: float = added(1.0)
    """Of `window_shift` and `window_scale` together."""

    @property
    def of_each(self) -> tuple[str, ...]:
        """Names of the values that only the policy `each` uses."""
        names = tuple(spec.name for spec in fields(self))
        return names[names.index("policy") + 1 :]
