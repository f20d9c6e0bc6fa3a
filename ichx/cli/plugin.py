"""`ichx plugin`: the installed models."""

from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import console, notice, print_json, warn
from ichx.cli.parameters import AsJson
from ichx.cli.tables import print_table

if TYPE_CHECKING:
    from ichx.plugins import Plugin, Registry

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

    Example: `ichx plugin list`
    """
    plugins = load_plugins().plugins.values()
    if as_json:
        print_json([_to_dict(plugin) for plugin in plugins])
        return
    rows = []
    for plugin in plugins:
        if plugin.kind == "sequence":
            rows.append((plugin.name, "series", "", "", plugin.recipe.batch, plugin.weights_licence, plugin.summary))
            continue
        image = plugin.recipe.input
        pixels = f"{image.size}, crop {image.crop}" if image.crop else str(image.size)
        windows = f"{len(image.windows)} {image.window_kind}" + (f", {image.slices} slices" if image.neighbours else "")
        cost = "" if plugin.cost is None else f"{plugin.cost.parameters:g} M, {plugin.cost.gmacs:g} GMACs"
        rows.append((plugin.name, pixels, windows, cost, plugin.recipe.batch, plugin.weights_licence, plugin.summary))
    heads = ("name", "pixels", "windows", "network", "batch", "weights", "description")
    dropped = ("weights", "batch", "windows", "network")
    print_table("plugins", heads, rows, drop=dropped, cut={"name": 16, "description": 36})


@app.command("show")
def show_plugin(
    name: Annotated[str, typer.Argument(help="Name of the plugin.")],
    preset: Annotated[str | None, typer.Option("--preset", help="Show this recipe of the plugin.")] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print only the recipe, as TOML.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a model and its default recipe.

    Example: `ichx plugin show resnext50 --toml > my.toml`
    """
    from ichx.recipe import flatten, literal
    from ichx.recipe_text import to_toml

    plugin = load_plugins().get(name)
    if preset is not None:
        plugin = plugin.with_preset(preset)
    if as_json:
        print_json(_to_dict(plugin) | {"recipe": flatten(plugin.recipe)})
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


def _to_dict(plugin: "Plugin") -> dict[str, object]:
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
    return described | {"weights_licence": plugin.weights_licence, "notice": plugin.notice}
