"""Which two protocols are one."""

from vidkd import outcome

A = {"task": {"kind": "recognition", "aggregation": "mean_logit", "weights": {"label": 0.1}}, "clips": 1, "size_px": 28}


def test_how_it_was_taught_is_not_how_it_is_scored():
    taught = {**A, "task": {**A["task"], "weights": {}, "label_smoothing": 0.1}}
    assert outcome.unlike(A, taught, ()) == []
    scored = {**A, "task": {**A["task"], "aggregation": "mean_probability"}}
    found = outcome.unlike(A, scored, ())
    assert found == ["protocol.task.aggregation: 'mean_probability' there, 'mean_logit' here"]


def test_what_is_free_and_what_is_not():
    other = {**A, "clips": 10, "size_px": 56}
    assert outcome.unlike(A, other, outcome.VIEW) == ["protocol.clips: 10 there, 1 here"]
    assert len(outcome.unlike(A, other, ())) == 2
    assert outcome.unlike(A, {k: v for k, v in A.items() if k != "clips"}, ()) == ["protocol.clips: None there, 1 here"]
