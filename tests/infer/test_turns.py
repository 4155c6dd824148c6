from infer.turns import median_run, take_turns


def test_sides_take_turns_item_by_item_in_every_round():
    calls, ticks = [], []

    def side(name):
        def act(item):
            calls.append(f"{name}{item}")
            return len(calls)

        return act

    answers = take_turns([side("a"), side("b")], [1, 2], 2, lambda: ticks.append(len(calls)))
    assert calls == 2 * ["a1", "b1", "a2", "b2"]
    assert answers == [[[1, 3], [5, 7]], [[2, 4], [6, 8]]]
    assert ticks == list(range(1, 9))


def test_the_median_run_is_the_one_in_the_middle():
    assert median_run([9.0, 3.0, 1.0], lambda run: run) == 3.0
    assert median_run([2.0, 1.0], lambda run: run) == 2.0
    assert median_run(["ccc", "a", "bb"], len) == "bb"
