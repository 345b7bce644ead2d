"""What the networks of a finished run know of other classes: few-shot episodes on photos that none of them saw.

    Tian et al., StableRep, NeurIPS 2023, arXiv:2306.00984, table 4; episodes as in El Banani et al., arXiv:2302.12248

    reverie run episodes --of runs/mine --photos photos/ --out runs/mine-episodes

Numbers: docs/recipes/episodes.md.
"""

from __future__ import annotations

from pathlib import Path

from reverie.errors import InputError
from reverie.run.plan import Plan, Step, read_plan


def episodes(
    of: Path,
    photos: str,
    size_px: int = 64,
    ways: int = 5,
    shots: tuple[int, ...] = (1, 5),
    queries: int = 6,
    number: int = 2000,
    seed: int = 0,
) -> Plan:
    """The networks that a run trained and probed, the same untrained, and raw pixels -> few-shot episodes -> a page.

    Example: reverie run episodes --of runs/mine --photos photos/ --out runs/mine-episodes

    Args:
        of: folder of a finished run with a linear probe, such as one of stablerep.
        photos: of other classes: a folder with train and test; a table or folder of classes alone is cut in halves.
        size_px: photos are cut to squares of this side.
        ways: classes in an episode.
        shots: photos of each class that an episode learns from; measured once with each number.
        queries: photos of each class that it asks about.
        number: of episodes, the same for all networks.
        seed: of the episodes.
    """
    from reverie.evaluate.few_shot import FewShotEpisodes
    from reverie.evaluate.linear_probe import Arm
    from reverie.report.page import WritePage

    probed = [step["settings"]["arms"] for step in read_plan(of)["steps"] if step["settings"]["stage"] == "LinearProbe"]
    if not probed:
        raise InputError(f"{of} has no linear probe that says which networks to measure")
    if not shots or len(set(shots)) < len(shots):
        raise InputError("give --shots different numbers of photos, at least one")
    arms = []
    for arm in probed[0]:
        weights = of.resolve() / "weights" / arm["weights"] if arm["weights"] else None
        if weights and not weights.is_dir():
            raise InputError(f"{of} has no weights of {arm['weights']} yet; run it to the end first")
        arms.append(Arm(arm["name"], arm["seed"], str(weights) if weights else None))
    measures = [
        Step(f"episodes-{few}", FewShotEpisodes(tuple(arms), photos, size_px, ways=ways, shots=few, queries=queries, episodes=number, seed=seed))
        for few in sorted(shots)
    ]  # fmt: skip
    page = Step("page", WritePage(), of=tuple(step.name for step in measures))
    return Plan(recipe="episodes", seed=seed, steps=(*measures, page))
