"""Findings are worded from their rules."""

import string

import pytest

from wbpy.errors import RuleError
from wbpy.findings import make_finding
from wbpy.rules import FindingRule, load_rules, page_text

FINDINGS = load_rules().findings


def test_message_and_remedy_are_filled_in_and_the_evidence_is_kept():
    finding = make_finding(load_rules(), "PLN003", "integration-M42", frames=2)
    assert finding.severity == "warning"
    assert finding.subject == "integration-M42"
    assert finding.message.startswith("integration-M42 has 2 lights")
    assert finding.evidence == {"frames": 2}


def test_numbers_are_shown_short_and_missing_values_as_unknown():
    values = {"chosen": "b", "role": "bias", "temperature_difference_degc": None}
    finding = make_finding(
        load_rules(), "MAT005", "a", **values, temperature_chosen_degc=-9.96314102564102, temperature_subject_degc=None
    )
    assert "at -9.96 degC instead of unknown degC" in finding.message
    assert finding.evidence["temperature_chosen_degc"] == -9.96314102564102


def test_unknown_id_is_refused():
    with pytest.raises(RuleError, match="XYZ999"):
        make_finding(load_rules(), "XYZ999", "a")


def test_missing_evidence_is_named():
    with pytest.raises(RuleError, match="PLN003.*'frames'"):
        make_finding(load_rules(), "PLN003", "a")


@pytest.mark.parametrize("rule", FINDINGS.values(), ids=FINDINGS)
def test_every_finding_is_worded_for_people(rule: FindingRule):
    assert rule.id[:3].isupper() and len(rule.id) == 6 and rule.id[3:].isdigit()
    assert rule.title.strip() and rule.why.strip() and rule.remedy.strip()
    assert "!" not in rule.title + rule.message + rule.why + rule.remedy
    for template in (rule.message, rule.remedy):
        for _, name, form, conversion in string.Formatter().parse(template):
            # Values arrive as text: a format or an attribute in the template would fail at run time only.
            assert name is None or (name.isidentifier() and not form and not conversion), template


def test_every_finding_of_grouping_matching_and_planning_states_its_subject_or_reason():
    for id, rule in FINDINGS.items():
        if id.startswith("MAT"):
            assert "{subject}" in rule.message, id


def test_a_page_names_values_instead_of_showing_them() -> None:
    assert page_text("Add {count_px} px to {subject}.{hint}") == "Add *count px* px to *subject*."
