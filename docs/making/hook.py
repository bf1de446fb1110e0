"""MkDocs hook: a picture that a page names is put into the page, so that it follows the page's colours; the roles
of docstrings (``:class:`Subject```) are left out."""

import re
from pathlib import Path
from typing import Any

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):(?=<code)")
STYLE = re.compile(r"<style>.*?</style>\n?", re.DOTALL)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Replace ``<img src="x.svg">`` by the file; its own style, which is for the file alone, is left out."""
    folder = Path(config["docs_dir"]) / Path(page.file.src_uri).parent

    def inline(found: re.Match[str]) -> str:
        return STYLE.sub("", (folder / found[1]).read_text(encoding="utf-8"))

    html = ROLE.sub("", html)
    return re.sub(r'<img [^>]*src="([\w/-]+\.svg)"[^>]*>', inline, html)
