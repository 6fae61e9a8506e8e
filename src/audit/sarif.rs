//! SARIF 2.1.0 (OASIS), which code scanners exchange.

use serde_json::{Value, json};

use super::{Finding, RULES, Report, Severity};

/// The report as one run.
pub(super) fn sarif(report: &Report) -> Value {
    let rules: Vec<Value> = RULES
        .iter()
        .map(|rule| {
            json!({
                "id": rule.id,
                "name": rule.id,
                "shortDescription": {"text": rule.title},
                "properties": {"tags": ["security", rule.class]},
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "orlop audit",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "results": report.findings.iter().map(|finding| result(report, finding)).collect::<Vec<_>>(),
            "properties": {"score": report.score()},
        }],
    })
}

fn result(report: &Report, finding: &Finding) -> Value {
    let level = match finding.severity {
        Severity::Critical | Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low => "note",
    };
    // The number by which GitHub and others sort (CVSS's bands).
    let number = ["2.0", "5.0", "8.0", "9.5"][finding.severity as usize];
    json!({
        "ruleId": finding.rule.id,
        "ruleIndex": RULES.iter().position(|rule| rule.id == finding.rule.id),
        "level": level,
        "message": {"text": format!("{}; close: {}", finding.message, finding.close)},
        "locations": [{
            "physicalLocation": {"artifactLocation": {"uri": format!("file://{}", report.config)}},
            "logicalLocations": [{"fullyQualifiedName": finding.pointer, "kind": "member"}],
        }],
        "properties": {"severity": finding.severity.name(), "security-severity": number},
    })
}
