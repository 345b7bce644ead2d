"""What the documentation site has beside the pages in this folder: pages made from the code, and the order of all of them.

A link to a file of the repository that is no page becomes its text, once the file is known to be there.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LOG = logging.getLogger("mkdocs.hooks.reverie")  # with --strict, a warning here fails the build
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")
PAGES_OF = {"README.md": "index.md", "CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md", "examples": "examples.md"}  # fmt: skip
GUIDES = (
    "library.md",
    "planning.md",
    "examples.md",
    "show.md",
    "architecture.md",
    "scale.md",
    "adding-a-filter.md",
    "adding-a-learner.md",
    "adding-a-model.md",
)
MORE = (  # modules of which everything is in the reference
    "reverie.stage",
    "reverie.errors",
    "reverie.arms",
    "reverie.pairs",
    "reverie.settings",
    "reverie.store.tables",
    "reverie.store.batches",
    "reverie.store.results",
    "reverie.store.files",
    "reverie.run.plan",
    "reverie.run.engine",
    "reverie.learn.losses",
    "reverie.learn.views",
    "reverie.models.names",
    "reverie.evaluate.claims",
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code."""
    made = {
        **{page: (ROOT / name).read_text(encoding="utf-8") for name, page in PAGES_OF.items() if name.endswith(".md")},
        "examples.md": examples(),
        "commands.md": commands(),
        "reference.md": reference(),
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    config["nav"] = nav(sorted(file.src_uri for file in files.documentation_pages()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links to files of the repository to their page, or to none."""
    name = page.file.src_uri
    home = ROOT if name in PAGES_OF.values() else (ROOT / "docs" / name).parent

    def lead(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if re.match(r"[a-z]+:", target):
            return link[0]
        path = (home / target).resolve()
        if not path.exists() and files.get_file_from_path(os.path.normpath(Path(name).parent / target)) is None:
            LOG.warning("%s links to %s, which is not there", name, target)
            return link[0]
        inside = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
        page_of = PAGES_OF.get(inside) or (inside.removeprefix("docs/") if inside.startswith("docs/") else None)
        if page_of is None:
            return link[0] if files.get_file_from_path(target) else text
        return f"[{text}]({os.path.relpath(page_of, Path(name).parent)}{anchor})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(lead, part) for part in parts)


def nav(pages: list[str]) -> list[Any]:
    """All pages in the order of a reader."""
    guides = [name for name in GUIDES if name in pages]
    last = [name for name in ("flags.md", "commands.md", "reference.md") if name in pages]
    recipes = [name for name in pages if name.startswith("recipes/")]
    decisions = [name for name in pages if name.startswith("decisions/")]
    project = ["contributing.md", "security.md", "changes.md"]
    known = {"index.md", *guides, *last, *recipes, *decisions, *project}
    others = [name for name in pages if name not in known]
    return [
        "index.md",
        {"Guides": guides},
        {"Recipes": recipes},
        {"More": others},
        {"Reference": last},
        {"Decisions": decisions},
        {"Project": project},
    ]


def examples() -> str:
    """The scripts in examples/, each under the first sentence of its docstring."""
    lines = ["# Examples", "", "Short scripts, which the tests run as they are here.", ""]
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines += [f"## {path.stem.replace('_', ' ').capitalize()}", "", f"`examples/{path.name}`", ""]
        lines += ["```python", text.rstrip(), "```", ""]
    return "\n".join(lines)


def commands() -> str:
    """What ``--help`` says of every command and recipe."""
    from reverie.cli.main import COMMANDS, USAGE
    from reverie.cli.predict import EVALUATIONS
    from reverie.run.plan import known_recipes

    lines = ["# Commands", "", "What `--help` says of each command and recipe.", "", "```text", USAGE, "```", ""]
    asked = [[name] for name in COMMANDS if name not in ("run", "make", "demo", "claims", "evaluate")]
    asked += [
        *(["evaluate", kind] for kind in EVALUATIONS),
        ["make"],
        *(["run", name] for name in known_recipes() if name != "make"),
    ]
    for words in asked:
        lines += [f"## reverie {' '.join(words)}", "", "```text", help_of(words), "```", ""]
    return "\n".join(lines)


def help_of(words: list[str]) -> str:
    """The help of one command, without colours."""
    from reverie.cli.main import main

    said = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "110"
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()).strip()


def reference() -> str:
    """What ``import reverie`` offers, and what stages and errors are."""
    import reverie

    lines = ["# Reference", "", "What `import reverie` offers, by the module that it comes from.", ""]
    for home, names in reverie._HOMES.items():
        if home not in MORE:
            lines += [f"## {home}", ""]
            for name in (*names, "run") if home == "reverie.library" else names:
                lines += [f"::: {home}.{name}", ""]
    for module in MORE:
        lines += [f"## {module}", "", f"::: {module}", "    options:", "      show_root_heading: false", ""]
    return "\n".join(lines)
