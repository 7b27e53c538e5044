import threading

import numpy as np
import pytest
import torch
from PIL import Image

from cosphere.errors import ImageError
from cosphere.images.preprocessing import Preprocessing
from cosphere.models.reading import input_batches, rgb_pixels

CPU = torch.device("cpu")
TINY = Preprocessing(size=8, resize=8)


def plain(level):
    return np.full((8, 8, 3), level, np.uint8)


def test_batches_keep_order_and_sizes():
    batches = list(input_batches([plain(level) for level in range(7)], 3, TINY, CPU))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    red = torch.cat(batches)[:, 0, 0, 0]
    want = torch.tensor([(level / 255 - 0.485) / 0.229 for level in range(7)])
    torch.testing.assert_close(red, want)
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in batches)


def test_only_one_batch_is_read_ahead():
    taken = []

    def source():
        for level in range(100):
            taken.append(level)
            yield plain(level)

    batches = input_batches(source(), 5, TINY, CPU)
    next(batches)
    assert len(taken) == 10
    batches.close()
    assert len(taken) == 10


def test_the_next_batch_is_read_while_this_one_is_used():
    seen = threading.Event()

    class Watched(Preprocessing):
        def pixels(self, image):
            if image[0, 0, 0] == 1:
                seen.set()
            return super().pixels(image)

    batches = input_batches([plain(0), plain(1)], 1, Watched(size=8, resize=8), CPU)
    next(batches)
    assert seen.wait(10)
    batches.close()


def test_a_large_jpeg_is_read_at_reduced_scale(tmp_path):
    Image.new("RGB", (640, 480), "red").save(tmp_path / "large.jpg")
    assert rgb_pixels(tmp_path / "large.jpg", position=0).shape == (480, 640, 3)
    reduced = rgb_pixels(tmp_path / "large.jpg", position=0, shorter_side=100)
    assert 100 <= reduced.shape[0] < 480


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "L", "1", "P", "LA", "I;16"])
def test_pil_images_are_read_as_their_files_are(tmp_path, mode):
    picture = Image.new("RGB", (6, 5), (200, 40, 90))
    picture = (
        Image.new(mode, (6, 5), 40_000)
        if mode == "I;16"
        else picture.convert("L").convert(mode)
        if mode in "LA1"
        else picture.convert(mode)
    )
    picture.save(tmp_path / "picture.tiff")
    np.testing.assert_array_equal(rgb_pixels(picture, position=0), rgb_pixels(tmp_path / "picture.tiff", position=0))


def test_the_place_of_a_bad_picture_is_named():
    closed = Image.new("RGB", (2, 2))
    closed.close()
    with pytest.raises(ImageError, match="picture 4 cannot be read"):
        rgb_pixels(closed, position=4)
