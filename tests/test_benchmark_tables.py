"""What the benchmarks' tables keep, and what they say of methods over seeds."""

import json

import pytest
import torch


def row(arm, seed, accuracy):
    told = {"arm": arm, "seed": seed, "accuracy": accuracy, "at": "9 steps"}
    return told | {"agreement": 1.0, "seconds": 1.0, "steps": 9}


def test_what_another_process_has_written_meanwhile_is_kept(benchmark_script, tmp_path):
    new = benchmark_script("experiments").Table
    ours, theirs = (new("made", "?", {}, folder=tmp_path) for _ in range(2))
    theirs.add(row("one", 0, 0.5), ("arm",))
    ours.extend(gaps=[])
    theirs.add(row("one", 1, 0.7), ("arm",))
    ours.add(row("one", 2, 0.9), ("arm",))
    told = json.loads((tmp_path / "made.json").read_text())
    assert [one["seed"] for one in told["rows"]] == [0, 1, 2]
    assert told["gaps"] == []
    assert told["summary"][0]["mean"] == pytest.approx(0.7)


def test_gains_are_paired_by_seed_and_take_two_of_them(benchmark_script):
    rows = [row("one", 0, 0.5), row("other", 0, 0.4), row("one", 1, 0.9), row("other", 1, 0.6)]
    rows += [row("one", 2, 0.1), row("third", 0, 0.5)]
    (gap,) = benchmark_script("methods").gaps(rows, (("one", "other"), ("one", "third")))
    assert (gap["arm"], gap["against"], gap["seeds"]) == ("one", "other", 2)
    assert gap["gain"] == pytest.approx(0.2)
    # t of one degree of freedom at 97.5 % is 12.706; the gains .1 and .3 are .1 from their mean.
    assert gap["high"] - gap["gain"] == pytest.approx(1.2706, abs=1e-4)


def test_a_spread_over_weights_is_taken_seed_by_seed(benchmark_script):
    script = benchmark_script("rdskd_weights")
    known = {c: [script.Arm(name=f"{c}{i}") for i in range(2)] for c in script.COMBINATIONS}
    accuracies = {"exponential": ((0.8, 0.7), (0.9, 0.6)), "sum": ((0.8, 0.3), (0.9, 0.5))}
    rows = [
        row(f"{combination}{i}", seed, accuracy)
        for combination, seeds in accuracies.items()
        for seed, both in enumerate(seeds)
        for i, accuracy in enumerate(both)
    ]
    found = script.robustness([*rows, row("sum0", 2, 0.5)], known)
    assert found["exponential"]["spread"][0] == pytest.approx(0.2)
    assert found["sum"]["worst"][0] == pytest.approx(0.4)
    assert found["difference"]["spread"][0] == pytest.approx((0.1 - 0.5 + 0.3 - 0.4) / 2)
    assert script.robustness(rows[:4], known) == {}


def test_rows_of_different_hosts_are_never_averaged(benchmark_script):
    old, new = [row("one", 0, 0.5), row("one", 1, 0.7)], [{**row("one", 2, 0.9), "host": "a cpu"}]
    found = benchmark_script("experiments").summarize([*old, *new], ("arm",))
    told = {one["host"]: (one["mean"], one["seeds"]) for one in found}
    assert told == {"a cpu": (0.9, 1), "not recorded": (pytest.approx(0.6), 2)}


def test_runs_of_different_hosts_are_no_pair(benchmark_script):
    rows = [row("one", 0, 0.5), {**row("other", 0, 0.4), "host": "a cpu"}]
    assert benchmark_script("experiments").pair(rows, "one", "other") == []


def test_a_row_says_its_host_its_commit_and_its_clock(benchmark_script, tmp_path):
    experiments = benchmark_script("experiments")
    table = experiments.Table("made", "?", {}, folder=tmp_path)
    table.add(row("one", 0, 0.5), ("arm",))
    (made,) = table.rows
    assert "cores" in made["host"]
    assert made["commit"]
    assert made["clock"] == "process CPU time, 1 thread"
    table.add({**row("one", 1, 0.5), "host": "another"}, ("arm",))
    assert table.rows[-1]["host"] == "another"


