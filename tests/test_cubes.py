import json
import multiprocessing
import shutil
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from storage.arrays import blocks, cubes
from storage.arrays.blocks import DamagedBlock, MissingBlock, TemplateMismatch, clip_hashes
from storage.arrays.cubes import decode, encode, open_run, read_block, read_relevance, write_block
from storage.stores.receipts import file_hashes
from storage.stores.root import Root

N_CLIPS, BLOCK, LENGTH, HEIGHT, WIDTH = 10, 4, 4, 6, 8
CUBE = (LENGTH, HEIGHT, WIDTH)
OUTPUTS = ["Archery", "HandstandPushups", '<b>"Yo\nYo"</b> é']


@pytest.fixture
def root(tmp_path):
    return Root(str(tmp_path))


def columns(n_clips=N_CLIPS):
    return {
        "clip": list(range(n_clips)),
        "video": [f"<i>\n'{i // 3}'</i>/v_é.avi" for i in range(n_clips)],
        "class": [OUTPUTS[i % 3] for i in range(n_clips)],
        "group": ["Archery/g01"] * n_clips,
        "start_frame": np.arange(n_clips) * 16,
        "n_valid_frames": [16] * n_clips,
        "fps": [25.0] * n_clips,
    }


def create(root, path="runs/c3d-01/relevance.zarr", **changed):
    settings = {
        "methods": {"deep_taylor": {"units": "share of the decision"}, "grad_cam": {}},
        "outputs": OUTPUTS,
        "length": LENGTH,
        "height": HEIGHT,
        "width": WIDTH,
        "block_clips": BLOCK,
        "attrs": {"checkpoint_sha256": "ab" * 32, "profile": {"mean": [90.0, 98.0, 102.0]}},
    }
    given_columns = changed.pop("columns", columns())
    cubes.create_relevance(root, path, given_columns, **settings | changed)
    return path


def relevance(n_clips=N_CLIPS, seed=0):
    return np.random.default_rng(seed).normal(size=(n_clips, *CUBE)).astype(np.float32)


def values(start, stop, seed=0):
    """All arrays of a run for some clips, as a stage would hand them over."""
    random = np.random.default_rng(seed)
    whole = {name: encode(relevance(seed=seed + i)) for i, name in enumerate(["deep_taylor", "grad_cam"])}
    found = {name: pair[0] for name, pair in whole.items()}
    found |= {f"{name}_scale": pair[1] for name, pair in whole.items()}
    found["logits"] = random.normal(size=(N_CLIPS, len(OUTPUTS))).astype(np.float32)
    found["target"] = np.arange(N_CLIPS, dtype=np.int32) % 3
    found["predicted"] = found["logits"].argmax(axis=1).astype(np.int32)
    found["conservation_error"] = random.normal(size=N_CLIPS).astype(np.float32)
    return {name: array[start:stop] for name, array in found.items()}


def write_all(root, path):
    ranges = blocks.blocks(N_CLIPS, BLOCK)
    return [write_block(root, path, start, values(start, stop)) for start, stop in ranges]


def objects(root, path, name):
    return sorted(
        file for file in Path(root.join(path), name).rglob("*") if file.name != "zarr.json" and file.is_file()
    )


