import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from doublure.core.seeding import from_seed
from doublure.sources.image_pool import (
    FilePool,
    ImagePool,
    MemoryPool,
    check_shape,
    open_pool,
    to_bytes,
    to_images,
)
from tests import tiny


def drawn(count: int, seed: int = 0) -> Tensor:
    shape = (count, 1, 8, 8)
    return torch.randint(256, shape, generator=from_seed(seed), dtype=torch.uint8)


@pytest.fixture(params=["memory", "file"])
def pool(request, tmp_path: Path) -> ImagePool:
    context = dataclasses.replace(
        tiny.context(), scratch=None if request.param == "memory" else tmp_path
    )
    return open_pool(context, tiny.rng(), 20)


def test_what_is_appended_comes_back_in_its_order(pool):
    pool.append(drawn(5))
    pool.append(drawn(0))
    pool.append(drawn(7, seed=1))
    whole = torch.cat([drawn(5), drawn(7, seed=1)])
    assert len(pool) == 12
    picks = torch.tensor([11, 0, 5, 0])
    assert torch.equal(pool.read(picks), whole[picks])


def test_what_was_read_may_be_written_into(pool):
    pool.append(drawn(3))
    pool.read(torch.tensor([1])).zero_()
    assert torch.equal(pool.read(torch.arange(3)), drawn(3))


def test_what_came_after_the_state_is_gone_when_it_is_loaded(pool):
    pool.append(drawn(4))
    state = pool.state_dict()
    pool.append(drawn(6, seed=1))
    pool.load_state_dict(state)
    assert len(pool) == 4
    pool.append(drawn(2, seed=2))
    expected = torch.cat([drawn(4), drawn(2, seed=2)])
    assert torch.equal(pool.read(torch.arange(6)), expected)


def test_a_pool_is_a_file_where_the_site_has_a_folder_and_the_images_are_trained_on(tmp_path):
    context = dataclasses.replace(tiny.context(), scratch=tmp_path)
    assert isinstance(open_pool(context, tiny.rng(), 4), FilePool)
    held_out = dataclasses.replace(context, split="held_out")
    assert isinstance(open_pool(held_out, tiny.rng(), 4), MemoryPool)
    assert isinstance(open_pool(tiny.context(), tiny.rng(), 4), MemoryPool)


def test_pools_of_two_seeds_and_of_two_processes_are_files_of_their_own(tmp_path):
    for rank, seed in ((0, 0), (1, 0), (0, 1)):
        context = dataclasses.replace(tiny.context(), scratch=tmp_path, rank=rank, world=2)
        open_pool(context, tiny.rng(seed), 4).append(drawn(1))
    assert len(list(tmp_path.glob("*.u8"))) == 3


def test_images_come_back_from_bytes_within_half_a_step():
    images = torch.rand(5, 1, 8, 8, generator=from_seed(0))
    back = to_images(to_bytes(images), torch.device("cpu"))
    assert (images - back).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(to_bytes(back), to_bytes(images))


def test_images_that_are_not_finite_or_of_another_size_are_refused():
    with pytest.raises(ValueError, match="values that are not finite"):
        to_bytes(torch.full((1, 1, 8, 8), torch.nan))
    with pytest.raises(ValueError, match=r"change the size outside of Replay"):
        check_shape(drawn(2)[..., :4], tiny.context(), "Replay")
