"""`ichx data cache`: build, list and verify caches."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ichx.cli.output import console, info, print_json, progress, warn
from ichx.cli.parameters import (
    AsJson,
    DatasetName,
)
from ichx.cli.placement import PlacementOptions, placed
from ichx.cli.session import session
from ichx.cli.tables import print_table

if TYPE_CHECKING:
    from ichx.cache.hu_cache import CacheSpec
    from ichx.cache.verify import FoundCache


@placed
def cache(
    context: typer.Context,
    name: DatasetName,
    size: Annotated[
        list[int] | None, typer.Option(min=16, max=4096, help="Size in pixels; repeat to build several in one pass.")
    ] = None,
    for_: Annotated[
        list[int] | None, typer.Option("--for", help="Build what this experiment reads; repeatable.")
    ] = None,
    centre: Annotated[Literal["none", "slice", "series"], typer.Option(help="Head centring for `--size`.")] = "slice",
    resize: Annotated[Literal["bilinear", "area"], typer.Option(help="Resize method for `--size`.")] = "bilinear",
    field: Annotated[
        float, typer.Option(min=0, max=1000, help="Edge in mm of the square around the head for `--size`; 0: all.")
    ] = 0.0,
    verify: Annotated[bool, typer.Option("--verify", help="Verify all checksums and remove damaged files.")] = False,
    part: Annotated[
        str | None, typer.Option(metavar="K/N", help="Build part K of N of the missing shards, for N machines.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Number of processes; default: one per core.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Number of jobs on a cluster; default: 1.")] = None,
    *,
    where: PlacementOptions,
    as_json: AsJson = False,
) -> None:
    """Decode slices once into HU caches, or list the caches.

    Without `--size` and `--for`, lists the caches. An interrupted build resumes when rerun. Builds of the same cache on
    one or several machines share the work. `ichx run` builds missing caches itself.

    Example: `ichx data cache rsna --size 378 --size 256`

    Example: `ichx data cache rsna --size 378 --part 2/8`

    Example: `ichx data cache rsna --for 6`

    Example: `ichx data cache rsna --verify`

    Example: `ichx data cache rsna --size 378 --on slurm --jobs 8 --cpus 16`
    """
    from ichx.cache.hu_cache import CacheSpec
    from ichx.cache.mixture_cache import build_dataset_caches, build_dataset_part
    from ichx.cache.parts import Part
    from ichx.cache.requests import list_caches, request_caches
    from ichx.cache.verify import foreign_caches, raise_if_damaged, verify_caches
    from ichx.text import format_examples

    specs = [CacheSpec(pixels, centre, resize, field) for pixels in size or ()]
    if verify and (specs or for_):
        raise typer.BadParameter("--verify checks all caches of the dataset. Leave out --size and --for.")
    if part is not None and not (specs or for_):
        raise typer.BadParameter("--part builds a part of a cache. Add --size or --for.")
    of_part = None if part is None else Part.parse(part)
    with session() as project:
        placement = where.place(project.workspace)
        build_here = placement.is_local or not (specs or for_) or part is not None
        if build_here and (jobs is not None or (placement.chosen and not placement.is_local)):
            raise typer.BadParameter("--on slurm and --jobs need --size or --for, without --part.")
        if not build_here:
            from ichx.cli.cache_jobs import build_on_cluster

            build_on_cluster(project, context, placement, specs, jobs or 1)
        for request in request_caches(project, name, specs, for_ or ()) if build_here else ():
            for plan in request.plans:
                info(str(plan))
            with progress(f"caching {name}") as report:
                data, plans = request.data, request.plans
                if of_part is None:
                    build_dataset_caches(data, plans, processes=processes, progress=report)
                else:
                    build_dataset_part(data, plans, of_part, processes=processes, progress=report)
        verified = []
        if verify:
            parts = project.store.version(name).part_names
            listed = [one for owner in (name, *parts) for one in list_caches(project, owner)]
            with progress("verifying shards") as report:
                verified = verify_caches(listed, processes=processes, progress=report)
        found = list_caches(project, name)
        foreign = foreign_caches(project.workspace.cache_dir, name)
    if foreign:
        warn(f"Caches of another version of ichx are never read and can be deleted{format_examples(map(str, foreign))}")
    if as_json:
        print_json({"caches": found, "verified": verified})
        if any(cache.damaged for cache in verified):
            raise typer.Exit(1)
        return
    _print_caches(name, found)
    raise_if_damaged(name, verified)


def _print_caches(name: str, found: "list[FoundCache]") -> None:
    from ichx.text import format_bytes

    def state(cache: "FoundCache") -> str:
        if cache.reads:
            return "reads its parts" if cache.complete else "lacks caches of its parts"
        if not cache.complete:
            return f"incomplete: {cache.shards:,} of {cache.of_shards:,} shards"
        return "complete" if cache.current else "complete, older version"

    def pixels(spec: "CacheSpec") -> int | str:
        return f"{spec.size}, {spec.field:g} mm" if spec.field else spec.size

    rows = [
        (pixels(c.spec), c.spec.centre, c.spec.resize, c.n, c.defects, format_bytes(c.nbytes), state(c), c.folder.name)
        for c in found
    ]
    heads = ("pixels", "centring", "resize", "slices", "excluded", "disk", "state", "folder")
    print_table(f"caches of {name}", heads, rows, drop=("folder",))
    if found:
        console.print(f"{format_bytes(sum(c.nbytes for c in found))} in {found[0].folder.parent}", markup=False)
