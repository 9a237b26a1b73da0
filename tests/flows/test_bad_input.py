"""Every row of "bad input": one sentence, exit code 1, no trace, nothing half-written."""

import base64
import errno
import gzip
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flows.__main__ import main
from tasks.runtime.environment import state_folder

pytestmark = pytest.mark.usefixtures("prefect_server")

CONFIG = """
name: miniature
data: {require_side_table: true}
model: {name: configs/models/tiny-vit.json}
pretrain: {epochs: 1, batch_size: 16}
finetune: {epochs: 1, batch_size: 16}
"""

Refused = Callable[..., str]


@pytest.fixture
def pairs(miniature: Path, tmp_path: Path) -> Path:
    """A copy of the miniature that the test may spoil."""
    return Path(shutil.copytree(miniature, tmp_path / "pairs"))


@pytest.fixture
def refused(pairs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Run `retrain`, check that it says one sentence and trains nothing; return the sentence."""
    config = tmp_path / "miniature.yaml"
    config.write_text(CONFIG)

    def run(*options: str, config: Path = config) -> str:
        capfd.readouterr()
        code = main(["retrain", "--config", str(config), "--data", str(pairs), *options])
        output, errors = capfd.readouterr()
        assert code == 1
        assert "Traceback" not in output + errors
        sentences = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(sentences) == 1
        # Once, but for what a retry that follows says.
        told = [line for line in (output + errors).splitlines() if sentences[0][7:47] in line]
        assert [line for line in told if "; try " not in line] == sentences
        assert not list(state_folder().rglob("*.tmp"))
        return sentences[0]

    return run


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_an_unknown_key_names_the_nearest_known_one(refused: Refused) -> None:
    assert "unknown key 'finetune.epoch'; did you mean 'epochs'?" in refused(
        "--set", "finetune.epoch=2"
    )


@pytest.mark.parametrize(
    ("override", "key"),
    [("finetune.epochs=-1", "finetune.epochs"), ("pretrain.batch_size=1", "pretrain.batch_size")],
)
def test_an_impossible_value_names_its_key(refused: Refused, override: str, key: str) -> None:
    sentence = refused("--set", override)
    assert f"{key} is {override.split('=')[1]}" in sentence


def test_a_config_that_is_not_there_is_named(refused: Refused, tmp_path: Path) -> None:
    assert "nowhere.yaml: no such config file" in refused(config=tmp_path / "nowhere.yaml")


def test_a_missing_tsv_is_named(refused: Refused, pairs: Path) -> None:
    (pairs / "finetune" / "test.tsv").unlink()
    assert "test.tsv" in refused()


def test_an_empty_tsv_is_named(refused: Refused, pairs: Path) -> None:
    (pairs / "finetune" / "train.tsv").write_bytes(b"")
    assert "train.tsv" in refused()


def test_a_folder_in_place_of_a_tsv_is_named(refused: Refused, pairs: Path) -> None:
    (pairs / "finetune" / "train.tsv").unlink()
    (pairs / "finetune" / "train.tsv").mkdir()
    assert "train.tsv" in refused()


def test_a_gzip_named_tsv_is_told_to_unpack(refused: Refused, pairs: Path) -> None:
    tsv = pairs / "finetune" / "train.tsv"
    tsv.write_bytes(gzip.compress(tsv.read_bytes()))
    assert "gunzip" in refused()


def test_a_file_of_faulty_lines_alone_is_refused_with_its_quarantine(
    refused: Refused, pairs: Path
) -> None:
    tsv = pairs / "finetune" / "train.tsv"
    tsv.write_bytes(b"".join(line.split(b"\t")[0] + b"\tno picture\n" for line in lines_of(tsv)))
    sentence = refused()
    assert "train: too many faulty lines" in sentence
    quarantine = next(
        word for word in sentence.replace(";", " ").split() if word.endswith("train.quarantine.tsv")
    )
    assert len(lines_of(Path(quarantine))) == len(lines_of(tsv))


def test_a_share_of_faults_over_the_limit_names_counts_limit_and_docs(
    refused: Refused, pairs: Path
) -> None:
    tsv = pairs / "finetune" / "train.tsv"
    lines = lines_of(tsv)
    tsv.write_bytes(b"".join([b"no tab at all\n", *lines[1:]]))
    sentence = refused()
    assert f"1 of {len(lines)} lines" in sentence
    assert "data.max_fault_share is 1.00%" in sentence
    page = Path(sentence.split("see ")[-1].strip()).read_text()
    assert "train: no_tab" in page and "no tab at all" in page


def test_a_missing_side_table_is_named(refused: Refused, pairs: Path) -> None:
    (pairs / "finetune" / "test.products.csv").unlink()
    assert "test.products.csv: no side table" in refused()


def test_a_test_pair_in_train_is_a_leak(refused: Refused, pairs: Path) -> None:
    train, test = pairs / "finetune" / "train.tsv", pairs / "finetune" / "test.tsv"
    train.write_bytes(b"".join([lines_of(test)[3], *lines_of(train)[1:]]))
    assert "train: test leaks" in refused()


def test_an_unknown_model_names_the_nearest_known_one(refused: Refused) -> None:
    assert "did you mean 'ViT-B-32'?" in refused("--set", "model.name=ViT-B-23")


def test_a_missing_weights_file_is_named(refused: Refused, tmp_path: Path) -> None:
    assert "no such file" in refused(
        "--set", f"model.pretrained={tmp_path / 'weights.safetensors'}"
    )


def test_a_truncated_weights_file_is_named(refused: Refused, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file({"logit_scale": torch.zeros(1000)}, weights)
    weights.write_bytes(weights.read_bytes()[:500])
    assert "weights.safetensors: not a readable weights file" in refused(
        "--set", f"model.pretrained={weights}"
    )


def test_weights_of_another_architecture_are_refused(refused: Refused, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file({"visual.proj": torch.zeros(3, 3), "logit_scale": torch.zeros(())}, weights)
    assert "another architecture" in refused("--set", f"model.pretrained={weights}")


def test_an_mlflow_that_does_not_answer_is_found_before_training(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr("tasks.runtime.stage.RETRY_DELAYS_S", [])
    assert f"MLflow at {address} does not answer" in refused()


def test_a_full_disk_at_a_checkpoint_leaves_no_half_checkpoint(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("model.storage.sealed._fsync", full)
    assert "disk full" in refused("--set", "seed=11")
    assert not list((state_folder() / "runs").glob("miniature-*/pretrain/checkpoints/step-*"))


def test_a_picture_over_the_pixel_limit_is_quarantined_not_decoded(
    refused: Refused, pairs: Path
) -> None:
    tsv = pairs / "finetune" / "test.tsv"
    bomb = (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
        + (60_000).to_bytes(4, "big") * 2
        + b"\x08\x02\x00\x00\x00"
        + bytes(4)
    )
    tsv.write_bytes(b"".join([b"a bomb\t" + base64.b64encode(bomb) + b"\n", *lines_of(tsv)[1:]]))
    assert "test: too many faulty lines" in refused()
