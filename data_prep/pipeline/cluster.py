"""Work handed to a cluster through joblib's backends: Dask or Ray (optional, pip install 'vidkd[dask]')."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from typing import Any, cast

from vidkd.errors import ConfigError, DataError

EACH = 16  # videos a worker gets before the journal hears of all of them: what a kill costs at most
NEEDS = {"dask": "distributed", "ray": "ray"}


def results(
    executor: str, function: Callable[..., Any], todo: Iterator[tuple[Any, ...]], workers: int
) -> Iterator[Any]:
    """function(*arguments) of every item of `todo`, made by `executor`, "dask" or "ray", a bounded number at a time.

    The cluster is the one that DASK_SCHEDULER_ADDRESS or RAY_ADDRESS names, else one of `workers` processes here.
    ConfigError, now, if the packages it takes are not installed.
    """
    if lacking := [name for name in ("joblib", NEEDS[executor]) if find_spec(name) is None]:
        raise ConfigError(f"--executor {executor}: {lacking[0]} is not installed here: pip install 'vidkd[{executor}]'")
    return _results(executor, function, todo, workers)


def _results(
    executor: str, function: Callable[..., Any], todo: Iterator[tuple[Any, ...]], workers: int
) -> Iterator[Any]:
    import joblib  # pyright: ignore[reportMissingImports]

    cluster = {"dask": _dask, "ray": _ray}[executor]
    try:
        with cluster(workers) as size, joblib.parallel_config(executor, n_jobs=size), joblib.Parallel() as parallel:
            while chunk := list(islice(todo, EACH * size)):
                yield from parallel(joblib.delayed(function)(*each) for each in chunk)
    except (DataError, ConfigError):
        raise
    except Exception as error:  # noqa: BLE001  of the cluster: each kind has its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"--executor {executor}: {reason}; the same command goes on from here") from None


@contextmanager
def _dask(workers: int) -> Iterator[int]:
    from dask import config  # pyright: ignore[reportMissingImports]
    from distributed import Client  # pyright: ignore[reportMissingImports]

    here = {"n_workers": max(workers, 1), "threads_per_worker": 1, "dashboard_address": None}
    with Client(**({} if config.get("scheduler-address", None) else here)) as client:
        threads = cast(dict[str, int], client.nthreads())  # a coroutine only of an asynchronous client
        yield max(sum(threads.values()), 1)


@contextmanager
def _ray(workers: int) -> Iterator[int]:
    import ray  # pyright: ignore[reportMissingImports]
    from ray.util.joblib import register_ray  # pyright: ignore[reportMissingImports]

    register_ray()
    here: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": max(workers, 1)}
    ray.init(**here)
    try:
        yield max(int(ray.cluster_resources().get("CPU", 1)), 1)
    finally:
        ray.shutdown()
