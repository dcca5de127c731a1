"""Pictures as arrays in one .npz: MNIST's x_train, y_train, x_test, y_test, and whatever is laid out alike."""

from __future__ import annotations

import zipfile
import zlib

import numpy as np

from phosphene.data.base import Example
from phosphene.data.pictures import check_pixels
from phosphene.errors import Problem


class Arrays:
    """Pictures x_{split}, uint8 (N, H, W) or (N, H, W, 3|4), with class numbers y_{split}, (N,), where these are there.

    split  which pair of arrays: train, test, …
    pad    smaller pictures are put in the middle of a black one of this size (MNIST's 28 become 32)

    Raises Problem for a file that is no whole .npz, arrays that are missing or of other shapes, and pickled objects.
    """

    def __init__(self, path: str, split: str = "train", pad: int = 32):
        self.name, self.pad = path, pad
        try:
            with np.load(path, allow_pickle=False) as arrays:
                names = list(arrays)
                x, y = f"x_{split}", f"y_{split}"
                if x not in names:
                    raise Problem(f"{path} has no array {x}; its arrays are {', '.join(names) or 'none'}")
                self.images, self.labels = arrays[x], arrays[y] if y in names else None
        except Problem:
            raise
        except FileNotFoundError:
            raise Problem(f"{path}: there is no such file") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError, zlib.error, TypeError) as error:
            raise Problem(f"{path}: not a whole .npz of plain arrays ({str(error).splitlines()[0][:120]})") from None
        check_pixels(self.images, f"{path}: {x}")
        if self.labels is not None and (
            self.labels.shape != self.images.shape[:1] or self.labels.dtype.kind not in "iu"
        ):
            raise Problem(
                f"{path}: {y} is {self.labels.dtype} {self.labels.shape}; one whole number a picture is right"
            )
        self.lacks = {"caption": f"{path} has class numbers but no captions: use prompts='label' or prompts='none'"}
        if self.labels is None:
            self.lacks["label"] = f"{path} has no array {y} of class numbers; its arrays are {', '.join(names)}"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Example:
        image = self.images[i]
        extra = [max(0, self.pad - side) for side in image.shape[:2]]
        if any(extra):
            image = np.pad(image, [(e // 2, e - e // 2) for e in extra] + [(0, 0)] * (image.ndim - 2))
        return Example(image, (), None if self.labels is None else int(self.labels[i]), {"row": i})
