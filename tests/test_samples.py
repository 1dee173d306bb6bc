from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import read
from PIL import Image

from quantonnx.calibration.samples import ImageOptions, InputSpec, input_specs, open_samples, read_labels
from quantonnx.errors import ConfigError, DataError

F32 = np.dtype(np.float32)
ONE = (InputSpec("x", F32, ("N", 3, 4)),)
TWO = (InputSpec("ids", np.dtype(np.int64), ("N", "T")), InputSpec("mask", np.dtype(np.int64), ("N", "T")))
IMAGE = (InputSpec("image", F32, ("N", 3, 8, 6)),)
X = np.arange(60, dtype=np.float32).reshape(5, 3, 4)


def joined(samples, name="x"):
    return np.concatenate([feed[name] for feed in samples])


def shapes(samples, name="x"):
    return [feed[name].shape for feed in samples]


def test_input_specs_leave_out_initializers():
    model = read("g (float[N,3] x, int64[2] n) => (float[N,3] y) <float[3] w> { y = Add(x, w) }")
    assert input_specs(model) == (
        InputSpec("x", F32, ("N", 3)),
        InputSpec("n", np.dtype(np.int64), (2,)),
    )


@pytest.mark.parametrize("kind", ["npz", "npz compressed", "npy", "fortran", "array", "mapping"])
def test_stacked_arrays(tmp_path, kind):
    data = {"array": X, "mapping": {"x": X}}.get(kind, tmp_path / ("x.npy" if kind in ("npy", "fortran") else "x.npz"))
    if kind == "npz":
        np.savez(data, anything=X)
    elif kind == "npz compressed":
        np.savez_compressed(data, x=X)
    elif kind in ("npy", "fortran"):
        np.save(data, np.asfortranarray(X) if kind == "fortran" else X)
    samples = open_samples(data, ONE)
    assert len(samples) == 5
    assert shapes(samples) == [(1, 3, 4)] * 5
    np.testing.assert_array_equal(joined(samples), X)
    np.testing.assert_array_equal(joined(samples), X)


@given(batch_size=st.integers(1, 7), limit=st.integers(1, 7))
def test_batches_and_limit_keep_order(batch_size, limit):
    samples = open_samples(X, ONE, batch_size=batch_size, limit=limit)
    assert len(samples) == min(limit, 5)
    np.testing.assert_array_equal(joined(samples), X[:limit])
    assert all(len(feed["x"]) <= batch_size for feed in samples)


def test_limits_combine():
    samples = open_samples(open_samples(X, ONE, limit=3), ONE, limit=4)
    assert len(samples) == len(list(samples)) == 3
    with pytest.raises(DataError, match="expected at least 1"):
        samples.limit(0)


def test_a_fixed_batch_is_honoured():
    fixed = (InputSpec("x", F32, (2, 3, 4)),)
    for data in (X, [X[:3], X[3:]], [X[0], X[1], X[2], X[3]]):
        assert shapes(open_samples(data, fixed)) == [(2, 3, 4)] * 2


def test_a_fixed_batch_is_never_cut(tmp_path):
    fixed = (InputSpec("x", F32, (2, 3, 4)),)
    for data in (X, [X[:2], X[2:4]]):
        assert shapes(open_samples(data, fixed, limit=1)) == [(2, 3, 4)]
        assert shapes(open_samples(data, fixed, limit=3)) == [(2, 3, 4)] * 2
    np.savez(tmp_path / "d.npz", x=X, label=np.arange(5))
    assert len(open_samples(tmp_path / "d.npz", fixed, limit=1).labels) == 2
    with pytest.raises(DataError, match="holds 5 samples, the model takes batches of 8"):
        list(open_samples(X, (InputSpec("x", F32, (8, 3, 4)),)))


def test_first_axes_that_differ_are_no_batch():
    inputs = (InputSpec("x", F32, (3, 4)), InputSpec("y", F32, (7,)))
    samples = open_samples({"x": X, "y": np.ones((5, 7), np.float32)}, inputs, limit=2)
    assert len(samples) == len(list(samples)) == 2


def test_lists_of_numbers_are_arrays():
    np.testing.assert_array_equal(joined(open_samples({"x": X.tolist()}, ONE)), X)
    with pytest.raises(DataError, match="'x' of the data is not an array"):
        open_samples({"x": [[1.0], [1.0, 2.0]]}, ONE)


def test_two_inputs_and_labels(tmp_path):
    np.savez(tmp_path / "d.npz", mask=np.ones((4, 7), np.int32), ids=np.arange(28).reshape(4, 7), label=np.arange(4))
    samples = open_samples(tmp_path / "d.npz", TWO, limit=3)
    assert [feed["ids"][0, 0] for feed in samples] == [0, 7, 14]
    assert all(feed["mask"].dtype == np.int64 for feed in samples)
    assert samples.labels.tolist() == read_labels(tmp_path / "d.npz")[:3].tolist() == [0, 1, 2]


