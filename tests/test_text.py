"""How numbers are written everywhere."""

import pytest

from storage.report.columns import cell
from storage.report.figures import number, percent, percent_range, signed
from storage.report.validity.format import number as of_validity
from storage.text import decimal
from tasks.views import views


@pytest.mark.parametrize(
    ("value", "digits", "sign", "written"),
    [
        (-0.0, 1, "", "0.0"),
        (-0.04, 1, "", "0.0"),
        (-0.04, 1, "+", "+0.0"),
        (-0.06, 1, "", "-0.1"),
        (0.06, 1, "+", "+0.1"),
        (1234.5, 1, "", "1,234.5"),
    ],
)
def test_a_number_that_rounds_to_zero_has_no_minus(
    value: float, digits: int, sign: str, written: str
) -> None:
    assert decimal(value, digits, sign) == written


def test_no_form_of_a_column_writes_minus_zero() -> None:
    tiny = -1e-9
    written = [number(tiny), of_validity(tiny), percent(tiny), signed(tiny)]
    written.append(percent_range({"low": tiny, "high": tiny}))
    for table in views().values():
        for column in table["columns"]:
            if column["form"] in ("percent", "ratio", "mean", "range", "ratio range", "score", "score range"):
                names = [column["name"].replace(*ends) for ends in (("mean", "std"), ("low", "high"))]
                row = {"score": "lift", column["name"]: tiny, **dict.fromkeys(names, tiny)}
                written.append(cell(column, row, table))
    assert [text for text in written if "-0" in text] == []
