"""CIFAR's binary layout and folders of images, byte for byte."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memberscope.data import load
from memberscope.data.images import CIFAR10, CIFAR100, Cifar, read_cifar
from memberscope.errors import DataError

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PREFIX = "cifar-10-batches-bin/"


def cifar10_files(n: int = 3) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Six files of ``n`` records as in the official archive, with the labels and pixels in them."""
    rng = np.random.default_rng(0)
    labels, pixels = rng.integers(0, 10, 6 * n), rng.integers(0, 256, (6 * n, 3072), np.uint8)
    blocks = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1).reshape(6, -1)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    files = {PREFIX + "batches.meta.txt": ("\n".join(NAMES) + "\n\n").encode()}
    # The official archive does not hold its batches in order.
    files |= {PREFIX + names[i]: blocks[i].tobytes() for i in (0, 3, 2, 5, 1, 4)}
    return files, labels, pixels


def layout_of(archive: Path, n: int = 3) -> Cifar:
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    published = dataclasses.replace(CIFAR10.archive, checksum=f"md5:{digest}")
    return dataclasses.replace(CIFAR10, archive=published, counts=(n,) * 6)


def unpack(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return folder


def test_cifar10_archive_and_folder_give_the_official_order(tmp_path: Path, write_tar) -> None:
    files, labels, pixels = cifar10_files()
    archive = write_tar(tmp_path / "cifar-10-binary.tar.gz", files)
    layout = layout_of(archive)
    data = read_cifar(archive, layout)
    assert data.inputs.dtype == np.uint8
    assert (data.inputs == pixels.reshape(18, 3, 32, 32)).all()
    # The second pixel of the first row of the green plane is byte 1024 + 1.
    assert data.inputs[7, 1, 0, 1] == pixels[7, 1025]
    assert data.labels.tolist() == labels.tolist()
    assert data.ids[[0, 14, 15, 17]].tolist() == ["train/00001", "train/00015", "test/00001", "test/00003"]
    assert data.groups["split"].tolist() == ["train"] * 15 + ["test"] * 3
    assert data.class_names == tuple(NAMES)
    for folder in (unpack(files, tmp_path / "out"), tmp_path / "out" / PREFIX):
        assert read_cifar(folder, layout).fingerprint == data.fingerprint
        assert load(folder).fingerprint == data.fingerprint
    assert load(archive, records=5, seed=1).ids.tolist() == sorted(
        load(archive, records=5, seed=1).ids, key=data.ids.tolist().index
    )


def test_cifar100_uses_the_fine_label_and_keeps_the_coarse_one(tmp_path: Path, write_tar) -> None:
    rng = np.random.default_rng(1)
    coarse, fine = np.array([3, 19, 0]), np.array([99, 0, 42])
    block = np.concatenate([coarse[:, None], fine[:, None], rng.integers(0, 256, (3, 3072))], axis=1).astype(np.uint8)
    files = {
        "cifar-100-binary/train.bin": block[:2].tobytes(),
        "cifar-100-binary/test.bin": block[2:].tobytes(),
        "cifar-100-binary/fine_label_names.txt": "\n".join(f"fine{k}" for k in range(100)).encode(),
        "cifar-100-binary/coarse_label_names.txt": "\n".join(f"coarse{k}" for k in range(20)).encode(),
    }
    data = load(write_tar(tmp_path / "small.tar.gz", files))
    assert data.labels.tolist() == [99, 0, 42]
    assert data.class_names[99] == "fine99"
    assert data.groups["coarse"].tolist() == ["coarse3", "coarse19", "coarse0"]
    assert (data.inputs.reshape(3, -1) == block[:, 2:]).all()
    assert data.ids.tolist() == ["train/00001", "train/00002", "test/00001"]
    assert (CIFAR100.counts, CIFAR10.counts) == ((50_000, 10_000), (10_000,) * 6)


def test_damaged_cifar_is_refused(tmp_path: Path, write_tar) -> None:
    files, _, _ = cifar10_files()
    archive = write_tar(tmp_path / "a.tar.gz", files)
    layout = layout_of(archive)
    unchecked = dataclasses.replace(layout, archive=dataclasses.replace(layout.archive, checksum=""))

    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(archive.read_bytes()[:-20_000])
    with pytest.raises(DataError, match=r"MD5 .*damaged, incomplete or another"):
        read_cifar(cut, layout)
    with pytest.raises(DataError, match=r"whole archive"):
        read_cifar(cut, unchecked)
    page = tmp_path / "page.tar.gz"
    page.write_bytes(b"<html>Sign in to the network</html>")
    with pytest.raises(DataError, match=r"whole archive"):
        read_cifar(page, unchecked)
    with pytest.raises(DataError, match=r"MD5 c32a1d4ab5d03f1284b67883e8d87530"):
        load("cifar10", path=archive)

    def changed(name: str, content: bytes | None) -> Path:
        kept = {key: value for key, value in files.items() if key != PREFIX + name}
        return write_tar(tmp_path / "changed.tar.gz", kept | ({} if content is None else {PREFIX + name: content}))

    whole = files[PREFIX + "data_batch_2.bin"]
    with pytest.raises(DataError, match=r"3 records of 3,073 bytes in data_batch_2.bin.*got 9,218 bytes"):
        read_cifar(changed("data_batch_2.bin", whole[:-1]), unchecked)
    with pytest.raises(DataError, match=r"got 6,146 bytes"):
        read_cifar(changed("data_batch_2.bin", whole[: 2 * 3073]), unchecked)
    with pytest.raises(DataError, match=r"no data_batch_2.bin"):
        read_cifar(changed("data_batch_2.bin", None), unchecked)
    wrong = whole[:3073] + bytes([10]) + whole[3074:]
    with pytest.raises(DataError, match=r"label bytes from 0 to 9.*got 10 in record 2"):
        read_cifar(changed("data_batch_2.bin", wrong), unchecked)
    with pytest.raises(DataError, match=r"10 class names"):
        read_cifar(changed("batches.meta.txt", b"cat\ndog\n"), unchecked)
    with pytest.raises(DataError, match=r"whole records"):
        load(changed("data_batch_2.bin", b""))


def test_hostile_archive_writes_nothing_and_follows_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(3073))
    archive = tmp_path / "deep" / "evil.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for kind, name in ((tarfile.SYMTYPE, "data_batch_1.bin"), (tarfile.LNKTYPE, "data_batch_2.bin")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, str(secret)
            tar.addfile(link)
        content = bytes([1]) + bytes(3072)
        entry = tarfile.TarInfo("../../escaped/test_batch.bin")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    before = sorted(tmp_path.rglob("*"))
    data = load(archive)
    assert data.ids.tolist() == ["test/00001"]
    assert data.labels.tolist() == [1]
    assert sorted(tmp_path.rglob("*")) == before


