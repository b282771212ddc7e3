"""A folder of images by class: ``ROOT/CLASS/FILE``, or ``ROOT/SPLIT/CLASS/FILE``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from memberscope.errors import DataError
from memberscope.types import Dataset

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
SPLITS = frozenset({"train", "test", "val", "valid", "validation"})


def read_image_folder(path: Path, *, size: tuple[int, int] | int | None = None) -> Dataset:
    """Images whose folder is their class.

    Args:
        path: holds one folder a class (sorted by name), or ``train`` and ``test`` folders of such folders.
        size: (height, width), or one number for both, to resize every image to; without it all must have
            one size.

    Returns:
        ``inputs`` (N, C, H, W) uint8, C = 1 if every image is grey, else 3; ids are paths relative to
        ``path``; group ``split`` if the folders have one.

    Raises:
        DataError: no image, an image of another size (the file is named), or a file that cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    tops = [child for child in sorted(path.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    split = bool(tops) and all(child.name.lower() in SPLITS for child in tops)
    folders = [inner for top in tops for inner in sorted(top.iterdir()) if inner.is_dir()] if split else tops
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(
            f"images ({', '.join(sorted(SUFFIXES))}) in one folder a class under {path}",
            "none",
            "Sort the images into folders named after their classes.",
        )
    if isinstance(size, int):
        size = (size, size)
    ids = [file.relative_to(path).as_posix() for file in files]
    owners = [identity.split("/")[1 if split else 0] for identity in ids]
    names = tuple(sorted({folder.name for folder in folders}))
    # Opening reads only the header: sizes are compared before anything is decoded.
    shape, grey = size, True
    for file in files:
        try:
            with Image.open(file) as image:
                height, width, mode = image.height, image.width, image.mode
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise _unreadable(file, error) from error
        grey = grey and mode in ("1", "L", "LA")
        shape = shape or (height, width)
        if size is None and (height, width) != shape:
            raise DataError(
                f"images of one size, {shape[0]} × {shape[1]} (height × width) like {files[0]}",
                f"{height} × {width} in {file}",
                f"Resize them, or give size={shape[0]}.",
            )
    assert shape is not None
    inputs = np.empty((len(files), 1 if grey else 3, *shape), np.uint8)
    for row, file in enumerate(files):
        try:
            with Image.open(file) as image:
                picture = image.convert("L" if grey else "RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(file, error) from error
        if (picture.height, picture.width) != shape:
            picture = picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, np.uint8)
        inputs[row] = pixels[None] if grey else pixels.transpose(2, 0, 1)
    place = {name: k for k, name in enumerate(names)}
    labels = np.array([place[owner] for owner in owners], np.int64)
    groups = {"split": np.array([identity.split("/")[0] for identity in ids])} if split else {}
    return Dataset(inputs, labels, np.array(ids), names, groups=groups, name=path.name)


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"a whole image in {file}", str(error) or type(error).__name__, "Remove or replace the file.")
