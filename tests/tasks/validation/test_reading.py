"""What the text tower cannot read is told before the training."""

from pathlib import Path

import pytest

from model.config.sections import DataConfig, ModelConfig
from model.pairs.profile import profile_files, write_profile
from tasks.validation.reading import measure_reading
from tests.golden import jpeg
from tests.model.pairs.test_tsv import pair_line

TINY = ModelConfig(name="configs/models/tiny-vit.json")


@pytest.fixture(autouse=True)
def without_prefect(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setattr("tasks.validation.reading.publish_table", lambda *_, **__: None)


def profiled_tsv(folder: Path, captions: list[str]) -> Path:
    tsv = folder / "train.tsv"
    tsv.write_bytes(b"".join(pair_line(caption, jpeg()) + b"\n" for caption in captions))
    write_profile(tsv, profile_files(folder, "train"), DataConfig(), processes=1)
    return tsv


def test_english_captions_are_read_whole_by_an_english_bpe(tmp_path: Path) -> None:
    tsv = profiled_tsv(tmp_path, ["Women Red Solid Dress", "Puma Men Navy Blue Shirt"])
    (reading,), warnings = measure_reading(TINY, {"train": tsv}, tmp_path)
    assert (reading.name, reading.captions, reading.context) == ("train", 2, 32)
    assert 1 <= reading.tokens_a_word < 1.5 and reading.longer == 0 and not warnings


def test_chinese_captions_with_an_english_bpe_are_warned_of(tmp_path: Path) -> None:
    caption = "新款纯棉短袖女士连衣裙收腰显瘦碎花雪纺长裙夏季薄款"
    tsv = profiled_tsv(tmp_path, [caption, "红色连衣裙", "花瓶"])
    (reading,), (warning,) = measure_reading(TINY, {"train": tsv}, tmp_path)
    assert reading.longer == pytest.approx(1 / 3) and reading.tokens_a_word > 3.5
    assert "33% of the captions are longer than the 32 tokens" in warning
    assert "hardly made for this script" in warning and "docs/models.md" in warning
