import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from doublure.data.own_files import RunFolderError
from doublure.reports import page
from doublure.reports.concerns import ConcernLimits
from doublure.reports.record import RunRecord
from doublure.reports.verdict import judge
from doublure.tasks.translation.task import TranslationTask
from tests.reports.conftest import (
    RUNS,
    Files,
    WriteRun,
    demo_run,
    metrics,
    samples,
    summary,
    whole_run,
)

SECTIONS = [
    "verdict", "images", "classes", "curves", "agreement", "accuracy", "forms", "findings",
    "manifest",
]  # fmt: skip
RecordOf = Callable[[Files], RunRecord]


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get(name)) is not None]


def page_of(record_of: RecordOf, files: Files) -> str:
    return page.render(record_of(files), ConcernLimits())


@pytest.mark.parametrize("kind", RUNS)
def test_the_sections_stand_in_order_whatever_is_missing(pages: dict[str, Path], kind: str):
    text = pages[kind].read_text()
    found = [attrs["id"] for tag, attrs in Elements(text).tags if tag == "section"]
    assert found == SECTIONS


@pytest.mark.parametrize("scores", [None, {"bleu": 21.4}])
def test_of_a_student_that_translates_nothing_is_called_an_image(record_of: RecordOf, scores):
    scored = ("accuracy", "correct", "flops")
    roles = [f"{role}_{name}" for role in ("teacher", "student") for name in scored]
    unmeasured = dict.fromkeys([*roles, "accuracy_count", "per_class", "class_names"])
    told = summary(
        words=vars(TranslationTask.words),
        paper="",
        agreement_on=None,
        student_scores=scores,
        **unmeasured,
    )
    made = page_of(record_of, {"summary.json": told, "metrics.jsonl": metrics()})
    text = Elements(re.sub("<style>.*?</style>", "", made, flags=re.DOTALL)).text
    assert "image" not in text.lower()
    assert "Sentences/s" in text
    assert "on 2,000 tokens: tokens of held-out sentences" in text
    assert ("No sentences with references were given" in text) == (scores is None)


@pytest.mark.parametrize("kind", RUNS)
def test_the_page_stands_alone(pages: dict[str, Path], kind: str):
    text = pages[kind].read_text()
    elements = Elements(text)
    tags = {tag for tag, _ in elements.tags}
    assert not tags & {"script", "iframe", "object", "embed"}
    for name in ("src", "href", "xlink:href"):
        assert all(value.startswith(("data:", "#")) for value in elements.attributes(name))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    assert len(text.encode()) < 1_500_000


@pytest.mark.parametrize("kind", RUNS)
def test_ids_are_unique_and_lead_somewhere(pages: dict[str, Path], kind: str):
    elements = Elements(pages[kind].read_text())
    ids = elements.attributes("id")
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in elements.attributes("xlink:href")} <= set(ids)
    assert set(elements.attributes("aria-labelledby")) <= set(ids)


def test_every_picture_has_words_for_it(pages: dict[str, Path]):
    elements = Elements(pages["demo"].read_text())
    assert all(attrs.get("alt") for tag, attrs in elements.tags if tag == "img")
    assert all(attrs.get("aria-label") for tag, attrs in elements.tags if tag == "svg")


def test_equal_runs_give_equal_bytes(pages: dict[str, Path], write_run: WriteRun):
    again = page.write_report(write_run(demo_run(), "elsewhere/demo"))
    assert again.read_bytes() == pages["demo"].read_bytes()


def test_the_verdict_stands_on_the_page(record_of: RecordOf):
    record = record_of(whole_run())
    verdict = judge(record, ConcernLimits())
    text = Elements(page.render(record, ConcernLimits())).text.replace("\u00a0", " ")
    assert verdict.label in text
    assert verdict.headline in text
    assert all(reason.text in text for reason in verdict.reasons)


def test_every_way_of_knowing_is_marked_and_explained(pages: dict[str, Path]):
    text = pages["whole"].read_text()
    for tag in ("measured", "proxy", "predicted"):
        assert text.count(f'<span class="chip {tag}">{tag}</span>') >= 2


def test_markup_from_the_run_stays_text(record_of: RecordOf):
    evil = '<img src=x onerror="alert(1)"></script>&amp;'
    names = [evil, *"123456789"]
    files = whole_run(
        class_names=names,
        method=evil,
        paper=evil,
        teacher_reference=evil,
        agreement_on=evil,
        warnings=[evil],
        per_class={evil: {"teacher": 0.9, "student": 0.1, "count": 50}},
        arms=[{"name": evil, "accuracy": 0.5, "count": 10}],
    )
    files["findings.json"] = [
        {
            "name": evil,
            "verdict": "warn",
            "summary": evil,
            "tag": "proxy",
            "measurements": {evil: evil},
        }
    ]
    files["exports.json"] = [{"form": evil, "bytes": size, "note": evil} for size in (5, 6)]
    files["recipe.toml"] = evil
    files["manifest.json"] = {evil: evil}
    text = page_of(record_of, files)
    assert "onerror" not in {name for _, attrs in Elements(text).tags for name in attrs}
    assert "<img src=x" not in text
    assert "</script>" not in text
    assert evil in Elements(text).text


