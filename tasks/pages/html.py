r"""Pages and model cards from templates: self-contained, and nothing foreign in them acts.

A page loads nothing and runs nothing: its style is inline, its pictures are data URIs and a policy
forbids the rest. Every value is escaped where it enters a template, control and bidi characters
spelled out as \x1b; a template that names a value it was not given is an error. Imports Jinja2 and
Pillow, no torch.
"""

import base64
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from tasks.pages.curves import FRAME
from tasks.pages.text import WORD_COLUMNS, visible
from tasks.pages.thumbnails import thumbnail_jpeg


def render(template: str, **values: Any) -> str:
    """Fill a template; ``values`` may be foreign."""
    return templates().get_template(template).render(values)


@cache
def templates() -> Environment:
    """Make what loads and fills the templates beside this file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else visible(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # A template turns encoded images into what a page may show, and nothing else does. A foreign
    # text cannot end a table's cell in Markdown or begin markup.
    environment.filters |= {
        "thumbnail": lambda image: _data_uri(thumbnail_jpeg(image), "jpeg"),
        "png": lambda content: _data_uri(content, "png"),
        "cell": lambda text: escape(visible(text).replace("|", "\\|").replace("`", "'")),
    }
    environment.globals |= {"word_columns": WORD_COLUMNS, "frame": FRAME}
    return environment


def _data_uri(content: bytes, kind: str) -> Markup:
    return Markup("data:image/{};base64,{}").format(kind, base64.b64encode(content).decode())
