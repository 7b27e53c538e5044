import io
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


def photo(path, size=(1000, 700)):
    """A large JPEG with fine detail, which decoding at reduced scale changes."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def forms(path):
    """One file in every form that it can arrive in before anyone has decoded it."""
    content = path.read_bytes()
    return {
        "path": path,
        "text": str(path),
        "bytes": content,
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "file object": io.BytesIO(content),
        "open file": path.open("rb"),
        "PIL image": Image.open(path),
    }


def decoded(path):
    """The same once it was decoded."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    array = np.array(picture)
    return {
        "decoded PIL image": picture,
        "array": array,
        "view": array[::-1][::-1],
        "tensor": torch.from_numpy(array).permute(2, 0, 1),
    }


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_one_file_gives_one_set_of_pixels_however_it_arrives(tmp_path, suffix):
    path = photo(tmp_path / f"photo{suffix}")
    want = rgb_pixels(path, position=0, shorter_side=100)
    assert (want.shape == (700, 1000, 3)) == (suffix == ".png")
    for name, form in forms(path).items():
        np.testing.assert_array_equal(rgb_pixels(form, position=0, shorter_side=100), want, err_msg=name)
        # A form can be used again: nothing was consumed or changed.
        np.testing.assert_array_equal(rgb_pixels(form, position=0, shorter_side=100), want, err_msg=name)
        batches = list(input_batches(form, 4, TINY, CPU))  # each is one picture, not a list of bytes or lines
        assert [batch.shape for batch in batches] == [(1, 3, 8, 8)], name
        if hasattr(form, "close"):
            form.close()


def test_exact_decoding_gives_the_pixels_that_others_decode(tmp_path):
    path = photo(tmp_path / "photo.jpg")
    exact = Preprocessing(size=96, resize=96)
    reduced = Preprocessing(size=96, resize=96, decoding="reduced")
    (want,) = input_batches(decoded(path)["array"], 1, reduced, CPU)
    for name, form in (forms(path) | decoded(path)).items():
        (batch,) = input_batches(form, 1, exact, CPU)
        assert torch.equal(batch, want), name
        if hasattr(form, "close"):
            form.close()
    (other,) = input_batches(path, 1, reduced, CPU)
    assert (other - want).abs().max() > 0


def test_transparency_and_gray_arrive_in_every_form():
    draw = np.random.default_rng(0)
    rgba = draw.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    alpha = rgba[:, :, 3:] / 255
    over_white = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    for form in (rgba, torch.from_numpy(rgba).permute(2, 0, 1), Image.fromarray(rgba)):
        np.testing.assert_allclose(rgb_pixels(form, position=0).astype(float), over_white, atol=1.01)
        assert len(next(iter(input_batches(form, 4, TINY, CPU)))) == 1
    gray = rgba[:, :, 0]
    for form in (gray, gray[:, :, None], torch.from_numpy(gray.copy()), torch.from_numpy(gray.copy())[None]):
        np.testing.assert_array_equal(rgb_pixels(form, position=0), np.repeat(gray[:, :, None], 3, axis=2))
        assert len(next(iter(input_batches(form, 4, TINY, CPU)))) == 1


def test_gray_with_transparency_is_composited_over_white():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 2), dtype=np.uint8)
    alpha = pixels[:, :, 1:] / 255
    over_white = np.repeat(pixels[:, :, :1] * alpha + 255 * (1 - alpha), 3, axis=2)
    for form in (pixels, torch.from_numpy(pixels).permute(2, 0, 1), Image.fromarray(pixels)):
        np.testing.assert_allclose(rgb_pixels(form, position=0).astype(float), over_white, atol=1.01)
        assert len(next(iter(input_batches(form, 4, TINY, CPU)))) == 1


def test_batches_of_arrays_are_many_pictures():
    draw = np.random.default_rng(0)
    for shape in [(3, 9, 8, 3), (3, 9, 8, 4), (3, 9, 8, 2), (3, 9, 8, 1), (3, 9, 8)]:
        batch = draw.integers(0, 256, shape, dtype=np.uint8)
        assert [len(part) for part in input_batches(batch, 2, TINY, CPU)] == [2, 1]


def test_bytes_and_files_that_are_no_picture_are_named_by_their_place(tmp_path):
    (tmp_path / "text.txt").write_text("no picture at all")
    for wrong in (b"no picture at all", io.BytesIO(b"no picture at all"), (tmp_path / "text.txt").read_bytes()):
        with pytest.raises(ImageError, match=r"picture 2: the image in memory .* cannot be read as an image"):
            rgb_pixels(wrong, position=2)
    with pytest.raises(ImageError, match="picture 2: the image in memory is empty"):
        rgb_pixels(b"", position=2)
    with pytest.raises(ImageError, match=r"picture 2 is a file of text\. Open it with mode 'rb'"):
        rgb_pixels(io.StringIO("text"), position=2)
