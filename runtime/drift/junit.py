"""The drift report as JUnit XML, one test case a gate, for build servers that show such files."""

from __future__ import annotations

from xml.etree import ElementTree

from .gates import Gate
from .report import DriftReport


def render_junit(report: DriftReport) -> bytes:
    """The XML as UTF-8 bytes: a suite ``drift-report`` with one case a gate; failures carry the advice."""
    failed = [gate for gate in report.gates if not gate.passed]
    counts = {"tests": str(len(report.gates)), "failures": str(len(failed)), "errors": "0", "skipped": "0"}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "drift-report", **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for side, facts in (("candidate", report.candidate), ("reference", report.reference), ("data", report.data)):
        for name in ("path", "sha256", "fingerprint"):
            if facts.get(name):
                ElementTree.SubElement(
                    properties, "property", {"name": f"{side}.{name}", "value": _printable(str(facts[name]))}
                )
    for gate in report.gates:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _printable(f"drift.{report.candidate['path']}"), "name": gate.name}
        )
        text = _line(gate)
        if not gate.passed:
            failure = ElementTree.SubElement(case, "failure", {"message": text, "type": "DriftGate"})
            failure.text = "\n".join([report.advice.headline, *report.advice.why])
        ElementTree.SubElement(case, "system-out").text = text
    ElementTree.indent(suites)
    content: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _line(gate: Gate) -> str:
    value = "none" if gate.value is None else f"{gate.value:.6g}"
    text = f"{gate.name} = {value}, limit {'<=' if gate.at_most else '>='} {gate.limit:g}"
    if gate.interval is not None:
        text += f", 95 % interval {gate.interval[0]:.6g} to {gate.interval[1]:.6g}"
    return text


def _printable(text: str) -> str:
    """XML has no way to spell control characters and lone surrogates."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