def test_blocks_cover_every_clip_once():
    assert blocks.blocks(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert blocks.blocks(8, 4) == [(0, 4), (4, 8)]
    assert blocks.blocks(3, 64) == [(0, 3)]
    with pytest.raises(ValueError, match="block_clips is 0"):
        blocks.blocks(3, 0)


def test_every_block_comes_back_to_the_bit(any_root):
    path = create(any_root)
    ranges = blocks.blocks(N_CLIPS, BLOCK)
    # The last, shorter block first: no block may touch another one.
    hashes = {start: write_block(any_root, path, start, values(start, stop)) for start, stop in ranges[::-1]}
    for start, stop in ranges:
        found = read_block(any_root, path, start, stop)
        assert clip_hashes(start, found) == hashes[start].sha256
        for name, array in values(start, stop).items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    across = read_block(any_root, path, 3, 9, ["target"])
    np.testing.assert_array_equal(across["target"], values(3, 9)["target"])


@pytest.mark.parametrize("how", [{}, {"consolidated": False}])
def test_xarray_opens_a_run_as_it_is(any_root, how):
    path = create(any_root)
    write_all(any_root, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A local run is opened by its plain directory, as a person does it.
        place = any_root.join(path) if any_root.is_local else any_root.zarr_store(path, read_only=True)
        dataset = xr.open_zarr(place, **how)
        for name, array in values(0, N_CLIPS).items():
            np.testing.assert_array_equal(dataset[name].values, array)
    assert dataset.deep_taylor.dims == ("clip", "time", "y", "x")
    assert dataset.logits.dims == ("clip", "output")
    assert set(dataset.coords) == {*columns(), "time", "y", "x", "output"}
    for name, column in columns().items():
        assert dataset[name].dims == ("clip",)
        assert dataset[name].values.tolist() == np.asarray(column).tolist()
    assert dataset.output.values.tolist() == OUTPUTS
    np.testing.assert_allclose(dataset.time, np.arange(LENGTH) / 25)
    assert dataset.time.attrs["units"] == "s"
    assert dataset.deep_taylor.attrs["units"] == "share of the decision"
    assert dataset.deep_taylor.attrs["method"] == "deep_taylor"
    assert dataset.attrs["checkpoint_sha256"] == "ab" * 32
    assert dataset.attrs["profile"] == {"mean": [90.0, 98.0, 102.0]}


def test_a_run_can_be_selected_by_names(root):
    path = create(root)
    write_all(root, path)
    dataset = xr.open_zarr(root.join(path))
    of_class = dataset.deep_taylor.where(dataset["class"].load() == OUTPUTS[2], drop=True)
    assert of_class["clip"].values.tolist() == [2, 5, 8]
    np.testing.assert_array_equal(dataset.logits.sel(output="Archery"), values(0, N_CLIPS)["logits"][:, 0])
    per_video = dataset.conservation_error.load().groupby("video").count()
    assert per_video.values.tolist() == [3, 3, 3, 1]
    assert dataset.target.to_dataframe()["class"].tolist() == columns()["class"]


def test_opening_reads_no_cube(root):
    path = create(root)
    write_all(root, path)
    root.write_bytes("runs/c3d-01/_SUCCESS.json", b"{}")
    for name in values(0, 1):
        shutil.rmtree(Path(root.join(path), name, "c"))
    dataset = open_run(root.join("runs/c3d-01"))
    assert dataset.deep_taylor.chunks[0] == (1,) * N_CLIPS
    assert dataset.sizes["clip"] == N_CLIPS
    assert np.isnan(dataset.deep_taylor[0]).all()


def test_a_run_opens_in_real_units(any_root):
    path = create(any_root)
    write_all(any_root, path)
    any_root.write_bytes("runs/c3d-01/_SUCCESS.json", b"{}")
    dataset = open_run(any_root.join("runs/c3d-01"))
    assert set(dataset.data_vars) == {
        "deep_taylor",
        "grad_cam",
        "logits",
        "target",
        "predicted",
        "conservation_error",
    }
    assert dataset.deep_taylor.dtype == np.float32
    assert dataset.deep_taylor.attrs["units"] == "share of the decision"
    assert "scale" not in dataset.deep_taylor.attrs
    largest = np.abs(relevance()).max(axis=(1, 2, 3), keepdims=True)
    assert (
        np.abs(dataset.deep_taylor.values - relevance()) <= 2.0**-11 * np.abs(relevance()) + 6e-8 * largest
    ).all()
    np.testing.assert_array_equal(
        dataset.grad_cam.values[4:8], read_relevance(any_root, path, "grad_cam", 4, 8)
    )


def test_an_unfinished_run_is_opened_only_on_request(root):
    create(root)
    with pytest.raises(cubes.UnfinishedRun, match="is not finished"):
        open_run(root.join("runs/c3d-01"))
    dataset = open_run(root.join("runs/c3d-01"), unfinished=True)
    assert np.isnan(dataset.deep_taylor).all()
    assert (dataset.target == -1).all()
    with pytest.raises(FileNotFoundError, match="selrel runs"):
        open_run(root.join("runs/c3d-02"))


def test_frames_and_motion_come_back(any_root):
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (N_CLIPS, *CUBE, 3), np.uint8)
    flow = random.normal(size=(N_CLIPS, *CUBE, 2)).astype(np.float16)
    flow[-1, -1] = np.nan
    camera = random.normal(size=(N_CLIPS, LENGTH, 2, 3)).astype(np.float32)
    sizes = {"length": LENGTH, "height": HEIGHT, "width": WIDTH, "block_clips": BLOCK}
    paths = any_root.dataset("01")
    cubes.create_frames(any_root, paths.frames, columns(), **sizes, attrs={"view": {"crop": [6, 8]}})
    cubes.create_motion(any_root, paths.motion, columns(), **sizes)
    for start, stop in blocks.blocks(N_CLIPS, BLOCK):
        hashes = write_block(any_root, paths.frames, start, {"frames": frames[start:stop]})
        assert hashes.sha256 == clip_hashes(start, {"frames": frames[start:stop]})
        write_block(any_root, paths.motion, start, {"flow": flow[start:stop], "camera": camera[start:stop]})
    stored = xr.open_zarr(any_root.zarr_store(paths.frames, read_only=True))
    np.testing.assert_array_equal(stored.frames, frames)
    assert stored.frames.dims == ("clip", "time", "y", "x", "channel")
    assert stored.channel.values.tolist() == ["R", "G", "B"]
    stored = xr.open_zarr(any_root.zarr_store(paths.motion, read_only=True))
    np.testing.assert_array_equal(stored.flow, flow)
    np.testing.assert_array_equal(stored.camera, camera)
    assert stored.camera.dims == ("clip", "time", "component", "term")
    assert stored.term.values.tolist() == ["x", "y", "1"]
    assert stored.flow.attrs["units"] == "px/frame"
    assert stored.component.values.tolist() == ["x", "y"]


def test_a_block_is_one_object_of_every_array(root):
    path = create(root)
    write_all(root, path)
    for name in values(0, 1):
        assert len(objects(root, path, name)) == 3, name
    layout = json.loads(Path(root.join(path), "deep_taylor", "zarr.json").read_text())
    assert layout["chunk_grid"]["configuration"]["chunk_shape"] == [BLOCK, *CUBE]
    sharding = layout["codecs"][0]["configuration"]
    assert sharding["chunk_shape"] == [1, *CUBE]
    assert {"name": "zstd", "configuration": {"level": 1, "checksum": True}} in sharding["codecs"]
    assert layout["fill_value"] == "NaN"
    assert layout["dimension_names"] == ["clip", "time", "y", "x"]


@pytest.mark.parametrize("name", list(values(0, 1)))
def test_a_write_that_fails_is_not_swallowed(root, name):
    path = create(root)
    write_block(root, path, 0, values(0, BLOCK))
    (written,) = objects(root, path, name)
    written.unlink()
    written.mkdir()
    with pytest.raises(OSError, match=name):
        write_block(root, path, 0, values(0, BLOCK))


def test_writing_again_gives_the_same_files(root):
    path = create(root)
    write_all(root, path)
    before = {file: file.read_bytes() for file in Path(root.join(path)).rglob("*") if file.is_file()}
    create(root)
    write_all(root, path)
    assert {file: file.read_bytes() for file in Path(root.join(path)).rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("fill", [0, np.nan])
def test_a_block_that_holds_only_the_fill_value_is_there_all_the_same(root, fill):
    sizes = {"length": LENGTH, "height": HEIGHT, "width": WIDTH, "block_clips": BLOCK}
    name, make, dtype, last = {
        0: ("frames", cubes.create_frames, np.uint8, 3),
    }.get(fill, ("flow", cubes.create_motion, np.float16, 2))
    make(root, "a.zarr", columns(), **sizes)
    empty = np.full((BLOCK, *CUBE, last), fill, dtype)
    write_block(root, "a.zarr", 0, {name: empty})
    np.testing.assert_array_equal(read_block(root, "a.zarr", 0, BLOCK, [name])[name], empty)
    with pytest.raises(MissingBlock, match="clips from 4"):
        read_block(root, "a.zarr", 0, BLOCK + 1, [name])


def read_with_xarray(root, path, name):
    return xr.open_zarr(root.join(path))[name].values


@pytest.mark.parametrize("name", ["deep_taylor", "logits"])
@pytest.mark.parametrize("block", [0, 2])
def test_a_flipped_bit_is_noticed(root, name, block):
    path = create(root)
    write_all(root, path)
    file = objects(root, path, name)[block]
    sound, whole = file.read_bytes(), values(0, N_CLIPS)[name]
    start, stop = blocks.blocks(N_CLIPS, BLOCK)[block]
    bits = np.random.default_rng(block).integers(0, len(sound) * 8, 150).tolist()
    noticed = 0
    for bit in bits:
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            found = read_block(root, path, start, stop, [name])[name]
        except DamagedBlock as error:
            noticed += 1
            assert "\n" not in str(error)
            assert f"{name} is damaged in clips {start}:{stop}" in str(error)
        else:
            # A bit that means nothing (reserved, in a frame's header) may flip; a value never does.
            np.testing.assert_array_equal(found, whole[start:stop])
    assert noticed >= 0.9 * len(bits)


def test_a_flipped_bit_is_noticed_by_plain_xarray(root):
    path = create(root)
    write_all(root, path)
    file = objects(root, path, "deep_taylor")[1]
    damaged = bytearray(file.read_bytes())
    damaged[100] ^= 4
    file.write_bytes(damaged)
    with pytest.raises(RuntimeError, match="checksum"):
        read_with_xarray(root, path, "deep_taylor")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("name", ["grad_cam", "grad_cam_scale"])
def test_a_truncated_object_is_noticed(root, share, name):
    path = create(root)
    write_all(root, path)
    file = objects(root, path, name)[1]
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DamagedBlock):
        read_block(root, path, 4, 8)
    read_block(root, path, 0, 4)


@pytest.mark.parametrize("block", [1, 2])
def test_a_deleted_shard_reads_as_nan_and_does_not_fit_its_receipt(root, block):
    path = create(root)
    hashes = write_all(root, path)
    objects(root, path, "deep_taylor")[block].unlink()
    start, stop = blocks.blocks(N_CLIPS, BLOCK)[block]
    found = read_with_xarray(root, path, "deep_taylor")
    assert np.isnan(found[start:stop]).all()
    assert not np.isnan(found[:start]).any()
    whole = {**values(start, stop), "deep_taylor": found[start:stop].astype(np.float16)}
    assert not set(clip_hashes(start, whole).items()) & set(hashes[block].sha256.items())
    with pytest.raises(MissingBlock, match=f"clips from {start}"):
        read_block(root, path, start, stop)


@pytest.mark.parametrize("damage", [b"", b"damaged", bytes(2000), bytes(2**17)])
@pytest.mark.parametrize("block", [0, 2])
def test_a_damaged_block_is_repaired_by_writing_it_again(any_root, block, damage):
    path = create(any_root)
    hashes = write_all(any_root, path)
    start, stop = blocks.blocks(N_CLIPS, BLOCK)[block]
    any_root.write_bytes(f"{path}/deep_taylor/c/{block}/0/0/0", damage)
    with pytest.raises(DamagedBlock):
        read_block(any_root, path, start, stop)
    assert write_block(any_root, path, start, values(start, stop)) == hashes[block]
    found = read_block(any_root, path, start, stop)
    assert clip_hashes(start, found) == hashes[block].sha256


@pytest.mark.slow
def test_two_processes_that_write_different_blocks_lose_nothing(any_root):
    n_clips = 121
    sizes = {"length": 2, "height": 4, "width": 4, "block_clips": 4}
    cubes.create_frames(any_root, "a.zarr", columns(n_clips), **sizes)
    frames = np.random.default_rng(0).integers(1, 256, (n_clips, 2, 4, 4, 3), np.uint8)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        writes = [
            pool.submit(write_block, any_root, "a.zarr", start, {"frames": frames[start:stop]})
            for start, stop in blocks.blocks(n_clips, 4)
        ]
        hashes = [write.result().sha256 for write in writes]
        assert len({process.pid for process in pool._processes.values()}) == 2
    np.testing.assert_array_equal(read_block(any_root, "a.zarr", 0, n_clips)["frames"], frames)
    whole = clip_hashes(0, {"frames": frames})
    assert {clip: found for block in hashes for clip, found in block.items()} == whole


@pytest.mark.parametrize(
    ("start", "array", "message"),
    [
        (2, np.zeros(4, np.int32), "clip 2 starts no block; blocks start at 0, 4"),
        (12, np.zeros(4, np.int32), "clip 12 starts no block"),
        (-4, np.zeros(4, np.int32), "clip -4 starts no block"),
        (0, np.zeros(3, np.int32), r"int32 \(3,\) does not fit; the block at clip 0 is int32 \(4,\)"),
        (8, np.zeros(4, np.int32), r"the block at clip 8 is int32 \(2,\)"),
        (0, np.zeros(4, np.int64), r"int64 \(4,\) does not fit"),
        (0, np.zeros((4, 1), np.int32), "does not fit"),
    ],
)
def test_what_is_not_one_whole_block_is_refused_before_anything_is_written(root, start, array, message):
    path = create(root)
    sound = values(8, 10)["logits"] if start == 8 else values(0, 4)["logits"]
    with pytest.raises(ValueError, match=message):
        write_block(root, path, start, {"logits": sound, "target": array})
    assert objects(root, path, "logits") == objects(root, path, "target") == []


def test_an_array_or_group_or_range_that_is_not_there_is_named(root):
    path = create(root)
    with pytest.raises(ValueError, match=r"no array 'lime'.*deep_taylor, .*grad_cam"):
        write_block(root, path, 0, {"lime": np.zeros(4)})
    with pytest.raises(FileNotFoundError, match=r"no zarr group at .*b\.zarr"):
        read_block(root, "b.zarr", 0, 1)
    with pytest.raises(FileNotFoundError, match=r"no zarr group at .*b\.zarr"):
        write_block(root, "b.zarr", 0, {"frames": np.zeros(4)})
    for start, stop in ((-1, 2), (2, 2), (0, 11)):
        with pytest.raises(ValueError, match="are not among 0:10"):
            read_block(root, path, start, stop)


def test_creating_again_keeps_what_is_there(any_root):
    path = create(any_root)
    hashes = write_all(any_root, path)
    assert create(any_root) == path
    found = read_block(any_root, path, 0, 4)
    assert clip_hashes(0, found) == hashes[0].sha256


@pytest.mark.parametrize(
    "changed",
    [
        {"block_clips": 5},
        {"height": 5},
        {"methods": {"deep_taylor": {}}},
        {"outputs": OUTPUTS[::-1]},
        {"attrs": {"checkpoint_sha256": "cd" * 32}},
        {"columns": columns() | {"group": ["Archery/g02"] * N_CLIPS}},
        {"columns": columns(9)},
    ],
)
def test_creating_otherwise_is_refused(root, changed):
    path = create(root)
    before = Path(root.join(path), "zarr.json").read_bytes()
    with pytest.raises(TemplateMismatch, match="was made from other clips"):
        create(root, **changed)
    assert Path(root.join(path), "zarr.json").read_bytes() == before


@pytest.mark.parametrize("writes", [0, 1, 7, 20])
def test_a_creation_that_was_cut_short_is_taken_up_again(root, monkeypatch, writes):
    left = iter(range(writes))

    def cut(self, path, data):
        next(left)
        sound(self, path, data)

    sound = Root.write_bytes
    with monkeypatch.context() as cutting, pytest.raises(StopIteration):
        cutting.setattr(Root, "write_bytes", cut)
        create(root)
    path = create(root, height=5)
    assert xr.open_zarr(root.join(path)).sizes["y"] == 5
    assert create(root, height=5) == path


def test_a_group_created_again_is_the_same_to_the_byte(root):
    written = cubes.create_frames(root, "a.zarr", columns(), length=2, height=4, width=4, block_clips=4)
    assert set(written.files) == {f"a.zarr/{f.relative_to(root.join('a.zarr'))}" for f in files_below(root)}
    for path in written.files:
        root.delete(path)
    again = cubes.create_frames(root, "a.zarr", columns(), length=2, height=4, width=4, block_clips=4)
    assert again == written
    assert file_hashes(root, written.files) == written


def files_below(root):
    return [file for file in Path(root.join("a.zarr")).rglob("*") if file.is_file()]


@pytest.mark.parametrize("method", ["logits", "video", "time", "target", "deep_taylor_scale"])
def test_a_method_needs_a_name_of_its_own(root, method):
    with pytest.raises(ValueError, match="names of their own"):
        create(root, methods={method: {}, "deep_taylor": {}})


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"video": []},
        {"video": ["a"], "group": ["a", "b"]},
        {"video": [object()]},
        {"video": [None]},
        {"video": [["a", "b"]]},
    ],
)
def test_columns_hold_one_number_or_string_a_clip(root, bad):
    with pytest.raises(ValueError, match="one (value|number)"):
        create(root, columns=bad)
    assert root.listdir("") == []


