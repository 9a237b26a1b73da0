"""Mistakes are told at once: one sentence, exit code 1, before anything heavy is imported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.__main__ import main
from flows.cli.checks import begin, check_inputs
from flows.cli.commands import COMMANDS
from model import errors
from model.errors import ConfigError, typed
from model.zoo.forms import FORMS
from tasks.data.dvc import cache_folder, dvc, read_plain_config
from tasks.runtime.environment import ROOT

MISTAKES = {
    "retrain --set finetune.epoch=2": "unknown key 'finetune.epoch'; did you mean 'epochs'?",
    "retrain --finetune-epochs 2 --set finetune.lr=-1": "finetune.lr is -1",
    "retrain --config samlpe": "no such config file; did you mean",
    "retrain --config nowhere.yaml": "nowhere.yaml: no such config file",
    "retrain --data nowhere": "nowhere: no such folder of pairs",
    "validate --data docs": "docs: no train.tsv and no test.tsv",
    "retrain --set model.name=ViT-B-23": "did you mean 'ViT-B-32'?",
    "retrain --set model.name=tiny.json": "model.name is 'tiny.json': no such file",
    "retrain --set model.pretrained=./w.safetensors": "no such file; name a weights file",
    "evaluate --protocol fulll": "protocols",
    "ingest --name new --train nowhere.tsv": "nowhere.tsv: no such file or folder",
    "import csv nowhere.csv --out out": "nowhere.csv: no such file or folder",
    "predict test.tvs --out out.parquet": "test.tvs: no such file or folder",
    "predict README.md --model nobody --out out.parquet": "nobody: no such model",
    "predict README.md --model models:/shop@champion --out o": "the registry has no such version",
    "models import nowhere --as mine": "nowhere: no such file or folder",
    "models convert nobody --to easynlp --out out": "nobody: no such model",
    "models show ViT-B-23": "no such model",
    "history --registered-model nobody": "nobody: no such registered model",
}
MANY = """
import contextlib, io, json, sys
from flows.__main__ import main
answers = []
for words in json.loads(sys.argv[1]):
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        answers.append((main(words.split()), printed.getvalue()))
heavy = {"prefect", "mlflow", "torch", "pandas", "dvc", "great_expectations"} & sys.modules.keys()
print(json.dumps([answers, sorted(heavy)]))
"""


def test_every_mistake_is_one_sentence_and_nothing_heavy_is_imported(tmp_path: Path) -> None:
    environment = os.environ | {"COMMERCE_CLIP_STATE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("PREFECT_API_URL", None)
    done = subprocess.run(
        [sys.executable, "-c", MANY, json.dumps(list(MISTAKES))],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    answers, heavy = json.loads(done.stdout)
    for (code, printed), (words, sentence) in zip(answers, MISTAKES.items(), strict=True):
        assert code == 1, words
        last = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert len(last) == 1 and sentence in last[0], (words, printed)
    assert heavy == []
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def seen(command: str, **given: object) -> dict[str, object]:
    options = {option.name: option.default for option in COMMANDS[command].options()}
    return check_inputs(COMMANDS[command], options | given)


def test_paths_are_those_of_the_folder_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine.yaml", "train.tsv", "weights.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "pairs").mkdir()
    monkeypatch.chdir(tmp_path)
    given = seen(
        "retrain",
        config="mine.yaml",
        data="pairs",
        overrides=["model.pretrained=./weights.safetensors", "seed=3"],
    )
    assert given["config"] == str(tmp_path / "mine.yaml")
    assert given["data"] == str(tmp_path / "pairs")
    assert given["overrides"] == [f"model.pretrained={tmp_path / 'weights.safetensors'}", "seed=3"]
    given = seen("ingest", name="new", train="train.tsv", pretrain=["train.tsv"])
    assert given["train"] == str(tmp_path / "train.tsv")
    assert given["pretrain"] == [str(tmp_path / "train.tsv")]

    # The checkout's own by their names from anywhere; what is nowhere is looked for here.
    assert seen("retrain")["config"] == "configs/sample.yaml"
    assert seen("retrain", config="sample")["config"] == "sample"
    assert seen("retrain", data="docs")["data"] == "docs"
    assert seen("retrain", data="nowhere")["data"] == str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"did you mean .train\.tsv."):
        seen("ingest", name="new", train="tarin.tsv")


def test_a_command_is_spelled_as_it_runs_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    python, script = folder / "python", folder / "commerce-clip"
    monkeypatch.setattr(errors.sys, "executable", str(python))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(errors, "STARTED_IN", tmp_path)
    assert typed("data log") == ".venv/bin/python -m flows data log"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert typed("data log") == ".venv/bin/commerce-clip data log"
    monkeypatch.setattr(errors, "STARTED_IN", tmp_path / "elsewhere")
    assert typed("data log") == f"{script} data log"
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    assert typed("data log") == "commerce-clip data log"


def test_the_help_of_convert_names_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["models", "convert", "--help"])
    shown = "".join(capsys.readouterr().out.split())
    assert all(form.NAME in shown for form in FORMS)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("models import . --as mine", "begin again with: "),
        ("import csv . --out out", "begin again with: "),
        ("validate", "finished stages and checkpoints are kept. Go on with: "),
    ],
)
def test_who_stops_a_command_reads_what_is_kept(
    words: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.__main__.run_command", stop)
    assert main(words.split()) == 130
    printed = capsys.readouterr().err
    assert f"{sentence}{typed(words)}" in printed
    assert ("checkpoints" in printed) == (words == "validate")


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("name", ["Herbst 2026 (neu)", 'it\'s $5; "x"', ""])
def test_make_hands_on_any_name_of_a_folder(tmp_path: Path, name: str) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    script = tmp_path / ".venv" / "bin" / "commerce-clip"
    script.parent.mkdir(parents=True)
    script.write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    script.chmod(0o755)
    done = subprocess.run(
        ["make", "--no-print-directory", "-o", "setup", "run", f"DATA={name.replace('$', '$$')}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = ["retrain", "--config", "configs/sample.yaml", *(["--data", name] if name else [])]
    assert done.stdout.splitlines() == expected


def test_dvcs_settings_read_as_dvc_reads_them(project: Path) -> None:
    shown = dvc("config", "--list", cwd=project).stdout.splitlines()
    assert read_plain_config(project) == dict(line.split("=", 1) for line in shown)
    assert cache_folder(project) == Path(dvc("cache", "dir", cwd=project).stdout.strip())
    (project / ".dvc" / "config.local").write_text("[core]\n    remote = my shop, or yours\n")
    assert read_plain_config(project) is None


@pytest.mark.parametrize(
    ("config", "towers"),
    [
        ("sample", "tiny-vit"),
        ("fashion-products-pretrained", "efficientnet-lite0-57934424 and model"),
    ],
)
def test_the_first_line_names_the_towers_that_are_trained(
    config: str, towers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(COMMANDS["retrain"], {"config": config, "overrides": ()})
    assert capsys.readouterr().err.strip().endswith(f", {towers}")
