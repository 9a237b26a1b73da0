"""The arrays that the rooms of this wing hand to each other."""

import numpy as np
import numpy.typing as npt

# Numbers of rows or of lines, [N].
Rows = npt.NDArray[np.int64]
# 64-bit hashes, [N].
Hashes = npt.NDArray[np.uint64]
# An RGB image [H, W, 3], or several; thumbnails as rows of bytes.
Pixels = npt.NDArray[np.uint8]
