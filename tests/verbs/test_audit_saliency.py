import json

import numpy as np
import pytest
import torch

from doublure.nets.network import Network
from doublure.verbs.audit_saliency import audit_saliency
from tests.command import command
from tests.tiny import CONTRACT, network, rng

QUICK = {"methods": ("rise", "occlusion"), "baselines": ("black", "blur"), "masks": 30}


def model(seed=0):
    return Network(network(seed, width=8), CONTRACT)


def labelled(tmp_path, count=40):
    x = torch.rand(count, 1, 8, 8, generator=rng())
    pixels = (255 * x).round().byte()
    y = model().eval()(pixels.float() / 255).argmax(1)
    path = tmp_path / "some.npz"
    np.savez(path, x=pixels[:, 0].numpy(), y=y.numpy())
    return str(path)


def test_an_audit_writes_its_files_and_tells_its_cost_first(tmp_path):
    said = []
    out = tmp_path / "audit"
    found = audit_saliency(
        model(), labelled(tmp_path), out=out, images=9, against=model(1), say=said.append, **QUICK
    )
    assert "9 images" in said[0]
    assert "passes each" in said[0]
    assert found == json.loads((out / "audit.json").read_text())
    assert found["num_images"] == 9
    assert set(found["networks"]) == {"random", "against"}
    page = (out / "audit.html").read_text()
    assert found["summary"].split(";")[0][:20] in page
    assert "<script" not in page
    with np.load(out / "maps.npz") as maps:
        assert maps["model/rise/black/standard/0"].shape == (9, 8, 8)
    lines = (out / "records.jsonl").read_text().splitlines()
    assert {json.loads(line)["record"] for line in lines} == {"map", "deletion"}


def test_an_audit_that_was_killed_goes_on_to_the_same_end(tmp_path):
    data = labelled(tmp_path)

    class Killed(Exception):  # noqa: N818  # stands in for a signal
        pass

    def kill(text):
        if text.startswith("3 of"):
            raise Killed

    with pytest.raises(Killed):
        audit_saliency(model(), data, out=tmp_path / "one", images=8, watch=kill, **QUICK)
    with pytest.raises(ValueError, match="exists; resume it with --resume"):
        audit_saliency(model(), data, out=tmp_path / "one", images=8, **QUICK)
    one = audit_saliency(model(), data, out=tmp_path / "one", images=8, resume=True, **QUICK)
    other = audit_saliency(model(), data, out=tmp_path / "other", images=8, **QUICK)
    assert one == other
    pages = [(tmp_path / name / "audit.html").read_bytes() for name in ("one", "other")]
    assert pages[0] == pages[1]


def test_other_settings_do_not_go_on(tmp_path):
    audit_saliency(model(), labelled(tmp_path), out=tmp_path / "one", images=8, **QUICK)
    changed = QUICK | {"masks": 31}
    with pytest.raises(ValueError, match="an audit with other num_masks"):
        audit_saliency(
            model(), labelled(tmp_path), out=tmp_path / "one", images=8, resume=True, **changed
        )


def test_images_are_named_once(tmp_path):
    with pytest.raises(ValueError, match="either --data or --transfer"):
        audit_saliency(model(), out=tmp_path / "one", **QUICK)
    with pytest.raises(ValueError, match="either --data or --transfer"):
        audit_saliency(model(), "builtin/digits", out=tmp_path / "one", transfer="noise", **QUICK)


def test_a_source_will_do_and_a_budget_takes_fewer_images(tmp_path):
    with pytest.raises(ValueError, match="raise --budget"):
        audit_saliency(
            model(), out=tmp_path / "one", transfer="noise", images=9, budget=1e-6, **QUICK
        )
    assert not (tmp_path / "one").exists()
    found = audit_saliency(model(), out=tmp_path / "one", transfer="noise", images=9, **QUICK)
    assert found["num_images"] == 9


def test_networks_of_other_classes_are_not_compared(tmp_path):
    other = Network(network(1), type(CONTRACT)(**vars(CONTRACT) | {"size": (9, 9)}))
    with pytest.raises(ValueError, match="maps cannot be compared: size"):
        audit_saliency(model(), out=tmp_path, transfer="noise", against=other, **QUICK)


def test_the_command_prints_the_verdict(tmp_path):
    words = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--size", 8, "--classes", 3)
    asked = ("--images", 8, "--masks", 20, "--methods", "rise,occlusion")
    told = command(
        *("audit", "saliency", "--model", "builtin/convnet-6", *words, *asked),
        *("--baselines", "black,grey", "--transfer", "noise", "--out", tmp_path / "a"),
    )
    assert told.status == 0, told.err
    assert "baseline: rise" in told.out
    assert "audit.html" in told.out
    bad = command("audit", "saliency", "--model", "x", "--baselines", "blak", "--out", "y")
    assert "did you mean 'black'" in bad.reason
