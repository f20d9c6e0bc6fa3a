"""`ichx plugin`: the installed models."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import console, info, notice, print_json, warn
from ichx.cli.parameters import AsJson, Device
from ichx.cli.tables import print_table

if TYPE_CHECKING:
    from ichx.plugins import Plugin, Registry
    from ichx.plugins.measures import NetworkMeasure

app = typer.Typer(help="Models: list them and show their recipes.", no_args_is_help=True)


def load_plugins() -> "Registry":
    """Return the registry; warn of each plugin that cannot be used."""
    from ichx.plugins import load_registry

    registry = load_registry()
    for warning in registry.warnings:
        warn(warning)
    return registry


@app.command("list")
def list_plugins(as_json: AsJson = False) -> None:
    """List the models.

    Images per second and GB are those that `ichx plugin show NAME --measure` measured on this machine.

    Example: `ichx plugin list`
    """
    from ichx.plugins.measures import find_measure

    plugins = load_plugins().plugins.values()
    if as_json:
        print_json([_to_dict(plugin, find_measure(plugin.recipe)) for plugin in plugins])
        return
    rows: list[tuple[object, ...]] = []
    for plugin in plugins:
        if plugin.kind == "sequence":
            licence = plugin.weights_licence
            rows.append((plugin.name, "series", "", "", plugin.recipe.batch, "", "", licence, plugin.summary))
            continue
        image = plugin.recipe.input
        pixels = f"{image.size}, crop {image.crop}" if image.crop else str(image.size)
        windows = f"{len(image.windows)} {image.window_kind}" + (f", {image.slices} slices" if image.neighbours else "")
        cost = "" if plugin.cost is None else f"{plugin.cost.parameters:g} M, {plugin.cost.gmacs:g} GMACs"
        measure = find_measure(plugin.recipe)
        train = None if measure is None else f"{measure.train_rate:.3g}/s, {measure.train_gb:.2g} GB"
        predict = None if measure is None else f"{measure.predict_rate:.3g}/s, {measure.predict_gb:.2g} GB"
        licence, batch = plugin.weights_licence, plugin.recipe.batch
        rows.append((plugin.name, pixels, windows, cost, batch, train, predict, licence, plugin.summary))
    heads = ("name", "pixels", "windows", "network", "batch", "training", "prediction", "weights", "description")
    unmeasured = ("prediction", "training", "weights", "batch", "windows", "network")
    measured = ("weights", "windows", "batch", "prediction", "network", "training")
    dropped = measured if any(row[5] for row in rows) else unmeasured
    print_table("plugins", heads, rows, drop=dropped, cut={"name": 16, "description": 36})


@app.command("show")
def show_plugin(
    name: Annotated[str, typer.Argument(help="Name of the plugin.")],
    preset: Annotated[str | None, typer.Option("--preset", help="Show this recipe of the plugin.")] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print only the recipe, as TOML.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure images per second and memory on this machine first.")
    ] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show a model and its default recipe.

    `--measure` trains and predicts some synthetic images and stores the figures for this machine and these versions.

    Example: `ichx plugin show resnext50 --toml > my.toml`

    Example: `ichx plugin show convnext_small --measure --device cuda`
    """
    from ichx.plugins.measures import find_measure
    from ichx.recipe import flatten, literal
    from ichx.recipe_text import to_toml

    plugin = load_plugins().get(name)
    if preset is not None:
        plugin = plugin.with_preset(preset)
    if measure and toml:
        raise typer.BadParameter("Use either --measure or --toml.")
    found = _measure(plugin, device) if measure else find_measure(plugin.recipe)
    if as_json:
        print_json(_to_dict(plugin, found) | {"recipe": flatten(plugin.recipe)})
        return
    if toml:
        console.print(to_toml(plugin.recipe), end="", markup=False)
    else:
        console.print(f"{plugin.name}: {plugin.summary}", markup=False)
        console.print(f"weights: {plugin.weights_licence}", markup=False)
        console.print(f"input: {_describe_input(plugin)}", markup=False)
        if plugin.cost is not None:
            cost = plugin.cost
            console.print(f"network: {cost.parameters:g} M parameters, {cost.gmacs:g} GMACs per image", markup=False)
        if plugin.kind == "slice":
            console.print(f"speed: {_describe_measure(plugin.name, found)}", markup=False)
        if plugin.presets:
            console.print(f"presets: {', '.join(plugin.presets)}", markup=False)
        rows = [(key, literal(value)) for key, value in flatten(plugin.recipe).items()]
        print_table("recipe", ("value", "default"), rows)
    if plugin.notice:
        notice(plugin.notice)


def _describe_input(plugin: "Plugin") -> str:
    if plugin.recipe.sequence is not None:
        return f"series of slices, of each the {' and '.join(plugin.recipe.sequence.inputs)} of other experiments"
    image = plugin.recipe.input
    windows = f"{len(image.windows)} {image.window_kind} window{'s' if len(image.windows) > 1 else ''}"
    slices = f"{image.slices} slices (neighbours along the head) in " if image.neighbours else ""
    return f"{image.pixels} x {image.pixels} px, {image.channels} channels: {slices}{windows}"


def _measure(plugin: "Plugin", device: str) -> "NetworkMeasure":
    """Measure the network of a plugin and store the result."""
    from ichx.errors import UnsupportedError
    from ichx.plugins.measures import save_measure
    from ichx.training.device import choose_hardware
    from ichx.training.network_measure import measure_network

    recipe = plugin.recipe
    if plugin.kind == "sequence":
        raise UnsupportedError(
            f"{plugin.name} reads the outputs of other experiments, no images.",
            "Use `ichx run NUMBER --dry-run`, which measures an experiment.",
        )
    hardware = choose_hardware(device, recipe.precision, recipe.input.pixels)
    info(f"measuring {plugin.name} on {hardware}")
    measured = measure_network(lambda: plugin.build(recipe, False), recipe, hardware, warn)
    if not save_measure(recipe, measured):
        warn("The measure cannot be stored in your home directory.")
    return measured


def _describe_measure(name: str, measure: "NetworkMeasure | None") -> str:
    if measure is None:
        return f"- (measure it: `ichx plugin show {name} --measure`)"
    few = f", from {measure.measured_batch} at a time" if measure.measured_batch < measure.batch else ""
    train = f"training {measure.train_rate:.3g} images/s, {measure.train_gb:.2g} GB for {measure.batch} images{few}"
    predict = f"{measure.predict_rate:.3g} images/s, {measure.predict_gb:.2g} GB for {measure.predict_batch} images"
    return f"{train}; prediction {predict}; on {measure.device}"


def _to_dict(plugin: "Plugin", measure: "NetworkMeasure | None") -> dict[str, object]:
    described: dict[str, object] = {"name": plugin.name, "summary": plugin.summary, "kind": plugin.kind}
    if plugin.recipe.sequence is not None:
        described["inputs"] = list(plugin.recipe.sequence.inputs)
    else:
        described |= {
            "backbone": plugin.recipe.model.backbone,
            "size": plugin.recipe.input.size,
            "crop": plugin.recipe.input.crop,
            "window_kind": plugin.recipe.input.window_kind,
            "slices": plugin.recipe.input.slices,
            "channels": plugin.recipe.input.channels,
        }
    described |= {"presets": list(plugin.presets), "cost": None if plugin.cost is None else plugin.cost._asdict()}
    described["measure"] = None if measure is None else asdict(measure)
    return described | {"weights_licence": plugin.weights_licence, "notice": plugin.notice}
