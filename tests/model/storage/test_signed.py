"""A signed folder is what its signer left, as what he signed it; everything else is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from model.errors import CheckpointError, ConfigError
from model.storage import signed
from model.storage.files import file_digest

IDENTITY = {"MLflow run": "r1", "weights' SHA-256": "a" * 64}


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def folder(tmp_path: Path, key: Ed25519PrivateKey) -> Path:
    """A signed folder with data and code."""
    folder = tmp_path / "model"
    for name in ("artifacts/model/weights", "artifacts/model/config.json", "code/load.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    signed.sign_contents(folder, signed.list_contents(folder), IDENTITY, key)
    return folder


def write_key(path: Path, key: Ed25519PrivateKey, mode: int = 0o600) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(mode)
    return path


def test_the_public_key_is_enough_to_check(folder: Path, key: Ed25519PrivateKey) -> None:
    for each in (key, key.public_key()):
        signed.verify_contents(folder, IDENTITY, "artifacts", each)
    (folder / "code" / "__pycache__").mkdir()
    (folder / "code" / "__pycache__" / "load.pyc").write_bytes(b"Python leaves this")
    signed.verify_contents(folder, IDENTITY, "artifacts", key)


def recompute(folder: Path) -> None:
    """What an attacker does who writes to the store and has no key."""
    (folder / "artifacts/model/weights").write_text("other")
    listed = json.loads((folder / signed.CONTENTS).read_text())
    listed["files"]["artifacts/model/weights"] = file_digest(folder / "artifacts/model/weights")
    (folder / signed.CONTENTS).write_text(json.dumps(listed, indent=2))


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (write("artifacts/model/weights", "other"), "weights: missing or altered"),
    "code": (write("code/load.py", "import os"), r"load\.py: missing or altered"),
    "a missing file": (remove("artifacts/model/config.json"), "missing or altered"),
    "a planted file": (write("artifacts/model/more.json", "{}"), "nobody signed this file"),
    "a new list": (recompute, "signature is not by this key"),
    "no signature": (remove(signed.SIGNATURE), "is not signed"),
    "no hex": (write(signed.SIGNATURE, "héllo"), "is not signed"),
    "half a signature": (write(signed.SIGNATURE, "abcd"), "signature is not by this key"),
}


@pytest.mark.faults(kind="X7: altered versions", trials=1)
@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_a_signed_folder_is_refused(
    what: str, folder: Path, key: Ed25519PrivateKey
) -> None:
    change, sentence = CHANGES[what]
    change(folder)
    with pytest.raises(CheckpointError, match=sentence):
        signed.verify_contents(folder, IDENTITY, "artifacts", key)


@pytest.mark.faults(kind="X7: altered versions", trials=2)
def test_a_folder_of_another_signer_or_another_version_is_refused(
    folder: Path, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="not by this key"):
        signed.verify_contents(folder, IDENTITY, "artifacts", Ed25519PrivateKey.generate())
    copied = shutil.copytree(folder, tmp_path / "under another run")
    with pytest.raises(CheckpointError, match=r"signed as another version \(its MLflow run"):
        signed.verify_contents(copied, IDENTITY | {"MLflow run": "r2"}, "artifacts", key)


def test_keys_are_read_from_pem_where_nobody_else_may(
    tmp_path: Path, key: Ed25519PrivateKey
) -> None:
    public = tmp_path / "public.pem"
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    assert isinstance(signed.read_key(write_key(tmp_path / "key.pem", key)), Ed25519PrivateKey)
    assert signed.read_key(public) == key.public_key()
    for path, mode in ((tmp_path / "key.pem", 0o640), (public, 0o666)):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=f"others may .* this key; `chmod 06.. {path}`"):
            signed.read_key(path)


def test_what_is_no_ed25519_key_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(ConfigError, match="cannot be read"):
        signed.read_key(path)
    other = generate_private_key(SECP256R1())
    locked = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"x" * 32, b"-----BEGIN PRIVATE KEY-----\nx\n", locked):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match=f"{path}: no Ed25519 key"):
            signed.read_key(path)
