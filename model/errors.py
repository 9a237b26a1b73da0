"""The exceptions that a user of commerce-clip can meet.

    CommerceClipError           one sentence for the user, exit code 1
    ├── ConfigError             the config, an override or a command-line option is wrong
    ├── DataError               the pairs, a side table or a data version is wrong
    ├── CheckpointError         weights or training state cannot be written, read or trusted
    │   └── NoPortableForm      towers or their tokeniser cannot be served without torch
    ├── TrainingDiverged        the loss became NaN or infinite
    ├── PeerLost                another process of a launched group ended
    ├── TrainingStopped         training was asked to stop, and its checkpoint is written
    ├── OutOfMemory             a step needs more memory than there is
    ├── ServiceError            a server or remote did not answer; the only one that is retried
    ├── AccessDenied            a server knows the user not, or not with the right that it takes
    └── PromotionRefused        the registry must not change in the way that was asked for

A message says what is wrong, where, and what to do. Anything else that escapes is our bug: a trace
and exit code 2. The fault of a single line of a TSV is a value (`FaultReason`), never a raise.
"""

import difflib
import shutil
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

# Where the user stands: a flow runs elsewhere. A folder that was removed has no name.
try:
    STARTED_IN = Path.cwd()
except OSError:
    STARTED_IN = Path("/")


class CommerceClipError(Exception):
    """A fault that the user can repair; its message is one sentence."""


class ConfigError(CommerceClipError):
    """The config, an override or an option is wrong."""


class DataError(CommerceClipError):
    """The pairs, a side table or a data version is wrong."""


class CheckpointError(CommerceClipError):
    """Weights or training state cannot be written, read or trusted."""


class NoPortableForm(CheckpointError):
    """Towers or their tokeniser have no form that does without torch."""


class TrainingDiverged(CommerceClipError):
    """The loss became NaN or infinite."""


class PeerLost(CommerceClipError):
    """Another of the processes that train one model ended, or did not come."""


class TrainingStopped(CommerceClipError):
    """Training was asked to stop, and its checkpoint is written."""


class OutOfMemory(CommerceClipError):
    """A step needs more memory than there is."""


class ServiceError(CommerceClipError):
    """A server or remote did not answer; trying again may help."""


class AccessDenied(CommerceClipError):
    """A server does not know the user, or the user may not do what was asked for."""


class PromotionRefused(CommerceClipError):
    """The registry must not change in the way that was asked for."""


class FaultReason(StrEnum):
    """Why a line of a TSV cannot be used; each faulty line has exactly one."""

    NO_TAB = "no_tab"
    EXTRA_TAB = "extra_tab"
    EMPTY_CAPTION = "empty_caption"
    CONTROL_BYTE = "control_byte"
    BAD_UTF8 = "bad_utf8"
    BAD_BASE64 = "bad_base64"
    NOT_AN_IMAGE = "not_an_image"
    HEIC_IMAGE = "heic_image"
    JPEG2000_IMAGE = "jpeg2000_image"
    TIFF_IMAGE = "tiff_image"
    SVG_DRAWING = "svg_drawing"
    HTML_PAGE = "html_page"
    JSON_TEXT = "json_text"
    TRUNCATED_IMAGE = "truncated_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    LINE_TOO_LONG = "line_too_long"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known word closest to ``word``.

    The string is empty when none is close.
    """
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def typed(words: str) -> str:
    """Spell a command of ours, ``data log``, so that it runs where the user stands."""
    python, installed = Path(sys.executable), shutil.which("commerce-clip")
    script = python.with_name("commerce-clip")
    if installed and Path(installed).resolve() == script.resolve():
        return f"commerce-clip {words}"

    # A virtual environment that is not active: its own script, or else its Python.
    place = script if script.is_file() else python
    if place.is_relative_to(STARTED_IN):
        place = place.relative_to(STARTED_IN)
    return f"{place} {words}" if place.name == script.name else f"{place} -m flows {words}"
