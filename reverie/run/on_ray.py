"""A run on many machines by Ray: a pool of actors makes units, one actor does a job; this process hands out, commits and shows.

An actor is given the rows of a unit and gives rows back, so for units it needs neither the tables nor the folder of the run; only a
job, and a stage that reads what a step left (``step:NAME``), need the folder under the same path. An actor that is lost costs the
unit in its hands, which another one makes again.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import socket
import time
import warnings
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from rich.console import Console

from reverie.errors import InputError, MissingExtra, ReverieError
from reverie.ranges import check_min
from reverie.run.beside import show
from reverie.run.engine import Made, StepRunner, check_rows
from reverie.run.events import Events
from reverie.run.plan import Plan, Step, find_recipe
from reverie.stage import StepContext, UnitStage, Worker
from reverie.store.locks import bytes_held

LOSSES = 3  # actors that one unit or job may cost; with more, it is what ends them
LOOK_S = 0.5  # between two looks at what a job reports
# How HTTP/2 begins, which Ray speaks: a greeting and a frame of settings (type 4), which is what a server answers with as well.
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
PATIENCE_S = 30.0  # before a person is told that Ray has no room


@contextmanager
def cluster(actors: int = 1, gpus_per_actor: float = 0.0, address: str = "") -> Iterator[Actors]:
    """A pool of actors on the Ray at this address, or that of RAY_ADDRESS, or without either one on this machine alone.

    Raises: MissingExtra; InputError for numbers out of range and an address where no Ray answers.
    """
    check_min(1, actors=actors)
    check_min(0, gpus_per_actor=gpus_per_actor)
    if not float(gpus_per_actor).is_integer() and (gpus_per_actor > 1 or gpus_per_actor != round(gpus_per_actor, 4)):
        raise InputError(
            f"--gpus-per-actor {gpus_per_actor:g}: Ray counts whole GPUs, or one in parts of 0.0001; give for example 0.5, 1 or 2"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("--on ray", "ray") from error
    address = address or os.environ.get("RAY_ADDRESS", "")
    address = "" if address == "local" else address
    _check_answers(address)  # Ray itself goes on asking for ten minutes
    cores = max(1, (os.cpu_count() or 1) // actors)
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if not address:
        # As many "CPUs" as actors ask for: Ray counts them and does not measure.
        how |= {"_node_ip_address": "127.0.0.1", "include_dashboard": False, "num_cpus": actors * cores}
    with nullcontext() if address else _for_us_alone():
        _look_at_token(ray)
        try:
            with warnings.catch_warnings():
                # Ray forks to become another program at once, which asks nothing of Lance.
                warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)
                if ":" in address and not address.startswith("ray://"):
                    ray._raylet.GcsClient(address=address)  # says at once that a token is missing; init says less, late
                ray.init(address or "local", **how)
        except ray.exceptions.AuthenticationError as error:
            raise InputError(
                f"the Ray at {address or 'this machine'} wants another token than it was given; set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, as that cluster has them"
            ) from error
        except (ConnectionError, TimeoutError, ValueError, RuntimeError, ray.exceptions.RpcError) as error:
            where = f"no Ray answers at {address}" if address else "Ray cannot be started here"
            raise InputError(f"{where} ({_line(error)}); give --ray-address HOST:PORT, or leave it out") from error
        try:
            there = ray.cluster_resources().get("GPU", 0)
            if not address and actors * gpus_per_actor > there:  # a cluster may grow; this machine does not
                raise InputError(_too_few(actors, gpus_per_actor, there))
            yield Actors(ray, actors, gpus_per_actor, 1 if address else cores)
        finally:
            ray.shutdown()


@contextmanager
def _for_us_alone() -> Iterator[None]:
    """A Ray that is started here listens on the loopback alone and answers only to a token that nobody else has; what was set stays."""
    from ray._private import ray_constants

    own = {} if os.environ.get("RAY_AUTH_MODE") else {"RAY_AUTH_MODE": "token"}
    if not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
        own["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    before = {name: os.environ.get(name) for name in own}
    # Ray takes 127.0.0.1 for the address that others reach this machine by, but where it serves one machine alone, as on macOS.
    can_be_many = ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(own)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = can_be_many
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _too_few(actors: int, gpus_per_actor: float, there: float) -> str:
    wanted = actors * gpus_per_actor
    return (
        f"{actors} actor{'s' * (actors != 1)} with --gpus-per-actor {gpus_per_actor:g} need{'s' * (actors == 1)} {wanted:g} "
        f"GPU{'s' * (wanted != 1)}, and this machine has {format(there, 'g') if there else 'none'}; give fewer, or the --ray-address of a "
        "cluster"
    )


def _look_at_token(ray: Any) -> None:
    """Have Ray read its token again: it did when it was imported, or for a Ray that this process had before."""
    inside = ray._raylet
    if not hasattr(inside, "AuthenticationTokenLoader"):
        raise InputError(f"Ray {ray.__version__} knows no tokens; install 2.52 or later: pip install 'reverie[ray]'")
    inside.Config.initialize("")
    inside.AuthenticationTokenLoader.instance().reset_cache()


def _check_answers(address: str) -> None:
    """Raises InputError where an address is HOST:PORT, ray:// or not before it, and nobody listens there, or somebody else than Ray."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        if address not in ("", "auto"):
            raise InputError(f"--ray-address {address}: give HOST:PORT, as ray start --head says it")
        return
    try:
        with socket.create_connection((host, int(port)), timeout=5.0) as line:
            line.sendall(HTTP2)
            if os.environ.get("RAY_USE_TLS", "0") == "0" and line.recv(9)[3:4] != HTTP2[-6:-5]:
                raise InputError(
                    f"what answers at {address} is no Ray; give --ray-address the port that ray start --head names, 6379 as a rule"
                )
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"no Ray answers at {address} ({error}); start it, or give another --ray-address") from error


