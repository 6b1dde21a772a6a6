//! Rules of `[source.behaviors]`: a mapping must find what every behavior has.
//!
//! Before it, sections hold pointers; after it, `validate` reports.

use super::{Rules, names};
use crate::{BehaviorSource, Config, LogKind};

const TABLE: &str = "source.behaviors";

/// Attributes that a mapping may take: each is looked up in every event.
const ATTRIBUTES_MAX: usize = 64;

/// Values that may stand for kinds.
const KIND_VALUES_MAX: usize = 1_000;

pub(super) fn behaviors(rules: &mut Rules, config: &Config) {
    let source = &config.source.behaviors;
    if source.mapped {
        mapped(rules, source);
    } else {
        unmapped(rules, source);
    }
    rules.require(
        !source.repartition || config.log.kind == LogKind::Kafka,
        &[&format!("{TABLE}.repartition"), "log.kind"],
        || "the embedded log has no source that is not keyed by user".to_owned(),
    );
    for (value, kind) in &source.kinds {
        let key = format!("{TABLE}.kinds.{value}");
        rules.require(
            config.kinds.names.contains(kind),
            &[&key, "kinds.names"],
            || format!("kind \"{kind}\" is not in kinds.names"),
        );
    }
    let constant = &source.constant;
    if let Some(kind) = &constant.kind {
        names::known_kinds(
            rules,
            &format!("{TABLE}.constant.kind"),
            std::slice::from_ref(kind),
            config,
        );
    }
    for attribute in source.attributes.keys() {
        rules.require(
            (1..=256).contains(&attribute.len()),
            &[&format!("{TABLE}.attributes.{attribute}")],
            || "the name of an attribute has 1 to 256 bytes".to_owned(),
        );
    }
    for (field, count, most) in [
        ("attributes", source.attributes.len(), ATTRIBUTES_MAX),
        ("kinds", source.kinds.len(), KIND_VALUES_MAX),
    ] {
        rules.require(count <= most, &[&format!("{TABLE}.{field}")], || {
            format!("{count} entries: at most {most} are allowed")
        });
    }
}

fn mapped(rules: &mut Rules, source: &BehaviorSource) {
    for (field, pointer) in [("user_id", &source.user_id), ("time", &source.time)] {
        rules.require(
            pointer.is_some(),
            &[&format!("{TABLE}.{field}"), "source.behaviors.mapped"],
            || format!("a mapped topic needs a pointer to `{field}`"),
        );
    }
    for (field, pointer, constant) in [
        ("kind", &source.kind, &source.constant.kind),
        ("scenario", &source.scenario, &source.constant.scenario),
    ] {
        rules.require(
            pointer.is_some() || constant.is_some(),
            &[&format!("{TABLE}.{field}"), "source.behaviors.mapped"],
            || format!("a mapped topic needs a pointer to `{field}`, or `constant.{field}`"),
        );
    }
}

/// Who writes a mapping and does not turn it on would wonder for long.
fn unmapped(rules: &mut Rules, source: &BehaviorSource) {
    let constant = &source.constant;
    let others = [
        ("events", source.events.is_some()),
        ("attributes", !source.attributes.is_empty()),
        ("kinds", !source.kinds.is_empty()),
        ("constant.kind", constant.kind.is_some()),
        ("constant.scenario", constant.scenario.is_some()),
    ];
    let pointers = source
        .pointers()
        .map(|(field, pointer)| (field, pointer.is_some()));
    for (field, set) in pointers.into_iter().chain(others) {
        rules.require(
            !set,
            &[&format!("{TABLE}.{field}"), "source.behaviors.mapped"],
            || format!("`{field}` is set, but source.behaviors.mapped is false"),
        );
    }
}