def test_a_missing_part_is_said_to_be_missing(pages: dict[str, Path]):
    text = pages["summary alone"].read_text()
    for sentence in (
        "No images were kept",
        "classes were not counted",
        "Nothing was logged",
        "Agreement was not measured",
        "No labelled data were given, so accuracy is unknown",
        "was not exported",
        "No audit was made",
        "no recipe.toml",
        "no manifest.json",
    ):
        assert sentence in text


def test_images_come_without_their_raw_twins_where_none_were_kept(record_of: RecordOf):
    without = {name: array for name, array in samples(side=4).items() if name != "raw"}
    text = page_of(record_of, whole_run() | {"samples.npz": without, "optimisation_path.npz": None})
    assert text.count("<img ") == 48
    assert "Each pair is one image" not in text


def test_images_may_come_without_answers(record_of: RecordOf):
    images = {"images": samples(side=4)["images"]}
    files = whole_run(class_names=None) | {"samples.npz": images, "optimisation_path.npz": None}
    text = page_of(record_of, files)
    assert text.count("<img ") == 48


def test_searched_images_are_shown_on_their_way_with_the_class_they_end_as(record_of: RecordOf):
    text = page_of(record_of, whole_run() | {"samples.npz": None})
    assert text.count("<img ") == 36
    columns, _, rows = text.partition('role="rowheader"')
    assert re.findall(r'role="columnheader">([\d,]+)<', columns) == [
        "0", "20", "100", "400", "1,000", "2,000",
    ]  # fmt: skip
    assert re.findall(r'class="sure">(\d+)', rows)[:6] == ["10", "28", "46", "63", "81", "99"]


def test_a_run_that_searched_for_nothing_says_nothing_of_it(record_of: RecordOf):
    text = page_of(record_of, whole_run() | {"optimisation_path.npz": None})
    assert "searched images" not in text


def test_what_was_forgotten_stands_on_the_page_of_a_continual_run(pages: dict[str, Path]):
    text = Elements(pages["continual"].read_text()).text.replace("\u00a0", " ")
    assert "What is forgotten is the change on the old classes: −17.2 points." in text
    assert "97.2 % before" in text
    assert "What is forgotten" not in pages["whole"].read_text()


def test_nameless_classes_are_shown_by_their_index(record_of: RecordOf):
    text = page_of(record_of, whole_run(class_names=None, per_class=None))
    assert 'title="9"' in text


def test_two_classes_of_one_name_are_still_two(record_of: RecordOf):
    answers = {
        "images": np.zeros((1, 4, 4, 1), np.uint8),
        "teacher": np.array([[0.9, 0.1]], np.float32),
        "student": np.array([[0.1, 0.9]], np.float32),
    }
    files = {"summary.json": {"class_names": ["crane", "crane"]}, "samples.npz": answers}
    assert '<div class="differs">' in page_of(record_of, files)


def test_a_labelled_training_set_is_no_proxy(record_of: RecordOf):
    text = page_of(record_of, {"summary.json": summary(verb="train"), "metrics.jsonl": METRICS})
    assert '<figcaption>loss <span class="chip measured">' in " ".join(text.split())


METRICS = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}]


def test_of_many_logged_figures_four_stand_and_the_rest_are_folded(record_of: RecordOf):
    rows = [{"step": step, **{f"fact_{n}": n + step for n in range(9)}} for step in range(3)]
    text = page_of(record_of, {"metrics.jsonl": rows})
    shown, _, folded = text.partition("5 more logged figures")
    assert (shown.count("<svg"), folded.count("<svg")) == (4, 5)


def test_the_recipe_is_shown_as_it_is(record_of: RecordOf):
    text = page_of(record_of, {"recipe.toml": 'budget = "5 s"\n'})
    assert '<pre tabindex="0">budget = &#34;5 s&#34;\n</pre>' in text


def test_a_cut_journal_is_among_the_warnings(write_run: WriteRun):
    folder = write_run({"summary.json": summary()})
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"st')
    text = page.write_report(folder).read_text()
    assert "The last line of metrics.jsonl was cut off" in text


def test_a_failed_rebuild_leaves_the_page_as_it_was(write_run: WriteRun):
    folder = write_run(whole_run())
    before = page.write_report(folder).read_bytes()
    (folder / "exports.json").write_text("[")
    with pytest.raises(RunFolderError, match=r"exports.json is not JSON"):
        page.write_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert not list(folder.glob("*.part"))


STYLE = (Path(page.__file__).parent / "templates" / "style.css").read_text()


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours by WCAG 2.1."""

    def luminance(colour: str) -> float:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_can_be_read_on_every_ground(scheme: int):
    blocks = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[scheme]))
    grounds = ["page", "card", *(f"{level}-card" for level in ("ok", "warn", "fail", "unknown"))]
    for ground in grounds:
        for text in ("ink", "muted"):
            assert contrast(colours[text], colours[ground]) >= 4.5
    for level in ("ok", "warn", "fail", "unknown"):
        assert contrast(colours[level], colours[f"{level}-card"]) >= 4.5
        assert contrast(colours[level], colours["page"]) >= 4.5
    for mark in ("student", "teacher"):  # graphics need 3
        assert contrast(colours[mark], colours["page"]) >= 3
