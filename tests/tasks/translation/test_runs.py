"""Translation through the front door: train, distill, evaluate, resume, and what is refused."""

import json
import shutil
import sys

import pytest
import torch

from doublure.core.optional import MissingExtraError
from doublure.engine.recipe import RecipeError
from doublure.networks import load, save
from doublure.tasks.translation.contract import END, TextContract
from doublure.tasks.translation.decoding import translate
from doublure.tasks.translation.parallel_text import source_tokens
from doublure.verbs.distill import distill
from doublure.verbs.evaluate import evaluate
from doublure.verbs.train import train
from tests import text
from tests.command import command

STUDENT = "builtin/translator-1-8"
QUICK = {"steps": 6, "batch_size": 8, "precision": "float32", "device": "cpu"}


pytestmark = text.needs_extra


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = text.write_text(tmp_path_factory.mktemp("text") / "set", 80)
    return text.write_text(made, 20, stem="val", seed=1)


@pytest.fixture(scope="module")
def teacher(folder):
    out = folder.parent / "teacher"
    settings = {"student.pieces": "60"}
    summary = train(STUDENT, f"{folder}:de-en", out=out, eval=str(folder), set=settings, **QUICK)
    assert summary["student_scores"].keys() == {"bleu", "token_accuracy", "nll"}
    assert summary["score_count"] == 20
    return out


def learn(teacher, folder, out, **changes):
    """Distil with everything on: the teacher's sentences, the student's own, two objectives."""
    options = {
        "objective": ["divergence", "return-to-go=0.5"],
        "set": {"sequence-level.share": "0.5", "beams": "2", "fit.log_every": "1"},
        "transfer": str(folder),
    }
    return distill(str(teacher), STUDENT, out=out, **(QUICK | options | changes))


