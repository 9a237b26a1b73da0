"""With a signing key set, an unsigned, altered or re-homed version is used by nothing of ours."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from model.errors import CheckpointError, ConfigError, PromotionRefused
from tasks.promotion import promote
from tasks.registry import files, signing, zoo
from tasks.registry.tracking import tracking_client
from tests.model.storage.test_signed import write_key
from tests.tasks.shop import Shop

pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_key(tmp_path / "signing.pem", Ed25519PrivateKey.generate())
    monkeypatch.setenv(signing.SIGNING_KEY_FILE, str(path))
    return path


def use_public_key(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process what a machine that only serves has."""
    key = signing.private_key()
    assert key is not None
    public = key_file.with_name("signing.pub")
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    public.chmod(0o644)
    monkeypatch.setenv(signing.SIGNING_KEY_FILE, str(public))


def package_of(shop: Shop, number: int) -> Path:
    """The folder of a version in the artifact store."""
    uri = tracking_client().get_model_version_download_uri(shop.name, str(number))
    return Path(uri.removeprefix("file://"))


def test_signed_versions_live_as_others_do(
    shop: Shop, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shop.add(0.3).is_promoted and shop.add(0.4).is_promoted
    assert promote.roll_back(shop.name, "why").is_promoted
    use_public_key(key_file, monkeypatch)
    assert promote.promote_by_hand(shop.name, 2, "why").is_promoted
    assert zoo.folder_of(f"models:/{shop.name}@champion").is_dir()
    with pytest.raises(ConfigError, match="public key, which checks versions but signs none"):
        shop.register(0.5, "f3")


@pytest.mark.faults(kind="X7: altered versions", trials=5)
def test_an_unsigned_version_is_neither_loaded_promoted_evaluated_nor_exported(
    shop: Shop, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(signing.SIGNING_KEY_FILE)
    shop.add(0.3)
    shop.add(0.4)
    unsigned = shop.register(0.5, "f3")

    monkeypatch.setenv(signing.SIGNING_KEY_FILE, str(key_file))
    with pytest.raises(PromotionRefused, match=r"version 3 cannot serve .*is not signed"):
        shop.promote(unsigned, 0.5)
    with pytest.raises(PromotionRefused, match="is not signed, and a signing key is set"):
        promote.promote_by_hand(shop.name, 3, "why")
    with pytest.raises(PromotionRefused, match="is not signed"):
        promote.roll_back(shop.name, "why")
    with pytest.raises(CheckpointError, match="is not signed"):
        zoo.folder_of(f"models:/{shop.name}@champion")
    assert files.champion_model(shop.name) is None
    assert shop.aliases() == (2, 1)


@pytest.mark.faults(kind="X7: altered versions", trials=1)
def test_the_first_champion_is_checked_although_it_meets_no_other(
    shop: Shop, key_file: Path
) -> None:
    version = shop.register(0.3, "f1")
    (package_of(shop, 1) / "contents.sig").unlink()
    with pytest.raises(PromotionRefused, match="is not signed"):
        shop.promote(version, 0.3)
    assert shop.alias("champion") is None


@pytest.mark.faults(kind="X7: altered versions", trials=2)
def test_a_version_made_of_anothers_files_or_with_code_of_somebody_is_refused(
    shop: Shop, key_file: Path
) -> None:
    shop.add(0.3)
    second, client = shop.register(0.4, "f2"), tracking_client()
    first = client.get_model_version(shop.name, "1")
    tags = client.get_model_version(shop.name, "2").tags
    rehomed = client.create_model_version(shop.name, first.source, second.mlflow_run_id, tags)
    with pytest.raises(PromotionRefused, match="it was signed as another version"):
        promote.promote_by_hand(shop.name, int(rehomed.version), "why")

    (package_of(shop, 2) / "artifacts" / "planted.py").write_text("import os")
    with pytest.raises(PromotionRefused, match="nobody signed this file"):
        promote.promote_by_hand(shop.name, 2, "why")
    assert shop.alias("champion") == 1
