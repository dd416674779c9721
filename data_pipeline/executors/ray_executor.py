"""Batches in the workers of a Ray cluster.

`RAY_ADDRESS` names the cluster; without it, Ray starts one on this machine. Each worker is an
actor. If it ends, its batch is run again, then item by item. A thread of C in the worker
(`faulthandler`) ends it if an item takes too long.

What this leaves out: reading the pages on the cluster (they are read here, and sent), and copying
files to other machines. This project must be installed there, and the models that settings or
environment variables name must have the same paths; SENT_VARIABLES are sent.
"""

import faulthandler
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.executors.executor import (
    KILLED,
    START_FAILURES,
    TOO_MUCH_MEMORY,
    TOO_SLOW,
    Function,
    Job,
    Jobs,
    Limits,
    Lost,
    Start,
    run_items,
    same_process,
)
from data_pipeline.executors.worker_memory import limit_memory
from data_pipeline.language_id import MODEL_VARIABLE
from data_pipeline.quality_classifier import HARMFUL_VARIABLES
from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_core.user_error import UserError

BATCHES_AHEAD = 8  # per worker: done or not, after the first that is not done
OBJECT_STORE_BYTES = 200_000_000  # of a cluster that is started here; batches are small
SENT_VARIABLES = (
    STAND_INS_VARIABLE,
    MODEL_VARIABLE,
    *HARMFUL_VARIABLES.values(),
    "OMP_NUM_THREADS",
)


def import_ray() -> Any:
    """Return the module. Raises UserError if it is not installed."""
    try:
        import ray
    except ImportError:
        raise UserError(
            "executor = \"ray\" needs Ray, which is not installed: run `pip install '.[ray]'`, "
            'or use executor = "local"'
        ) from None
    return ray


class _Worker:
    """The actor: one process of the cluster."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.function: Function | None = None

    def begin(self, start: Start) -> None:
        """Call `start`; in a method, because errors of `__init__` do not reach the caller."""
        self.function = start()
        limit_memory(self.limits.memory)

    def run(self, items: Sequence[Any]) -> tuple[list[Any], bool]:
        """Return the results, and whether the memory was too short for all."""
        assert self.function is not None, "a job came before `begin`"
        with Path(os.devnull).open("w") as nowhere:

            def begin(_: int) -> None:
                faulthandler.dump_traceback_later(self.limits.seconds, exit=True, file=nowhere)

            try:
                return run_items(self.function, items, begin)
            finally:
                faulthandler.cancel_dump_traceback_later()


class RayExecutor:
    """An executor whose workers are actors of a Ray cluster.

    Args:
        num_processes: the number of actors, at most as many as the cluster has processors; 0 runs
            everything in the calling process.
        limits: see Limits.
    """

    def __init__(self, num_processes: int, limits: Limits) -> None:
        self.num_processes = num_processes
        self.limits = limits

    def map(
        self, start: Start, batches: Iterable[Sequence[Any]], lost: Lost
    ) -> Iterator[list[Any]]:
        """See Executor.map. Raises also UserError: Ray is not installed, or cannot be reached."""
        if self.num_processes == 0:
            yield from same_process(start, batches)
            return
        ray = import_ray()
        was_started = ray.is_initialized()
        if not was_started:
            _connect(ray, self.num_processes)
        try:
            processors = int(ray.cluster_resources().get("CPU", 1))
            size = max(1, min(self.num_processes, processors))
            jobs = Jobs(batches, lost, BATCHES_AHEAD * size)
            team = _Team(ray, start, self.limits, size, jobs)
            try:
                while not jobs.done:
                    team.hand_out()
                    team.collect()
                    yield from jobs.results()
            finally:
                team.end()
        finally:
            if not was_started:
                ray.shutdown()


def _connect(ray: Any, num_processes: int) -> None:
    """Connect to the cluster at RAY_ADDRESS, or start one on this machine."""
    sent = {name: os.environ[name] for name in SENT_VARIABLES if name in os.environ}
    given: dict[str, Any] = {"runtime_env": {"env_vars": sent}, "log_to_driver": False}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        sent["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        given |= {"num_cpus": num_processes, "object_store_memory": OBJECT_STORE_BYTES}
        given |= {"include_dashboard": False}
    try:
        ray.init(configure_logging=False, **given)
    except (ConnectionError, ValueError, TimeoutError, RuntimeError) as error:
        words = " ".join(str(error).split())[:200]
        where = f"the cluster at RAY_ADDRESS={address}" if address else "a cluster here"
        raise UserError(f"Ray: cannot use {where} ({words})") from None


class _Team:
    """The actors of a map, each with at most one job, and each replaced when it ends."""

    def __init__(self, ray: Any, start: Start, limits: Limits, size: int, jobs: Jobs) -> None:
        self.ray = ray
        self.start = start
        self.limits = limits
        self.jobs = jobs
        self.size = size
        self.kind = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Worker)
        self.idle: list[Any] = []
        self.starting: dict[Any, Any] = {}  # reference to the end of `begin` -> actor
        self.busy: dict[Any, tuple[Any, Job, float]] = {}  # reference to the results -> and since
        self.start_failures = 0

    def hand_out(self) -> None:
        """Give jobs to the actors that have none; start actors while there are too few."""
        while self.idle and (job := self.jobs.next()) is not None:
            actor = self.idle.pop()
            self.busy[actor.run.remote(job.items)] = (actor, job, time.monotonic())
        while len(self.idle) + len(self.starting) + len(self.busy) < self.size:
            actor = self.kind.remote(self.limits)
            self.starting[actor.begin.remote(self.start)] = actor

    def collect(self) -> None:
        """Wait until an actor has ended a job, or its start, and take the results."""
        if not (self.busy or self.starting):  # the last job is done
            return
        [reference], _ = self.ray.wait([*self.busy, *self.starting], num_returns=1)
        if reference in self.starting:
            self._take_start(reference, self.starting.pop(reference))
        else:
            self._take_results(reference, *self.busy.pop(reference))

    def _take_start(self, reference: Any, actor: Any) -> None:
        try:
            self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayError as error:
            self.start_failures += 1
            if self.start_failures == START_FAILURES:
                words = " ".join(str(error).split())[:200]
                raise UserError(
                    f"{START_FAILURES} Ray workers ended before their first page ({words})"
                ) from None
        else:
            self.start_failures = 0
            self.idle.append(actor)

    def _take_results(self, reference: Any, actor: Any, job: Job, since: float) -> None:
        try:
            results, no_memory = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, MemoryError):
                raise error.cause from None
            self.ray.kill(actor)
            self.jobs.ended_somewhere(job, TOO_MUCH_MEMORY)
        except self.ray.exceptions.RayError:  # the actor, its machine, or what it sent is gone
            self.ray.kill(actor)
            is_slow = time.monotonic() - since >= self.limits.seconds
            self.jobs.ended_somewhere(job, TOO_SLOW if is_slow else KILLED)
        else:
            self.jobs.finished(job, results)
            if no_memory:
                self.ray.kill(actor)
                self.jobs.ended_at(job, len(results), TOO_MUCH_MEMORY)
            else:
                self.idle.append(actor)

    def end(self) -> None:
        """End all actors."""
        working = [actor for actor, _, _ in self.busy.values()]
        for actor in [*self.idle, *self.starting.values(), *working]:
            self.ray.kill(actor)
