"""What saving costs is measured on a training that saves as its config says."""

from pathlib import Path

import pytest

from benchmarks.support.saving import measure_saving
from model.batches.loading import pair_input
from model.config.load import RunConfig
from model.towers.create import create_towers
from tests.tiny import tiny_stage_config, write_data, write_model


@pytest.mark.parametrize(("share", "saves"), [(0.0, 2), (1.0, 8)])
def test_every_save_is_counted_and_they_take_a_part_of_the_time(
    tmp_path: Path, share: float, saves: int
) -> None:
    model = write_model(tmp_path)
    config = RunConfig(
        name="tiny", model=model, finetune=tiny_stage_config(checkpoint_share=share), device="cpu"
    )
    pairs = pair_input(create_towers(model, "cpu").input_spec, write_data(tmp_path).train_index())
    measured = measure_saving(config, pairs, epochs=2)
    assert measured.saves == saves + 1, "and the best weights once"
    assert 0 < measured.share < 1 and measured.saving_s < measured.total_s
