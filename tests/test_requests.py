"""How many requests it takes to open one cube of a run on S3."""

import numpy as np

from storage.arrays import cubes
from storage.arrays.cubes import encode, open_run, write_block
from storage.stores.root import Root
from tests.counting_proxy import counting_proxy
from tests.servers import BUCKET, s3_client

N_CLIPS, SHAPE = 16, (16, 28, 28)


def write_run(root):
    run = root.run("c3d-01")
    columns = {"video": [f"v{clip}" for clip in range(N_CLIPS)], "fps": np.full(N_CLIPS, 25.0)}
    length, height, width = SHAPE
    cubes.create_relevance(
        root,
        run.relevance,
        columns,
        methods={"deep_taylor": {}, "grad_cam": {}},
        outputs=["a", "b"],
        length=length,
        height=height,
        width=width,
        block_clips=N_CLIPS,
    )
    relevance = np.random.default_rng(0).normal(size=(N_CLIPS, *SHAPE)).astype(np.float32)
    values, scale = encode(relevance)
    for name in ("deep_taylor", "grad_cam"):
        write_block(root, run.relevance, 0, {name: values, f"{name}_scale": scale})
    root.write_json(run.success, {})
    return relevance


def test_one_cube_of_a_cold_store_is_one_range_read_and_that_of_its_index(server):
    with s3_client(server):
        relevance = write_run(Root(f"s3://{BUCKET}/root"))
    port = int(server.url.rpartition(":")[2])
    with counting_proxy(port) as (url, requests), s3_client(server, AWS_ENDPOINT_URL=url):
        opened = open_run(f"s3://{BUCKET}/root/runs/c3d-01")
        before = len(requests)
        found = opened.deep_taylor[5].values
        made = requests[before:]
    np.testing.assert_allclose(found, relevance[5], rtol=1e-3, atol=1e-6)
    shard = [request for request in made if "/deep_taylor/c/" in request.path]
    assert [request.method for request in shard] == ["GET", "GET"]
    index, chunk = (request.byte_range for request in shard)
    assert index == f"bytes=-{16 * N_CLIPS + 4}"
    first, last = map(int, chunk.removeprefix("bytes=").split("-"))
    assert last - first < 2.5 * relevance[5].size, "one clip, not the block"
    # Beside the cube: its scale, in one small object.
    assert {request.path.split("relevance.zarr/")[1].split("?")[0] for request in made} == {
        "deep_taylor/c/0/0/0/0",
        "deep_taylor_scale/c/0",
    }
    assert len(made) <= 4
    assert before < 40
