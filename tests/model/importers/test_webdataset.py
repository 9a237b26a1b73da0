"""Webdataset shards: one streamed pass, hostile names stay names, and a cut shard is refused."""

import gc
import gzip
import io
import itertools
import json
import tarfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from model.errors import DataError
from model.importers import webdataset
from model.importers.importing import import_pairs
from tests.golden import encoded, jpeg, picture

IMAGE = jpeg()
Files = Iterable[tuple[str, bytes | str]]


def write_shard(path: Path, files: Files, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in files:
            raw = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return path


def imported(path: Path, tmp_path: Path, **options: Any) -> Any:
    (split,) = import_pairs("webdataset", [path], tmp_path / "out", options)
    return split


def test_captions_come_from_txt_or_json_and_scalars_become_columns(
    tmp_path: Path, accepted
) -> None:
    webp, png = encoded(picture(), "WEBP"), encoded(picture(), "PNG")
    first = {
        "caption": "a red dress",
        "id": 7,
        "price": 9.5,
        "sale": True,
        "note": None,
        "tags": ["x"],
    }
    second = {"text": "a hat", "title": "Hat", "brand": "B"}
    shard = write_shard(
        tmp_path / "train-000.tar",
        [
            ("./00001.jpg", IMAGE),
            ("./00001.txt", "a red dress\n"),
            ("./00001.json", json.dumps(first)),
            ("./00002.json", json.dumps(second)),
            ("./00002.PNG", png),
            ("shop.v2/00003.webp", webp),
            ("shop.v2/00003.txt", "\ufeffa bag\nin blue"),
            ("shop.v2/00003.cls", "5"),
        ],
    )
    split = imported(shard, tmp_path)
    pairs, table = accepted(split)
    assert pairs == [("a red dress", IMAGE), ("a hat", png), ("a bag in blue", webp)]
    assert table == {
        "id": ["7", "00002", "shop.v2/00003"],
        "price": ["9.5", "", ""],
        "sale": ["true", "", ""],
        "note": ["", "", ""],
        "title": ["", "Hat", ""],
        "brand": ["", "B", ""],
    }
    assert (split.rows, split.cleaned_captions) == (3, 1)


def test_an_option_names_the_json_field_of_the_caption(tmp_path: Path, accepted) -> None:
    fields = json.dumps({"alt": "what the shop wrote", "caption": "kept as a column"})
    shard = write_shard(
        tmp_path / "a.tar", [("1.jpg", IMAGE), ("1.txt", "alt text"), ("1.json", fields)]
    )
    pairs, table = accepted(imported(shard, tmp_path, caption="alt"))
    assert pairs[0].caption == "what the shop wrote"
    assert table == {"id": ["1"], "caption": ["kept as a column"]}


def test_shards_are_read_in_the_order_of_their_names_plain_or_compressed(
    tmp_path: Path, accepted
) -> None:
    for name, mode in (
        ("2.tar", "w"),
        ("0.tar.gz", "w:gz"),
        ("1.tgz", "w:gz"),
        ("3.tar.xz", "w:xz"),
    ):
        write_shard(
            tmp_path / "valid" / name, [(f"k{name[0]}.jpg", IMAGE), (f"k{name[0]}.txt", name)], mode
        )
    split = imported(tmp_path / "valid", tmp_path)
    assert split.split == "valid"
    assert [pair.caption for pair in accepted(split)[0]] == [
        "0.tar.gz",
        "1.tgz",
        "2.tar",
        "3.tar.xz",
    ]


def test_a_key_that_is_no_pair_is_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webdataset, "MAX_IMAGE_BYTES", 100_000)
    shard = write_shard(
        tmp_path / "a.tar",
        [
            ("README", "no key"),
            ("._1.jpg", b"resource fork"),
            ("1.jpg", IMAGE),
            ("2.txt", "no image"),
            ("3.jpg", IMAGE),
            ("3.json", "{"),
            ("4.jpg", IMAGE),
            ("4.json", "[]"),
            ("5.jpg", IMAGE),
            ("5.txt", b"caf\xe9"),
            ("6.jpg", bytes(100_001)),
            ("6.txt", "huge"),
            ("7.jpg", b""),
            ("7.txt", "empty image"),
            ("8.jpg", IMAGE),
            ("8.json", "[" * 100_000),
            ("9.jpg", IMAGE),
            ("9.txt", "good"),
        ],
    )
    split = imported(shard, tmp_path)
    assert (split.rows, split.pairs) == (10, 1)
    assert split.left_out == {
        "no_key": (1, ("README",)),
        "no_caption": (1, ("1",)),
        "no_image": (2, ("2", "7")),
        "bad_json": (3, ("3", "4", "8")),
        "bad_utf8": (1, ("5",)),
        "too_large": (1, ("6",)),
    }