class Runs:
    """Runs that take a second to prepare, and a tenth a step; the first so many, twice as long."""

    def __init__(self, slow: int):
        self.slow, self.steps = slow, []

    def __call__(self, *, steps):
        self.steps.append(steps)
        pace = 0.2 if len(self.steps) <= self.slow else 0.1
        passes = {"teacher_forwards": steps, "teacher_backwards": 0}
        curve = [
            {"step": at, "seconds": 1 + pace * at, "passes": at} for at in (3 * steps // 4, steps)
        ]
        return {"arm": "one", "steps": steps, "seconds": 1 + pace * steps, "curve": curve} | passes


def test_equal_time_is_equal_within_three_in_a_hundred(benchmark_script):
    methods = benchmark_script("methods")
    asked, runs = methods.Length(60.0, "seconds"), Runs(slow=0)
    made = methods.run_as_long(runs, "one", asked, methods.Gauge(opening=100))
    assert runs.steps == [100, 590]  # what is prepared is in the time
    assert made["seconds"] == pytest.approx(60)
    assert "off" not in made


def test_a_run_that_took_too_long_is_run_again(benchmark_script):
    methods = benchmark_script("methods")
    asked, runs = methods.Length(60.0, "seconds"), Runs(slow=1)
    made = methods.run_as_long(runs, "one", asked, methods.Gauge(opening=100))
    assert len(runs.steps) > 2
    assert made["seconds"] == pytest.approx(60, rel=0.03)
    assert "off" not in made


def test_a_run_that_never_comes_near_is_the_nearest_and_marked(benchmark_script):
    methods = benchmark_script("methods")
    times = iter((10.0, 40.0, 70.0, 90.0))

    def run(*, steps):
        spent = next(times)
        curve = [{"step": steps - 1, "seconds": spent - 1, "passes": 0}, {}]
        return {"arm": "one", "steps": steps, "seconds": spent, "curve": curve} | {
            "teacher_forwards": 0,
            "teacher_backwards": 0,
        }

    made = methods.run_as_long(
        run, "one", methods.Length(60.0, "seconds"), methods.Gauge(opening=100)
    )
    assert made["seconds"] == 70
    assert made["off"] == pytest.approx(1 / 6)


def test_in_the_same_time_another_host_comes_to_other_rows(benchmark_script, tmp_path):
    methods, experiments = benchmark_script("methods"), benchmark_script("experiments")
    table = experiments.Table("made", "?", {}, folder=tmp_path)
    table.add({**row("one", 0, 0.5), "at": "60 seconds", "host": "another"}, ("arm",))
    table.add({**row("one", 0, 0.5), "at": "60 steps", "host": "another"}, ("arm",))
    assert not methods.is_there(table, "one", 0, methods.Length(60.0, "seconds"))
    assert methods.is_there(table, "one", 0, methods.Length(60.0, "steps"))


def test_a_fifth_of_the_labels_is_wrong_and_the_others_are_not(benchmark_script):
    script = benchmark_script("knowledge_adjustment")
    labels = torch.arange(1000) % 10
    answers = torch.nn.functional.one_hot(labels, 10).float()
    known = script.Lessons(torch.zeros(1000, 1), labels, answers)
    told = [known.with_wrong_labels(0.2, seed=seed) for seed in (0, 0, 1)]
    assert known.mistaken == 0
    assert [one.mistaken for one in told] == [pytest.approx(0.2)] * 3
    assert torch.equal(told[0].labels, told[1].labels)
    assert not torch.equal(told[0].labels, told[2].labels)
    assert known.labels is labels
    assert torch.equal(labels, torch.arange(1000) % 10)


def test_runs_that_were_looked_at_elsewhere_are_told_at_the_same_shares(docs_script):
    def looks(arm, steps, at):
        curve = [{"step": step, "accuracy": step / steps} for step in (*at, steps)]
        return row(arm, 0, 1.0) | {"steps": steps, "curve": curve}

    curves = docs_script("arm_tables")._curves
    even = [looks("one", 100, (25, 50, 75)), looks("other", 200, (50, 100, 150))]
    told = curves({"rows": even}, "9 steps", ["one", "other"])
    even_shares = ["25.0", "50.0", "75.0"]
    assert told == {"one": even_shares, "other": even_shares}
    odd = [looks("one", 100, (20, 40, 60, 80)), looks("other", 200, (90, 180))]
    told = curves({"rows": odd}, "9 steps", ["one", "other"])
    assert told == {"one": ["25.0", "50.0", "75.0"], "other": ["\N{EM DASH}", "50.0", "75.0"]}
