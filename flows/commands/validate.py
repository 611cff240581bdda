"""`selrel validate`: whether the motion share means what it says."""

from __future__ import annotations

from typing import Annotated

from rich.markdown import Markdown

from flows.commands.arguments import Several
from flows.terminal import Console


def validate(
    *,
    root: str,
    correlations: Annotated[list[float] | None, Several] = None,
    seeds: int = 3,
    videos_per_class: int = 96,
    test_groups: int = 16,
    epochs: int = 12,
    workers: int | None = None,
) -> None:
    """Measure, on drawn videos of which the truth is known, whether selective relevance finds motion.

    Small C3Ds are trained on videos whose motion tells the class while the scene is correlated with it by 0
    to 1 (it agrees in 25 to 100 % of the videos), and on others whose scene alone tells it. What they truly
    use is measured by what they do with frozen, shuffled and reversed clips and with swapped scenes. Then the
    main job explains each, and its numbers are held against that, and its maps against the true masks.

    Takes under 25 minutes on 2 cores. After a kill the same command goes on where it stopped.

    Example: `selrel validate --root validity`

    Parameters
    ----------
    root
        Directory or `s3://bucket/prefix` under which all results lie.
    correlations
        Of scene and class in the training videos: 0 0.25 0.5 0.75 1 by default. At c, the scene agrees with
        the class in the share c + (1 - c) / 4 of the videos.
    seeds
        Models of each kind.
    videos_per_class
        Training videos of each class and model.
    test_groups
        Test videos of each class.
    epochs
        Passes over the training videos.
    workers
        Worker processes; by default one a GPU, or one a CPU where there is none.
    """
    from flows.serving.local_server import temporary_server
    from flows.serving.outages import work_that_goes_on
    from flows.serving.scratch import scratch_directory
    from storage.report.validity.page import opening
    from tasks.validity.benchmark import Benchmark, open_bench

    chosen = {} if correlations is None else {"correlations": tuple(correlations)}
    settings = Benchmark(
        seeds=seeds,
        videos_per_class=videos_per_class,
        test_groups=test_groups,
        epochs=epochs,
        **chosen,  # type: ignore[arg-type]
    )
    console = Console()
    with scratch_directory("validate") as scratch:
        bench = open_bench(root, settings, str(scratch))
        if bench.place.exists(bench.paths.success):
            console.print("This benchmark is finished already; nothing to do.")
        else:
            console.print(
                f"{len(settings.cases)} models are trained, explained and compared; results go to "
                f"{bench.place.join(bench.paths.directory)}",
                soft_wrap=True,
            )
            with work_that_goes_on(), temporary_server():
                from flows.validate import validate_relevance

                validate_relevance(bench, workers)
        console.print(Markdown(opening(bench.place, bench.paths)))
        page, directory = (bench.place.join(path) for path in (bench.paths.page, bench.paths.directory))
        places = f"\nPage      {page}\nDirectory {directory}"
        console.print(places, soft_wrap=True)
