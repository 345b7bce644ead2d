"""The command that shows a folder in the browser."""

from __future__ import annotations

import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import tyro

from reverie.cli.common import Folder, counting, say
from reverie.models.devices import find_device


def show(
    folder: Folder,
    other: Annotated[Path | None, tyro.conf.Positional, "run"] = None,
    port: int = 8420,
    browser: bool = True,
    index: bool = False,
    encoder: str = "",
    tokenizer: str = "",
    device: str = "cpu",
) -> None:
    """Look at the pairs of a run or an import in the browser: search, sort, one pair with all that is known of it, mark bad ones.

    Example: reverie show runs/demo

    The page is served on this machine alone, until Ctrl-C. Two folders are shown side by side: pairs of the same key, or of the same
    caption and seed.

    Args:
        folder: a run folder, or one that reverie import made; it may still be at work.
        other: a second folder, shown beside the first.
        port: port on 127.0.0.1; 0 picks a free one.
        browser: open the page in the browser.
        index: look at all pictures first, so that those like a text or a picture are found at once; else it is done when it is asked for.
        encoder: model that compares pictures and texts; the one that the run scored with when empty, or builtin:clip.
        tokenizer: model that image tokens are decoded by; the one that the run painted with when empty.
        device: device of the encoder; cpu, cuda or cuda:N.
    """
    from reverie.show.serve import check_extra, serve

    check_extra()
    from reverie.show.gallery import Gallery

    if device != "cpu":
        find_device(device)
    galleries = [Gallery(each, encoder, device, tokenizer) for each in (folder, other) if each is not None]
    if index:
        with counting("pictures looked at:") as progress:
            number = galleries[0].near.build(progress)
        say(f"{galleries[0].near.table}: {number:,} pictures looked at now by {galleries[0].near.name}")
    serve(galleries, port, lambda address: _tell(address, browser))


def _tell(address: str, browser: bool) -> None:
    say(f"{address}  (Ctrl-C ends it)")
    if (
        browser
    ):  # beside the server, as one in a terminal comes back only when it is left, and waits for pages until then
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