def test_hostile_members_are_names_and_never_files(tmp_path: Path, accepted) -> None:
    shard = write_shard(
        tmp_path / "drop" / "a.tar",
        [("../../evil.jpg", IMAGE), ("../../evil.txt", "x"), ("/abs.jpg", IMAGE)],
    )
    with tarfile.open(shard, "a") as archive:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        device = tarfile.TarInfo("device.jpg")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    split = imported(shard, tmp_path)
    assert accepted(split)[1] == {"id": ["../../evil"]}
    assert split.left_out == {
        "no_caption": (1, ("/abs",)),
        "no_image": (2, ("link (it has link.jpg)", "device (it has device.jpg)")),
    }
    written = {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert written == {"drop/a.tar", "out/train.tsv", "out/train.products.csv"}


def test_a_shard_cut_or_damaged_anywhere_is_refused_and_never_half_imported(tmp_path: Path) -> None:
    files = [
        (f"{key}.{extension}", data)
        for key in range(4)
        for extension, data in (("jpg", IMAGE), ("txt", "hat"))
    ]
    plain = write_shard(tmp_path / "a.tar", files)
    packed = write_shard(tmp_path / "b.tar.gz", files, "w:gz")
    end = len(plain.read_bytes().rstrip(b"\0")) // 512 * 512 + 512
    for length in (*range(0, end + 1, 512), 100, 700, end - 5):
        cut = tmp_path / "cut.tar"
        cut.write_bytes(plain.read_bytes()[:length])
        with pytest.raises(DataError, match=r"cut\.tar: cannot be read"):
            imported(cut, tmp_path)
    cut = tmp_path / "cut.tar.gz"
    for length in (30, len(packed.read_bytes()) // 2, len(packed.read_bytes()) - 20):
        cut.write_bytes(packed.read_bytes()[:length])
        with pytest.raises(DataError, match=r"cut\.tar\.gz: cannot be read"):
            imported(cut, tmp_path)
    damaged = bytearray(plain.read_bytes())
    damaged[plain.read_bytes().index(b"2.jpg") + 1] ^= 1
    (tmp_path / "cut.tar").write_bytes(damaged)
    with pytest.raises(DataError, match="header is damaged"):
        imported(tmp_path / "cut.tar", tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_shards_that_were_joined_are_read_to_the_end(tmp_path: Path, accepted) -> None:
    parts = [
        write_shard(tmp_path / f"{key}.tar", [(f"{key}.jpg", IMAGE), (f"{key}.txt", key)])
        for key in "ab"
    ]
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert [pair.caption for pair in accepted(imported(joined, tmp_path))[0]] == ["a", "b"]


def test_a_shard_of_many_members_does_not_gather_in_memory(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", [(f"{key}.txt", "hat") for key in range(300)])
    members = webdataset._read_members(shard, webdataset.Options())
    assert sum(1 for _ in itertools.islice(members, 299)) == 299
    assert sum(issubclass(type(thing), tarfile.TarInfo) for thing in gc.get_objects()) < 10


@pytest.mark.faults(kind="X6: hostile drops", trials=3)
def test_a_bomb_in_a_shard_is_left_out_or_refused_and_memory_stays_flat(
    tmp_path: Path, accepted
) -> None:
    bomb = tmp_path / "a.tar.gz"
    size = 200 << 20  # 200 KB of gzip

    def plant(kind: bytes) -> None:
        info = tarfile.TarInfo("bomb.jpg")
        info.type, info.size = kind, size
        with gzip.open(bomb, "wb", compresslevel=1) as file:
            file.write(info.tobuf())
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
            with tarfile.open(fileobj=file, mode="w|") as archive:
                archive.add(write(tmp_path / "1.jpg", IMAGE), "1.jpg")
                archive.add(write(tmp_path / "1.txt", b"hat"), "1.txt")

    plant(tarfile.REGTYPE)
    tracemalloc.start()
    split = imported(bomb, tmp_path)
    assert accepted(split)[0][0].caption == "hat"
    assert split.left_out == {"too_large": (1, ("bomb",))}
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        plant(kind)
        with pytest.raises(DataError, match=r"a\.tar\.gz: .*header claims 209,715,200 bytes"):
            imported(bomb, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 4


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_gzip_that_holds_no_tar_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(b"hello" * 1000))
    with pytest.raises(DataError, match=r"a\.tar: cannot be read"):
        imported(path, tmp_path)


# --- shards as other tools make them ---


def members_of(keys: Iterable[str], image: str = "jpg", text: str = "txt") -> list[Any]:
    return [
        [(f"{key}.{image}", jpeg(seed=place)), (f"{key}.{text}", f"hat {key}")]
        for place, key in enumerate(keys)
    ]


@pytest.mark.faults(kind="F3", trials=1)
@pytest.mark.parametrize("folder", ["", "__MACOSX/"])
def test_the_companions_that_macos_adds_are_passed_over(tmp_path: Path, folder: str) -> None:
    files = [one for pair in members_of("1234") for one in pair]
    with_companions = [
        one
        for name, data in files
        for one in ((f"{folder}._{name}", b"\0\5\x16\7 resource fork"), (name, data))
    ]
    shard = write_shard(tmp_path / "a.tar", [(".DS_Store", b"x"), *with_companions])
    split = imported(shard, tmp_path)
    assert (split.rows, split.pairs, split.left_out) == (4, 4, {})


ORDERS = ("images first", "texts first", "shuffled", "json last")


@pytest.mark.faults(kind="F3", trials=1)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_in_any_order_are_the_same_pairs(
    tmp_path: Path, accepted, order: str, mode: str
) -> None:
    keys = [f"{key:03}" for key in range(20)]
    files = [
        *((name, data) for pair in members_of(keys) for name, data in pair),
        *((f"{key}.json", json.dumps({"price": key})) for key in keys),
    ]
    if order == "shuffled":
        Random(1).shuffle(files)
    else:
        first = {"texts first": ".txt", "json last": ".jpg"}.get(order, ".jpg")
        files.sort(key=lambda one: (not one[0].endswith(first), one[0][3:], one[0]))

    shard = write_shard(tmp_path / f"a.tar{'.gz' if mode == 'w:gz' else ''}", files, mode)
    pairs, side = accepted(imported(shard, tmp_path))
    found = {key: (pair.caption, pair.image) for key, pair in zip(side["id"], pairs, strict=True)}
    assert found == {key: (f"hat {key}", jpeg(seed=place)) for place, key in enumerate(keys)}
    assert side["price"] == side["id"]


def test_a_key_that_comes_twice_is_two_pairs_whatever_the_order(tmp_path: Path, accepted) -> None:
    one, other = ([("a.jpg", jpeg(seed=n)), ("a.txt", f"hat {n}")] for n in (1, 2))
    for files in ([*one, *other], [one[0], other[0], one[1], other[1]]):
        pairs, _ = accepted(imported(write_shard(tmp_path / "a.tar", files), tmp_path))
        assert pairs == [("hat 1", jpeg(seed=1)), ("hat 2", jpeg(seed=2))]


def test_a_key_without_its_other_half_is_left_out_once_and_the_rest_comes_in(
    tmp_path: Path,
) -> None:
    files = [one for pair in members_of("12345") for one in pair]
    split = imported(write_shard(tmp_path / "a.tar", files[:3] + files[4:]), tmp_path)
    assert (split.rows, split.pairs) == (5, 4)
    assert split.left_out == {"no_caption": (1, ("2",))}


@pytest.mark.parametrize("ending", ["gif", "bmp", "avif"])
def test_other_kinds_of_images_are_images(tmp_path: Path, ending: str, accepted) -> None:
    image = encoded(picture(), ending.upper())
    shard = write_shard(tmp_path / "a.tar", [(f"1.{ending}", image), ("1.txt", "hat")])
    assert accepted(imported(shard, tmp_path))[0] == [("hat", image)]


@pytest.mark.faults(kind="F3", trials=2)
def test_other_endings_are_named_and_an_option_takes_them_in(tmp_path: Path) -> None:
    files = [one for pair in members_of("12", "img", "cap") for one in pair]
    shard = write_shard(tmp_path / "a.tar", files)
    with pytest.raises(DataError, match=r"2 no_image \(1 \(it has 1.img, 1.cap\).*option image"):
        imported(shard, tmp_path)
    split = imported(shard, tmp_path, image="img", text="cap")
    assert (split.rows, split.pairs, split.left_out) == (2, 2, {})


@pytest.mark.faults(kind="F3", trials=2)
def test_a_key_with_dots_is_named_and_an_option_takes_it_in(tmp_path: Path) -> None:
    files = [one for pair in members_of(["shirt.v1", "shirt.v2", "hat.v1"]) for one in pair]
    plain = [one for pair in members_of(["bag"]) for one in pair]
    shard = write_shard(tmp_path / "a.tar", [*files, *plain, ("bag.mask.png", IMAGE)])
    split = imported(shard, tmp_path)
    assert (split.rows, split.pairs) == (4, 1)
    assert split.left_out == {"dotted_key": (3, ("shirt.v1", "shirt.v2", "hat.v1"))}
    assert "the first dot" in split.advice[0] and "keys=last-dot" in split.advice[0]
    shard = write_shard(tmp_path / "b.tar", files)
    assert imported(shard, tmp_path, keys="last-dot").pairs == 3
