"""Models as others publish them become ours, and ours theirs: a module a form, one table of them.

A form is a module with ``NAME`` (what ``--to`` takes; several may share one), ``ABOUT`` (in a few
words), ``recognises(path) -> bool``, ``read(path, given) -> ForeignModel``, ``holds(towers) ->
bool`` (whether it has a place for such towers) and ``write(towers, folder)``. To add one: the
module, and a line in FORMS.
"""

from types import ModuleType

from model.zoo.forms import (
    chinese_clip,
    chinese_clip_folder,
    easynlp_chinese,
    easynlp_english,
    easynlp_first,
    huggingface_clip,
    huggingface_siglip,
    open_clip_form,
)

# In the order in which they are asked: a folder may have open_clip's config and another library's
# beside it.
FORMS: tuple[ModuleType, ...] = (
    easynlp_english,
    easynlp_chinese,
    easynlp_first,
    chinese_clip_folder,
    chinese_clip,
    open_clip_form,
    huggingface_clip,
    huggingface_siglip,
)
