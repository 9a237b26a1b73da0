"""The data versions that are known: from git's history of ``data.dvc`` and from ingests on this
machine.

Reading them costs one git command a commit that changed ``data.dvc``.
"""

from contextlib import suppress
from datetime import UTC, datetime

from model.errors import DataError, nearest, typed
from tasks.data.card import VersionCard, card_in, local_cards
from tasks.data.dvc import DVC_FILE, current_pairs, version_in
from tasks.runtime.lineage import git
from tasks.runtime.records import Record

CURRENT = "current"
MIN_PREFIX = 4


class KnownVersion(Record):
    """A data version with what is known of it.

    ``created`` (UTC) is its card's or its first commit's, and empty without both.
    """

    version: str
    created: str
    card: VersionCard | None

    @property
    def name(self) -> str:
        """Its name, or a dash where nobody gave it one."""
        return self.card.name if self.card else "–"


def known_versions() -> list[KnownVersion]:
    """Return all known data versions, oldest first."""
    # The texts of data.dvc with the times of their commits; the work tree's is not committed.
    texts, tracked = list[tuple[str, str]](), current_pairs().tracked
    log = git("log", "--reverse", "--format=%H %ct", "--", DVC_FILE, cwd=tracked.parent) or ""
    for line in log.splitlines():
        commit, _, seconds = line.partition(" ")
        text = git("show", f"{commit}:./{DVC_FILE}", cwd=tracked.parent)
        if text is not None:
            created = datetime.fromtimestamp(int(seconds), UTC).isoformat(timespec="seconds")
            texts.append((created, text))
    with suppress(OSError, UnicodeDecodeError):
        texts.append(("", tracked.read_text(encoding="utf-8")))

    found = list[tuple[str, str, VersionCard | None]]()
    for created, text in texts:
        with suppress(ValueError):
            found.append((version_in(text), created, card_in(text)))
    # An ingest that nobody has committed is known by its card alone.
    found += [(card.version, card.created, card) for card in local_cards()]

    known: dict[str, KnownVersion] = {}
    for version, created, card in found:
        if version not in known or (known[version].card is None and card is not None):
            known[version] = KnownVersion(
                version=version, created=card.created if card else created, card=card
            )
    # A version without a date is the newest.
    return sorted(known.values(), key=lambda each: each.created or "~")


def find_data_version(which: str) -> str:
    """Return the data version that a name, the beginning of a hash, or ``current`` means.

    Raises:
        DataError: none or several.
    """
    if which == CURRENT:
        version, tracked = current_version_or_none(), current_pairs().tracked
        if version is None:
            raise DataError(
                f"{tracked}: names no data version; `git checkout {DVC_FILE}` restores it"
            )
        return version

    known = known_versions()
    found = {each.version for each in known if each.name == which}
    if not found and len(which) >= MIN_PREFIX:
        found = {each.version for each in known if each.version.startswith(which)}
    if len(found) == 1:
        return found.pop()

    if found:
        raise DataError(
            f"{which}: means {len(found)} data versions ({', '.join(sorted(found))}); "
            "give more of the hash"
        )
    hint = nearest(which, [each.name for each in known] + [CURRENT])
    raise DataError(f"{which}: no such data version{hint}; `{typed('data log')}` lists them")


def version_of_name(name: str) -> str | None:
    """Return the data version that has a name, or None; the latest where a name was used twice."""
    return next((known.version for known in reversed(known_versions()) if known.name == name), None)


def current_version_or_none() -> str | None:
    """Return the version that ``data.dvc`` names, or None where it names none."""
    return current_pairs().promised_or_none()
