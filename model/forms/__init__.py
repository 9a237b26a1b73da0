"""Models as others publish them become ours, and ours theirs: a module a form, one table of them.

A form is a module with ``NAME`` (what ``--to`` takes), ``ABOUT`` (in a few words), ``recognises(path) -> bool``,
``read(path, told) -> Published`` and ``write(towers, folder)``. To add one: the module, and a line in FORMS.
"""

from pathlib import Path
from types import ModuleType

from model.forms import easynlp_english

# In the order in which they are asked.
FORMS: tuple[ModuleType, ...] = (easynlp_english,)


def recognise(path: Path) -> ModuleType | None:
    """Return the form of a folder or file, None where no form knows it."""
    return next((form for form in FORMS if form.recognises(path)), None)
