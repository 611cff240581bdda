"""Makes the repository's front pages pages of the site, and leads links to a source file to its reference."""

import re
from typing import Any

from mkdocs.structure.files import File, Files

# Files of the repository: what they are called in the site.
FRONT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE",
    "CITATION.cff": "CITATION.cff",
}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s]+(?=\))")
_SOURCE = re.compile(r"\[([^]]+)\]\((?:\.\./)*((?:flows|tasks|selrel|storage)/[\w/]+)\.py\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the files that lie outside of docs/."""
    for name, page in FRONT.items():
        files.append(File.generated(config, page, abs_src_path=name))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links of the repository into links of the site."""
    markdown = _SOURCE.sub(lambda found: f"[{found[1]}][{_module(found[2])}]", markdown)
    in_docs = page.file.src_uri not in FRONT.values()
    return _LINK.sub(lambda found: _of_the_site(found[0], in_docs=in_docs), markdown)


def _module(path: str) -> str:
    return path.removesuffix("/__init__").replace("/", ".")


def _of_the_site(link: str, *, in_docs: bool) -> str:
    path, mark, anchor = link.partition("#")
    if not in_docs:
        path = path.removeprefix("docs/")
    name = path.removeprefix("../")
    return FRONT.get(name, path) + mark + anchor