def test_stacked_feeds_of_a_model_without_batch_axis():
    inputs = (InputSpec("x", F32, (3, 4)), InputSpec("factor", F32, ()))
    feeds = list(open_samples({"x": X, "factor": np.arange(5, dtype=np.float32)}, inputs))
    assert [feed["x"].shape for feed in feeds] == [(3, 4)] * 5
    assert [float(feed["factor"]) for feed in feeds] == [0, 1, 2, 3, 4]


def test_folder_of_arrays(tmp_path):
    np.save(tmp_path / "s10.npy", X[4])
    np.save(tmp_path / "s2.npy", X[:1])
    np.savez(tmp_path / "s9.npz", x=X[1:4], label=np.zeros(3))
    np.testing.assert_array_equal(joined(open_samples(tmp_path, ONE)), X)


def test_protobuf_test_data(tmp_path):
    for index in (0, 1, 10, 2):
        folder = tmp_path / f"test_data_set_{index}"
        folder.mkdir()
        for number, value in enumerate((np.full((1, 3), index), np.ones((1, 3), np.int64))):
            (folder / f"input_{number}.pb").write_bytes(onnx.numpy_helper.from_array(value).SerializeToString())
    samples = open_samples(tmp_path, TWO)
    assert joined(samples, "ids")[:, 0].tolist() == [0, 1, 2, 10]
    assert len(open_samples(tmp_path / "test_data_set_2", TWO)) == 1


class Reader:
    def __init__(self):
        self.items = iter([{"x": X[:2]}, {"x": X[2:]}])

    def get_next(self):
        return next(self.items, None)


class RewindingReader(Reader):
    rewind = Reader.__init__


@pytest.mark.parametrize(
    "data",
    [
        [{"x": X[:2]}, {"x": X[2:]}],
        [X[:2], X[2:]],
        [(X[:2],), (X[2:],)],
        lambda: iter([X[:2], X[2:]]),
        Reader,
        RewindingReader(),
    ],
    ids=["feeds", "arrays", "tuples", "factory", "factory of readers", "rewinding reader"],
)
def test_feeds_are_used_as_they_come(data):
    samples = open_samples(data, ONE)
    for _ in range(2):
        assert shapes(samples) == [(2, 3, 4), (3, 3, 4)]
    assert shapes(samples.limit(3)) == [(2, 3, 4), (1, 3, 4)]


@pytest.mark.parametrize("data", [Reader(), iter([X])], ids=["reader", "generator"])
def test_what_can_be_read_once_says_so(data):
    samples = open_samples(data, ONE)
    np.testing.assert_array_equal(joined(samples), X)
    with pytest.raises(DataError, match="only once"):
        list(samples)


def test_an_endless_source_ends_at_the_limit():
    samples = open_samples((X[:1] for _ in itertools.count()), ONE, limit=4)
    assert len(list(samples)) == 4
    with pytest.raises(TypeError):
        len(open_samples(iter([X]), ONE))


def test_lengths_may_vary():
    feeds = [{"ids": np.ones((1, t), np.int64), "mask": np.ones((1, t), np.int64)} for t in (3, 3, 5)]
    assert shapes(open_samples(feeds, TWO), "ids") == [(1, 3), (1, 3), (1, 5)]


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_harmless_types_are_cast(dtype):
    assert joined(open_samples(X.astype(dtype), ONE)).dtype == F32


@pytest.mark.parametrize(
    ("data", "inputs", "message"),
    [
        (X.astype(np.uint8), ONE, r"input 'x' of sample 0 of the data is uint8, expected float32; .*astype"),
        (X[:, :2], ONE, r"has shape \[1, 2, 4\], expected float32 \[N, 3, 4\]"),
        (X[..., None], ONE, r"has shape \[3, 4, 1\]|has shape \[1, 3, 4, 1\]"),
        (np.where(X == 7, np.nan, X), ONE, "sample 0 of the data holds NaN"),
        ({"y": X, "z": X}, ONE, "no array for input 'x', found"),
        ({"x": X, "z": X}, ONE, "'z' that is no input"),
        ({"ids": np.ones((3, 2), int), "mask": np.ones((4, 2), int)}, TWO, "'ids': 3, 'mask': 4"),
        ([{"x": X[:1]}, {"wrong": X[:1], "x": X[:1]}], ONE, "sample 1 has an array 'wrong'"),
        ([X], TWO, "sample 0 is a ndarray, expected arrays for the inputs 'ids', 'mask'"),
        ([], ONE, "holds no samples"),
        (X[:0], ONE, "holds no samples"),
        (3, ONE, "the samples are a int"),
        ("nowhere.npz", ONE, "does not exist"),
        (None, ONE, "no data to calibrate on"),
    ],
)
def test_what_does_not_fit_is_refused(data, inputs, message):
    with pytest.raises(DataError, match=message):
        list(open_samples(data, inputs))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.npz", b"not a zip", "is not an .npz file"),
        ("d.npy", b"not numpy", "not an array in numpy's format"),
        ("d.txt", b"text", "is not understood"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(open_samples(tmp_path / name, ONE))


def test_a_truncated_file_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", X)
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:-50])
    with pytest.raises(DataError, match="ends in sample 3, expected 5"):
        list(open_samples(tmp_path / "x.npy", ONE))


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "p.npz", x=np.array([{}, {}], dtype=object))
    with pytest.raises(DataError, match="pickled"):
        list(open_samples(tmp_path / "p.npz", ONE))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no data"):
        open_samples(tmp_path, ONE)


