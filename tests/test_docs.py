"""The pages tell the truth: every block on them runs, and what scripts write into them is fresh."""

import importlib
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from PIL import Image

from doublure import catalogue
from doublure.core.optional import reason_absent
from doublure.verbs.doctor import doctor
from tests import pages
from tests.pages import DOCS, PAGES, ROOT, PageError, blocks, check_shown, name_of
from tests.text import ABSENT

MOST_BYTES = 60_000
LANGUAGES = ("python", "console", "text", "toml")
MARKS = ("", "end", "not run", "fails", "needs", "saved")
TITLES = (
    "Equation",
    "When to use it, and when not",
    "Settings",
    "Ten lines",
    "Ours against the paper's",
    "Differences from the paper",
)


@pytest.fixture(scope="module")
def reader():
    """A process that runs pages as a reader's would, without this suite's type checks."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=pages.be_brief) as pool:
        yield pool


@pytest.fixture(scope="module")
def workplace(reader, tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    reader.submit(pages.furnish, folder).result()
    return folder


@pytest.fixture(scope="module")
def opengl():
    return any(offer["name"] == "OpenGL" and offer["there"] for offer in doctor())


def runs(page):
    return any(b.language in ("python", "console") and b.mark != "not run" for b in blocks(page))


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)], ids=name_of)
def test_every_block_of_a_page_runs(page, reader, workplace, opengl, tmp_path):
    if ABSENT is not None and "captions" in page.read_text(encoding="utf-8"):
        pytest.skip(f"the extra 'text': {ABSENT}")
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    reader.submit(pages.run_page, page, tmp_path, opengl=opengl).result()


def test_blocks_are_of_a_known_language_and_left_out_only_with_a_reason():
    for page in PAGES:
        for block in blocks(page):
            where = f"{name_of(page)}, line {block.line}"
            assert block.language in LANGUAGES, f"{where}: say what language the block is in"
            assert block.mark in MARKS, where
            assert block.reason or block.mark in ("", "end"), where


def test_what_a_command_does_not_say_is_noticed():
    check_shown("12 images in set\nreport run", ["2,000 images in", "report"], "here")
    with pytest.raises(PageError, match="does not say '7 pictures'"):
        check_shown("12 images in set", ["7 pictures"], "here")
    with pytest.raises(PageError, match="does not say 'one'"):
        check_shown("one\ntwo", ["two", "one"], "here")


@pytest.fixture
def script(monkeypatch):
    """Imports one of the scripts in docs/ by name."""
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module


@pytest.mark.parametrize("name", ["generate_reference", "figures"])
def test_what_a_script_writes_into_the_pages_is_fresh(name, script):
    stale = [name_of(page) for page in script("marked").stale(script(name).MAKERS)]
    assert not stale, f"run `make pages`: {', '.join(stale)}"


def test_a_benchmark_over_seeds_becomes_a_table(script, tmp_path, monkeypatch):
    told = {"at": "9 steps", "agreement": 0.5, "seconds": 61.0, "steps": 9.0, "seeds": 3}
    rows = [told | {"arm": "full", "mean": 0.5, "sd": 0.01}, told | {"arm": "noise", "mean": 0.1}]
    rows[1] |= {"sd": None, "seeds": 1}
    whole = {"question": "Which?", "setting": {"pair": "a -> b"}, "summary": rows}
    (tmp_path / "cifar10.json").write_text(json.dumps(whole))
    figures = script("figures")
    for module in (figures, script("short_table")):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    assert "| full | 50.0 ± 1.0 (3 seeds) | 50.0 % |" in figures.figures("cifar10")
    assert "noise" not in figures.figures("cifar10: full")
    assert "Not measured yet: real." in figures.figures("cifar10: full, real")
    assert "one seed" not in figures.figures("summary")
    whole["summary"] += [
        told | {"arm": name, "mean": mean, "sd": 0.01}
        for name, mean in (("leaves", 0.2), ("full - mixup", 0.6))
    ]
    whole["rows"] = []
    (tmp_path / "cifar10.json").write_text(json.dumps(whole))
    against = "full - mixup 60.0 ± 1.0 (3 seeds); leaves 20.0 ± 1.0 (3 seeds)"
    assert f"| 50.0 ± 1.0 (3 seeds) | {against} |" in figures.figures("summary")
    whole["summary"].append(told | {"arm": "full, in two stages", "mean": 0.25, "sd": 0.01})
    (tmp_path / "cifar10.json").write_text(json.dumps(whole))
    two = figures.figures("cifar10: full, in two stages, full, real")
    assert "| full, in two stages | 25.0" in two
    assert "| full | 50.0" in two
    assert "Not measured yet: real." in two
    assert figures.figures("digits").startswith("Not measured yet; `benchmarks/digits.py`")


def test_each_kind_of_host_has_a_table_of_its_own(script, tmp_path, monkeypatch):
    told = {"arm": "full", "at": "60 seconds", "agreement": 0.5, "seconds": 60.0, "steps": 9.0}
    rows = [told | {"seed": 0}, told | {"seed": 1, "seconds": 70.0}]
    rows.append(told | {"seed": 0, "host": "a cpu", "seconds": 61.0})
    summary = [
        told | {"mean": 0.4, "sd": 0.01, "seeds": 2},
        told | {"mean": 0.6, "sd": None, "seeds": 1, "host": "a cpu"},
    ]
    whole = {"question": "Which?", "setting": {"pair": "a -> b"}, "summary": summary, "rows": rows}
    (tmp_path / "cifar10.json").write_text(json.dumps(whole))
    figures = script("figures")
    for module in (figures, script("short_table")):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    made = figures.figures("cifar10")
    first, second = made.split("Host: a cpu.")
    assert first.startswith("Host: not recorded.")
    assert "| full | 40.0 ± 1.0 (2 seeds) | 50.0 % | 9 | 60 to 70 † |" in first
    assert "| full | 60.0 (one seed) | 50.0 % | 9 | 61 |" in second
    assert "60 seconds (60 to 70 taken)" in figures.figures("summary")


def test_a_system_is_held_against_its_control_by_paired_gains(script, tmp_path, monkeypatch):
    systems = script("system_table")
    accuracies = {"ours": (0.5, 0.6, 0.7), "worse": (0.4, 0.51, 0.6), "level": (0.3, 0.6, 0.9)}
    rows = [
        {"arm": arm, "seed": seed, "accuracy": accuracy}
        for arm, found in accuracies.items()
        for seed, accuracy in enumerate(found)
    ]
    # The same of another kind of host, by which nothing is judged.
    rows.append({"arm": "worse", "seed": 0, "accuracy": 0.9, "host": "a cpu"})
    (tmp_path / "made.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(systems, "RESULTS", tmp_path)
    known = [
        systems.Comparison(on="digits", file="made", arm="ours", control=control)
        for control in ("worse", "level", "missing")
    ]
    system = systems.System(page="made", claim="more", comparisons=known)
    monkeypatch.setattr(systems, "SYSTEMS", (system,))
    _, _, unmeasured, better, level = systems.systems().splitlines()
    assert unmeasured.endswith("| not measured on a real network | — | unmeasured |")
    assert better.endswith(
        "| 60.0 % (digits, 3 seeds) | worse 50.3: +9.67 (+8.23 to +11.10) | better |"
    )
    assert level.endswith("| level |")


def test_every_marked_part_is_known_to_a_script(script):
    known = {*script("generate_reference").MAKERS, *script("figures").MAKERS}
    for page in PAGES:
        kinds = re.findall(r"^<!-- ([\w-]+): [^\n]* -->\n\n", page.read_text("utf-8"), re.MULTILINE)
        assert set(kinds) <= known, name_of(page)


def test_the_reference_of_the_command_lists_every_verb(script):
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    for verb in script("generate_reference").verbs():
        assert f"\n<!-- verb: {verb} -->\n" in page, f"reference/cli.md lacks `{verb}`"


def test_the_reference_of_the_command_is_written_without_torch():
    code = "import sys, generate_reference as g; g.verb('distill'); print('torch' in sys.modules)"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=DOCS, capture_output=True, text=True, check=True
    )
    assert made.stdout == "False\n"


@pytest.mark.parametrize("name", [entry.name for entry in catalogue.METHODS])
def test_every_method_has_a_page_and_a_picture(name):
    text = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(TITLES)
    assert f"<!-- card: {name} -->" in text
    stem = name.replace("-", "_")
    assert f"(../pictures/{stem}.png)" in text
    assert (DOCS / "pictures" / f"{stem}.py").is_file()


def test_the_site_lists_every_method_in_the_order_of_the_catalogue(script):
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert script("generate_reference").navigation(text) == text, "run make pages"


def test_every_page_about_a_method_is_about_one_that_is_there():
    about = {page.stem for page in (DOCS / "methods").glob("*.md")} - {"index"}
    assert about == {entry.name for entry in catalogue.METHODS}


def test_every_picture_is_on_a_page_and_small():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in (DOCS / "pictures").glob("*.png"):
        assert f"pictures/{picture.name}" in text, f"{picture.name} is on no page"
        assert picture.stat().st_size < MOST_BYTES, picture.name


def test_every_link_of_the_readme_leads_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    if reason_absent("mkdocs") is not None:
        pytest.skip("mkdocs is not installed; make docs does it")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    fetched = re.compile(r'<(?:script|img|iframe)[^>]+src="http|<link[^>]+stylesheet[^>]+="http')
    for page in tmp_path.rglob("*.html"):
        assert not fetched.search(page.read_text(encoding="utf-8")), page.name


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in (DOCS / "pictures").glob("*.py")])
def test_a_picture_is_what_its_script_draws(name, tmp_path, opengl):
    if name in ("drawing", "toy_sentences", "readme", "report") or (
        name == "shader_files" and not opengl
    ):
        pytest.skip("draws nothing by itself, or shows what the demo made, or needs OpenGL")
    code = "import drawing, pathlib, runpy; drawing.HERE = pathlib.Path({folder!r}); runpy.run_path"
    code = code.format(folder=str(tmp_path)) + f"('{name}.py', run_name='__main__')"
    subprocess.run([sys.executable, "-c", code], cwd=DOCS / "pictures", check=True)
    drawn, kept = (Image.open(at / f"{name}.png") for at in (tmp_path, DOCS / "pictures"))
    difference = np.asarray(drawn.convert("RGBA"), float) - np.asarray(kept.convert("RGBA"), float)
    # Another processor rounds otherwise, and may change a teacher's mind about an image.
    assert np.abs(difference).mean() < 8, f"run docs/pictures/{name}.py"
