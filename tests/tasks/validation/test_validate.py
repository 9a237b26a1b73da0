"""A data version is validated whole: profiles, side tables, what leaks from test, and its drift."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.config.load import RunConfig
from model.config.sections import DataConfig
from model.errors import DataError
from model.pairs.splits import side_table_path
from tasks.registry.tracking import tracking_client
from tasks.runtime.environment import report_folder
from tasks.runtime.records import DataVersion, Run, Validation
from tasks.validation import leaks
from tasks.validation.accepted import split_index
from tasks.validation.drift import Reference, champion_reference, keep_with_run
from tasks.validation.leaks import comparison_files
from tasks.validation.validate import validate_data_version
from tests.conftest import MINIATURE_SIZES
from tests.runs import lineage
from tests.tasks.conftest import run_of

EVIL = "<script>alert(1)</script>|=cmd()\x1b[31m\u202e[x](javascript:y)"
ESCAPES = ("<script>alert", "\x1b", "\u202e")


def version_of(folder: Path, letter: str = "a") -> DataVersion:
    shutil.rmtree(report_folder(letter * 32), ignore_errors=True)
    return DataVersion(folder=folder, version=letter * 32, is_tracked=False, file_md5={})


def validated(
    folder: Path, letter: str = "a", reference: Reference | None = None, **limits: Any
) -> Validation:
    return validate_data_version(
        version_of(folder, letter), DataConfig.model_validate(limits), 1, reference
    )


def reference_to(letter: str, run: str = "") -> Reference:
    return Reference(version=letter * 32, name="champion version 3", mlflow_run_id=run)


def swap_line(tsv: Path, line: int, new: bytes) -> None:
    lines = tsv.read_bytes().splitlines()
    lines[line - 1] = new
    tsv.write_bytes(b"\n".join(lines) + b"\n")


def test_a_drawn_data_set_has_no_leak_and_every_count(whole: Path, shown: dict[str, Any]) -> None:
    validation = validated(whole)
    page = validation.docs.read_text()
    assert "train.products" in page and "pretrain-products-1" in page
    assert {count.name: count.lines for count in validation.counts} == {
        "pretrain-products-1": MINIATURE_SIZES["pretrain"] // 2,
        "pretrain-products-2": MINIATURE_SIZES["pretrain"] // 2,
        **{name: MINIATURE_SIZES[name] for name in ("train", "valid", "test")},
    }
    assert all(count.leaks == {} and count.leaked == 0 for count in validation.counts)
    assert validation.warnings == []
    assert [row["split"] for row in shown["validation"]] == [
        count.name for count in validation.counts
    ]


def test_a_product_of_test_in_train_stops_the_run_and_is_listed(pairs: Path) -> None:
    train, test = (
        side_table_path(pairs / "finetune" / f"{name}.tsv") for name in ("train", "test")
    )
    rows = train.read_text().splitlines()
    rows[5] = rows[5].replace(
        rows[5].split(",")[0], test.read_text().splitlines()[3].split(",")[0], 1
    )
    train.write_text("\n".join(rows) + "\n")
    with pytest.raises(
        DataError, match=r"train: test leaks: a product id of test .*\(1 of 48 lines\)"
    ) as refused:
        validated(pairs)
    listed = Path(str(refused.value).split("listed in ")[1].split(";")[0])
    assert listed.read_text().splitlines() == [
        "# 1 repeats, 1 of them listed; leaks from test first",
        "split\tline\trepeats\tof\tof line",
        "train\t5\tproduct\ttest\t3",
    ]


def test_leaking_lines_may_be_dropped_and_are_in_no_split_then(
    pairs: Path, shown: dict[str, Any]
) -> None:
    train, test = (pairs / "finetune" / f"{name}.tsv" for name in ("train", "test"))
    caption, image = test.read_bytes().splitlines()[2].split(b"\t")
    swap_line(
        train, 7, caption.upper() + b"!\t" + train.read_bytes().splitlines()[6].split(b"\t")[1]
    )
    swap_line(train, 9, b"words of its own\t" + image)
    validation = validated(pairs, on_leak="drop")
    (count,) = (count for count in validation.counts if count.name == "train")
    assert (count.leaks, count.leaked) == ({"caption": 1, "image": 1}, 2)
    assert {
        (row["line"], row["repeats"], row["of"], row["of line"]) for row in shown["duplicates"]
    } == {
        ("7", "caption", "test", "3"),
        ("9", "image", "test", "3"),
    }
    run = Run(
        config=RunConfig.model_validate({"name": "any"}),
        data=version_of(pairs, "b"),
        lineage=lineage(),
        folder=pairs,
        mlflow_run_id="",
    )
    lines = [
        line
        for name in ("finetune", "valid")
        for line in split_index(run, validation, name).line.tolist()
    ]
    assert sorted({*range(1, 49)} - set(lines)) == [7, 9] and len(lines) == 46
    assert len(split_index(run, validation, "test")) == MINIATURE_SIZES["test"]


def test_without_valid_neither_part_of_train_holds_a_leak(pairs: Path) -> None:
    test = (pairs / "finetune" / "test.tsv").read_bytes().splitlines()
    for line in range(1, 25):
        swap_line(pairs / "finetune" / "train.tsv", line, test[line - 1])
    config = RunConfig.model_validate({"name": "any", "data": {"valid_share": 0.5}})
    validation = validated(pairs, on_leak="drop")
    run = Run(
        config=config,
        data=version_of(pairs, "b"),
        lineage=lineage(),
        folder=pairs,
        mlflow_run_id="",
    )
    parts = [split_index(run, validation, name).line.tolist() for name in ("finetune", "valid")]
    assert sorted(parts[0] + parts[1]) == list(range(25, 49)) and all(parts)


def with_captions_of_test(pairs: Path) -> None:
    """Give train the captions of test, four images each, as labels are."""
    train, test = (pairs / "finetune" / f"{name}.tsv" for name in ("train", "test"))
    captions = [line.split(b"\t")[0] for line in test.read_bytes().splitlines()]
    images = [line.split(b"\t")[1] for line in train.read_bytes().splitlines()]
    train.write_bytes(
        b"".join(captions[row // 4] + b"\t" + image + b"\n" for row, image in enumerate(images))
    )


@pytest.mark.faults(kind="F3", trials=3)
def test_captions_that_many_images_share_may_be_allowed_alone(pairs: Path) -> None:
    with_captions_of_test(pairs)
    with pytest.raises(DataError, match=r"data\.on_leak\.caption=allow where many images"):
        validated(pairs)
    with pytest.raises(DataError, match="every accepted line shares its caption with test"):
        validated(pairs, on_leak="drop")

    on_leak = {"caption": "allow"}
    validation = validated(pairs, on_leak=on_leak)
    assert validation.warnings == [
        "train: 48 lines share their caption with test, which data.on_leak.caption allows: "
        "Rank@K looks the better for it"
    ]
    run = Run(
        config=RunConfig.model_validate({"name": "any", "data": {"on_leak": on_leak}}),
        data=version_of(pairs, "b"),
        lineage=lineage(),
        folder=pairs,
        mlflow_run_id="",
    )
    train, valid = (split_index(run, validation, name) for name in ("finetune", "valid"))
    assert sorted([*train.line, *valid.line]) == list(range(1, 49)) and len(valid)
    assert not set(train.image_hash) & set(valid.image_hash)


@pytest.mark.faults(kind="F3", trials=1)
def test_where_captions_are_allowed_an_image_of_test_is_a_leak_all_the_same(pairs: Path) -> None:
    with_captions_of_test(pairs)
    test = (pairs / "finetune" / "test.tsv").read_bytes().splitlines()
    swap_line(pairs / "finetune" / "train.tsv", 3, test[5])
    with pytest.raises(DataError, match="train: test leaks: an image of test occurs here"):
        validated(pairs, on_leak={"caption": "allow"})


@pytest.mark.faults(kind="F3", trials=2)
@pytest.mark.parametrize("form", ["{}.0", " {} "])
def test_a_product_is_known_whatever_the_form_of_its_id(pairs: Path, form: str) -> None:
    for name, shown in (("train", form), ("test", "{}")):
        tsv = pairs / "finetune" / f"{name}.tsv"
        lines = len(tsv.read_bytes().splitlines())
        first = 1000 if name == "train" else 1000 + lines
        rows = "".join(f"{shown.format(first + row)}\n" for row in range(lines))
        side_table_path(tsv).write_text(f"id\n{rows}")
    with pytest.raises(DataError, match=r"product id of test .*\(24 of 48 lines\)"):
        validated(pairs)
    warnings = validated(pairs, on_leak="drop").warnings
    said = "the ids of train look like floats (1000.0), those of test do not"
    assert any(said in each for each in warnings) == (form == "{}.0")


def test_html_in_captions_is_told_with_an_example_and_what_to_do(pairs: Path) -> None:
    train = pairs / "finetune" / "train.tsv"
    image = train.read_bytes().splitlines()[4].split(b"\t")[1]
    swap_line(train, 5, b"red dress<br>cotton&nbsp;soft\t" + image)
    assert validated(pairs).warnings == [
        "train: HTML in 1 of the captions, first in line 5 (red dress<br>cotton&nbsp;soft); import "
        "them with --set clean_html=true"
    ]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda text: text.rsplit("\n", 2)[0] + "\n",
            "train.products: the side table has not one row for each",
        ),
        (
            lambda text: re.sub(r"\np\d+,", "\n,", text, count=1),
            r"train.products: the side table has no id in a row",
        ),
        (
            lambda text: text.replace("colour", "hue", 1),
            "train.products: could not be checked .* colour in a row",
        ),
    ],
    ids=["a row short", "without an id", "without a column"],
)
def test_a_side_table_that_does_not_fit_is_refused(pairs: Path, spoil: Any, sentence: str) -> None:
    table = side_table_path(pairs / "finetune" / "train.tsv")
    table.write_text(spoil(table.read_text()))
    with pytest.raises(DataError, match=sentence):
        validated(pairs, side_table_columns=("colour",))


def test_what_was_compared_once_is_not_compared_again_until_a_byte_changes(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation, compared = validated(pairs), []
    monkeypatch.setattr(
        leaks, "repeats", lambda split: compared.append(split.tsv.stem) or _repeats(split)
    )
    _repeats = leaks.leaks.__globals__["repeats"]
    version, limits = (
        DataVersion(folder=pairs, version="a" * 32, is_tracked=False, file_md5={}),
        DataConfig(),
    )
    assert validate_data_version(version, limits, 1).counts == validation.counts and compared == []
    counts = comparison_files(report_folder(version.version), "train").counts
    kept = counts.read_bytes()
    counts.write_bytes(kept[:50] + bytes([kept[50] ^ 1]) + kept[51:])
    validate_data_version(version, limits, 1)
    assert compared == ["train"] and counts.read_bytes() == kept
    table = side_table_path(pairs / "finetune" / "train.tsv")
    table.write_text(table.read_text().replace("\np", "\nq", 1))
    validate_data_version(version, limits, 1)
    assert compared == ["train", "train"]


def test_drift_is_warned_of_in_table_log_and_file(
    pairs: Path, shown: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    validated(pairs, "b")
    for split in ("train", "test"):
        table = side_table_path(pairs / "finetune" / f"{split}.tsv")
        header, *rows = table.read_text().splitlines()
        table.write_text(
            "\n".join([header, *(row.rsplit(",", 1)[0] + ",tartan" for row in rows)]) + "\n"
        )
    validation = validated(pairs, reference=reference_to("b"))
    assert validation.warnings == ["drift: drift over data.drift_warn (0.1) (2 of 28 columns)"]
    assert [(row["split"], row["column"]) for row in shown["drift"][:2]] == [
        ("train", "products.pattern"),
        ("test", "products.pattern"),
    ]
    assert "tartan 0.0% → 100.0%" in shown["drift"][0]["moved most"]
    assert "train products.pattern" in caplog.text
    report = json.loads((validation.profiles / "drift.json").read_text())
    assert report["reference"]["version"] == "b" * 32 and len(report["columns"]) == 28
    with pytest.raises(DataError, match=r"drift over data.max_drift \(1\)"):
        validated(pairs, reference=reference_to("b"), max_drift=1.0)


def test_the_same_data_do_not_drift_and_are_not_compared_with_themselves(
    pairs: Path, shown: dict[str, Any]
) -> None:
    validated(pairs, "b")
    assert validated(pairs, reference=reference_to("b")).warnings == []
    assert all(row["drift"] == "0.000" for row in shown.pop("drift"))
    validated(pairs, reference=reference_to("a"))
    assert "drift" not in shown


def test_a_reference_that_is_nowhere_is_said_and_refused_where_drift_is_limited(
    pairs: Path,
) -> None:
    (warning,) = validated(pairs, reference=reference_to("c")).warnings
    assert "drift was not measured" in warning and "git checkout COMMIT data.dvc" in warning
    with pytest.raises(DataError, match=r"drift was not measured.*set data\.max_drift to null"):
        validated(pairs, reference=reference_to("c"), max_drift=1.0)


def test_foreign_text_acts_on_no_page_table_file_or_log(
    whole: Path, shown: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    pairs = whole
    tables = {
        split: side_table_path(pairs / "finetune" / f"{split}.tsv") for split in ("train", "test")
    }
    for table in tables.values():
        table.write_text(table.read_text().replace("pattern", EVIL, 1), encoding="utf-8")
    validated(pairs, "b")
    for split, table in tables.items():
        header, *rows = table.read_text(encoding="utf-8").splitlines()
        rows = [",".join([*row.split(",")[:-1], EVIL]) for row in rows]
        table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        tsv = pairs / "finetune" / f"{split}.tsv"
        image = tsv.read_bytes().splitlines()[0].split(b"\t")[1]
        swap_line(tsv, 1, EVIL.replace("\x1b", "").encode() + b"\t" + image)
    validation = validated(pairs, reference=reference_to("b"), on_leak="drop")
    assert validation.warnings
    told = json.dumps(shown, ensure_ascii=False) + caplog.text + " ".join(validation.warnings)
    assert "\\x1b[31m" in told
    for escape in ESCAPES[1:]:
        assert escape not in told
    pages = [path.read_text(encoding="utf-8") for path in validation.docs.parent.rglob("*.html")]
    assert pages and any("&lt;script&gt;" in page for page in pages)
    assert not [escape for escape in ESCAPES for page in pages if escape in page]
    for listed in validation.profiles.glob("*.duplicates.tsv"):
        assert "script" not in listed.read_text()


@pytest.mark.parametrize(
    ("encoding", "captions", "named"),
    [
        (
            "gb18030",
            "红色连衣裙 长袖",
            "GB18030: convert it with `iconv -f GB18030 -t UTF-8 train.tsv",
        ),
        (
            "cp1252",
            "robe à manches évasées",
            r"Windows-1252 \(latin-1\): convert it with `iconv -f",
        ),
    ],
)
def test_a_file_in_another_encoding_is_named_with_the_command_that_converts_it(
    pairs: Path, encoding: str, captions: str, named: str
) -> None:
    train = pairs / "finetune" / "train.tsv"
    images = [line.split(b"\t")[1] for line in train.read_bytes().splitlines()]
    lines = [f"{captions} {row}".encode(encoding) + b"\t" + each for row, each in enumerate(images)]
    train.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(DataError, match=rf"too many faulty .*train\.tsv: it is likely {named}"):
        validated(pairs)


def test_a_caption_that_is_too_long_is_kept_and_its_line_named(
    pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = pairs / "finetune" / "train.tsv"
    lines = train.read_bytes().splitlines(keepends=True)
    train.write_bytes(b"".join([*lines[:6], b"soft " * 300 + lines[6], *lines[7:]]))
    validation = validated(pairs)
    (warning,) = validation.warnings
    assert warning.startswith(
        "train: 1 captions of more than 1000 characters or 200 words are kept"
    )
    assert warning.endswith("(lines 7)") and warning in caplog.text
    (count,) = (count for count in validation.counts if count.name == "train")
    assert count.accepted == count.lines == len(lines)


def test_columns_that_are_swapped_are_the_last_thing_that_is_named(pairs: Path) -> None:
    train = pairs / "finetune" / "train.tsv"
    lines = [line.split(b"\t") for line in train.read_bytes().splitlines()]
    train.write_bytes(b"".join(image + b"\t" + caption + b"\n" for caption, image in lines))
    advice = r"swap the columns, as `.* import easynlp train\.tsv --out FOLDER` does"
    with pytest.raises(
        DataError,
        match=rf"\(bad_base64 {len(lines)}\).*; likely cause in .*: its lines .*; {advice}$",
    ):
        validated(pairs)


def test_a_pretraining_file_whose_name_could_act_on_a_page_is_refused(whole: Path) -> None:
    (whole / "pretrain" / "products-1.tsv").rename(whole / "pretrain" / "<script>.tsv")
    with pytest.raises(DataError, match="rename it"):
        validated(whole)


def test_a_picture_saved_again_from_test_is_a_leak(pairs: Path) -> None:
    train, test = (pairs / "finetune" / f"{name}.tsv" for name in ("train", "test"))
    image = Image.open(
        io.BytesIO(base64.b64decode(test.read_bytes().splitlines()[4].split(b"\t")[1]))
    )
    copy = io.BytesIO()
    image.convert("RGB").save(copy, "PNG")
    swap_line(train, 2, b"a copy\t" + base64.b64encode(copy.getvalue()))
    with pytest.raises(DataError, match="an image here looks the same as one of test"):
        validated(pairs)


def test_counts_that_are_gone_from_this_machine_come_from_the_champions_run(
    pairs: Path, config: RunConfig, tmp_path: Path, shown: dict[str, Any]
) -> None:
    made = validated(pairs, "b")
    run = run_of(config, version_of(pairs, "c"), tmp_path, "champions-run")
    assert champion_reference(run.config.registered_model) is None
    keep_with_run(run, made.profiles)
    client, name = tracking_client(), config.registered_model
    client.create_registered_model(name)
    tags = {"commerce_clip.data_version": "b" * 32}
    version = client.create_model_version(name, str(tmp_path), run_id=run.mlflow_run_id, tags=tags)
    client.set_registered_model_alias(name, "champion", version.version)
    reference = champion_reference(run.config.registered_model)
    assert reference == Reference(
        version="b" * 32, name="champion version 1", mlflow_run_id=run.mlflow_run_id
    )
    shutil.rmtree(made.profiles)
    assert validated(pairs, reference=reference).warnings == []
    assert len(shown["drift"]) == 28