class Actors:
    """What ``engine.run`` takes as ``pool``. Actors are begun when the first step needs them, and stay for the next ones.

    Attributes:
        count: units that are made at a time.
    """

    def __init__(self, ray: Any, count: int, gpus: float, cpus: int) -> None:
        self._ray, self.count = ray, count
        self._class = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(_Actor)
        self._starting: dict[Any, Any] = {}  # what its first call will give -> actor
        self._idle: list[Any] = []
        self._of: tuple[int, Path] | None = None  # plan and folder that they work for

    def units(self, work: StepRunner, todo: Sequence[int]) -> Generator[Made, None, None]:
        """Make these units, in the order in which they are finished.

        Raises: ReverieError as the stage says it, or if one unit has cost several actors.
        """
        left: deque[int | str] = deque(todo)
        for unit, (rows, seconds, told) in self._calls(work, left, self.count):
            for kind, facts in told:
                work.events.report(kind, **facts)
            yield Made(unit, rows, seconds)

    def jobs(self, plan: Plan, steps: Sequence[Step], folder: Path, device: str, jobs: int, events: Events) -> None:
        """Do these steps, each by one actor, up to ``jobs`` of them at a time; one whose actor is lost goes on from its checkpoint.

        Raises: as ``units`` does.
        """
        work = StepRunner(plan, steps[0], folder, device, events)
        left: deque[int | str] = deque(step.name for step in steps)
        names = ", ".join(step.name for step in steps[:3]) + (", ..." if len(steps) > 3 else "")
        with events.progress(names, 0, 0, "steps"):
            for name, seconds in self._calls(work, left, min(jobs, self.count)):
                if len(steps) > 1:
                    events.say(f"{name}: done in {seconds:.1f} s")

    def wait(self) -> None:
        """Until every actor that was begun is there."""
        self._ray.wait(list(self._starting), num_returns=len(self._starting)) if self._starting else None

    def _calls(self, work: StepRunner, left: deque[int | str], at_once: int) -> Iterator[tuple[Any, Any]]:
        """Give units (numbers) or jobs (names) to actors that are free, and yield what comes back."""
        ray, events, jobs = self._ray, work.events, work.step.kind == "job"
        self._begin(work, min(at_once, len(left)))
        busy: dict[Any, tuple[Any, int | str]] = {}
        losses: Counter[int | str | None] = Counter()
        began, told = time.monotonic(), False
        log = _Log(events, work.folder, left) if jobs else None
        try:
            while left or busy:
                while left and self._idle and len(busy) < at_once:
                    actor, item = self._idle.pop(), left.popleft()
                    if isinstance(item, str):
                        events.report("step", step=item, stage="job")
                        busy[actor.job.remote(item)] = actor, item
                    else:
                        busy[actor.unit.remote(work.step.name, item, work.given(item))] = actor, item
                done, _ = ray.wait([*busy, *self._starting], timeout=LOOK_S)
                if log:
                    log.show()
                if not busy and not done and not told and time.monotonic() - began > PATIENCE_S:
                    told = True
                    events.say(
                        f"waiting for Ray to have room for an actor; it has {_resources(ray.cluster_resources())}"
                    )
                for ref in done:
                    actor, given = busy.pop(ref) if ref in busy else (self._starting.pop(ref), None)
                    try:
                        kind, *facts = ray.get(ref)
                    except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                        ray.kill(actor)
                        self._start(work)
                        losses[given] += 1
                        # A machine that goes takes all with it that begin there.
                        if losses[given] >= LOSSES * (self.count if given is None else 1):
                            raise ReverieError(
                                f"{work.step.name}: {_named(given)} was lost with {losses[given]} actors of Ray, one after the other "
                                f"({_line(error)}); Ray's logs say more"
                            ) from error
                        if given is not None:
                            left.appendleft(given)
                            events.report("lost", step=work.step.name, what=_named(given))
                            events.say(f"{work.step.name}: {_named(given)} is done again, as its actor was lost")
                        continue
                    if kind == "refused":
                        raise ReverieError(facts[0])
                    self._idle.append(actor)
                    if given is not None:
                        yield given, facts[0]
            if log:
                log.show()
        finally:
            if busy:  # a run that ends early leaves nobody at work
                self._of = None
                for actor in (*(actor for actor, _ in busy.values()), *self._idle, *self._starting.values()):
                    ray.kill(actor)
                self._idle, self._starting = [], {}

    def _begin(self, work: StepRunner, wanted: int) -> None:
        """Have at least so many actors, with the plan of this run."""
        if self._of != (id(work.plan), work.folder):
            self._of = id(work.plan), work.folder
            there, self._idle = [*self._idle, *self._starting.values()], []
            self._starting = {}
            for actor in there:
                self._start(work, actor)
        for _ in range(wanted - len(self._idle) - len(self._starting)):
            self._start(work)

    def _start(self, work: StepRunner, actor: Any = None) -> None:
        """Give an actor, or a new one, the plan."""
        from ray import cloudpickle

        actor = actor or self._class.remote(str(Path.cwd()))
        packed = cloudpickle.dumps(work.plan)
        ready = actor.ready.remote(packed, work.plan.file, str(work.folder.resolve()), work.context.device)
        self._starting[ready] = actor


