"""REFs are taken apart by their form alone; what is wrong with one is said in a line."""

import pytest

from doublure.nets.references import NetworkRef, parse


@pytest.mark.parametrize(
    ("ref", "kind", "target"),
    [
        ("builtin/resnet20", "builtin", "resnet20"),
        ("timm/resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
        ("torchvision/resnet18", "torchvision", "resnet18"),
        ("hf:org/name", "hf", "org/name"),
        ("file:net.py:make_net", "file", "net.py:make_net"),
        ("file:C:/my nets/net.py:make", "file", "C:/my nets/net.py:make"),
        ("python:Net", "python", "Net"),
        ("runs/first", "student", "runs/first"),
        ("runs/first/student.json", "student", "runs/first/student.json"),
        ("out/student.pt2", "program", "out/student.pt2"),
    ],
)
def test_the_form_of_a_reference_tells_its_kind(ref, kind, target):
    parsed = parse(ref)
    assert (parsed.kind, parsed.target, parsed.text) == (kind, target, ref)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("", "an empty reference"),
        ("builtin/", r"'builtin/' is incomplete; the form is builtin/NAME"),
        ("hf:name", "the form is hf:ORG/NAME"),
        ("hf:org/", "the form is hf:ORG/NAME"),
        ("file:net.py", r"the form is file:net\.py:make_net"),
        ("file:net.py:", r"the form is file:net\.py:make_net"),
        ("model.pth", r"is a file of weights.*--weights model\.pth"),
        ("a/model.safetensors", "is a file of weights without an architecture"),
    ],
)
def test_an_incomplete_reference_is_refused(ref, message):
    with pytest.raises(ValueError, match=message):
        parse(ref)


def test_names_must_be_as_many_as_the_classes():
    with pytest.raises(ValueError, match=r"one entry per class \(3\), got 2"):
        NetworkRef(ref="builtin/resnet20", classes=3, names=("cat", "dog"))
