import torch

from doublure.core.protocols import Batch, image_batch


def test_views_that_are_one_are_changed_once_and_stay_one():
    seen = []

    def change(view):
        seen.append(view)
        return view + 1

    batch = image_batch(torch.zeros(2, 1, 4, 4), labels=torch.zeros(2, dtype=torch.int64))
    made = batch.map_views(change, labels=None)
    assert len(seen) == 1
    assert made.views["student"] is made.views["teacher"]
    assert made.images.eq(1).all()
    assert made.labels is None
    assert batch.images.eq(0).all()


def test_views_that_differ_are_changed_each():
    batch = Batch(views={"student": torch.zeros(1, 1, 2, 2), "teacher": torch.ones(1, 1, 4, 4)})
    made = batch.map_views(lambda view: view + 1)
    assert [made.views[name].unique().item() for name in ("student", "teacher")] == [1, 2]
