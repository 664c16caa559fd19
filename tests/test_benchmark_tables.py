"""What the benchmarks' tables keep, and what they say of methods over seeds."""

import json

import pytest


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