def weights(out):
    return (out / "student.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(teacher, folder):
    out = folder.parent / "finished"
    return out, learn(teacher, folder, out, eval=str(folder))


def test_a_run_leaves_a_translator_that_loads_with_its_vocabularies(finished, teacher):
    out, _ = finished
    student, taught_by = load(str(out)), load(str(teacher))
    assert isinstance(student.contract, TextContract)
    assert student.contract == taught_by.contract
    assert student.contract.languages == ("de", "en")
    assert (out / "report.html").exists()


def test_the_summary_has_scores_of_both_and_their_agreement(finished):
    _, summary = finished
    assert summary["teacher_scores"].keys() == summary["student_scores"].keys()
    assert summary["student_accuracy"] is None
    assert 0 <= summary["agreement"] <= 1
    assert summary["agreement_count"] > 256
    assert "tokens of held-out sentences" in summary["agreement_on"]
    assert summary["score_signatures"].keys() == {"bleu"}
    assert "bleu nrefs:1|case:mixed" in (finished[0] / "report.html").read_text()


def test_a_finished_run_loads_and_translates_without_the_libraries(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    student = load(str(finished[0])).eval()
    tokens = translate(student, torch.tensor([[4, 5, END]]), 8)
    assert isinstance(student.contract.text(tokens[0].tolist()), str)
    with pytest.raises(MissingExtraError, match="pip install tokenizers"):
        source_tokens(["Eins."], student.contract)


def test_what_needs_a_library_that_is_absent_is_refused_in_one_line(
    teacher, folder, tmp_path, monkeypatch
):
    told = ("train", "--net", STUDENT, "--data", f"{folder}:de-en", "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tokenizers", None)
        assert "pip install tokenizers sacrebleu" in refused(*told)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sacrebleu", None)
        assert "pip install tokenizers sacrebleu" in refused(*told, "--eval", folder)
    assert not (tmp_path / "out").exists()


def test_the_same_recipe_gives_the_same_bytes(finished, teacher, folder):
    out = folder.parent / "again"
    learn(teacher, folder, out)
    assert weights(out) == weights(finished[0])


@pytest.mark.parametrize("at", [1, 4])
def test_a_killed_run_ends_with_the_same_student(finished, teacher, folder, at):
    out = folder.parent / f"killed{at}"

    def kill(steps, line):
        if line["step"] == at + 1:
            raise Killed

    with pytest.raises(Killed):
        learn(teacher, folder, out, watch=kill, checkpoint_seconds=0)
    assert not (out / "student.safetensors").exists()
    learn(teacher, folder, out, resume=True)
    assert weights(out) == weights(finished[0])


def test_resuming_another_recipe_names_the_key(finished, teacher, folder):
    with pytest.raises(RecipeError, match=r"stages\.0\.source\.share"):
        learn(teacher, folder, finished[0], resume=True, set={"on-policy.share": "0.25"})


def test_without_an_objective_the_teachers_sentences_are_the_corpus(teacher, folder):
    summary = learn(teacher, folder, folder.parent / "kim", objective=(), set=None)
    assert summary["method"] == "sequence-kd"
    assert "arXiv:1606.07947" in summary["paper"]
    recipe = (folder.parent / "kim" / "recipe.toml").read_text()
    assert 'kind = "hard-labels"' in recipe


def test_evaluation_scores_the_corpus_and_gives_back_every_translation(finished, folder):
    made = evaluate(str(finished[0]), str(folder))
    again = evaluate(str(finished[0]), str(folder), batch_size=3)
    assert len(made.translations) == made.count == 20
    assert made.translations == again.translations
    assert made.scores["nll"].value == pytest.approx(again.scores["nll"].value, rel=1e-5)
    assert made.to_json().keys() == {"scores", "signatures", "count"}


def test_the_command_prints_one_object_of_json(finished, folder):
    told = command("evaluate", "--model", finished[0], "--data", folder, "--json")
    assert told.status == 0
    assert json.loads(told.out).keys() == {"scores", "signatures", "count"}
    plain = command("evaluate", "--model", finished[0], "--data", folder)
    assert "bleu" in plain.out
    assert "20 sentences  nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in plain.out


def test_a_student_that_is_saved_comes_back_the_same(finished, tmp_path):
    student = load(str(finished[0]))
    save(student, tmp_path)
    back = load(str(tmp_path))
    assert back.contract == student.contract
    for name, value in student.body.state_dict().items():
        assert torch.equal(back.body.state_dict()[name], value)


def refused(*words):
    told = command(*words)
    assert told.status == 1, told
    lines = told.err.strip().splitlines()
    assert len(lines) == 1, told.err
    return lines[0]


def test_what_cannot_be_is_refused_in_one_line(teacher, folder, tmp_path):
    out = ("--out", tmp_path / "out")
    line = refused("train", "--net", STUDENT, "--data", folder, *out)
    assert "say what is translated into what" in line
    line = refused("train", "--net", "builtin/resnet8", "--data", f"{folder}:de-en", *out)
    assert "resnet8 is trained on images, and these data are text" in line
    both = ("--teacher", teacher, "--student", STUDENT)
    assert "name parallel text with --transfer" in refused("distill", *both, *out)
    line = refused("distill", *both, "--transfer", folder, "--method", "shader-kd", *out)
    assert "shader-kd is for classification, but the teacher is one of translation" in line
    line = refused("distill", *both, "--transfer", folder, "--without", "mixup", *out)
    assert "no part 'mixup'" in line
    line = refused("distill", *both, "--transfer", folder, "--augment", "mild", *out)
    assert "--augment does not apply to translation" in line
    line = refused(
        "distill", "--teacher", teacher, "--student", "builtin/resnet8", "--transfer", folder, *out
    )
    assert "takes images" in line
    line = refused("export", "--model", teacher, "--format", "onnx", *out)
    assert "translates text, and export is not for such networks" in line
    assert not (tmp_path / "out").exists()


def test_weights_of_another_vocabulary_are_refused(teacher, folder, tmp_path):
    shutil.copy(teacher / "student.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not fit builtin/translator-1-8"):
        train(
            STUDENT,
            f"{folder}:de-en",
            out=tmp_path / "out",
            init_from=str(tmp_path / "other.safetensors"),
            set={"student.pieces": "50"},
            **QUICK,
        )