def test_the_time_axis_is_that_of_the_usual_rate(root):
    mixed = columns() | {"fps": [29.97] * 2 + [25.0] * 7 + [0.0]}
    dataset = xr.open_zarr(root.join(create(root, columns=mixed)))
    np.testing.assert_allclose(dataset.time, np.arange(LENGTH) / 25)
    assert "rate of each clip" in dataset.time.attrs["comment"]
    unknown = columns() | {"fps": [0.0] * 9 + [np.nan]}
    dataset = xr.open_zarr(root.join(create(root, "b.zarr", columns=unknown)))
    assert dataset.time.values.tolist() == [0, 1, 2, 3]
    assert dataset.time.attrs["units"] == "frame"


@given(seed=st.integers(0, 2**32 - 1), power=st.floats(-37, 37), spread=st.floats(0, 30))
def test_a_cube_keeps_its_signs_and_its_values_to_eleven_bits(seed, power, spread):
    random = np.random.default_rng(seed)
    magnitude = 10.0 ** (power - spread * random.random((2, *CUBE)))
    cube = (random.choice([-1.0, 0.0, 1.0], (2, *CUBE)) * magnitude).astype(np.float32)
    stored, scale = encode(cube)
    assert stored.dtype == np.float16
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(scale, np.abs(cube).max(axis=(1, 2, 3)))
    assert np.abs(stored).max() <= 1
    np.testing.assert_array_equal(np.sign(stored), np.sign(cube))
    exact = cube.astype(np.float64) / scale[:, None, None, None]
    error = np.abs(stored.astype(np.float64) - exact)
    assert (error <= np.maximum(2.0**-11 * 1.001 * np.abs(exact), 6e-8)).all()


def test_a_cube_of_zeros_stays_one():
    stored, scale = encode(np.zeros((1, *CUBE), np.float32))
    assert scale.tolist() == [0]
    assert not np.signbit(scale).any()
    np.testing.assert_array_equal(decode(stored, scale), np.zeros((1, *CUBE)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_cube_that_is_not_finite_is_refused(bad):
    cubes_of_block = relevance(3)
    cubes_of_block[1, 0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"cubes \[1\] of the block hold NaN"):
        encode(cubes_of_block)
