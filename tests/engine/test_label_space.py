"""A student with classes of its own, under a teacher that knows others."""

import json

import numpy as np
import pytest
import torch

from doublure.engine.label_space import check_label_space, compares_layers_alone
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.activation_boundaries import ActivationBoundaries
from doublure.objectives.crd import CRD
from doublure.objectives.fit_nets import FitNets
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.similarity_preserving import SimilarityPreserving
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.srrl import SRRL
from doublure.objectives.weighted import Weighted
from doublure.recipe_file import from_toml, to_toml
from doublure.recipe_file import read as read_recipe
from doublure.sources.adversarial import Adversarial
from doublure.sources.balanced import Balanced
from doublure.sources.deep_inversion import DeepInversion
from doublure.sources.mixing import Mixed
from doublure.sources.noise import Noise
from doublure.verbs.distill import distill
from tests import taught, tiny

TEACHER = NetworkRef(
    ref="builtin/convnet-4", size=(8, 8), channels=1, classes=3, mean=(0.5,), std=(0.25,)
)
SHORT = {"steps": 10, "batch_size": 16, "precision": "float32", "audit": False}


def test_an_objective_on_layers_alone_is_told_from_others():
    hints, soft = FitNets(), SoftTargets()
    assert compares_layers_alone(hints)
    assert compares_layers_alone(Weighted(terms=((1.0, hints), (2.0, SRRL()))))
    assert not compares_layers_alone(soft)
    assert not compares_layers_alone(Weighted(terms=((1.0, hints), (1.0, soft))))
    assert not compares_layers_alone(object())


def parity_of_digits(split: str, count: int, folder) -> str:
    """Write digits with labels that tell even from odd, and return the file's path."""
    images, labels = taught.images_and_labels(split)
    pixels = (images[:count, 0] * 255).round().byte().numpy()
    np.savez(folder / f"{split}.npz", x=pixels, y=(labels[:count] % 2).numpy())
    return str(folder / f"{split}.npz")


def run(out, **changes):
    return distill(TEACHER, "builtin/convnet-3", out=out, **(SHORT | changes))


def test_layers_teach_a_student_of_other_classes_and_leave_its_classifier_alone(tmp_path):
    weights = []
    for steps in (1, 10):
        out = tmp_path / str(steps)
        told = {"transfer": "noise", "objective": ["activation-boundaries"], "student_classes": 2}
        summary = run(out, **told, steps=steps)
        assert summary["agreement"] is None
        weights.append(load(str(out)).body.state_dict())
    before, after = weights
    assert after["linear.weight"].shape == (2, 12)
    assert torch.equal(before["linear.weight"], after["linear.weight"])
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])


def test_initialised_by_layers_it_goes_on_to_learn_its_own_labels(tmp_path):
    data = parity_of_digits("train", 60, tmp_path)
    out = tmp_path / "run"
    summary = run(
        out,
        method="activation-boundary",
        transfer=data,
        labels=True,
        student_classes=2,
        eval=data,
    )
    recipe = read_recipe(out / "recipe.toml")
    assert [type(s.objective) for s in recipe.stages] == [ActivationBoundaries, HardLabels]
    assert recipe.own_label_space
    assert from_toml(to_toml(recipe)) == recipe
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert "activation_boundaries" in lines[0]
    assert "hard_labels" in lines[-1]
    assert summary["student_accuracy"] is not None
    assert summary["teacher_accuracy"] is None  # whose classes these labels are not
    assert (out / "report.html").exists()


def test_own_classes_may_have_names_and_be_as_many_as_the_teacher_s(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncat\n")
    out = tmp_path / "run"
    run(out, transfer="noise", objective=["fit-nets"], student_classes=str(names))
    assert load(str(out)).contract.names == ("ant", "bee", "cat")
    with pytest.raises(ValueError, match="compares its outputs"):
        run(tmp_path / "other", transfer="noise", student_classes=str(names))


def test_a_module_may_have_classes_of_its_own_as_well(tmp_path):
    student = tiny.network(0)  # of three classes, as its teacher
    summary = distill(
        TEACHER,
        student,
        out=tmp_path / "run",
        transfer="noise",
        objective=["attention-transfer"],
        student_classes=3,
        **SHORT,
    )
    assert summary["steps"] == 10


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"transfer": "noise"}, "compares its outputs with the teacher's"),
        ({"transfer": "noise", "objective": ["dkd", "fit-nets"]}, "compares its outputs"),
        ({"transfer": "noise", "method": "activation-boundary"}, "compares its outputs"),
        ({"method": "dfad", "objective": ["fit-nets"]}, "DFAD uses the teacher's"),
        ({"method": "deep-inversion", "objective": ["fit-nets"]}, "DeepInversion uses"),
    ],
)
def test_what_compares_answers_is_refused_before_a_folder_is_made(told, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        run(tmp_path / "run", student_classes=2, **told)
    assert not (tmp_path / "run").exists()


def test_a_student_of_other_classes_that_are_not_said_to_be_its_own_is_refused(tmp_path):
    student = NetworkRef(ref="builtin/convnet-3", classes=2)
    with pytest.raises(ValueError, match=r"2 classes, its teacher 3; .* --student-classes"):
        distill(
            TEACHER, student, out=tmp_path / "r", transfer="noise", objective=["fit-nets"], **SHORT
        )


def test_which_objectives_and_sources_let_a_student_have_its_own_classes():
    own = Weighted(terms=((1.0, HardLabels()), (3000.0, SimilarityPreserving()), (0.8, CRD())))
    check_label_space(own, Mixed(source=Noise()))
    for objective in (SoftTargets(), HardLabels(of="teacher")):
        with pytest.raises(ValueError, match="compares its outputs"):
            check_label_space(Weighted(terms=((1.0, own), (1.0, objective))), Noise())
    for source in (Balanced(source=Noise()), Adversarial(source=Noise()), DeepInversion()):
        with pytest.raises(ValueError, match=f"{type(source).__name__} uses the teacher's"):
            check_label_space(own, Mixed(source=source))


@pytest.mark.slow
def test_with_few_labels_an_initialised_student_beats_one_that_learns_from_labels_alone(tmp_path):
    data, evaluation_data = (
        parity_of_digits(*part, tmp_path) for part in (("train", 60), ("test", 500))
    )
    arms = {
        "initialised": {"method": "activation-boundary"},
        "labels alone": {"method": "surrogate-kd", "objective": ["hard-labels"]},
    }
    right = dict.fromkeys(arms, 0.0)
    for seed in range(3):
        for arm, told in arms.items():
            summary = distill(
                taught.teacher(),
                "builtin/convnet-4",
                out=tmp_path / f"{arm} {seed}",
                transfer=data,
                labels=True,
                student_classes=2,
                eval=evaluation_data,
                seed=seed,
                **(SHORT | {"steps": 60, "batch_size": 32}),
                **told,
            )
            right[arm] += summary["student_accuracy"] / 3
    assert right["initialised"] > right["labels alone"] + 0.02
