from pathlib import Path

import pytest

from doublure.core.protocols import InputContract
from doublure.data.class_folders import find_split, list_images, listing_digest, map_folders


def contract(classes=3, names=None):
    return InputContract(
        size=(4, 4), channels=1, mean=(0.5,), std=(0.5,), classes=classes, names=names
    )


def tree(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_images_are_labelled_by_the_folder_they_lie_in_at_any_depth(tmp_path):
    tree(tmp_path, "b/1.JPG", "a/2.png", "a/deep/1.png", "a/notes.txt", ".hidden/1.png")
    listing = list_images(tmp_path, None)
    assert listing.folders == ("a", "b")
    assert [path.relative_to(tmp_path).as_posix() for path in listing.paths] == [
        "a/2.png",
        "a/deep/1.png",
        "b/1.JPG",
    ]
    assert listing.labels == (0, 0, 1)
    assert listing.others == 1


def test_a_flat_folder_has_no_labels(tmp_path):
    listing = list_images(tree(tmp_path, "2.png", "1.png"), None)
    assert [path.name for path in listing.paths] == ["1.png", "2.png"]
    assert listing.folders is None
    assert listing.labels is None


def test_labels_can_be_left(tmp_path):
    listing = list_images(tree(tmp_path, "b/1.png", "a/1.png", "0.png"), False)
    assert listing.labels is None
    assert len(listing.paths) == 3


def test_labels_demanded_of_a_flat_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no class folders"):
        list_images(tree(tmp_path, "1.png"), True)


def test_images_beside_class_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="1 images beside its class folders"):
        list_images(tree(tmp_path, "1.png", "a/1.png"), None)


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"holds no images \(it is empty"):
        list_images(tmp_path, None)
    with pytest.raises(ValueError, match=r"1 other files: \.txt"):
        list_images(tree(tmp_path, "a/readme.txt"), None)


def test_numbers_are_sorted_as_numbers(tmp_path):
    tree(tmp_path, *(f"{index}/1.png" for index in range(11)))
    assert list_images(tmp_path, None).folders == tuple(str(index) for index in range(11))


def test_an_empty_class_folder_stands_for_nothing(tmp_path):
    tree(tmp_path, "a/1.png", "b/readme.txt")
    listing = list_images(tmp_path, None)
    assert (listing.folders, listing.bare) == (("a",), ("b",))


def test_where_the_order_tells_the_classes_an_empty_folder_leaves_it_open(tmp_path):
    tree(tmp_path, "b/1.png", "a/readme.txt")
    listing = list_images(tmp_path, None)
    with pytest.raises(ValueError, match=r"a holds no image, so the sorted order does not tell"):
        map_folders(listing.folders, contract(), tmp_path, bare=listing.bare)
    named = contract(names=("a", "b", "c"))
    assert map_folders(listing.folders, named, tmp_path, bare=listing.bare) == ((1,), ())
    assert map_folders(["b", "c", "d"], contract(), tmp_path, bare=["a"])[0] == (0, 1, 2)


def test_the_networks_names_place_the_folders_whatever_their_case():
    found, notes = map_folders(["Cat", "dog"], contract(names=("dog", "bird", "CAT")), Path("x"))
    assert found == (2, 0)
    assert notes == ()


def test_the_exact_name_wins_over_the_same_letters():
    found, _ = map_folders(["us"], contract(names=("US", "us", "uk")), Path("x"))
    assert found == (1,)


def test_without_names_the_sorted_order_is_told():
    found, notes = map_folders(["a", "b", "c"], contract(), Path("x"))
    assert found == (0, 1, 2)
    assert notes == ("folder names map to classes in sorted order: 0=a, 1=b, 2=c",)


def test_too_few_folders_without_names_are_taken_with_a_warning_in_the_notes():
    _, notes = map_folders(["a"], contract(), Path("x"))
    assert "1 folders for 3 classes and no class names" in notes[1]


@pytest.mark.parametrize(
    ("folders", "names", "message"),
    [
        (["a", "b", "c", "d"], None, "4 class folders, but the network has 3 classes"),
        (["cta", "dgo"], ("cat", "dog", "cow"), "no class of the network is called cta, dgo"),
        (["crane"], ("Crane", "CRANE", "x"), "several classes of the network are called crane"),
        (["cat", "Cat"], ("cat", "dog", "cow"), "two folders stand for one class"),
    ],
)
def test_folders_that_cannot_be_placed_are_refused(folders, names, message):
    with pytest.raises(ValueError, match=message):
        map_folders(folders, contract(names=names), Path("x"))


def test_a_divided_folder_gives_the_part_asked_for(tmp_path):
    tree(tmp_path, "train/a/1.png", "val/a/1.png")
    assert find_split(tmp_path, "train") == tmp_path / "train"
    assert find_split(tmp_path, "test") == tmp_path / "val"
    assert find_split(tmp_path / "val", "train") == tmp_path / "val"


def test_a_part_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds only train: no part for test"):
        find_split(tree(tmp_path, "train/a/1.png"), "test")


def test_the_digest_follows_names_and_sizes_wherever_the_folder_lies(tmp_path):
    digests = []
    for place in ("here", "there"):
        root = tree(tmp_path / place, "a/1.png", "b/1.png")
        digests.append(listing_digest(root, list_images(root, None).paths))
    assert digests[0] == digests[1]
    (root / "a/1.png").write_bytes(b"longer")
    assert listing_digest(root, list_images(root, None).paths) != digests[0]
