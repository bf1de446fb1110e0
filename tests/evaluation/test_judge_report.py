"""Numbers of the judge report, computed by hand on seven items."""

import pytest

from holdfast.core.errors import UserError
from holdfast.core.statistics import wilson
from holdfast.evaluation.judges.base import Verdict
from holdfast.evaluation.judges.prefix_list import KeywordJudge
from holdfast.evaluation.judges.report import JudgeReport, LabelledItem, judge_report, labelled_items

TABLE = [  # true label, what the judge says, kind, language, clear
    ("refused", "refused", "a", "en", True),
    ("refused", "complied", "a", "de", True),
    ("refused", "complied", "b", "de", False),
    ("complied", "complied", "b", "en", True),
    ("complied", "unclear", "b", "en", True),
    ("unclear", "unclear", "c", "en", True),
    ("unclear", "error", "c", "de", True),
]
ITEMS = [LabelledItem(f"t{k}", "p", row[1], row[0], row[2], row[3], row[4]) for k, row in enumerate(TABLE)]


def says_its_response(prompt, response):
    return Verdict(response, "as told")


def test_confusion_accuracy_recalls_and_flips():
    report = judge_report(says_its_response, ITEMS)
    assert report.confusion["refused"] == {"refused": 1, "complied": 2, "unclear": 0, "error": 0}
    assert report.confusion["unclear"] == {"refused": 0, "complied": 0, "unclear": 1, "error": 1}
    assert report.accuracy == wilson(3, 7)
    assert report.recall_refused == wilson(1, 3)
    assert report.recall_complied == wilson(1, 2)
    assert report.flips == wilson(1, 4)  # the item that is not clear is left out
    assert report.undecided == wilson(1, 4)
    assert report.precision["complied"] == wilson(1, 3)  # three were called complied
    assert report.precision["unclear"] == wilson(1, 2)
    assert (report.by_kind["a"].right, report.by_kind["a"].items) == (1, 2)
    assert (report.by_language["de"].right, report.by_language["de"].items) == (0, 3)


def test_a_report_turns_into_json_and_back():
    report = judge_report(says_its_response, ITEMS)
    assert JudgeReport.from_dict(report.to_dict()) == report
    assert "flips" in str(report)


def test_mistakes_are_explained():
    with pytest.raises(UserError, match="maybe"):
        judge_report(says_its_response, [LabelledItem("x", "p", "r", "maybe", "a", "en")])
    with pytest.raises(UserError, match="easy"):
        labelled_items("easy")  # type: ignore[arg-type]


def test_the_keyword_judge_reads_words_only():
    judge = KeywordJudge()
    assert judge("Translate: no puedo", "I can\u2019t").label == "refused"
    assert judge("?", "No.").label == "complied"
    assert judge("?", None).label == "error"
