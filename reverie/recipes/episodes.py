"""Few-shot episodes with the networks of a finished run, on photos of classes that none of them was trained on.

    Tian et al., StableRep, NeurIPS 2023, arXiv:2306.00984, table 4; episodes as in El Banani et al., arXiv:2302.12248

    reverie run episodes --networks-from runs/mine --eval-data photos/ --out runs/mine-episodes

Numbers: docs/recipes/episodes.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reverie.arms import Arm
from reverie.errors import InputError
from reverie.run.plan import Plan, Step, read_plan
from reverie.settings import flat


@dataclass(frozen=True)
class EpisodesConfig:
    """Settings of few-shot episodes."""

    # folder of a finished run that trained networks and measured them, such as one of stablerep; they are measured again
    networks_from: Path

    # photos to measure on; a folder with train and test, or smallworld:CAMERA:TRAIN:TEST; of other classes; a table or
    # folder of classes alone is cut in halves
    eval_data: str
    eval_px: int = 64  # side of the squares that photos to measure on are cut to
    ways: int = 5  # classes in an episode
    # photos of each class to learn from (M); everything is measured once with each number
    num_shots: tuple[int, ...] = (1, 5)
    queries: int = 6  # photos of each class that an episode asks about
    episodes: int = 2000  # episodes, the same for all networks
    seed: int = 0  # random seed of the run


def episodes(config: EpisodesConfig) -> Plan:
    """The networks that a run trained and probed, the same untrained, and raw pixels -> few-shot episodes -> a page.

    Example: reverie run episodes --networks-from runs/mine --eval-data photos/ --out runs/mine-episodes
    """
    from reverie.evaluate.few_shot import FewShotEpisodes
    from reverie.report.page import WritePage

    trained, shots = config.networks_from, config.num_shots
    measured = [step["settings"].get("arms") for step in read_plan(trained)["steps"] if step["role"] == "measure"]
    known: list[dict[str, Any]] = next((own for own in measured if own), [])
    if not known:
        raise InputError(f"{trained} has no step that says which networks to measure")
    if not shots or len(set(shots)) < len(shots):
        raise InputError("give --num-shots different numbers of photos, at least one")
    arms = []
    for arm in known:
        weights = trained.resolve() / "weights" / arm["step"] if arm["step"] else None
        if weights and not weights.is_dir():
            raise InputError(f"{trained} has no weights of {arm['step']} yet; run it to the end first")
        if weights and not (weights / "config.json").is_file():
            raise InputError(
                f"{trained} trains no networks of images: {arm['step']} is none; give a run of stablerep, say"
            )
        arms.append(Arm(arm["id"], arm["label"], arm["seed"], str(weights) if weights else None, arm["factors"]))
    measures = [
        Step(
            f"episodes-{few}",
            FewShotEpisodes(
                tuple(arms), config.eval_data, config.eval_px, ways=config.ways, shots=few, queries=config.queries,
                episodes=config.episodes, seed=config.seed,
            ),
        )
        for few in sorted(shots)
    ]  # fmt: skip
    page = Step("page", WritePage(), inputs=tuple(step.name for step in measures))
    return Plan(recipe="episodes", seed=config.seed, arguments=flat(config), steps=(*measures, page))