def test_image_folder_keeps_pixels_paths_and_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    pictures = {}
    for name in ("cat/b.png", "cat/a.png", "dog/sub/c.png"):
        pictures[name] = rng.integers(0, 256, (4, 6, 3), np.uint8)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[name]).save(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    data = load(tmp_path)
    assert data.ids.tolist() == ["cat/a.png", "cat/b.png", "dog/sub/c.png"]
    assert data.labels.tolist() == [0, 0, 1]
    assert data.class_names == ("cat", "dog")
    for row, name in enumerate(data.ids):
        assert (data.inputs[row].transpose(1, 2, 0) == pictures[name]).all()

    Image.fromarray(pictures["cat/a.png"][:2]).save(tmp_path / "dog" / "small.png")
    with pytest.raises(DataError, match=r"one size, 4 × 6.*got 2 × 6 in .*dog/small.png.*size=4"):
        load(tmp_path)
    assert load(tmp_path, size=(4, 6)).inputs.shape == (4, 3, 4, 6)
    (tmp_path / "dog" / "small.png").write_bytes((tmp_path / "cat" / "a.png").read_bytes()[:70])
    with pytest.raises(DataError, match=r"whole image in .*small.png"):
        load(tmp_path)


def test_grey_images_and_published_splits(tmp_path: Path) -> None:
    for split, shade in (("train", 10), ("test", 200)):
        for kind in ("no", "yes"):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.new("L", (5, 5), shade).save(tmp_path / split / kind / "1.png")
    data = load(tmp_path)
    assert data.inputs.shape == (4, 1, 5, 5)
    assert data.ids.tolist() == ["test/no/1.png", "test/yes/1.png", "train/no/1.png", "train/yes/1.png"]
    assert data.labels.tolist() == [0, 1, 0, 1]
    assert data.groups["split"].tolist() == ["test", "test", "train", "train"]
    assert data.inputs[:, 0, 0, 0].tolist() == [200, 200, 10, 10]
    with pytest.raises(DataError, match=r"one folder a class"):
        load(tmp_path / "train" / "no")


@pytest.mark.realdata
def test_real_cifar10_pictures_survive_the_binary_layout(shared: Path, tmp_path: Path) -> None:
    packed = np.load(shared / "cifar10_jpeg.npz")
    jpeg, offset, label = packed["jpeg"], packed["offset"], packed["label"]
    rows = np.arange(200)
    pictures = [np.asarray(Image.open(io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes()))) for i in rows]
    content = b"".join(bytes([label[i]]) + pictures[i].transpose(2, 0, 1).tobytes() for i in rows)
    (tmp_path / "data_batch_1.bin").write_bytes(content)
    data = load(tmp_path)
    assert data.labels.tolist() == label[:200].tolist()
    assert all((data.inputs[i].transpose(1, 2, 0) == pictures[i]).all() for i in rows)


@pytest.mark.realdata
@pytest.mark.slow
def test_real_cifar10_whole(shared: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    subprocess.run([sys.executable, str(shared / "unpack_cifar10.py"), str(tmp_path)], check=True, capture_output=True)
    data = load("cifar10", path=tmp_path)
    assert data.inputs.shape == (60_000, 3, 32, 32)
    assert np.bincount(data.labels).tolist() == [6000] * 10
    assert (data.groups["split"] == "train").sum() == 50_000
    assert data.class_names == tuple(NAMES)
    # Mean colour of the training images as published for CIFAR-10 (125.3, 123.0, 113.9).
    mean = data.inputs[:50_000].mean(axis=(0, 2, 3))
    assert np.allclose(mean, [125.3, 123.0, 113.9], atol=0.5)
