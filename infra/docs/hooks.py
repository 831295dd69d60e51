"""What the site does with links that leave ``docs/``.

On a code forge such a link opens the file. In the site, which holds pages alone, each file that is
linked to becomes a page of its own with the file's text, so that every link works in both places.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).resolve().parents[2]
_LINK: Final = re.compile(r"(?<=\]\()(?P<path>(?:\.\./)+[^)#\s]+)(?=[)#])")
_LANGUAGES: Final = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "sh", ".json": "json"}


def _outside(page: str, link: str) -> str | None:
    """The path from the repository's root of a file that a page links to outside of ``docs/``."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    inside = path == "docs" or path.startswith(("docs/", "../"))
    return None if inside or not (ROOT / path).is_file() else path


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each file that a page links to outside of ``docs/``."""
    linked = set()
    for file in files.documentation_pages():
        text = Path(file.abs_src_path or "").read_text("utf-8")
        linked |= {_outside(file.src_uri, match["path"]) for match in _LINK.finditer(text)}
    for path in sorted(filter(None, linked)):
        text = (ROOT / path).read_text("utf-8").rstrip()
        language = _LANGUAGES.get(Path(path).suffix, "text")
        content = (
            f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n````{language}\n{text}\n````\n"
        )
        files.append(File.generated(config, f"source/{path}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links that leave ``docs/`` to those pages."""
    here = page.file.src_uri

    def lead(match: re.Match[str]) -> str:
        path = _outside(here, match["path"])
        if path is None:
            return match["path"]
        return posixpath.relpath(f"source/{path}.md", posixpath.dirname(here) or ".")

    return _LINK.sub(lead, markdown)
