"""The site: `sphinx-build -W docs FOLDER`, which the job `docs` of `.ci/matrix.py` does too."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Where files outside of this folder can be read, once the project has an address.
SOURCE = PROJECT.get("urls", {}).get("Source")

project = PROJECT["name"]
author = PROJECT["authors"][0]["name"]
project_copyright = author
version = release = PROJECT["version"]

sys.path.insert(0, str(DOCS / "_extensions"))
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "plugin_reference"]
exclude_patterns = ["_build", "_extensions"]

nitpicky = True
# Only public names are looked up: those of other packages would take their inventories, and so a
# network; those of inner modules are types in signatures.
nitpick_ignore_regex = [("py:.*", r"(?!pytest_djcelery\.\w+$).*")]
default_role = "py:obj"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = project
smartquotes = False  # a value that is quoted is copied

linkcheck_ignore = [r"https?://(127\.0\.0\.1|localhost)"]
linkcheck_timeout = 20
linkcheck_retries = 2

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4


def outside_links(folder: Path, text: str) -> str:
    """Point links to files of the repository that are no pages to where they can be read.

    The pages are read in the repository too, where such a link is relative. Without an address of
    the repository, a file becomes a download, and what can't be one is text alone.
    """

    def replaced(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        path, anchor = re.fullmatch(r"([^#]*)(#.*)?", target, re.DOTALL).groups()
        found = (folder / path).resolve()
        if not path or not found.is_relative_to(ROOT) or not found.exists():
            return match[0]
        if found.is_relative_to(DOCS):
            return f"{image}[{label}](/{found.relative_to(DOCS)}{anchor or ''})"
        if image:
            return match[0]
        if SOURCE:
            return f"[{label}]({SOURCE}/blob/main/{found.relative_to(ROOT)}{anchor or ''})"
        return label if found.is_dir() or found.suffix == ".md" else match[0]

    return re.sub(r"(!?)\[((?:[^\]\[]|\[[^\]]*\])+)\]\((?![a-z]+:)([^)\s]+)\)", replaced, text)


def rewrite_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Rewrite the links of a page."""
    source[0] = outside_links((DOCS / docname).parent, source[0])


def rewrite_included(app: Sphinx, path: Path, docname: str, source: list[str]) -> None:
    """Rewrite the links of a file that a page includes."""
    source[0] = outside_links((DOCS / path).parent, source[0])


def write_llms_txt(app: Sphinx, failed: Exception | None) -> None:
    """Write ``llms.txt``, for language models: the facts of the file here, and all pages."""
    if failed or app.builder.format != "html":
        return
    env = app.builder.env
    sections: dict[str, list[str]] = {}
    for page in env.toctree_includes[env.config.root_doc]:
        section = page.partition("/")[0].replace("-", " ").capitalize() if "/" in page else "More"
        link = f"- [{env.titles[page].astext()}](_sources/{page}.md.txt)"
        sections.setdefault(section, []).append(link)
    facts = (DOCS / "llms.txt").read_text(encoding="utf-8").rstrip()
    lists = [f"## {name}\n\n" + "\n".join(links) for name, links in sections.items()]
    text = "\n\n".join([facts, *lists])
    (Path(app.outdir) / "llms.txt").write_text(f"{text}\n", encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Connect what this file defines."""
    app.connect("source-read", rewrite_page)
    app.connect("include-read", rewrite_included)
    app.connect("build-finished", write_llms_txt)
