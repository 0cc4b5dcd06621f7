"""`one-peace clips`: videos to shards of clips with sound, captions, depth and normals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from one_peace.progress_bar import bar


def clips(
    videos: Annotated[Path, typer.Argument(help="A folder of videos.")],
    out: Annotated[Path, typer.Argument(help="Where the shards go; a run that was stopped goes on there.")],
    metadata: Annotated[
        list[Path] | None,
        typer.Option(
            help="HD-VILA's hdvila_part*.jsonl, which say what the clips are; repeatable.", show_default="scene cuts"
        ),
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="A table of captions by clip or video: .json, .jsonl, .csv or .tsv.")
    ] = None,
    captioner: Annotated[
        str, typer.Option(help="FILE.py:NAME or MODULE:NAME, a function (pictures, waveform) -> captions.")
    ] = "",
    depth: Annotated[str, typer.Option(help="A function (picture) -> depth in metres, or a folder of maps.")] = "",
    normals: Annotated[
        str, typer.Option(help="A function (picture) -> normals, a folder of maps, or 'depth': computed from it.")
    ] = "",
    disparity: Annotated[bool, typer.Option("--disparity", help="What --depth gives is disparity.")] = False,
    threshold: Annotated[float, typer.Option(help="Change of colours, of 255, that is a cut.")] = 11.5,
    shortest_scene: Annotated[int, typer.Option(help="Frames between two cuts at least.")] = 15,
    min_seconds: Annotated[float, typer.Option(help="Shorter clips are dropped.")] = 1.0,
    max_seconds: Annotated[float, typer.Option(help="Longer scenes are divided.")] = 60.0,
    size: Annotated[int, typer.Option(help="Pixels of the shorter side of frames, at most.")] = 256,
    videos_per_shard: Annotated[int, typer.Option(min=1, help="Videos in each part of the output.")] = 20,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one per core")] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Where to work: ray is a Ray cluster, RAY_ADDRESS says which.")
    ] = "local",
) -> None:
    """Cut videos into clips with their frames, sound, captions, depth and normals, as shards for pretraining."""
    from one_peace.data.bulk_work import cores, work_here
    from one_peace.data.bulk_work_ray import work_on_ray
    from one_peace.data.clip_shards import ClipSettings, prepare_clips
    from one_peace.data.clip_shards.cutting import ClipRules

    settings = ClipSettings(
        rules=ClipRules(threshold, shortest_scene, min_seconds, max_seconds, size),
        metadata=tuple(map(str, metadata or ())),
        captions="" if captions is None else str(captions),
        captioner=captioner,
        depth=depth,
        normals=normals,
        disparity=disparity,
        videos_per_shard=videos_per_shard,
    )
    workers = cores() if workers is None else workers
    run = work_on_ray if engine == "ray" else work_here if workers > 1 else None
    typer.echo(str(prepare_clips(videos, out, settings, workers=workers, run=run, track=bar("cutting"))))
