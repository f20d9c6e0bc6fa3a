"""EfficientNets: models 1 and 4 of the reference solution."""

from ichx.plugins.contract import Plugin, reference_recipe

PLUGINS = (
    Plugin(
        name="efficientnet_b3",
        summary="EfficientNet-B3, AutoAugment weights; the reference's model 1",
        recipe=reference_recipe("efficientnet_b3", "tf_efficientnet_b3.aa_in1k", batch=128),
        weights_licence="Apache-2.0",
    ),
    Plugin(
        name="efficientnet_b2",
        summary="EfficientNet-B2, AutoAugment weights; the reference's model 4",
        recipe=reference_recipe("efficientnet_b2", "tf_efficientnet_b2.aa_in1k", batch=128),
        weights_licence="Apache-2.0",
    ),
)
