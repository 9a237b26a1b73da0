"""The key that versions are signed with and checked by; COMMERCE_CLIP_SIGNING_KEY_FILE names it."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from model.errors import ConfigError
from model.storage.signed import Key, read_key

SIGNING_KEY_FILE = "COMMERCE_CLIP_SIGNING_KEY_FILE"


def signing_key() -> Key | None:
    """Return the key by which versions are checked, None where none is set.

    Raises:
        ConfigError: the file is no key, or others may read it.
    """
    named = os.environ.get(SIGNING_KEY_FILE)
    return read_key(Path(named)) if named else None


def private_key() -> Ed25519PrivateKey | None:
    """Return the key that signs new versions, None where none is set.

    Raises:
        ConfigError: the file is no key, others may read it, or it only checks.
    """
    key = signing_key()
    if key is not None and not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{SIGNING_KEY_FILE} names a public key, which checks versions but signs none; "
            "registering takes the private key"
        )
    return key
