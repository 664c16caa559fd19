import json

import numpy as np
import pytest
import torch

from doublure.audits.saliency import (
    CONTROLS,
    MODEL,
    RANDOM,
    Configuration,
    MapMaker,
    SaliencyAudit,
    control_maps,
    gives_gradients,
    randomised,
    without_gradients,
)
from doublure.audits.saliency_analysis import analyse, finding
from doublure.audits.saliency_run import Explained, PartFolder, choose_images, measure, records
from doublure.nets.network import Network
from tests.tiny import CONTRACT, network, rng

DEFAULTS = {
    "methods": ("rise", "occlusion", "integrated-gradients"),
    "baselines": ("mean", "black", "grey", "own-mean", "blur", "noise"),
    "num_masks": 1000,
    "num_seeds": 2,
    "output": "probability",
    "num_points": 16,
    "batch_size": 64,
}
SMALL = SaliencyAudit(
    methods=("rise", "occlusion", "integrated-gradients"),
    baselines=("black", "noise", "blur"),
    num_masks=40,
    num_points=4,
)


def tiny_network(seed=0):
    return Network(network(seed, width=8), CONTRACT)


def images(count=8):
    return torch.rand(count, 1, 8, 8, generator=rng())


def audited(tmp_path, settings=SMALL, others=None, seed=0):
    model = tiny_network().eval()
    chosen = choose_images(model, images(), None, 8)
    return measure(settings, model, others or {}, chosen, seed, PartFolder(tmp_path / "parts"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    others = {"same": tiny_network().eval(), "other": tiny_network(3).eval()}
    return audited(tmp_path_factory.mktemp("audit"), others=others)


def test_the_defaults_are_these():
    assert vars(SaliencyAudit()) == DEFAULTS


def test_every_configuration_has_a_name_of_its_own():
    made = SMALL.configurations((RANDOM, "student"))
    assert len({item.name for item in made}) == len(made)
    assert [item.seed for item in made if item.seed] == [1]  # occlusion has no randomness
    assert Configuration(method="rise", baseline="black").name == "model/rise/black/standard/0"


def test_the_passes_told_are_those_of_all_maps_and_curves(tmp_path):
    model, passes = tiny_network().eval(), 0

    def count(_module, inputs, _output):
        nonlocal passes
        passes += len(inputs[0]) * (3 if inputs[0].requires_grad else 1)

    maker = MapMaker(SMALL, {MODEL: model, RANDOM: randomised(model, 0)}, 0)
    for each in maker.networks.values():
        each.register_forward_hook(count)
    (image,) = images(1)
    maps = {c.name: maker.map(image, 0, 1, c) for c in SMALL.configurations((RANDOM,))}
    maker.curves(image, 0, 1, maps)
    assert passes == SMALL.passes((8, 8), (RANDOM,))


def test_the_same_network_keeps_its_maps_and_another_does_not(measured):
    found = analyse(measured, 0)
    for method in SMALL.methods:
        assert found["networks"]["same"][method]["value"] == pytest.approx(1)
        assert found["networks"]["same"][method]["survived"]
        assert found["networks"]["other"][method]["value"] < 0.9


def test_a_method_without_randomness_has_a_floor_of_one(measured):
    floor = analyse(measured, 0)["floor"]
    assert floor["occlusion"]["value"] == 1
    assert floor["rise"]["value"] < 1


def test_the_analysis_is_plain_and_the_same_every_time(measured):
    found = analyse(measured, 0)
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(
        json.dumps(analyse(measured, 0))
    )
    assert set(found["factors"]) >= {"baseline: rise", "variant: occlusion", "method"}
    assert found["curves"]["maps"] == [*SMALL.methods, *CONTROLS]
    assert sum(v for k, v in found["variance"].items() if "p_value" not in k) == pytest.approx(1)
    assert {entry["verdict"] for entry in found["verdicts"]} <= {"stable", "fragile", "divergent"}
    verdict = finding(found, SMALL)
    assert verdict.verdict in ("ok", "warn", "fail")
    assert "Spearman" in verdict.summary


def test_a_record_for_every_map_and_every_score(measured):
    rows = records(measured, [0] * 8)
    maps = [row for row in rows if row["record"] == "map"]
    assert len(maps) == 8 * len(measured.maps)
    assert len(rows) - len(maps) == 8 * 3 * 2 * 3


def test_a_map_that_is_there_is_not_made_again(tmp_path, monkeypatch):
    before = audited(tmp_path)
    (tmp_path / "parts" / "00003" / "model+rise+black+standard+0.npz").unlink()
    made = []
    whole = MapMaker.map
    monkeypatch.setattr(
        MapMaker, "map", lambda self, *given: (made.append(given[1]), whole(self, *given))[1]
    )
    after = audited(tmp_path)
    assert made == [3]
    assert all(np.array_equal(before.maps[name], after.maps[name]) for name in before.maps)


def test_batch_size_changes_nothing(tmp_path):
    one = audited(tmp_path / "one")
    other = audited(tmp_path / "other", SaliencyAudit(**vars(SMALL) | {"batch_size": 7}))
    for name, maps in one.maps.items():
        np.testing.assert_allclose(maps, other.maps[name], atol=2e-6)


def test_the_network_comes_back_as_it_was(tmp_path):
    model = tiny_network().train()
    model.body[0].requires_grad_(False)
    before = {name: part.clone() for name, part in model.state_dict().items()}
    chosen = Explained(images=images(), targets=(0,) * 8)
    measure(SMALL, model, {}, chosen, 0, PartFolder(tmp_path))
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()][:3] == [False, False, True]
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_random_weights_are_the_same_numbers_in_another_order():
    model = tiny_network()
    other = randomised(model, 0)
    one, two = model.body[0].weight.flatten(), other.body[0].weight.flatten()
    assert not torch.equal(one, two)
    assert torch.equal(one.sort().values, two.sort().values)


def test_controls_know_nothing_of_the_network():
    noise, centre, edges = control_maps(torch.ones(3, 9, 9), rng())
    assert noise.shape == centre.shape == edges.shape == (9, 9)
    assert centre.argmax() == 40
    assert edges.abs().max() == 0


def test_fewer_than_eight_images_are_refused():
    with pytest.raises(ValueError, match="8 images or more that the network names, got 5"):
        choose_images(tiny_network().eval(), images(5), None, 50)


def test_only_what_the_network_gets_right_is_explained():
    model = tiny_network().eval()
    x = images(40)
    right = model(x).argmax(1)
    labels = torch.where(torch.arange(40) % 2 == 0, right, (right + 1) % 3)
    chosen = choose_images(model, x, labels, 12)
    assert torch.equal(chosen.images, x[:24:2])
    assert list(chosen.targets) == right[:24:2].tolist()


def test_a_network_without_gradients_is_explained_by_perturbation_alone():
    class Sealed(torch.nn.Module):
        def forward(self, x):
            return x.detach().mean((2, 3)) * torch.ones(3)

    assert gives_gradients(tiny_network(), images(1)[0])
    assert not gives_gradients(Sealed(), images(1)[0])
    assert without_gradients(SMALL).methods == ("rise", "occlusion")
    with pytest.raises(ValueError, match="take --methods rise,occlusion,lime"):
        without_gradients(SaliencyAudit(methods=("gradient",)))


def test_settings_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="num_seeds must be 2 or more"):
        SaliencyAudit(num_seeds=1)
    with pytest.raises(ValueError, match="baselines must be 2 or more"):
        SaliencyAudit(baselines=("black",))
    with pytest.raises(ValueError, match="did you mean 'occlusion'"):
        SaliencyAudit(methods=("oclusion",))


def test_a_baseline_as_likely_as_the_image_is_left_out_and_counted(measured):
    own = measured.own.copy()
    own[2, 0, :, 0] = own[2, 0, :, -1] - 1
    changed = type(measured)(**vars(measured) | {"own": own})
    before, after = (analyse(m, 0)["neutrality"]["black"]["left_out"] for m in (measured, changed))
    assert after == before + (measured.own[2, 0, 0, 0] > measured.own[2, 0, 0, -1])
