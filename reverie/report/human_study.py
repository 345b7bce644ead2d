"""The page on which people compare painters blindly, one file without any address in it, and a table of what they said.

Captions are escaped by the template and pictures are decoded and encoded again; the one script is the page's own, and the page forbids
itself to run another or to load anything. It reads what was clicked and offers the votes as a file.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from rich.table import Column, Table

from reverie.evaluate.human_study import MIN_RATERS, Outcome, Study
from reverie.evaluate.painted import Painted
from reverie.report.page import environment
from reverie.report.plain import plain
from reverie.store.files import atomic_file

SCRIPT = Path(__file__).with_name("human_study.js")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_ARMS = len(LETTERS)


def write(study: Study, sets: Mapping[str, Painted], file: Path, side_px: int = 256) -> None:
    """Write the page. Pictures larger than ``side_px`` are made smaller."""
    places = [{name: number for number, name in enumerate(made.pair_ids)} for made in sets.values()]
    items = [
        {
            "text": item.text,
            "pictures": [
                _picture(list(sets.values())[arm].read([places[arm][item.pair_id]])[0], side_px) for arm in item.order
            ],
        }
        for item in study.items
    ]
    script = SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = environment().get_template("human_study.html").render(
        study=study.study, items=items, letters=LETTERS, script=script, digest=digest
    )  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial:
        partial.write_text(html, encoding="utf-8")


def _picture(picture: Image.Image | None, side_px: int) -> str | None:
    if picture is None:
        return None
    picture = picture.convert("RGB")
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)  # without loss: what is looked at must not be the encoder's
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def table(found: Outcome) -> Table:
    """A row for each painter."""
    made = Table(
        "painter", *(Column(head, justify="right") for head in ("shows all that is asked", "relative gain", "best")),
        box=None, header_style="bold",
    )  # fmt: skip
    for arm in found.arms:
        gain = "" if arm.gain is None else _percent(arm.gain.value, arm.gain.low, arm.gain.high, "+")
        cells = (_percent(each.value, each.low, each.high) for each in (arm.faithful, arm.best))
        shows, best = cells
        made.add_row(plain(arm.name), shows, gain, best)
    return made


def words(found: Outcome) -> list[str]:
    """How far the votes can be trusted, in lines."""
    lines = [
        f"{found.captions:,} captions, {len(found.raters)} rater{'s' * (len(found.raters) != 1)}; "
        f"agreement (Krippendorff's alpha): {_alpha(found.agreement)} on what is shown, {_alpha(found.agreement_best)} on the best"
    ]
    if found.unanswered:
        lines.append(f"{found.unanswered:,} questions were left open")
    if len(found.raters) < MIN_RATERS:
        lines.append(f"a majority of {len(found.raters)} says little; ask at least {MIN_RATERS} people")
    return lines


def _percent(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.1%} ({low:{sign}.1%} to {high:{sign}.1%})"


def _alpha(value: float | None) -> str:
    return "cannot be told" if value is None else f"{value:.2f}"
