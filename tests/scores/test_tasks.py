"""What is said of tasks and data that are not there."""

from __future__ import annotations

import pytest

from ckptdiff.errors import BadArgument
from ckptdiff.scores.tasks import DataSet, missing_data, refuse_generation, unknown_task


def test_each_missing_data_set_is_named_once_with_what_fetches_it() -> None:
    sets = [DataSet("x/y", "b"), DataSet("x/y", "a"), DataSet("z"), DataSet("z")]
    text = str(missing_data([*sets, DataSet("w", "v", ", revision='r'")]))
    assert text.startswith("the data sets w/v, x/y/a, x/y/b, z are not on this machine")
    assert text.endswith(
        "python -c \"from datasets import load_dataset; load_dataset('w', 'v', revision='r'); "
        "[load_dataset('x/y', part) for part in 'a b'.split()]; load_dataset('z')\""
    )
    assert str(missing_data([DataSet("z")])).startswith("the data set z is not on this machine")


def test_a_name_that_is_nearly_right_is_offered() -> None:
    assert "did you mean piqa?" in str(unknown_task("pika", ["piqa", "boolq"]))
    assert "did you mean" not in str(unknown_task("nothing", ["piqa", "boolq"]))


def test_tasks_that_are_generated_are_named() -> None:
    refuse_generation([])
    with pytest.raises(BadArgument, match=r"^b lets the model write .* Leave it out$"):
        refuse_generation(["b", "b"])
    with pytest.raises(BadArgument, match=r"^a, b and c let the model .* Leave them out$"):
        refuse_generation("cab")
