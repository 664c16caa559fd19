import sys

import moderngl
import pytest
import torch

from doublure.verbs.doctor import doctor


def offered(name: str) -> dict:
    return next(offer for offer in doctor() if offer["name"] == name)


def test_every_offer_says_what_is_there_or_why_not():
    for offer in doctor():
        assert offer.keys() == {"name", "there", "detail", "add"}
        assert offer["detail"]
        assert "\n" not in offer["detail"]


def test_what_is_there_needs_no_command_to_add_it():
    assert [offer["name"] for offer in doctor() if offer["there"] and offer["add"]] == []


def test_packages_are_named_with_their_versions():
    assert f"torch {torch.__version__}" in offered("packages")["detail"]


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("timm", "timm torchvision huggingface-hub"),
        ("torchvision", "timm torchvision huggingface-hub"),
        ("torch.utils.tensorboard", "tensorboard"),
        ("tokenizers", "tokenizers sacrebleu"),
        ("sacrebleu", "tokenizers sacrebleu"),
    ],
)
def test_an_absent_extra_comes_with_the_command_that_adds_it(monkeypatch, name, packages):
    monkeypatch.setitem(sys.modules, name, None)
    offer = offered(name)
    assert offer["there"] is False
    assert offer["add"] == f"pip install {packages}"


def test_a_machine_without_egl_is_told_why_and_what_to_install(monkeypatch):
    def no_context(**_):
        raise RuntimeError("libEGL.so.1 not loaded")

    monkeypatch.setattr(moderngl, "create_context", no_context)
    offer = offered("OpenGL")
    assert offer["there"] is False
    assert offer["detail"] == "no EGL context: libEGL.so.1 not loaded"
    assert "libegl1" in offer["add"]
