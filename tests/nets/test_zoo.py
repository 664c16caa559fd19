"""Hubs: what their weights expect, networks without weights, and no code of strangers.

Nothing is downloaded here: the hub's files are made on the spot.
"""

import json
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from doublure.core import optional
from doublure.nets.references import parse
from doublure.nets.zoo import architecture_of, build_from_hub, stated_by_hub


def needs(package: str) -> pytest.MarkDecorator:
    reason = optional.reason_absent(package)
    return pytest.mark.skipif(reason is not None, reason=f"{package}: {reason}")


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Callable[..., None]:
    """Serve the given files as one repository of the Hugging Face hub."""
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def serve(**files: Any) -> None:
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))

        def download(repo_id: str, filename: str, **options: Any) -> str:
            if not (tmp_path / filename).exists():
                raise huggingface_hub.errors.EntryNotFoundError(f"404 for {repo_id}/{filename}")
            return str(tmp_path / filename)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        if optional.reason_absent("timm") is not None:
            monkeypatch.setitem(sys.modules, "timm", ModuleType("timm"))
        else:
            # timm binds the function when it is imported.
            timm_hub = optional.require("timm.models._hub")
            monkeypatch.setattr(timm_hub, "hf_hub_download", download)

    return serve


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"auto_map": {"AutoModel": "net.Net"}},
            "has its own code, and code of a repository is",
        ),
        ({"architectures": ["ViTModel"]}, r"has no timm model.*file:net\.py:make_net --weights"),
        ([], "has no timm model"),
    ],
)
def test_a_repository_that_needs_its_own_code_is_refused(hub, config, message):
    hub(config=config)
    with pytest.raises(ValueError, match=message):
        stated_by_hub(parse("hf:org/name"))


def test_a_repository_that_cannot_be_reached_is_refused(hub):
    hub()
    with pytest.raises(ValueError, match=r"config\.json cannot be downloaded \(404 for org/name"):
        stated_by_hub(parse("hf:org/name"))


def test_without_timm_nothing_is_fetched(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("fetched"))
    monkeypatch.setattr(optional, "reason_absent", lambda name: "gone" if name == "timm" else None)
    with pytest.raises(optional.MissingExtraError, match="timm cannot be imported"):
        stated_by_hub(parse("hf:org/name"))


@pytest.mark.parametrize("ref", ["timm/resnet18", "torchvision/resnet18"])
def test_an_absent_package_says_how_to_add_it(ref, monkeypatch):
    def absent(name: str) -> str:
        return "ModuleNotFoundError: gone"

    monkeypatch.setattr(optional, "reason_absent", absent)
    with pytest.raises(
        optional.MissingExtraError, match=r"pip install timm torchvision huggingface-hub"
    ):
        stated_by_hub(parse(ref))


@needs("timm")
def test_timm_states_what_its_weights_expect():
    said = stated_by_hub(parse("timm/resnet18.a1_in1k"))
    assert (said.size, said.channels, said.classes) == ((224, 224), 3, 1000)
    assert (said.mean, said.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (said.interpolation, said.crop_pct) == ("bicubic", 0.95)


@needs("timm")
def test_timm_networks_take_classes_channels_and_size():
    reference = parse("timm/test_vit")
    network = build_from_hub(reference, classes=7, channels=1, size=(32, 32), pretrained=False)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert architecture_of(reference) == "timm/test_vit"


@needs("timm")
def test_a_timm_network_without_a_classifier_states_no_classes():
    assert stated_by_hub(parse("timm/vit_small_patch14_dinov2.lvd142m")).classes is None


@needs("timm")
@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("timm/resnet81", "no image classifier 'resnet81'; near: resnet18"),
        ("timm/resnet18.nope", r"timm/resnet18\.nope: Invalid pretrained tag"),
    ],
)
def test_an_unknown_timm_name_is_refused_with_near_ones(ref, message):
    with pytest.raises(ValueError, match=message):
        stated_by_hub(parse(ref))


@needs("timm")
def test_a_timm_model_on_the_hub_is_read_from_its_config(hub):
    named = {"input_size": [3, 160, 160], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    config = {
        "architecture": "test_resnet",
        "num_classes": 2,
        "label_names": ["cat", "dog"],
        "pretrained_cfg": {**named, "interpolation": "bilinear", "crop_pct": 1.0},
    }
    hub(config=config)
    reference = parse("hf:org/name")
    said = stated_by_hub(reference)
    assert (said.size, said.classes, said.names) == ((160, 160), 2, ("cat", "dog"))
    assert (said.mean, said.crop_pct) == ((0.1, 0.2, 0.3), 1.0)
    network = build_from_hub(reference, classes=2, channels=3, size=(64, 64), pretrained=False)
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
    assert architecture_of(reference) == "timm/test_resnet"
    hub(config={**config, "model_args": {"act_layer": "gelu"}})
    assert architecture_of(reference) == "hf:org/name"


@needs("torchvision")
def test_torchvision_states_what_its_weights_expect():
    said = stated_by_hub(parse("torchvision/resnet50"))
    assert (said.size, said.channels, said.classes) == ((224, 224), 3, 1000)
    assert said.crop_pct == pytest.approx(224 / 232)
    assert said.names is not None
    assert said.names[0] == "tench"
    older = stated_by_hub(parse("torchvision/resnet50.IMAGENET1K_V1"))
    assert older.crop_pct == pytest.approx(224 / 256)
    assert older.interpolation == "bilinear"


@needs("torchvision")
@pytest.mark.parametrize("name", ["resnet18", "vit_b_32", "googlenet", "inception_v3"])
def test_torchvision_networks_answer_logits_in_both_modes(name):
    size = (96, 96) if name != "inception_v3" else (128, 128)
    reference = parse(f"torchvision/{name}")
    network = build_from_hub(reference, classes=7, channels=3, size=size, pretrained=False)
    for mode in (True, False):
        assert network.train(mode)(torch.zeros(2, 3, *size)).shape == (2, 7)


@needs("torchvision")
@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_weights_of_torchvision_are_read_as_weights_only(name, monkeypatch, capsys):
    reference = parse(f"torchvision/{name}")
    models = optional.require("torchvision").models
    extra = {} if name == "resnet18" else {"aux_logits": True, "init_weights": False}
    published = models.get_model(name, **extra).state_dict()
    asked = {}

    def fetch(self: Any, **options: Any) -> dict[str, Any]:
        asked.update(options)
        print("Downloading")  # noqa: T201  # as torch.hub does
        return dict(published)

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", fetch)
    network = build_from_hub(reference, classes=1000, channels=3, size=(224, 224), pretrained=True)
    assert asked["weights_only"] is True
    assert asked["check_hash"] is True
    assert torch.equal(network.state_dict()["fc.weight"], published["fc.weight"])
    assert capsys.readouterr().out == ""


@needs("torchvision")
@pytest.mark.parametrize(
    ("ref", "channels", "message"),
    [
        ("torchvision/resnet81", 3, "no image classifier 'resnet81'; near: resnet"),
        ("torchvision/fasterrcnn_resnet50_fpn", 3, "no image classifier"),
        ("torchvision/resnet18.V7", 3, "unknown weights; known: IMAGENET1K_V1"),
        ("torchvision/resnet18", 1, "takes 3 channels, not 1"),
    ],
)
def test_what_torchvision_does_not_have_is_refused(ref, channels, message):
    with pytest.raises(ValueError, match=message):
        build_from_hub(parse(ref), classes=7, channels=channels, size=(64, 64), pretrained=False)
