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
default_role = "code"
highlight_language = "none"
smartquotes = False
html_theme = "furo"
html_title = f"deconv_kernels {version}"
html_show_copyright = False
html_static_path = ["style"]
html_css_files = ["wide.css"]

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_custom_sections = ["Source"]
napoleon_use_ivar = True


def setup(app: Any) -> None:
    """Docstrings and the helps of the commands are plain text, in which a star is a star."""
    app.connect("autodoc-process-docstring", escape, priority=0)  # before napoleon
    app.connect("sphinx-click-process-description", examples)
    app.connect("sphinx-click-process-options", options)


def escape(*event: Any) -> None:
    """Stars are no emphasis, but in code."""
    lines = event[-1]
    lines[:] = [line if line.lstrip().startswith((">>> ", "... ")) else line.replace("*", r"\*") for line in lines]


def options(*event: Any) -> None:
    """What sphinx-click itself puts before the help of an option is bold."""
    escape(*event)
    event[-1][:] = [line.replace(r"\*\*Required\*\*", "**Required**") for line in event[-1]]


def examples(*event: Any) -> None:
    """What a help sets line by line, under a heading of its own, is code."""
    escape(*event)
    lines: list[str] = []
    for line in event[-1]:
        text = line.removeprefix("| ")
        if line.startswith("| ") and not text.startswith(" "):
            lines += [f"{text.removesuffix(':')}::", ""]
        else:
            lines.append(text.replace(r"\*", "*") if line.startswith("| ") else line)
    event[-1][:] = lines
