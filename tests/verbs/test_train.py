"""The verb `train`."""

from PIL import Image

from tests.command import command


def test_unreadable_images_are_named_and_left_out_where_that_is_asked_for(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for shade in range(4):
            Image.new("L", (8, 8), 50 * shade + len(name)).save(
                tmp_path / "data" / name / f"{shade}.png"
            )
    (tmp_path / "data" / "cat" / "bad.png").write_bytes(b"nothing")
    words = f"train --net builtin/convnet-3 --data {tmp_path / 'data'} --steps 1 --batch-size 4"
    refused = command(*words.split(), "--out", tmp_path / "run")
    assert refused.status == 1
    assert "1 of 9 images" in refused.reason
    assert refused.reason.endswith("or leave them out with skip_bad (--skip-bad)")
    assert not (tmp_path / "run").exists()
    assert command(*words.split(), "--out", tmp_path / "run", "--skip-bad").status == 0
