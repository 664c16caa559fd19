from doublure.reports.record import Arm, ClassScore, ExportedForm, SavedFinding, Summary
from doublure.reports.tables import (
    Table,
    accuracy_table,
    arms_table,
    class_table,
    finding_table,
    forms_table,
    networks_table,
    old_and_new_table,
    scores_table,
)


def texts(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[title for title, _ in table.columns]] + [
        [cell.text for cell in row] for row in table.rows
    ]


def test_accuracy_stands_beside_its_count_interval_and_chance():
    summary = Summary(teacher_accuracy=0.5, student_accuracy=1.0, accuracy_count=10)
    assert texts(accuracy_table(summary, 4)) == [
        ["", "Accuracy", "Correct", "95 % interval"],
        ["Teacher", "50.0 %", "5 of 10", "23.7 to 76.3 %"],
        ["Student", "100.0 %", "10 of 10", "72.2 to 100.0 %"],
        ["Always the same class", "25.0 %", "–", "–"],
    ]


def test_old_and_new_classes_stand_apart_with_what_was_forgotten():
    summary = Summary(
        teacher_accuracy=0.9,
        teacher_correct=9,
        student_accuracy=0.6,
        accuracy_count=30,
        old_accuracy=0.7,
        old_correct=7,
        old_count=10,
        new_accuracy=0.55,
        new_correct=11,
        new_count=20,
    )
    assert texts(old_and_new_table(summary)) == [
        ["", "Before", "After", "ModelTransform", "Correct", "95 % interval"],
        ["Old classes", "90.0 %", "70.0 %", "−20.0 points", "7 of 10", "39.7 to 89.2 %"],
        ["New classes", "–", "55.0 %", "–", "11 of 20", "34.2 to 74.2 %"],
        ["All classes", "–", "60.0 %", "–", "18 of 30", "42.3 to 75.4 %"],
    ]
    rows = texts(accuracy_table(summary, None))
    assert rows[1][:3] == ["Teacher, old classes", "90.0 %", "9 of 10"]
    assert rows[2][:3] == ["Student, all classes", "60.0 %", "18 of 30"]
    assert old_and_new_table(Summary(student_accuracy=0.5)) is None


def test_calibration_has_a_column_where_it_was_measured():
    summary = Summary(student_accuracy=0.5, student_calibration_error=0.031)
    assert texts(accuracy_table(summary, None)) == [
        ["", "Accuracy", "Calibration error"],
        ["Student", "50.0 %", "3.1 %"],
    ]


def test_without_labels_there_is_no_accuracy_table():
    assert accuracy_table(Summary(), 10) is None


def test_classes_come_with_the_largest_loss_first():
    scores = {
        "kept": ClassScore(count=5, teacher=0.8, student=0.8),
        "lost": ClassScore(count=5, teacher=0.8, student=0.2),
    }
    assert texts(class_table(scores))[1] == ["lost", "80.0 %", "20.0 %", "−60.0 points", "5"]


def test_a_column_in_which_nothing_was_measured_is_left_out():
    arms = [Arm(name="noise", agreement=0.5), Arm(name="shaders", agreement=0.9)]
    assert texts(arms_table(arms)) == [
        ["Transfer set", "Agreement"],
        ["noise", "50.0 %"],
        ["shaders", "90.0 %"],
    ]


def test_bars_are_shares_of_the_longest():
    forms = [ExportedForm(form="torch", bytes=1000), ExportedForm(form="int8", bytes=250)]
    table = forms_table(forms)
    assert [row[1].bar for row in table.rows] == [1.0, 0.25]


def test_a_form_without_a_file_has_no_size():
    forms = [ExportedForm(form="torch", bytes=0), ExportedForm(form="onnx", bytes=250)]
    assert forms_table(forms).rows[0][1].text == "–"


def test_the_weights_stand_below_the_file_that_holds_them():
    table = forms_table([ExportedForm(form="onnx", bytes=2500, weight_bytes=1000)])
    assert (table.rows[0][1].text, table.rows[0][1].detail) == ("2.50 kB", "weights 1.00 kB")


def test_a_finding_is_judged_by_the_figures_whose_meaning_is_told():
    finding = SavedFinding(
        name="set",
        verdict="ok",
        summary="Good.",
        tag="predicted",
        measurements={
            "raw": {"entropy": 0.4699, "rank": 3.9},
            "as fed": {"entropy": 0.9897, "rank": 8.8},
            "predicted": {"ratio": 0.6},
        },
        meanings={"entropy": ("Balance", "1 is evenly", "> 0.9"), "absent": ("A", "b", "c")},
    )
    table = finding_table(finding)
    assert texts(table) == [["", "Raw", "As fed", "Good"], ["Balance", "0.47", "0.99", "> 0.9"]]
    assert table.rows[0][0].detail == "1 is evenly"
    assert finding_table(SavedFinding(name="x", verdict="ok", summary="y", tag="proxy")) is None


def test_every_column_of_figures_is_tagged():
    forms = [
        ExportedForm(
            form="int8", bytes=1, weight_bytes=1, latency_ms=1.0, images_per_second=1.0,
            max_difference=1.0, agreement=1.0, accuracy=1.0, quantize_nodes=1,
        )
    ]  # fmt: skip
    _, *columns = forms_table(forms).columns
    assert len(columns) == 7
    assert all(tag in ("measured", "proxy") for _, tag in columns)


def test_networks_are_compared_by_parameters_and_flops():
    summary = Summary(teacher_parameters=1200, student_parameters=100, student_flops=5_000_000)
    assert texts(networks_table(summary)) == [
        ["", "Teacher", "Student", "Student is"],
        ["Parameters", "1.20 k", "100", "1/12 of the teacher's"],
        ["FLOPs an image", "–", "5.00 M", "–"],
    ]
    assert networks_table(Summary()) is None


def test_networks_are_compared_by_time_where_it_was_taken():
    summary = Summary(
        teacher_latency_ms=2.0, student_latency_ms=1.5, timed_in_batches_of=64,
        teacher_answers_per_second=1000.0, student_answers_per_second=1400.0,
    )  # fmt: skip
    assert texts(networks_table(summary))[1:] == [
        ["Latency of one image, CPU", "2.00 ms", "1.50 ms", "75 % of the teacher's"],
        ["Images/s, 64 at once, CPU", "1,000", "1,400", "1.40 times the teacher's"],
    ]


def test_other_scores_stand_side_by_side():
    summary = Summary(teacher_scores={"mIoU": 0.7}, student_scores={"mIoU": 0.61, "PSNR": 30.0})
    assert texts(scores_table(summary)) == [
        ["Score", "Teacher", "Student"],
        ["mIoU", "0.7", "0.61"],
        ["PSNR", "–", "30"],
    ]


def test_a_score_is_named_with_what_its_library_says_of_it():
    signatures = {"bleu": "tok:13a|version:2"}
    summary = Summary(student_scores={"bleu": 30.0, "nll": 2.0}, score_signatures=signatures)
    assert [row[0] for row in texts(scores_table(summary))] == [
        "Score",
        "bleu tok:13a|version:2",
        "nll",
    ]
