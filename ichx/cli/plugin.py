"""`ichx plugin`: the model zoo."""

from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import console, info, print_json, warn
from ichx.cli.tables import print_table

if TYPE_CHECKING:
    from ichx.plugins import Registry
    from ichx.recipe import InputRecipe

app = typer.Typer(help="The model zoo.", no_args_is_help=True)


def loaded_registry() -> "Registry":
    """Return the registry, after a line for each plugin that could not be used."""
    from ichx.plugins import load_registry

    registry = load_registry()
    for warning in registry.warnings:
        warn(warning)
    return registry


@app.command("list")
def list_plugins(as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False) -> None:
    """List all plugins.

    Example: `ichx plugin list`
    """
    plugins = loaded_registry().plugins.values()
    if as_json:
        print_json([_facts(plugin) for plugin in plugins])
        return
    rows = []
    for plugin in plugins:
        image = plugin.recipe.input
        pixels = f"{image.size}, crop {image.crop}" if image.crop else str(image.size)
        windows = f"{len(image.windows)} {image.window_kind}" + (f", {image.slices} slices" if image.neighbours else "")
        rows.append((plugin.name, pixels, windows, plugin.recipe.batch, plugin.weights_licence, plugin.summary))
    heads = ("name", "pixels", "windows", "batch", "weights", "what it is")
    print_table("plugins", heads, rows, drop=("weights", "batch", "windows"), cut={"name": 16, "what it is": 36})


@app.command("show")
def show_plugin(
    name: Annotated[str, typer.Argument(help="The plugin's name.")],
    toml: Annotated[bool, typer.Option("--toml", help="Only its recipe, as TOML.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Show a plugin and the recipe it trains with by default.

    Example: `ichx plugin show resnext50 --toml > my.toml`
    """
    from ichx.recipe import flatten, literal
    from ichx.recipe_text import to_toml

    plugin = loaded_registry().get(name)
    if as_json:
        print_json(_facts(plugin) | {"recipe": flatten(plugin.recipe)})
    elif toml:
        console.print(to_toml(plugin.recipe), end="", markup=False)
    else:
        console.print(f"{plugin.name}: {plugin.summary}", markup=False)
        console.print(f"weights: {plugin.weights_licence}", markup=False)
        console.print(f"input: {_input(plugin.recipe.input)}", markup=False)
        print_table(
            "recipe", ("value", "default"), [(key, literal(value)) for key, value in flatten(plugin.recipe).items()]
        )
    if plugin.notice and not as_json:
        info(f"note: {plugin.notice}")


def _input(image: "InputRecipe") -> str:
    """Return in words what the network gets."""
    windows = f"{len(image.windows)} {image.window_kind} window{'s' if len(image.windows) > 1 else ''}"
    slices = f"{image.slices} slices (neighbours along the head) in " if image.neighbours else ""
    return f"{image.pixels} x {image.pixels} px, {image.channels} channels: {slices}{windows}"


def _facts(plugin: object) -> dict[str, object]:
    from ichx.plugins import Plugin

    assert isinstance(plugin, Plugin)
    return {
        "name": plugin.name,
        "summary": plugin.summary,
        "backbone": plugin.recipe.model.backbone,
        "size": plugin.recipe.input.size,
        "crop": plugin.recipe.input.crop,
        "window_kind": plugin.recipe.input.window_kind,
        "slices": plugin.recipe.input.slices,
        "channels": plugin.recipe.input.channels,
        "weights_licence": plugin.weights_licence,
        "notice": plugin.notice,
    }
