"""Folders whose maker signed them: each file's SHA-256, what the folder is, an Ed25519 signature.

``contents.json`` lists the files and says what the folder holds; ``contents.sig`` signs its bytes.
A folder that was altered, or that is passed off as another, is refused, however its hashes were
recomputed. Who signs needs the private key; who checks needs the public one alone. Both are PEM
files, as `openssl genpkey -algorithm ed25519` makes them.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from model.errors import CheckpointError, ConfigError
from model.storage.files import file_digest

CONTENTS, SIGNATURE = "contents.json", "contents.sig"
# What is signed for one purpose must not pass for another.
PURPOSE = b"commerce-clip contents\n"
READ_BY_OTHERS, WRITTEN_BY_OTHERS = 0o077, 0o022

Key = Ed25519PrivateKey | Ed25519PublicKey


def read_key(path: Path) -> Key:
    """Read an Ed25519 key, private or public, from a PEM file.

    Raises:
        ConfigError: there is none, it is another kind of key, or others may read or change it.
    """
    try:
        content, mode = path.read_bytes(), path.stat().st_mode
    except OSError as error:
        raise ConfigError(
            f"{path}: the signing key cannot be read ({error.strerror}); see docs/security.md"
        ) from None

    is_private = b"PRIVATE KEY" in content
    if mode & (READ_BY_OTHERS if is_private else WRITTEN_BY_OTHERS):
        wanted = "0600" if is_private else "0644"
        raise ConfigError(
            f"{path}: others may {'read' if is_private else 'change'} this key; "
            f"`chmod {wanted} {path}`"
        )
    key: object = None
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_pem_private_key(content, None) if is_private else load_pem_public_key(content)
    if not isinstance(key, Key):
        raise ConfigError(
            f"{path}: no Ed25519 key in PEM without a password; "
            "`openssl genpkey -algorithm ed25519` makes one"
        )
    return key


def list_contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 (hex) of each file in a folder by its path from there."""
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (CONTENTS, SIGNATURE)
    }


def sign_contents(
    folder: Path, files: Mapping[str, str], identity: Mapping[str, str], key: Ed25519PrivateKey
) -> None:
    """Leave the list of a folder's files, what the folder is, and the signature of both."""
    content = json.dumps({"identity": dict(identity), "files": dict(files)}, indent=2).encode()
    (folder / CONTENTS).write_bytes(content)
    (folder / SIGNATURE).write_text(key.sign(PURPOSE + content).hex() + "\n", encoding="ascii")


def verify_contents(folder: Path, identity: Mapping[str, str], data: str, key: Key) -> None:
    """Check that a folder was signed as what it is taken for, and that its files are as signed.

    Files that nobody signed may lie beside them, but not below the subfolder ``data``, which is
    what our loaders read.

    Raises:
        CheckpointError: it is unsigned, signed by another key or as another folder, or altered.
    """
    try:
        content = (folder / CONTENTS).read_bytes()
        signature = bytes.fromhex((folder / SIGNATURE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        raise CheckpointError(f"{folder}: it is not signed, and a signing key is set") from None
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    try:
        public.verify(signature, PURPOSE + content)
    except InvalidSignature:
        raise CheckpointError(
            f"{folder}: its signature is not by this key, or {CONTENTS} was altered"
        ) from None

    # From here on the list is what its signer wrote.
    signed = json.loads(content)
    for name, value in identity.items():
        if signed["identity"].get(name) != value:
            raise CheckpointError(
                f"{folder}: it was signed as another version (its {name} differs)"
            )
    for name, digest in signed["files"].items():
        path = folder / name
        if not path.is_file() or file_digest(path) != digest:
            raise CheckpointError(f"{path}: missing or altered since it was signed")
    for path in (folder / data).rglob("*"):
        name = os.path.relpath(path, folder)
        if path.is_file() and name not in signed["files"]:
            raise CheckpointError(f"{path}: nobody signed this file")