class _Actor:
    """One of the pool, in a process of its own. What it answers begins with a word, as errors of ours do not all bear the way back."""

    def __init__(self, made_in: str) -> None:
        if Path(made_in).is_dir():
            os.chdir(made_in)  # settings may be paths relative to it
        self._plan: Plan | None = None

    def ready(self, packed: bytes, file: str | None, folder: str, device: str) -> tuple[Any, ...]:
        """The first call: whether this process can have the plan."""
        from ray import cloudpickle

        self._folder, self._device = Path(folder), device
        self._step, self._worker = "", cast("Worker | None", None)
        self._told: list[tuple[str, dict[str, Any]]] = []
        try:
            if file:
                find_recipe(file)  # its stages have their classes there
            self._plan = cloudpickle.loads(packed)
        except ReverieError as error:
            return "refused", f"an actor of Ray cannot have the plan: {error}"
        if device.startswith("cuda"):
            import torch

            if not torch.cuda.is_available():
                return (
                    "refused",
                    f"an actor of Ray on {socket.gethostname()} finds no GPU; give --gpus-per-actor, or --device cpu",
                )
        return ("ready",)

    def unit(self, name: str, unit: int, given: pa.Table) -> tuple[Any, ...]:
        assert self._plan is not None
        step = self._plan.step(name)
        try:
            if name != self._step or self._worker is None:
                self._worker = None  # before the next model is loaded
                context = StepContext(self._folder, name, step.inputs, self._plan.seed, self._device, self._report)
                self._step, self._worker = name, cast(UnitStage, step.stage).open(context)
            began = time.monotonic()
            rows = self._worker(given)
        except ReverieError as error:
            return "refused", str(error)
        check_rows(step, unit, given, rows)
        told, self._told = self._told, []
        return "made", (rows, time.monotonic() - began, told)

    def _report(self, kind: str, **facts: Any) -> None:
        if kind != "progress":  # the units are what is counted
            self._told.append((kind, {"step": self._step, **facts}))

    def job(self, name: str) -> tuple[Any, ...]:
        assert self._plan is not None
        self._worker = None
        step, began = self._plan.step(name), time.monotonic()
        # One that outlives a run that was killed keeps the next one waiting until it is gone.
        if not (self._folder / "plan.json").is_file():
            return (
                "refused",
                f"{name}: {self._folder} is not on {socket.gethostname()}, where Ray put an actor; a training needs the run folder under "
                "the same path on all machines of the cluster",
            )
        with bytes_held(self._folder / ".lock-jobs", self._plan.steps.index(step), 1), _events(self._folder) as events:
            work = StepRunner(self._plan, step, self._folder, self._device, events)
            try:
                if not work.is_done():
                    work.do_job()
            except ReverieError as error:
                return "refused", str(error)
        return "done", time.monotonic() - began


def _events(folder: Path) -> Events:
    """The log of the run, without a display: the one who began the run reads the log and shows it."""
    return Events(folder, Console(file=io.StringIO()))


class _Log:
    """What jobs write into the log of the run from now on."""

    def __init__(self, events: Events, folder: Path, steps: Iterable[int | str]) -> None:
        self._events = events
        self._file = (folder / "events.jsonl").open(encoding="utf-8")
        self._file.seek(0, os.SEEK_END)
        self._rest, self._far = "", {str(name): (0, 0) for name in steps}

    def show(self) -> None:
        """Show what is new."""
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        for line in lines:
            facts = json.loads(line) if line else {}
            if facts.get("step") in self._far and (facts["kind"] == "warning" or {"done", "total"} <= facts.keys()):
                show(facts.pop("kind"), facts, self._far, self._events)


def _named(item: int | str | None) -> str:
    return "the beginning" if item is None else f"unit {item}" if isinstance(item, int) else f"step {item}"


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _resources(found: dict[str, float]) -> str:
    return ", ".join(f"{found.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