def test_random_data_is_seeded():
    inputs = (*ONE, InputSpec("n", np.dtype(np.int64), ("N", None)))
    first, again, other = (list(open_samples(None, inputs, random=3, seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[2]["x"], again[2]["x"])
    assert not np.array_equal(first[2]["x"], other[2]["x"])
    assert first[0]["x"].shape == (1, 3, 4)
    assert set(np.unique([feed["n"] for feed in first])) <= {0, 1}


def test_digest_follows_the_content(tmp_path):
    np.save(tmp_path / "x.npy", X)
    first = open_samples(tmp_path / "x.npy", ONE).digest
    assert first == open_samples(tmp_path / "x.npy", ONE).digest
    assert first != open_samples(tmp_path / "x.npy", ONE, limit=2).digest
    np.save(tmp_path / "x.npy", X + 1)
    assert first != open_samples(tmp_path / "x.npy", ONE).digest
    assert open_samples([X], ONE).digest is None


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path, pixels


def test_images_are_laid_out_scaled_and_normalized(picture):
    folder, pixels = picture
    options = ImageOptions(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    found = joined(open_samples(folder, IMAGE, images=options), "image")
    expected = (pixels / 255 - options.mean) / options.std
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), atol=1e-6)


def test_images_last_channel_blue_first_unscaled(picture):
    folder, pixels = picture
    inputs = (InputSpec("image", F32, ("N", 8, 6, 3)),)
    found = joined(open_samples(folder, inputs, images=ImageOptions(scale=1, rgb=False)), "image")
    np.testing.assert_array_equal(found[0], pixels[..., ::-1].astype(np.float32))


def test_images_as_integers_and_gray(picture):
    folder, pixels = picture
    inputs = (InputSpec("image", np.dtype(np.uint8), ("N", 3, 8, 6)),)
    np.testing.assert_array_equal(joined(open_samples(folder, inputs), "image")[0], pixels.transpose(2, 0, 1))
    gray = (InputSpec("image", F32, ("N", 1, 8, 6)),)
    assert shapes(open_samples(folder, gray), "image") == [(1, 1, 8, 6)]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (ImageOptions(), (8, 6)),
        (ImageOptions(resize=16), (8, 6)),
        (ImageOptions(resize=(20, 30), crop=(8, 6)), (8, 6)),
        (ImageOptions(crop=4), (4, 4)),
        (ImageOptions(resize=(9, 5)), (9, 5)),
    ],
)
def test_image_sizes(picture, options, size):
    fixed = size == (8, 6)
    inputs = IMAGE if fixed else (InputSpec("image", F32, ("N", 3, "H", "W")),)
    assert shapes(open_samples(picture[0], inputs, images=options), "image") == [(1, 3, *size)]


def test_images_of_another_size_than_the_model_are_refused(picture):
    with pytest.raises(DataError, match=r"has shape \[1, 3, 4, 4\], expected float32 \[N, 3, 8, 6\]"):
        list(open_samples(picture[0], IMAGE, images=ImageOptions(crop=4)))


def test_a_picture_smaller_than_the_crop_is_refused(picture):
    with pytest.raises(DataError, match=r"\.png' is \d+x\d+, expected at least the crop of 99x4"):
        list(open_samples(picture[0], IMAGE, images=ImageOptions(crop=(99, 4))))


def test_images_for_other_inputs_are_refused(picture):
    with pytest.raises(DataError, match="expected one input of four dimensions"):
        list(open_samples(picture[0], TWO))


def test_a_broken_image_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        list(open_samples(tmp_path, IMAGE))


@pytest.mark.parametrize("options", [{"layout": "chw"}, {"std": (0.0, 1.0, 1.0)}])
def test_image_options_are_checked(options):
    with pytest.raises(ConfigError):
        ImageOptions(**options)
