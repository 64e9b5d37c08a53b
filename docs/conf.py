"""The documentation site: `make docs` builds it, warnings are errors.

Sphinx, because the reference comes from the docstrings as Python itself reads them, with links between them, and the
commands from click; MyST, because the pages are Markdown that GitHub shows too.
"""

from typing import Any

import deconv_kernels

project = "deconv_kernels"
author = "the deconv_kernels contributors"
version = release = deconv_kernels.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"deconv_kernels {version}"
html_show_copyright = False

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_custom_sections = ["Source"]
napoleon_use_ivar = True


def setup(app: Any) -> None:
    """Docstrings and the helps of the commands are plain text, in which a star is a star."""

    def escape(*event: Any) -> None:
        lines = event[-1]
        lines[:] = [line if line.lstrip().startswith(CODE) else line.replace("*", r"\*") for line in lines]

    app.connect("autodoc-process-docstring", escape, priority=0)  # before napoleon
    for part in ("description", "options"):
        app.connect(f"sphinx-click-process-{part}", escape)


CODE = (">>> ", "... ")
