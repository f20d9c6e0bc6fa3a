"""Parsing a recipe with ichx, pydantic and msgspec: start-up time and reported problems. Missing libraries are skipped.

python benchmarks/recipe_parsing.py [--quick] [--json FILE]
"""

import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec

from common import Figure, arguments, conclude

INVALID = """
batch = 0
bacth = 3
seed = {a = 1}
input = 3
model = {backbone = "x", dropout = 2, pretrained = "yes"}
optimizer = {name = "adam", clip = "much"}
stage = [{name = "one", epochs = "many", warmup = 7, freeze = 3, lr = 0}]
"""
"""12 problems: 1 unknown name, 2 missing values, 5 wrong types, 4 invalid values."""

PARSERS = {
    "ichx": """
from ichx.errors import IchxError
from ichx.recipe_text import from_toml
def parse(text):
    try:
        from_toml(text)
    except IchxError as error:
        return len(error.problem.splitlines())
""",
    "pydantic": """
import dataclasses, json, tomllib
from pydantic import ConfigDict, TypeAdapter, ValidationError
from ichx import recipe
for kind in list(vars(recipe).values()):
    if dataclasses.is_dataclass(kind):
        kind.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
adapter = TypeAdapter(recipe.Recipe)
def parse(text):
    try:
        adapter.validate_json(json.dumps(tomllib.loads(text)))
    except ValidationError as error:
        return error.error_count()
""",
    "msgspec": """
import tomllib, msgspec
from ichx.recipe import Recipe
def parse(text):
    try:
        msgspec.convert(tomllib.loads(text), Recipe)
    except msgspec.ValidationError:
        return 1
""",
}
TIMED = """
import sys, time
began = time.process_time()
{parser}
found = parse(sys.argv[1])
print(time.process_time() - began, found)
"""


def main() -> None:
    options = arguments(__doc__)
    names = [name for name in PARSERS if name == "ichx" or find_spec(name)]
    rounds = 3 if options.quick else 15
    times: dict[str, list[float]] = {name: [] for name in names}
    problems: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # bytecode is cached like that of an installed package
        for _ in range(rounds + 1):
            for name in names:
                command = [sys.executable, "-c", TIMED.format(parser=PARSERS[name]), INVALID]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                seconds, found = done.stdout.split()
                times[name].append(float(seconds))
                problems[name] = int(found)
    figures = []
    for name in names:
        milliseconds = 1000 * statistics.median(times[name][1:])
        figures.append(Figure(f"{name}: import and first parse, CPU time", milliseconds, "ms", "-", "-", True))
        figures.append(Figure(f"{name}: problems reported of 12", problems[name], "", "-", "-", True))
    conclude(figures, options)


if __name__ == "__main__":
    main()
